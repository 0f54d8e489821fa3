"""The decision about each phase, in made-up phases. ``test_execution.py`` has whole runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from siamkit.engine.cutting import NOTHING_FROZEN
from siamkit.engine.deciding import Decider, _different
from siamkit.engine.decision import PhaseDecision
from siamkit.engine.planner import CachePlan
from siamkit.engine.settings import EngineSettings
from siamkit.errors import ConfigError

MODULE = "siamkit.engine.deciding"


@pytest.fixture
def decider(tmp_path: Any) -> Callable[..., Decider]:
    def make(**settings: Any) -> Decider:
        told: list[str] = []
        made = Decider(
            controller=SimpleNamespace(net=torch.nn.Identity(), stages=(), plan=object()),  # type: ignore[arg-type]
            inputs={"train": Part(8, True), "val": Part(3, False)},  # type: ignore[dict-item]
            late={}, visits=8, identity={},
            settings=EngineSettings(torch.device("cpu"), tmp_path, 1000, **settings),
            reports=SimpleNamespace(emit=lambda name, data: told.append(data["text"])),  # type: ignore[arg-type]
        )  # fmt: skip
        made.told = told
        return made

    return make


class Part:
    """A set of inputs of some size."""

    def __init__(self, count: int, trains: bool) -> None:
        self.count, self.trains = count, trains

    def __len__(self) -> int:
        return self.count


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
def test_who_may_cache(decider, monkeypatch, cache, before, free, may) -> None:
    monkeypatch.setattr(f"{MODULE}.available_bytes", lambda root: free)
    earlier = before and PhaseDecision(before, "")
    assert decider(cache=cache)._may_cache(earlier) is may


def test_a_phase_keeps_its_mode(decider, monkeypatch) -> None:
    asked = []

    def decide(work: Any, costs: Any, *, budget: int, free: int, wanted: str) -> Any:
        asked.append((free, wanted))
        mode = {"off": "live", "always": "cached"}.get(wanted, "cached" if free else "live")
        return CachePlan(mode, "measured", 0, 0.0, 0.0)

    monkeypatch.setattr(f"{MODULE}.decide", decide)
    monkeypatch.setattr(f"{MODULE}.available_bytes", lambda root: 7)
    live, cached = PhaseDecision("live", "then"), PhaseDecision("cached", "then")
    for settings, before, question, mode, reason in (
        ("auto", None, (7, "auto"), "cached", "measured"),
        ("auto", cached, (7, "always"), "cached", "then"),
        ("auto", live, (0, "off"), "live", "then"),
        ("always", live, (0, "off"), "live", "then"),
        ("off", None, (0, "off"), "live", "measured"),
        ("off", cached, (0, "off"), "live", "measured"),
    ):
        found = decider(cache=settings)._cache_plan(None, None, before)
        assert (asked.pop(), found.mode, found.reason) == (question, mode, reason)


def test_images_that_are_all_alike_are_tried_with_others() -> None:
    apart = torch.arange(24.0).reshape(3, 2, 2, 2)
    assert _different(apart) is apart
    alike = torch.ones(3, 2, 2, 2)
    tried = _different(alike)
    assert tried.shape == alike.shape and torch.equal(tried[0], alike[0])
    assert not torch.equal(tried[1], tried[2]) and not torch.equal(tried[1], alike[1])
    assert torch.equal(tried, _different(alike)), "the same each time"


def test_a_whole_phase_stays_whole_and_no_cut_is_tried_where_none_is_wanted(decider) -> None:
    before = PhaseDecision("whole", "then")
    assert decider().decide(range(3), before) is before
    made = decider(cut="off", views=4)
    for earlier in (None, PhaseDecision("live", "then")):
        found = made.decide(range(3), earlier)
        assert found == PhaseDecision("whole", "engine.cut is off", views=4)


def test_a_kernel_that_is_gone_is_replaced_and_one_that_was_asked_for_is_not(
    decider, monkeypatch
) -> None:
    asked = []

    def choose(prefix: Any, images: Any, count: int, *, wanted: str = "auto", **_: Any) -> str:
        asked.append((count, wanted))
        if wanted == "onnxruntime":
            raise ConfigError("it is not installed")
        return wanted

    monkeypatch.setattr(f"{MODULE}.choose", choose)
    cut, times = SimpleNamespace(prefix=None), SimpleNamespace(activations=None, prefix=0.1)

    def chosen(before: str | None, **settings: Any) -> tuple[Any, list[str]]:
        made = decider(cache="off", **settings)
        made._first = SimpleNamespace(images=None)
        earlier = before and PhaseDecision("live", "", kernel=before)
        return made.choose(cut, times, 7, earlier), made.told

    assert chosen(None) == ("auto", []) and chosen("inductor") == ("inductor", [])
    assert chosen(None, kernel="eager") == ("eager", [])
    found, (text,) = chosen("onnxruntime")
    assert found == "auto" and text.endswith("is replaced by another: it is not installed")
    assert asked[-2:] == [(7, "onnxruntime"), (7, "auto")]
    with pytest.raises(ConfigError, match="it is not installed"):
        chosen(None, kernel="onnxruntime")


# --- what a cut phase costs ---


@pytest.fixture
def cut_phase(decider, monkeypatch) -> Callable[..., Any]:
    """Cut a made-up phase of 8 training and 3 validation images, whose rows have 4 x 2 values."""

    def make(
        mode: str, missing: int = 0, before: Any = None, views: int | None = 2, cache: str = "auto"
    ) -> Any:
        made = decider(cache=cache)
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
        monkeypatch.setattr(f"{MODULE}.first_run", lambda cut, images: first)
        monkeypatch.setattr(f"{MODULE}.PhaseCache", Stored)
        monkeypatch.setattr(f"{MODULE}.time_parts", time_parts)
        monkeypatch.setattr(f"{MODULE}.available_bytes", lambda root: 7)
        made._cache_plan, made.choose = plan, choose
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


def test_rows_have_the_bytes_of_their_type(decider, monkeypatch) -> None:
    made = decider()
    boundaries = [Place(is_features=features) for features in (True, False, False)]
    monkeypatch.setattr(f"{MODULE}.row_elements", lambda *_: [6, 6, None])
    found = made._row_bytes(boundaries, None)
    assert list(found.values()) == [24, 12], "features are kept in full precision"


# --- the place of the cut ---


class Place(SimpleNamespace):
    """A boundary, by its name."""

    __hash__ = object.__hash__


@pytest.fixture
def deciding(decider, monkeypatch) -> Callable[..., Any]:
    """Decide a phase whose boundaries, deepest first, are a, b and c."""

    def decide(
        exact: str, index: int = 0, mode: str = "cached", before: Any = None, names: str = "abc"
    ) -> Any:
        made = decider(views=2)
        made._first = SimpleNamespace(images=torch.rand(3, 1))
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

        monkeypatch.setattr(f"{MODULE}.find_boundaries", lambda *_: places)
        monkeypatch.setattr(f"{MODULE}.first_exact_cut", first_exact_cut)
        monkeypatch.setattr(f"{MODULE}.place", place)
        made._cut_phase = cut_phase
        return made.decide(range(5), before), cut, closed

    return decide


def test_a_network_that_cannot_be_cut_says_why(deciding) -> None:
    assert deciding("")[0] == PhaseDecision("whole", "not a; not b; not c", views=2)
    assert deciding("", names="")[0] == PhaseDecision("whole", NOTHING_FROZEN, views=2)


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
