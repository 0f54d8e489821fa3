"""The engine in made-up phases. ``test_execution.py`` has whole runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from siamkit.engine.cache.store import OverflowInCache
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.execution import Engine
from siamkit.engine.phase import Execution
from siamkit.engine.settings import EngineSettings
from siamkit.engine.sources import CachedSource, LiveSource
from siamkit.engine.trial import TOLERANCE

CACHED = PhaseDecision("cached", "it saves time", dtype="float16", views=2)


@pytest.fixture
def engine(tmp_path: Any) -> Callable[..., Engine]:
    def make(**settings: Any) -> Engine:
        told: list[str] = []
        made = Engine(SimpleNamespace(  # type: ignore[arg-type]
            settings=EngineSettings(torch.device("cpu"), tmp_path, 1000, **settings),
            reports=SimpleNamespace(emit=lambda name, data: told.append(data["text"])),
            inputs={
                "train": SimpleNamespace(trains=True, __len__=lambda: 8),
                "val": SimpleNamespace(trains=False, __len__=lambda: 3),
            },
            late={}, net=torch.nn.Identity(),
        ))  # fmt: skip
        made.told = told
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
    assert made.told == ["it differs: this phase runs without the cache"]
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


# --- the rows of a cached phase ---


class Rows:
    """A phase's cache that lacks some rows."""

    tolerance = 0.01

    def __init__(self, missing: int = 0, apart: float = 0.0, evicted: int = 0) -> None:
        self.missing, self.apart, self.evicted = missing, apart, evicted
        self.loads: list[tuple[dict[str, int], Any, int]] = []
        self.compared: list[dict[str, int]] = []

    def absent(self, views: dict[str, int]) -> int:
        return self.missing

    def load(
        self, views: dict[str, int], kernel: Any, budget: int, *, strict: bool
    ) -> dict[str, Any]:
        self.loads.append((views, kernel, budget))
        self.strict = strict
        if len(self.loads) <= self.evicted:
            raise LookupError
        return {name: SimpleNamespace(nbytes=0, of=name) for name in views}

    def discrepancy(self, views: dict[str, int], rows: dict[str, Any]) -> float:
        assert {name: row.of for name, row in rows.items()} == {name: name for name in views}
        self.compared.append(views)
        return self.apart


def stocked(engine: Any, cache: Rows, names: tuple[str, ...], choice: Any = None) -> Any:
    """Stock the rows of view 3, and return the reason against them and what was chosen."""
    made = engine()
    made.decider.choose = lambda *about: SimpleNamespace(kernel=("chosen", about[2]))
    parts = SimpleNamespace(cache=cache, choice=choice, cut=None, times=None)
    sources = {name: CachedSource([0]) for name in ("train", "val", "test")}
    now = Execution(CACHED, range(2, 6), {**sources, "live": object()}, abs, parts)
    reason = made._stock(now, parts, 3, names)
    return reason, {name: source._view for name, source in sources.items()}, (made, now, parts)


def test_sources_show_the_view_of_the_epoch_and_sets_that_do_not_train_view_0(engine) -> None:
    reason, shown, (made, now, parts) = stocked(engine, cache := Rows(), ("train", "val", "live"))
    assert reason is None and shown == {"train": 3, "val": 0, "test": -1}
    assert cache.loads == [({"train": 3, "val": 0}, None, 1000)]
    assert made._stock(now, parts, 3, ("train", "val")) is None and len(cache.loads) == 1, "shown"
    assert made._stock(now, parts, 4, ("train", "val")) is None
    assert cache.loads[1:] == [({"train": 4}, None, 1000)]


@pytest.mark.parametrize("missing", [0, 1, 8])
def test_rows_that_are_missing_are_computed_by_a_kernel_that_is_chosen_once(
    engine, missing: int
) -> None:
    _, _, (made, now, parts) = stocked(engine, cache := Rows(missing), ("train",))
    kernel = ("chosen", missing) if missing else None
    assert cache.loads[0][1] == kernel and (parts.choice is None) == (not missing)
    cache.missing = 5
    made._stock(now, parts, 4, ("train",))
    assert cache.loads[1][1] == (kernel or ("chosen", 5)), "the first choice stays"


def test_rows_that_another_process_evicts_are_loaded_again(engine) -> None:
    reason, shown, _ = stocked(engine, cache := Rows(evicted=2), ("train",))
    assert reason is None and shown["train"] == 3 and len(cache.loads) == 3


@pytest.mark.parametrize(
    ("names", "missing", "compared"),
    [
        (("train",), 0, []),
        (("train",), 1, [{"train": 3}]),
        (("train", "val"), 0, [{"train": 3, "val": 0}]),
        (("val", "test"), 0, [{"val": 0, "test": 0}]),
        (("test",), 1, [{"test": 0}]),
    ],
)
def test_rows_are_compared_when_a_phase_begins_or_some_are_new_or_a_set_is_read_late(
    engine, names: tuple[str, ...], missing: int, compared: list[dict[str, int]]
) -> None:
    stocked(engine, cache := Rows(missing), names)
    assert cache.compared == compared


@pytest.mark.parametrize(
    ("apart", "used"), [(0.0, True), (0.01, True), (0.02, False), (math.nan, False)]
)
def test_rows_that_differ_from_the_network_are_not_shown(engine, apart: float, used: bool) -> None:
    reason, shown, _ = stocked(engine, Rows(1, apart), ("train", "val"))
    assert (reason is None) == used and shown["train"] == (3 if used else -1)
    if apart == 0.02:
        assert "differ from the network's by 2.0e-02 of the largest value, more than" in reason
        assert "the allowed 1e-02 ('siamkit cache clear' empties the cache)" in reason


@pytest.mark.parametrize(("mode", "count"), [("cached", 1), ("live", 0), (None, 0)])
def test_a_late_set_is_stocked_in_a_cached_phase_only(engine, mode: str, count: int) -> None:
    made, asked = engine(), []

    def stock(now: Any, parts: Any, view: int, names: tuple[str, ...], *, strict: bool) -> str:
        asked.append((view, names, strict))
        return "it differs"

    made._stock = stock
    found = made.stock(running(mode and phase(mode)), "test")
    assert asked == [(0, ("test",), True)] * count and found == ("it differs" if count else None)


@pytest.mark.parametrize(
    ("epoch", "due"), [(2, True), (3, False), (5, False), (6, True), (18, True), (19, False)]
)
def test_a_phase_is_compared_after_0_4_and_16_of_its_epochs(engine, epoch: int, due: bool) -> None:
    made, asked = engine(), []
    made.difference = lambda now, epoch, batch: asked.append((epoch, batch))
    parts = SimpleNamespace(times=SimpleNamespace(prefix=0.05))
    now = running(parts)
    assert made.checked(now, epoch, list(range(9))) is now
    assert asked == ([(epoch, [0, 1, 2, 3])] if due else []), "as many as 0.2 s allow"
    assert made.checked(running(None), epoch, [0]).parts is None


def test_a_cut_that_differs_is_told_and_the_whole_network_runs(engine) -> None:
    made = engine()
    made.net = torch.abs
    for part in made.inputs.values():
        part.source = object()
    made.difference = lambda *_: "by 3"
    parts = SimpleNamespace(times=SimpleNamespace(prefix=1e-3))
    found = made.checked(running(parts), 2, [0, 1])
    assert found.parts is None and found.epochs == range(2, 6) and found.forward is torch.abs
    assert found.decision.mode == "whole" and found.sources.keys() == {"train", "val"}
    assert found.decision.reason.endswith("whole one on a training batch: by 3")
    (text,) = made.told
    assert text.startswith(found.decision.reason) and "this phase runs the whole network" in text


@pytest.mark.parametrize("mode", ["live", "cached"])
def test_sources_of_a_phase_run_the_prefix_or_read_its_rows(engine, mode: str) -> None:
    made, closed = engine(), []
    part = SimpleNamespace(source=object(), labels=[0, 1])
    made.inputs, made.late = {"train": part}, {"test": part}
    parts = SimpleNamespace(
        plan=SimpleNamespace(mode=mode), choice=SimpleNamespace(kernel=torch.abs),
        close=lambda: closed.append(mode), decision=lambda before: (CACHED, before),
        cut=SimpleNamespace(boundary=SimpleNamespace(is_features=True), suffix=torch.abs),
    )  # fmt: skip
    made.decider.decide = lambda epochs, before: parts
    found = made.enter(range(2, 6), CACHED)
    assert found.decision == (CACHED, CACHED) and found.parts is parts
    kind = LiveSource if mode == "live" else CachedSource
    assert found.sources.keys() == {"train", "test"}
    assert all(type(source) is kind for source in found.sources.values())
    # A live phase reads no cache; that of a cached one is open until the next phase.
    assert closed == ([] if mode == "cached" else ["live"])
    made.close()
    made.close()
    assert closed == [mode]
