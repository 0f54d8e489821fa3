"""The trackers of a run: built before it is written, told of it, and closed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from siamkit.config import RunConfig
from siamkit.engine.settings import Emit
from siamkit.errors import PluginError
from siamkit.registry import Registry
from siamkit.runs.events import Observer
from siamkit.training.build import built


def build_trackers(config: RunConfig, registry: Registry) -> list[Observer]:
    """Build the trackers of a config.

    Raises:
        ConfigError: What one needs is not installed.
        PluginError: One fails to build, or is nothing that can be told of events.
    """
    found = []
    for component in config.track:
        made = built(component, registry, object)
        whose = f"tracker {component.name!r} of {registry.get(component.name).distribution}"
        if not callable(made):
            raise PluginError(
                f"{whose}: build must return something to call with an event",
                got=type(made).__name__,
            )
        found.append(Observer(f"the {whose}", made))
    return found


@contextmanager
def closing(trackers: Sequence[Observer], emit: Emit) -> Iterator[None]:
    """Close the trackers at the end, however it comes; one that fails to is told of, and no more.

    Args:
        trackers: Those that have a method ``close`` are closed.
        emit: Called with a notice of each that fails.
    """
    try:
        yield
    finally:
        for tracker in trackers:
            close = getattr(tracker.watch, "close", None)
            try:
                if close is not None:
                    close()
            # An observer must not be able to end a run.
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                problem = f"{type(error).__name__}: {error}"
                emit("notice", {"text": f"{tracker.name} failed to close: {problem}"})
