"""The telemetry of OpenVINO and NNCF is off while they are used."""

from __future__ import annotations

import os

import pytest

from siamkit.portable.untracked import untracked


@pytest.mark.parametrize("before", [None, "0"])
def test_the_switches_are_set_within_the_block_and_then_as_before(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("CI", raising=False)
    if before is None:
        monkeypatch.delenv("NNCF_CI", raising=False)
    else:
        monkeypatch.setenv("NNCF_CI", before)
    with pytest.raises(ValueError, match="mine"), untracked():
        assert (os.environ["CI"], os.environ["NNCF_CI"]) == ("true", "1")
        raise ValueError("mine")
    assert (os.environ.get("CI"), os.environ.get("NNCF_CI")) == (None, before)
