"""Telling the world what happens in a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from siamkit.interfaces import Event
from siamkit.training.rundir import RunDir

Listener = Callable[[Event], None]
Emit = Callable[[str, Mapping[str, Any]], None]


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
        for observer in tuple(watching):
            try:
                observer(Event(name, copy.deepcopy(dict(data))))
            except (Exception, SystemExit) as error:
                watching.remove(observer)
                text = (
                    f"an observer plugin failed and was left out: {type(error).__name__}: {error}"
                )
                emit("notice", {"text": text})

    return emit
