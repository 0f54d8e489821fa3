"""Events: logs the events of a run and passes them on to listeners and observers."""

from __future__ import annotations

import copy
import os
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamkit.engine.settings import Emit
from siamkit.interfaces import Event
from siamkit.runs.directory import RunDir

Listener = Callable[[Event], object]


@dataclass(frozen=True)
class Observer:
    """A plugin's listener, with its name for messages.

    Attributes:
        name: The name, such as ``the tracker 'tensorboard' of siamkit``.
        watch: Called with each event.
    """

    name: str
    watch: Listener

    def __call__(self, event: Event) -> None:
        """Pass an event to the plugin."""
        require_ran(self.watch(event))


def require_ran(result: object) -> None:
    """Check what a listener returned for an event.

    Raises:
        TypeError: It is a generator or a coroutine, so none of the listener's code has run.
    """
    if isinstance(result, Generator | Coroutine | AsyncGenerator):
        if not isinstance(result, AsyncGenerator):
            result.close()  # or Python warns that a coroutine was never awaited
        kind = type(result).__name__.replace("_", " ")
        raise TypeError(
            f"it returned a {kind}, so none of its code ran: write a function without yield and "
            "async"
        )


@contextmanager
def _process_restored() -> Iterator[None]:
    """Restore what a listener's code may leave behind, and the run depends on.

    A run directory may be a relative path, so in another working directory, the run would be
    written to two places. Without gradients, the next step would fail.
    """
    import torch

    folder = None
    with suppress(OSError):  # it may have been deleted
        folder = Path.cwd()
    gradients = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        if folder is not None:
            with suppress(OSError):  # the listener deleted it
                os.chdir(folder)


def emitter(run_dir: RunDir, listeners: Sequence[Listener], observers: Sequence[Listener]) -> Emit:
    """Return a function that logs an event and passes copies of it on.

    Args:
        run_dir: The run whose ``events.jsonl`` is written.
        listeners: Called first; an exception in one ends the run.
        observers: Plugins. One that raises is left out from then on, with a notice, because an
            observer must not end a run.
    """
    watching = list(observers)

    def emit(name: str, data: Mapping[str, Any]) -> None:
        run_dir.append_event(name, data)
        for listener in listeners:
            with _process_restored():
                require_ran(listener(Event(name, copy.deepcopy(dict(data)))))
        failed: list[str] = []
        for observer in tuple(watching):
            try:
                with _process_restored():
                    observer(Event(name, copy.deepcopy(dict(data))))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                watching.remove(observer)
                whose = observer.name if isinstance(observer, Observer) else "an observer plugin"
                failed.append(f"{whose} failed and was left out: {type(error).__name__}: {error}")
        # Emitted after all observers got this event, so that all get events in the same order.
        for text in failed:
            emit("notice", {"text": text})

    return emit
