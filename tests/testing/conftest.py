"""Entries of the distribution ``siamkit-wrong`` beside the real ones, and the table of mutants."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from siamkit import plugins
from siamkit.registry import Entry, Registry

# The tables of mutants are plain modules, not tests.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def register(monkeypatch):
    """Registers an entry of the distribution ``siamkit-wrong`` beside the real ones."""
    real = plugins.get()
    registries = {
        kind: Registry(r.kind, r.command, dict(r.entries)) for kind, r in real.registries.items()
    }
    info = plugins.PluginInfo("wrong", "siamkit-wrong", "0.1")
    fake = replace(real, registries=registries, infos=(*real.infos, info))
    monkeypatch.setattr(plugins, "get", lambda: fake)

    def add(kind, build, name="wrong", **fields):
        registries[kind].add(Entry(name, build, distribution="siamkit-wrong", **fields))
        return name

    return add
