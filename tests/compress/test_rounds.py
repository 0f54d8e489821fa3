"""The notices of pruning, and what the run of each round is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from siamkit import api
from siamkit.compress import rounds
from siamkit.compress.rounds import Source, Wish, frozen_notice, ratio_notice, write_pruned
from siamkit.config import resolve
from siamkit.config.layers import Layer
from siamkit.model.pruning import Cut, PrunedLayer, Pruning

FIRST = Pruning({"layer": PrunedLayer({"out_features": 3}, {"bias": (Cut(4, (0, 1, 3)),)})})
SECOND = Pruning({"layer": PrunedLayer({"out_features": 2}, {"bias": (Cut(3, (0, 2)),)})})


@pytest.fixture
def two_rounds(
    run_values: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """What two rounds asked for and gave, without a network: the runs are not built or tuned."""
    config = resolve(api.registries(), Layer(run_values(), str))
    config = config.model_copy(update={"track": ("a tracker",), "report": True})
    found = SimpleNamespace(targets=[], runs=[], records=[], inherited=[], steps=[])
    left = iter([FIRST, SECOND])

    def shrunk(source: Any, setup: Any, config: Any, target: float, wish: Wish) -> Any:
        found.targets.append(target)
        return SimpleNamespace(record=next(left), net=SimpleNamespace(state_dict=dict))

    def begun(folder: Path, own: Any, *_: object, inherited: bool) -> None:
        found.runs.append(own)
        found.records.append(Pruning.load(own.backbone.pruning))
        found.inherited.append(inherited)

    def setup_with(record: Pruning | None) -> Any:
        return SimpleNamespace(net=SimpleNamespace(pruning=record), device=None)

    for name, fake in (
        ("operations", lambda *_: 100.0), ("model_tensors", lambda _: {}), ("_shrunk", shrunk),
        ("begin", begun), ("_tuned", lambda *_: (setup_with(FIRST), False)),
    ):  # fmt: skip
        monkeypatch.setattr(rounds, name, fake)
    best = SimpleNamespace(network="0123", state={"refitted": False, "best_epoch": 0})
    run: Any = SimpleNamespace(
        path=tmp_path / "whole", registries={}, best=best, best_epoch=0, checkpoint=lambda _: best
    )
    source = Source(run, setup_with(None), SimpleNamespace())  # type: ignore[arg-type]
    wish = Wish(0.75, "all", 2)
    target = tmp_path / "small"
    write_pruned(source, target, config, wish, (), lambda *step: found.steps.append(step))
    return found


def test_only_the_run_that_stays_is_tracked_and_reported(two_rounds: SimpleNamespace) -> None:
    assert [(run.track, run.report) for run in two_rounds.runs] == [
        ((), False), (("a tracker",), True),
    ]  # fmt: skip


def test_each_record_is_relative_to_the_network_before_all_rounds(
    two_rounds: SimpleNamespace,
) -> None:
    assert [record.layers for record in two_rounds.records] == [
        FIRST.layers, SECOND.after(FIRST).layers,
    ]  # fmt: skip
    assert two_rounds.records[1].layers["layer"].tensors["bias"] == (Cut(4, (0, 3)),)


def test_a_round_removes_its_share_and_tells_how_many_are_done(two_rounds: SimpleNamespace) -> None:
    assert two_rounds.targets == pytest.approx([50.0, 25.0])
    assert two_rounds.steps == [("pruning", 0, 2), ("pruning", 1, 2)]
    assert two_rounds.inherited == [True, False], "the head of a later round is that of its tuning"


@pytest.mark.parametrize(
    ("gone", "said"),
    [(0.5, None), (0.52, None), (0.83, "83% of the operations were removed instead of 50%"),
     (0.45, "45% of the operations were removed instead of 50%")],
)  # fmt: skip
def test_another_share_than_asked_for_is_said(gone: float, said: str | None) -> None:
    notice = ratio_notice(Wish(0.5, "all", 1), gone)
    assert notice is None if said is None else notice is not None and said in notice


@pytest.mark.parametrize("gone", [0.471, 0.529])
def test_three_percent_more_or_less_is_not_said(gone: float) -> None:
    assert ratio_notice(Wish(0.5, "all", 1), gone) is None


def test_the_reason_depends_on_whether_more_or_less_was_removed() -> None:
    more, less = (ratio_notice(Wish(0.5, "all", 1), gone) for gone in (0.531, 0.469))
    assert more == (
        "53% of the operations were removed instead of 50%: channels are removed in steps of 8 in "
        "large layers, and in groups"
    )
    assert less is not None
    assert less.endswith("in a way that was not foreseen") and less.startswith("47% of the")


def test_pruned_layers_that_do_not_train_are_said() -> None:
    def shrunk(frozen: int, layers: int) -> Any:
        return SimpleNamespace(
            frozen=frozen, record=SimpleNamespace(layers=dict.fromkeys(range(layers)))
        )

    assert frozen_notice([shrunk(3, 4), shrunk(0, 4)], 2) is None, "only the last round counts"
    notice = frozen_notice([shrunk(0, 9), shrunk(3, 4)], 2)
    assert notice is not None
    assert notice.startswith("3 of 4 pruned layers did not train in the fine-tuning, because")
    assert frozen_notice([shrunk(3, 4)], 0) == (
        "there was no fine-tuning, because the run has no epochs: finetune_epochs=3 trains what is "
        "left for three epochs"
    )
    one = frozen_notice([shrunk(1, 1)], 2)
    assert one is not None and one.startswith("1 of 1 pruned layer did not train")
