"""The order of a forward."""

from __future__ import annotations

from siamkit.model.trace import Trace


def test_a_parameter_without_a_recorded_use_is_used_when_its_module_starts() -> None:
    trace = Trace(starts={"": 0, "a": 1, "a.b": 5}, ends={}, uses={"a.weight": 3})
    assert trace.first_use("a.weight") == 3, "its use was recorded"
    assert trace.first_use("a.bias") == 1
    assert trace.first_use("a.b.weight") == 5
    assert trace.first_use("a.c.weight") is None, "its module did not run"
    assert trace.first_use("weight") is None, "the root spans everything"
