"""The engine's choices in made-up phases. ``test_execution.py`` has whole runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from siamkit.engine import execution
from siamkit.engine.cache.store import OverflowInCache
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.execution import Engine, _different
from siamkit.engine.phase import Execution
from siamkit.engine.settings import EngineSettings
from siamkit.engine.trial import TOLERANCE

CACHED = PhaseDecision("cached", "it saves time", dtype="float16", views=2)


@pytest.fixture
def engine(tmp_path: Any) -> Callable[..., Engine]:
    def make(**settings: Any) -> Engine:
        made = object.__new__(Engine)
        made.settings = EngineSettings(torch.device("cpu"), tmp_path, 1000, **settings)
        made.told, made.entered = [], []
        made.reports = SimpleNamespace(emit=lambda name, data: made.told.append(data["text"]))
        made.inputs = {
            "train": SimpleNamespace(trains=True, __len__=lambda: 8),
            "val": SimpleNamespace(trains=False, __len__=lambda: 3),
        }
        return made

    return make


def phase(mode: str = "cached") -> Any:
    return SimpleNamespace(plan=SimpleNamespace(mode=mode), close=lambda: None)


def running(parts: Any, decision: PhaseDecision = CACHED) -> Execution:
    return Execution(decision, range(2, 6), {}, torch.abs, parts)


def entering(made: Engine, monkeypatch: pytest.MonkeyPatch, stocked: list[Any]) -> list[Any]:
    """Let each stocking of the cache end as listed, and return the calls of ``enter``."""
    calls: list[Any] = []

    def enter(self: Engine, epochs: range, before: PhaseDecision) -> Execution:
        calls.append((epochs, before))
        parts = None if before.mode == "live" else phase()
        return Execution(before, epochs, {}, torch.abs, parts)

    def stock(self: Engine, *_: Any) -> str | None:
        outcome = stocked.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(Engine, "enter", enter)
    monkeypatch.setattr(Engine, "_stock", stock)
    return calls


def test_rows_that_are_in_the_cache_change_nothing(engine, monkeypatch) -> None:
    made, now = engine(), running(phase())
    assert entering(made, monkeypatch, [None]) == []
    assert made.prepare(now, 3) is now and made.told == []


@pytest.mark.parametrize("parts", [None, phase("live")])
def test_a_phase_without_a_cache_is_ready(engine, monkeypatch, parts) -> None:
    made, now = engine(), running(parts)
    entering(made, monkeypatch, [])
    assert made.prepare(now, 3) is now


def test_a_cache_that_differs_is_told_and_left(engine, monkeypatch) -> None:
    made = engine()
    calls = entering(made, monkeypatch, ["it differs"])
    found = made.prepare(running(phase()), 3)
    assert made.told == ["it differs"]
    [(epochs, before)] = calls
    assert epochs == range(3, 6)
    assert (before.mode, before.reason) == ("live", "the cache differs from the network")
    assert found.decision is before


def test_values_too_large_for_half_precision_are_stored_in_single(engine, monkeypatch) -> None:
    made = engine()
    calls = entering(made, monkeypatch, [OverflowInCache("too large"), None])
    found = made.prepare(running(phase()), 4)
    assert made.told == ["too large"]
    assert [(epochs, before.dtype) for epochs, before in calls] == [(range(4, 6), "float32")]
    assert found.decision.mode == "cached"


@pytest.mark.parametrize(
    ("cache", "before", "free", "may"),
    [
        ("auto", None, 1, True),
        ("auto", None, 0, False),
        ("always", None, 0, True),
        ("off", None, 5, False),
        ("off", "cached", 5, False),
        ("auto", "cached", 0, True),
        ("auto", "live", 5, False),
        ("always", "live", 5, False),
    ],
)
def test_who_may_cache(engine, monkeypatch, cache, before, free, may) -> None:
    monkeypatch.setattr(execution, "available_bytes", lambda root: free)
    earlier = before and PhaseDecision(before, "")
    assert engine(cache=cache)._may_cache(earlier) is may


def test_a_phase_keeps_its_mode(engine, monkeypatch) -> None:
    asked = []

    def decide(work: Any, costs: Any, *, budget: int, free: int, wanted: str) -> Any:
        asked.append((free, wanted))
        mode = {"off": "live", "always": "cached"}.get(wanted, "cached" if free else "live")
        return execution.CachePlan(mode, "measured", 0, 0.0, 0.0)

    monkeypatch.setattr(execution, "decide", decide)
    monkeypatch.setattr(execution, "available_bytes", lambda root: 7)
    live, cached = PhaseDecision("live", "then"), PhaseDecision("cached", "then")
    for settings, before, question, mode, reason in (
        ("auto", None, (7, "auto"), "cached", "measured"),
        ("auto", cached, (7, "always"), "cached", "then"),
        ("auto", live, (0, "off"), "live", "then"),
        ("always", live, (0, "off"), "live", "then"),
        ("off", None, (0, "off"), "live", "measured"),
        ("off", cached, (0, "off"), "live", "measured"),
    ):
        found = engine(cache=settings)._cache_plan(None, None, before)
        assert (asked.pop(), found.mode, found.reason) == (question, mode, reason)


def test_images_that_are_all_alike_are_tried_with_others() -> None:
    apart = torch.arange(24.0).reshape(3, 2, 2, 2)
    assert _different(apart) is apart
    alike = torch.ones(3, 2, 2, 2)
    tried = _different(alike)
    assert tried.shape == alike.shape and torch.equal(tried[0], alike[0])
    assert not torch.equal(tried[1], tried[2]) and not torch.equal(tried[1], alike[1])
    assert torch.equal(tried, _different(alike)), "the same each time"


@pytest.mark.parametrize(
    ("cached", "mode", "dtype", "uses_rows"),
    [
        (True, "cached", torch.float32, True),
        (True, "cached", torch.float16, False),  # rounded: the prefix runs again
        (True, "live", torch.float32, False),
        (False, "live", torch.float32, False),
    ],
)
def test_exact_rows_are_compared_instead_of_another_run_of_the_prefix(
    engine, cached: bool, mode: str, dtype: torch.dtype, uses_rows: bool
) -> None:
    asked = []

    def differs(images: torch.Tensor, activations: Any, tolerance: float) -> str:
        asked.append((images[:, 0].tolist(), activations, tolerance))
        return "they differ"

    def batches(batches: list[list[int]], view: int) -> Any:
        yield SimpleNamespace(inputs=torch.tensor(batches[0]) * 10.0 + view)

    made = engine()
    made.net = torch.nn.Identity()
    made.inputs["train"].example = lambda index, view: torch.full((1,), index + 0.5 * view)
    parts = SimpleNamespace(
        cache=SimpleNamespace(tolerance=0.25) if cached else None,
        plan=SimpleNamespace(mode=mode), dtype=dtype, cut=SimpleNamespace(differs=differs),
    )  # fmt: skip
    now = Execution(CACHED, range(2, 6), {"train": SimpleNamespace(batches=batches)}, abs, parts)
    assert made.difference(now, 3, [4, 7]) == "they differ"
    [(images, activations, tolerance)] = asked
    assert images == [4.5, 7.5], "in the view of the epoch"
    if uses_rows:
        assert activations.tolist() == [41, 71] and tolerance == 0.25
    else:
        assert activations is None and tolerance == TOLERANCE
    assert made.difference(running(None), 3, [4, 7]) is None
