from __future__ import annotations

import re

from siamkit.report.calibration import calibration, calibration_line, pair_list, verdict

FOUND = {
    "target": "far",
    "far_asked": 0.001,
    "threshold": 0.61234,
    "far": {"rate": 0.001, "low": 0.0004, "high": 0.0021},
    "frr": {"rate": 0.25, "low": 0.2, "high": 0.31},
    "provenance": {
        "same": 3465, "different": 496535, "all_pairs": False, "images": 1386, "identities": 231,
        "part": "val", "data": "[/bold]", "notices": ["[/bold] chose"],
    },
}  # fmt: skip


def test_the_line_tells_threshold_target_and_errors():
    assert calibration_line(FOUND).plain == (
        "threshold 0.6123 (FAR 0.001); expected on the same number of unseen identities (95 % "
        "prediction interval): FAR 0.1 % (0.04 % to 0.21 %), FRR 25 % (20 % to 31 %)"
    )


def test_the_table_tells_what_it_was_fitted_on(render):
    text = render(calibration({**FOUND, "target": "eer", "far_asked": None}))
    assert "231 identities: val of [/bold]" in text and "a random sample" in text
    assert "threshold 0.6123 (equal error rate)" in text and "note: [/bold] chose" in text
    assert re.search(r"false accepts \(FAR\) +0\.1 % +0\.04 % to 0\.21 %", text)


def test_a_verdict_comes_first(render):
    found = {"same": False, "score": 0.1, "threshold": 0.5, "probability": 0.01, "prior": 0.25,
             "notices": []}  # fmt: skip
    lines = render(verdict(found)).splitlines()
    assert lines[0].strip() == "different" and "probability 0.0100" in lines[1]
    assert "data in which 25 % of the pairs are the same" in lines[2]


def test_a_list_without_truth_has_no_rates(render):
    found = {
        "pairs": 4, "images": 3, "accepted": 1, "threshold": 0.5, "prior": 0.4, "errors": None,
        "out": None, "notices": ["one is cut"],
    }  # fmt: skip
    lines = render(pair_list(found)).strip().splitlines()
    assert lines[0].strip() == "4 pairs of 3 images: 1 same, 3 different at threshold 0.5000"
    assert lines[1].startswith("The probabilities hold for data in which 40 % of the pairs are")
    assert lines[-1].strip() == "note: one is cut"
    errors = {"accuracy": 0.75, "far": None, "frr": 0.25, "same": 4, "different": 0}
    text = render(pair_list({**found, "errors": errors}))
    assert "accuracy 75 %, FRR 25 %" in text and "FAR" not in text
