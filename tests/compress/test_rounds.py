"""The notices of pruning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.compress.rounds import Wish, frozen_notice, ratio_notice


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
