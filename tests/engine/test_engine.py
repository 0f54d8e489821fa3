"""The engine's choices in made-up phases. ``test_execution.py`` has whole runs."""

from __future__ import annotations

import math
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
from siamkit.engine.sources import CachedSource, LiveSource
from siamkit.engine.trial import TOLERANCE
from siamkit.errors import ConfigError

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


# --- the rows of a cached phase ---


class Rows:
    """A phase's cache that lacks some rows."""

    tolerance = 0.01

    def __init__(self, missing: int = 0, apart: float = 0.0, evicted: int = 0) -> None:
        self.missing, self.apart, self.evicted = missing, apart, evicted
        self.loads: list[tuple[dict[str, int], Any, int]] = []
        self.compared: list[int] = []

    def absent(self, views: dict[str, int]) -> int:
        return self.missing

    def load(self, views: dict[str, int], kernel: Any, budget: int) -> dict[str, Any]:
        self.loads.append((views, kernel, budget))
        if len(self.loads) <= self.evicted:
            raise LookupError
        return {name: SimpleNamespace(nbytes=0, of=name) for name in views}

    def discrepancy(self, view: int, rows: Any) -> float:
        assert rows.of == "train"
        self.compared.append(view)
        return self.apart


def stocked(engine: Any, cache: Rows, names: tuple[str, ...], choice: Any = None) -> Any:
    """Stock the rows of view 3, and return the reason against them and what was chosen."""
    made = engine()
    made._choose = lambda *about: SimpleNamespace(kernel=("chosen", about[2]))
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
        (("train",), 1, [3]),
        (("train", "val"), 0, [3]),
        (("val", "test"), 1, []),
    ],
)
def test_rows_are_compared_when_a_phase_begins_and_when_some_are_new(
    engine, names: tuple[str, ...], missing: int, compared: list[int]
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
        assert "the allowed 1e-02: this phase runs without the cache" in reason


@pytest.mark.parametrize(("mode", "count"), [("cached", 1), ("live", 0), (None, 0)])
def test_a_late_set_is_stocked_in_a_cached_phase_only(engine, mode: str, count: int) -> None:
    made, asked = engine(), []
    made._stock = lambda now, parts, view, names: asked.append((view, names))
    made.stock(running(mode and phase(mode)), "test")
    assert asked == [(0, ("test",))] * count


# --- what is decided without a measurement ---


def test_a_whole_phase_stays_whole_and_no_cut_is_tried_where_none_is_wanted(engine) -> None:
    before = PhaseDecision("whole", "then")
    assert engine().decide(range(3), before) is before
    made = engine(cut="off", views=4)
    for earlier in (None, PhaseDecision("live", "then")):
        found = made.decide(range(3), earlier)
        assert found == PhaseDecision("whole", "engine.cut is off", views=4)


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
    made.net, made.late, made._open = torch.abs, {}, None
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


def test_a_kernel_that_is_gone_is_replaced_and_one_that_was_asked_for_is_not(
    engine, monkeypatch
) -> None:
    asked = []

    def choose(prefix: Any, images: Any, count: int, *, wanted: str = "auto", **_: Any) -> str:
        asked.append((count, wanted))
        if wanted == "onnxruntime":
            raise ConfigError("it is not installed")
        return wanted

    monkeypatch.setattr(execution, "choose", choose)
    cut, times = SimpleNamespace(prefix=None), SimpleNamespace(activations=None, prefix=0.1)

    def chosen(before: str | None, **settings: Any) -> tuple[Any, list[str]]:
        made = engine(cache="off", **settings)
        made.net, made._first = torch.nn.Identity(), SimpleNamespace(images=None)
        earlier = before and PhaseDecision("live", "", kernel=before)
        return made._choose(cut, times, 7, earlier), made.told

    assert chosen(None) == ("auto", []) and chosen("inductor") == ("inductor", [])
    assert chosen(None, kernel="eager") == ("eager", [])
    found, (text,) = chosen("onnxruntime")
    assert found == "auto" and text.endswith("is replaced by another: it is not installed")
    assert asked[-2:] == [(7, "onnxruntime"), (7, "auto")]
    with pytest.raises(ConfigError, match="it is not installed"):
        chosen(None, kernel="onnxruntime")


# --- what a cut phase costs ---


class Part:
    """A set of inputs of some size."""

    def __init__(self, count: int, trains: bool) -> None:
        self.count, self.trains = count, trains

    def __len__(self) -> int:
        return self.count


@pytest.fixture
def cut_phase(engine, monkeypatch) -> Callable[..., Any]:
    """Cut a made-up phase of 8 training and 3 validation images, whose rows have 4 x 2 values."""

    def make(
        mode: str, missing: int = 0, before: Any = None, views: int | None = 2, cache: str = "auto"
    ) -> Any:
        made = engine(cache=cache)
        made.inputs = {"train": Part(8, True), "val": Part(3, False)}
        made.late, made.identity, made.net, made.visits = {}, {}, torch.nn.Identity(), 8
        made._first = SimpleNamespace(images=torch.zeros(3, 1), seconds=0.5, spread=0.125)
        seen = SimpleNamespace(wanted=None, precisely=None, counts=[], plans=[])

        class Stored:
            def __init__(self, identity: Any, inputs: Any, cut: Any, shape: Any, *_: Any) -> None:
                assert tuple(shape) == (4, 2)

            def want(self, inputs: Any, reached: list[int]) -> tuple[int, int]:
                seen.wanted = reached
                return 11, missing

        def time_parts(*_: Any, precisely: bool) -> Any:
            seen.precisely = precisely
            return SimpleNamespace(prefix=0.2, suffix=0.3)

        def plan(work: Any, costs: Any, before: Any) -> Any:
            seen.plans.append((work, costs))
            return SimpleNamespace(mode=mode)

        def choose(cut: Any, times: Any, count: int, before: Any) -> Any:
            seen.counts.append(count)
            return SimpleNamespace(kernel=SimpleNamespace(name="k"), seconds_per_image={"k": 0.1})

        first = SimpleNamespace(activations=torch.zeros(3, 4, 2))
        monkeypatch.setattr(execution, "first_run", lambda cut, images: first)
        monkeypatch.setattr(execution, "PhaseCache", Stored)
        monkeypatch.setattr(execution, "time_parts", time_parts)
        monkeypatch.setattr(execution, "available_bytes", lambda root: 7)
        made._cache_plan, made._choose = plan, choose
        made._description = lambda cut, kept: {}
        cut = SimpleNamespace(boundary=SimpleNamespace(is_features=False))
        return made._cut_phase(cut, ["too deep"], views, range(1, 6), before), seen

    return make


def test_a_phase_without_missing_rows_is_timed_roughly_and_needs_no_kernel(cut_phase) -> None:
    found, seen = cut_phase("cached")
    assert seen.wanted == [0, 1] and seen.precisely is False and seen.counts == []
    [(work, costs)] = seen.plans
    assert (work.epochs, work.rows, work.missing, work.held_out) == (5, 11, 0, 3)
    assert (costs.decode, costs.prefix, costs.suffix) == (0.5, 0.2, 0.3)
    assert costs.row_bytes == 4 * 2 * 2, "in half precision"
    assert found.choice is None and found.dtype == torch.float16 and found.decode_spread == 0.125


def test_missing_rows_are_timed_precisely_and_planned_with_the_kernel(cut_phase) -> None:
    found, seen = cut_phase("cached", missing=1)
    assert seen.precisely is True and seen.counts == [1] and found.choice.kernel.name == "k"
    assert [costs.prefix for _, costs in seen.plans] == [0.2, 0.1] and found.costs.prefix == 0.1


def test_a_live_phase_has_a_kernel_for_all_its_forwards(cut_phase) -> None:
    found, seen = cut_phase("live")
    assert seen.counts == [found.work.forwards] and len(seen.plans) == 1
    assert found.costs.prefix == 0.1


def test_a_phase_that_may_not_be_cached_needs_a_row_per_image_and_view(cut_phase) -> None:
    found, seen = cut_phase("live", cache="off")
    assert found.cache is None and seen.wanted is None and seen.precisely is True
    assert found.work.rows == found.work.missing == 8 * 2 + 3
    fresh, _ = cut_phase("live", cache="off", views=None)
    assert fresh.work.rows == 8 * 5 + 3, "a new view in each of the five epochs"


def test_a_resumed_phase_keeps_the_type_of_its_rows(cut_phase) -> None:
    before = PhaseDecision("cached", "then", dtype="float32")
    found, seen = cut_phase("cached", before=before)
    assert found.dtype == torch.float32 and seen.plans[0][1].row_bytes == 4 * 2 * 4


def test_rows_have_the_bytes_of_their_type(engine, monkeypatch) -> None:
    made = engine()
    made.net = None

    boundaries = [Place(is_features=features) for features in (True, False, False)]
    monkeypatch.setattr(execution, "row_elements", lambda *_: [6, 6, None])
    found = made._row_bytes(boundaries, None)
    assert list(found.values()) == [24, 12], "features are kept in full precision"


# --- the place of the cut ---


class Place(SimpleNamespace):
    """A boundary, by its name."""

    __hash__ = object.__hash__


@pytest.fixture
def deciding(engine, monkeypatch) -> Callable[..., Any]:
    """Decide a phase whose boundaries, deepest first, are a, b and c."""

    def decide(
        exact: str, index: int = 0, mode: str = "cached", before: Any = None, names: str = "abc"
    ) -> Any:
        made = engine(views=2)
        made.net, made._first = torch.nn.Identity(), SimpleNamespace(images=torch.rand(3, 1))
        made.controller = SimpleNamespace(stages=(), plan=object())
        made._trained, made._held_out = lambda: 8, lambda: 3
        made._row_bytes = lambda usable, images: dict.fromkeys(usable, 100)
        places = [Place(name=name, module=f"m.{name}") for name in names]
        cut, closed = [], []

        def first_exact_cut(net: Any, boundaries: list[Place], images: Any) -> Any:
            for number, place in enumerate(boundaries):
                if place.name in exact:
                    return SimpleNamespace(boundary=place), [f"not {p.name}" for p in
                                                             boundaries[:number]]  # fmt: skip
            return None, [f"not {place.name}" for place in boundaries]

        def cut_phase(deepest: Any, reasons: Any, views: Any, epochs: Any, earlier: Any) -> Any:
            assert earlier is before
            cut.append((deepest.boundary.name, list(reasons), views))
            return SimpleNamespace(
                name=deepest.boundary.name, plan=SimpleNamespace(mode=mode),
                close=lambda: closed.append(deepest.boundary.name),
            )  # fmt: skip

        def place(sizes: list[int], *about: Any) -> tuple[int, int]:
            assert about == (8, 3, 5, 2, 1000) and set(sizes) == {100}
            return index, 4

        monkeypatch.setattr(execution, "find_boundaries", lambda *_: places)
        monkeypatch.setattr(execution, "first_exact_cut", first_exact_cut)
        monkeypatch.setattr(execution, "place", place)
        made._cut_phase = cut_phase
        return made.decide(range(5), before), cut, closed

    return decide


def test_a_network_that_cannot_be_cut_says_why(deciding) -> None:
    assert deciding("")[0] == PhaseDecision("whole", "not a; not b; not c", views=2)
    assert deciding("", names="")[0] == PhaseDecision("whole", execution.NOTHING_FROZEN, views=2)


def test_the_deepest_exact_cut_is_taken_where_its_rows_fit(deciding) -> None:
    for mode in ("cached", "live"):
        found, cut, closed = deciding("bc", mode=mode)
        assert found.name == "b" and cut == [("b", ["not a"], 4)] and closed == []


def test_a_boundary_with_smaller_rows_is_taken_if_it_is_cached(deciding) -> None:
    large = "a: its cache would exceed engine.cache_gb"
    found, cut, closed = deciding("ac", index=1)
    assert found.name == "c" and closed == []
    assert cut == [("c", [large, "not b"], 4)]
    found, cut, closed = deciding("ac", index=1, mode="live")
    assert found.name == "a" and closed == ["c"]
    assert cut == [("c", [large, "not b"], 4), ("a", [], 4)]
    found, cut, _ = deciding("a", index=1)
    assert found.name == "a" and cut == [("a", [], 4)], "no other is exact"


def test_a_resumed_phase_keeps_its_boundary(deciding) -> None:
    for module, name in (("m.b", "b"), ("m.c", "c"), ("gone", "a"), (None, "a")):
        before = PhaseDecision("live", "", module=module, views=3)
        found, cut, _ = deciding("abc", index=1, before=before)
        assert found.name == name and cut == [(name, [], 3)]


@pytest.mark.parametrize("mode", ["live", "cached"])
def test_sources_of_a_phase_run_the_prefix_or_read_its_rows(engine, mode: str) -> None:
    made, closed = engine(), []
    part = SimpleNamespace(source=object(), labels=[0, 1])
    made.inputs, made.late, made._open = {"train": part}, {"test": part}, None
    parts = SimpleNamespace(
        plan=SimpleNamespace(mode=mode), choice=SimpleNamespace(kernel=torch.abs),
        close=lambda: closed.append(mode), decision=lambda before: (CACHED, before),
        cut=SimpleNamespace(boundary=SimpleNamespace(is_features=True), suffix=torch.abs),
    )  # fmt: skip
    made.decide = lambda epochs, before: parts
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
