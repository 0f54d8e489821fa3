"""Trackers (plugins that record a run's events): builds them before a run, and closes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from siamkit.config import RunConfig
from siamkit.engine.settings import Emit
from siamkit.errors import PluginError
from siamkit.registry import Registry, whose
from siamkit.runs.events import Observer
from siamkit.training.build import built


def build_trackers(config: RunConfig, registry: Registry) -> list[Observer]:
    """Build the trackers of a config.

    Raises:
        ConfigError: A library that a tracker needs is not installed.
        PluginError: A tracker fails to build, or cannot be called with an event.
    """
    trackers = []
    for component in config.track:
        made = built(component, registry, object)
        owner = whose("tracker", component.name, registry.get(component.name).distribution)
        if not callable(made):
            raise PluginError(
                f"{owner}: build must return a function that takes an event",
                got=type(made).__name__,
            )
        trackers.append(Observer(f"the {owner}", made))
    return trackers


@contextmanager
def closing(trackers: Sequence[Observer], emit: Emit) -> Iterator[None]:
    """Close the trackers when the block ends, also after an error.

    Args:
        trackers: The trackers. Those without a method ``close`` are left alone.
        emit: Called with a notice for each tracker that fails to close.
    """
    try:
        yield
    finally:
        for tracker in trackers:
            close = getattr(tracker.watch, "close", None)
            try:
                if close is not None:
                    close()
            # A tracker must not end the run.
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                problem = f"{type(error).__name__}: {error}"
                emit("notice", {"text": f"{tracker.name} failed to close: {problem}"})
