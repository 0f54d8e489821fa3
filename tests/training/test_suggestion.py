"""The rate that curves of a range test speak for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.training.suggestion import Curve, is_over, mean_curve, rounded, suggested

RATES = tuple(10 ** (i / 10 - 6) for i in range(71))  # 1e-6 to 10


def valley(
    onset: float = 1e-3, depth: float = 0.3, first: float = 1.0, noise: float = 0.0
) -> Curve:
    """A loss that falls from ``onset`` on, over a decade, and rises from 20 times ``onset`` on."""
    losses = [first]
    for place, rate in enumerate(RATES):
        down = min(max(math.log10(rate / onset), 0), 1)
        up = max(math.log10(rate / (20 * onset)), 0)
        losses.append(first - first * depth * down + first * up + noise * (-1) ** place)
    return Curve(RATES, tuple(losses))


def cut(curve: Curve, steps: int) -> Curve:
    return Curve(curve.rates[:steps], curve.losses[: steps + 1])


@pytest.mark.parametrize(("depth", "share"), [(0.04, 0.25), (0.1, 0.25), (0.3, 0.1), (0.6, 0.05)])
def test_the_rate_is_where_the_loss_begins_to_fall(depth, share):
    """The valley falls evenly over a decade, so a share of its depth is a share of the decade."""
    found = suggested([valley(depth=depth)] * 3)
    assert found.lr == found.low == found.high == pytest.approx(1e-3 * 10**share, rel=0.27)
    assert found.reason == "the loss begins to fall there"


@given(
    st.floats(1e-5, 1e-2), st.floats(0.05, 0.9), st.floats(1e-3, 50), st.sampled_from([1, 0.5, 8])
)
def test_the_scale_of_the_loss_does_not_matter_and_the_onset_does(onset, depth, first, factor):
    found = suggested([valley(onset, depth, first)])
    assert found.lr is not None and onset < found.lr < 4 * onset
    scaled = suggested([valley(onset, depth, first * factor)])
    assert scaled.lr == pytest.approx(found.lr, rel=0.3)


def test_noise_before_the_fall_is_no_valley():
    found = suggested([valley(noise=0.002)])
    assert found.lr == suggested([valley()]).lr


def test_what_comes_after_the_first_valley_does_not_count():
    """A collapsed embedding leaves no pairs to mine, so the loss falls to nothing."""
    curve = valley()
    place = next(i for i, loss in enumerate(curve.losses) if loss > 1.2)
    collapsed = Curve(RATES, curve.losses[:place] + (0.0,) * (72 - place))
    assert suggested([collapsed]).lr == suggested([curve]).lr


def test_a_pass_is_over_after_the_valley_or_an_explosion():
    losses = valley().losses
    bottom = min(range(len(losses)), key=lambda i: losses[i])
    assert not any(is_over(losses[: n + 1]) for n in range(bottom + 1))
    assert is_over(losses)
    assert is_over([1.0, 1.0, 3.1]) and not is_over([1.0, 1.0, 2.9])
    assert is_over([-1.0, 1.1]) and not is_over([-1.0, 0.9])


def test_a_pass_that_ends_with_its_valley_suggests_the_same():
    curve = valley()
    steps = next(n for n in range(1, 72) if is_over(curve.losses[: n + 1]))
    assert suggested([cut(curve, steps)]) == suggested([curve])


@pytest.mark.parametrize(
    ("curves", "reason"),
    [
        (
            [Curve(RATES, (0.0,) * 72)],
            "the loss is 0 before the first step, so there is nothing to learn from",
        ),
        ([Curve(RATES, (1.0,) * 72)], "the loss falls by less than 2% at every rate"),
        ([Curve(RATES, tuple(1.0 + i for i in range(72)))], "the loss falls by less than 2%"),
        ([cut(valley(depth=0.1), 36)], "the loss still falls at the last rate; raise highest"),
        ([Curve(RATES[40:], (1.0, *valley().losses[41:]))], "the loss falls at the first rate al"),
        ([valley(1e-5), valley(1e-3)], "the repeats disagree: they suggest rates from 1.6e-05 to"),
        ([valley(), *[Curve(RATES, (1.0,) * 72)] * 2], "the loss falls by less than 2%"),
    ],
)
def test_without_a_valley_there_is_no_rate_and_a_reason(curves, reason):
    found = suggested(curves)
    assert (found.lr, found.low, found.high) == (None, None, None)
    assert found.reason.startswith(reason)


def test_two_of_three_repeats_suffice_and_the_reason_says_so():
    found = suggested([valley(), Curve(RATES, (1.0,) * 72), valley()])
    assert found.lr == suggested([valley()]).lr
    assert found.reason.endswith("(in 2 of 3 repeats)")


def test_a_pass_that_ends_before_the_others_rise_does_not_hide_their_valley():
    early = valley(5e-4)
    steps = next(n for n in range(1, 72) if is_over(early.losses[: n + 1]))
    passes = [cut(early, steps), valley(2e-3), valley(2e-3)]
    assert suggested(passes).lr == suggested([valley(2e-3)]).lr


def test_the_interval_is_that_of_the_repeats():
    low, middle, high = (suggested([valley(onset)]).lr for onset in (1e-3, 1.5e-3, 2e-3))
    found = suggested([valley(1e-3), valley(2e-3), valley(1.5e-3)])
    assert (found.low, found.lr, found.high) == (low, middle, high)


def test_the_mean_ends_with_the_shortest_pass():
    mean = mean_curve([Curve((1.0, 2.0), (4.0, 2.0, 0.0)), Curve((1.0,), (2.0, 4.0))])
    assert mean == Curve((1.0,), (3.0, 3.0))


@given(st.floats(1e-9, 1e3))
def test_a_rounded_rate_is_close_and_short(rate):
    assert rounded(rate) == pytest.approx(rate, rel=0.051)
    assert len(f"{rounded(rate):e}".rstrip("0").partition("e")[0].rstrip("0")) <= 3
