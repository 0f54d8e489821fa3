"""The notices of pruning."""

from __future__ import annotations

import pytest

from siamkit.compress.rounds import Wish, ratio_notice


@pytest.mark.parametrize(
    ("gone", "said"),
    [(0.5, None), (0.52, None), (0.83, "83% of the operations were removed instead of 50%"),
     (0.45, "45% of the operations were removed instead of 50%")],
)  # fmt: skip
def test_another_share_than_asked_for_is_said(gone: float, said: str | None) -> None:
    notice = ratio_notice(Wish(0.5, "all", 1), gone)
    assert notice is None if said is None else notice is not None and said in notice
