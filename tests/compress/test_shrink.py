"""Whether removing channels can reach a number of operations, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

from siamkit.compress.shrink import require_reach
from siamkit.errors import ConfigError

from .test_choose import COSTS, GROUPS

LEAST = 1000 - 100 * (1 - 2 / 16) - 400 * (1 - 2 / 16 * 3 / 24) - 300 * (1 - 3 / 24)
"""An eighth of the channels stays: 2 of 16, and 3 of 24."""


@pytest.mark.parametrize("part", ["all", "trainable", "frozen"])
def test_a_target_within_reach_is_accepted_and_one_beyond_is_not(part: Any) -> None:
    require_reach(list(GROUPS), COSTS, LEAST, part)
    with pytest.raises(ConfigError) as caught:
        require_reach(list(GROUPS), COSTS, LEAST - 0.25, part)
    error = caught.value
    where = "" if part == "all" else f" of the part '{part}'"
    assert error.what == (
        f"the channels{where} that can be removed do not make up that many operations"
    )
    assert (error.got, error.allowed) == ("0.74 of the operations of this round", "at most 0.74")
    assert error.hint == (None if part == "all" else "part='all' prunes the whole network")


def test_the_share_that_can_be_removed_is_rounded_down() -> None:
    with pytest.raises(ConfigError, match=r"got '1\.00 of .* allowed: at most 0\.74"):
        require_reach(list(GROUPS), COSTS, 4.0, "all")
    # Without the first group, 400 * 21 / 24 + 300 * 21 / 24 = 612.5 operations.
    with pytest.raises(ConfigError, match=r"got '0\.80 of .* allowed: at most 0\.61"):
        require_reach([GROUPS[1]], COSTS, 200.0, "all")
