from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from siamkit.errors import CheckpointError, ConfigError
from siamkit.json_files import sealed
from siamkit.portable.calibration import Calibration, Provenance, Rate
from siamkit.report.calibration import verdict as printed

ABOUT = Provenance(
    "photos", "val", "d", 10, 5, 4, 41, True, "epoch-00001-step-00000009", "n", 0, "0.1"
)


def made(**changes):
    values = {
        "target": "eer", "far_asked": None, "threshold": 0.5, "far": Rate(0.1, 0.05, 0.2),
        "frr": Rate(0.1, 0.0, 0.3), "slope": 12.0, "intercept": -5.0, "provenance": ABOUT,
    }  # fmt: skip
    return Calibration(**{**values, **changes})


def test_a_pair_at_the_threshold_is_the_same():
    found = made()
    assert found.decide(0.5) and not found.decide(0.4999999)
    verdict = found.verdict(0.6)
    assert verdict.same and (verdict.score, verdict.threshold) == (0.6, 0.5)
    assert verdict.probability == found.probability(0.6)
    assert verdict.to_json().keys() == {"same", "score", "threshold", "probability", "prior"}


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.1, 30), st.floats(-20, 20))
def test_the_probability_rises_strictly_with_the_score(a, b, slope, intercept):
    found = made(slope=slope, intercept=intercept)
    low, high = sorted((a, b))
    assert 0 < found.probability(low) <= found.probability(high) <= 1
    if high - low > 1e-3 and slope * (high - 0.5) < 20:
        assert found.probability(low) < found.probability(high)


scores = st.floats(-1, 1)


@given(scores, scores | st.none(), st.floats(1e-9, 1e3), st.floats(-50, 50))
def test_a_verdict_and_its_probability_never_contradict_each_other(
    threshold, score, slope, intercept
):
    """The printed numbers do not either. None stands for the score just below the threshold."""
    score = math.nextafter(threshold, -2) if score is None else score
    found = made(threshold=threshold, slope=slope, intercept=intercept).verdict(score)
    assert found.same == (found.score >= found.threshold) == (found.probability >= 0.5)
    text = "".join(part.plain for part in printed({**found.to_json(), "notices": []}).renderables)
    assert text.startswith("same" if found.same else "different")
    numbers = re.search(r"score (\S+), threshold (\S+), probability ([\d.]+)", text)
    shown = [float(number) for number in numbers.groups()]
    assert found.same == (shown[0] >= shown[1]) == (shown[2] >= 0.5)


@given(scores, st.floats(0.1, 30), st.floats(-5, 5), scores)
def test_the_threshold_is_the_break_even_point_of_its_prior(threshold, slope, intercept, score):
    found = made(threshold=threshold, slope=slope, intercept=intercept)
    assume(found.prior < 1 - 1e-6)  # closer to 1, few digits of its distance to 1 are left
    assert found.probability(score) == pytest.approx(found.probability(score, prior=found.prior))
    assert found.probability(threshold) == 0.5
    # At a prior of one half, the odds are the likelihood ratio.
    assert found.probability(score, prior=0.5) == pytest.approx(
        1 / (1 + math.exp(-slope * score - intercept))
    )


@pytest.mark.parametrize("prior", [0, 1, -0.1, float("nan")])
def test_a_prior_is_a_share(prior):
    with pytest.raises(ConfigError, match="prior: must lie between 0 and 1"):
        made().probability(0.5, prior=prior)


@given(st.floats(-1, 1), st.floats(1e-6, 1), st.sampled_from(["eer", "far", "accuracy"]))
def test_it_is_the_same_after_json(threshold, rate, target):
    found = made(threshold=threshold, far=Rate(rate, 0.0, 1.0), target=target, far_asked=rate)
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_it_is_the_same_after_a_file(tmp_path: Path):
    found = made()
    found.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "unknown calibration format, got 1, allowed: 2"),
        ({"slope": -1.0}, "slope"),
        ({"slope": 0.0}, "slope"),
        ({"far_asked": 0.0}, "far_asked"),
        ({"far_asked": 1.001}, "far_asked"),
        ({"provenance": {**asdict(ABOUT), "notices": [], "same": -1}}, r"provenance\.same"),
        ({"threshold": "high"}, "threshold"),
        ({"target": "luck"}, "target"),
        ({"far": {"rate": 0.1}}, r"far\.low"),
        ({"extra": 1}, "extra"),
        ({"threshold": float("nan")}, "threshold"),
        ({"threshold": 2.98}, "threshold"),
        ({"threshold": -1.1}, "threshold"),
        ({"threshold": 1.00001}, "threshold"),
        ({"far": {"rate": 1.5, "low": 0.0, "high": 1.0}}, r"far\.rate"),
        ({"frr": {"rate": 0.5, "low": -0.1, "high": 1.0}}, r"frr\.low"),
    ],
)
def test_damage_is_told_by_place(change, message, tmp_path: Path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(sealed({**made().to_json(), **change})))
    with pytest.raises(CheckpointError, match=message) as caught:
        Calibration.load(path)
    assert str(path) in str(caught.value) and "siamkit.calibrate" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 1 + 5e-7},  # a cosine, with rounding
        {"threshold": -1 - 5e-7},
        {"far_asked": 1.0},
        {"slope": 1e-9},
        {"far": Rate(0.0, 0.0, 1.0)},
        {"provenance": replace(ABOUT, images=0, identities=0, same=0, different=0)},
    ],
)
def test_values_at_their_bounds_are_valid(change):
    found = made(**change)
    assert Calibration.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"a": 1}', "\udcff"])
def test_what_is_no_calibration_is_an_error(text, tmp_path: Path):
    path = tmp_path / "calibration.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=r"calibration\.json"):
        Calibration.load(path)
    with pytest.raises(CheckpointError, match="the file is missing"):
        Calibration.load(tmp_path / "none.json")


@pytest.mark.parametrize("values", [{}, {"format": "x"}, {"format": 1}])
def test_what_cannot_be_used_comes_with_a_next_step(values):
    with pytest.raises(CheckpointError) as caught:
        Calibration.from_json(values, hint="ask again")
    assert caught.value.hint == "ask again"
    with pytest.raises(CheckpointError) as caught:
        Calibration.from_json(values)
    assert "siamkit.calibrate" in str(caught.value.hint)


def test_a_value_that_was_edited_is_refused_although_it_is_within_bounds(tmp_path: Path):
    path = tmp_path / "calibration.json"
    made().save(path)
    path.write_text(path.read_text().replace('"threshold": 0.5', '"threshold": 0.7'))
    with pytest.raises(CheckpointError, match="damaged or was edited") as caught:
        Calibration.load(path)
    assert str(path) in str(caught.value) and "siamkit.calibrate" in str(caught.value)


def test_the_layout_of_the_file_does_not_count(tmp_path: Path):
    path = tmp_path / "calibration.json"
    made().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert Calibration.load(path) == made()
