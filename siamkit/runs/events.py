"""The events of a run: logged, and passed on to listeners and observers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from siamkit.engine.settings import Emit
from siamkit.interfaces import Event
from siamkit.runs.directory import RunDir

Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Observer:
    """A plugin's listener, and what to call it where it fails.

    Attributes:
        name: Such as ``the tracker 'tensorboard' of siamkit``.
        watch: Called with each event.
    """

    name: str
    watch: Listener

    def __call__(self, event: Event) -> None:
        """Pass an event on."""
        self.watch(event)


def emitter(run_dir: RunDir, listeners: Sequence[Listener], observers: Sequence[Listener]) -> Emit:
    """Return a function that logs an event and passes a copy of it on: nobody can change the run.

    Args:
        run_dir: The run whose ``events.jsonl`` is written.
        listeners: Called first; an exception in one ends the run.
        observers: Plugins. One that raises is left out from then on, with a notice: an observer
            must not be able to end a run.
    """
    watching = list(observers)

    def emit(name: str, data: Mapping[str, Any]) -> None:
        run_dir.append_event(name, data)
        for listener in listeners:
            listener(Event(name, copy.deepcopy(dict(data))))
        failed: list[str] = []
        for observer in tuple(watching):
            try:
                observer(Event(name, copy.deepcopy(dict(data))))
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                watching.remove(observer)
                whose = observer.name if isinstance(observer, Observer) else "an observer plugin"
                failed.append(f"{whose} failed and was left out: {type(error).__name__}: {error}")
        # Said when all have seen this event, so that everyone sees events in their order.
        for text in failed:
            emit("notice", {"text": text})

    return emit
