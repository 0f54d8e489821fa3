"""Listeners of a run: the caller's functions, the log on the screen, and the observer plugins."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from rich.console import Console

from siamkit import plugins
from siamkit.errors import ConfigError
from siamkit.interfaces import Event
from siamkit.report.console import ConsoleListener
from siamkit.report.terminal import make_console
from siamkit.runs.events import Listener, Observer, require_ran
from siamkit.showing import in_notebook, shown


def checked(listeners: Any) -> Sequence[Listener]:
    """Check that listeners are functions, and return them as a sequence.

    Raises:
        ConfigError: ``listeners`` is no sequence of functions.
    """
    several: list[Any] = list(listeners) if isinstance(listeners, Iterable) else [None]
    wrong = [listener for listener in several if not callable(listener)]
    if wrong:
        raise ConfigError(
            "must be a list of functions of a siamkit.Event",
            where="listeners",
            got=listeners,
            hint=f"write listeners=[{_spelled(listeners)}]" if callable(listeners) else None,
        )
    return several


def _spelled(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


@contextmanager
def log_of(progress: bool | None) -> Iterator[Sequence[Listener]]:
    """Yield the listener that shows a run's log; an empty sequence if no log is to be shown."""
    if not shown(progress):
        yield ()
        return
    console = Console() if in_notebook() else make_console(sys.stderr)
    with ConsoleListener(console) as listener:
        yield (listener,)


def observers() -> list[Listener]:
    """Return one observer per plugin with the hook ``siamkit_event``. Each can fail by itself."""
    manager = plugins.get().manager
    found: list[Listener] = []
    for caller in manager.hook.siamkit_event.get_hookimpls():
        others = [p for p in manager.get_plugins() if p is not caller.plugin]
        distribution, _, name = caller.plugin_name.partition(":")
        watch = partial(_notify, manager.subset_hook_caller("siamkit_event", others))
        found.append(Observer(f"the observer plugin {name!r} of {distribution}", watch))
    return found


def _notify(hook: Any, event: Event) -> None:
    for result in hook(event=event):
        require_ran(result)
