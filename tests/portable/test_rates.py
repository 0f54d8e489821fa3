"""Error rates at a threshold, counted by hand."""

import pytest

from siamkit.portable.rates import errors_at


def test_the_rates_are_the_shares_of_the_pairs_of_their_kind() -> None:
    same = [True, True, True, True, False, False, False, False, False]
    scores = [0.9, 0.5, 0.4, 0.3, 0.6, 0.1, 0.2, 0.3, 0.4]
    assert errors_at(scores, same, 0.5) == {
        "accuracy": pytest.approx(6 / 9), "far": 1 / 5, "frr": 1 / 2, "same": 4, "different": 5,
    }  # fmt: skip


def test_a_score_at_the_threshold_is_accepted() -> None:
    assert errors_at([0.5], [True], 0.5)["accuracy"] == 1
    assert errors_at([0.4999], [True], 0.5)["accuracy"] == 0


@pytest.mark.parametrize("kind", [True, False])
def test_without_pairs_of_a_kind_there_is_no_rate_of_it(kind: bool) -> None:
    found = errors_at([0.9, 0.1, 0.2], [kind] * 3, 0.5)
    assert (found["far"] is None, found["frr"] is None) == (kind, not kind)
    assert found["frr" if kind else "far"] == pytest.approx(2 / 3 if kind else 1 / 3)
    assert (found["same"], found["different"]) == ((3, 0) if kind else (0, 3))
