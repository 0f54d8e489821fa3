"""Observers: plugins that get the events of a run."""

from __future__ import annotations

from types import ModuleType

import pluggy
import pytest

import siamkit
from siamkit import hookspecs, plugins
from siamkit.api.listening import observers


def observer(seen: list[str], *, fails: bool = False) -> ModuleType:
    module = ModuleType("observer")

    def siamkit_event(event: siamkit.Event) -> None:
        seen.append(event.name)
        if fails:
            raise ValueError("of this plugin")

    module.siamkit_event = pluggy.HookimplMarker("siamkit")(siamkit_event)  # type: ignore[attr-defined]
    return module


def test_each_plugin_gets_each_event_and_may_fail_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    good: list[str] = []
    bad: list[str] = []
    manager = pluggy.PluginManager("siamkit")
    manager.add_hookspecs(hookspecs)
    manager.register(observer(good), "d:good")
    manager.register(observer(bad, fails=True), "e:bad")
    monkeypatch.setattr(plugins, "get", lambda: type("Loaded", (), {"manager": manager}))
    found = observers()
    assert len(found) == 2
    for listener in found:
        try:
            listener(siamkit.Event("step"))
        except ValueError as error:
            assert str(error) == "of this plugin"
    assert good == ["step"] and bad == ["step"]
