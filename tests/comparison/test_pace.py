"""The lengths of trials and trainings that fit into a time."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from siamkit.comparison.pace import Pace, training_epochs, trial_lengths

paces = st.builds(Pace, st.floats(0, 20), st.floats(0.001, 5), st.floats(0, 20))


@given(paces, st.floats(0, 2000), st.integers(1, 8), st.integers(1, 25))
def test_trials_fit_into_their_time(pace: Pace, seconds: float, arms: int, steps: int) -> None:
    found = trial_lengths(pace, seconds, arms, steps)
    fewest = math.ceil(24 / steps)
    if found.arms:
        assert 2 <= found.arms <= arms
        assert found.epochs >= fewest
        assert (found.epochs - 1) * steps < 150
        assert found.arms * pace.of(found.epochs, steps) <= seconds * (1 + 1e-9)
    else:
        assert found.epochs == 0
    if found.arms < arms and arms > 1:
        more = max(found.arms + 1, 2)
        assert more * pace.of(fewest, steps) > seconds * (1 - 1e-9)


@given(paces, st.floats(0, 2000), st.integers(1, 25))
def test_the_training_fits_into_its_time(pace: Pace, seconds: float, steps: int) -> None:
    epochs = training_epochs(pace, seconds, steps)
    assert epochs >= 1
    assert (epochs - 1) * steps < 400
    if epochs > 1:
        assert pace.of(epochs, steps) <= seconds * (1 + 1e-9)
    if epochs * steps < 400:
        assert pace.of(epochs + 1, steps) > seconds * (1 - 1e-9)
