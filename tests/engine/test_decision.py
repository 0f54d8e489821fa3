from __future__ import annotations

import json

import pytest

from siamkit.engine.decision import PhaseDecision

DECISION = PhaseDecision(
    "cached", "it saves time", "layer3", "layer3.1", ("layer4: trains",), "eager", {"eager": 0.1},
    {"eager": 1.0}, {"inductor": "slow"}, 4, "float16", 100, 60, 512, 51_200, 0.01, 0.02, 0.03,
    9.0, 4.0, 0.1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "dtype", "exact"),
    [("cached", "float32", True), ("cached", "float16", False), ("live", "float32", False),
     ("whole", None, False)],
)  # fmt: skip
def test_only_cached_rows_of_float32_are_exact(mode: str, dtype: str | None, exact: bool) -> None:
    assert PhaseDecision(mode, "", dtype=dtype).keeps_exact_rows == exact


def test_a_decision_survives_json_and_unknown_keys_are_ignored() -> None:
    values = json.loads(json.dumps(DECISION.to_json()))
    assert PhaseDecision.from_json(values) == DECISION
    assert PhaseDecision.from_json({**values, "more": 1}) == DECISION
    assert values["rejected_boundaries"] == ["layer4: trains"] and values["rows"] == 100
    few = {"mode": "whole", "reason": "r"}
    assert PhaseDecision.from_json(few) == PhaseDecision("whole", "r")


def test_a_simpler_mode_keeps_what_still_holds() -> None:
    live = DECISION.falling_back("live", "differs")
    assert (live.mode, live.reason, live.kernel, live.boundary, live.views) == (
        "live", "differs", "eager", "layer3", 4
    )  # fmt: skip
    assert DECISION.falling_back("whole", "w") == PhaseDecision("whole", "w", views=4)


def test_what_is_not_known_is_nothing() -> None:
    plain = PhaseDecision("whole", "nothing is frozen")
    assert plain.to_json() == {
        "mode": "whole", "reason": "nothing is frozen", "boundary": None, "module": None,
        "rejected_boundaries": [], "kernel": None, "kernels": {}, "setup_seconds": {},
        "rejected": {}, "views": None, "dtype": None, "rows": 0, "missing": 0, "row_bytes": 0,
        "bytes": 0, "decode_seconds": 0.0, "prefix_seconds": 0.0, "suffix_seconds": 0.0,
        "live": 0.0, "cached": 0.0, "spread": 0.0,
    }  # fmt: skip
