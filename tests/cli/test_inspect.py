"""``siamkit inspect`` of a run."""

from __future__ import annotations

from pathlib import Path

from .conftest import Cli


def test_a_run_is_shown_as_it_was_configured_and_takes_no_flags(cli: Cli, trained: Path) -> None:
    done = cli("inspect", trained, "--json")
    assert done.code == 0, done.err
    assert done.json["schema"] == "siamkit.inspect/1"
    assert [phase["last_epoch"] for phase in done.json["phases"]] == [1]
    done = cli("inspect", trained, "--epochs", "3", "--loss", "triplet")
    assert done.code == 2
    assert f"{trained}: is the directory of a run, so it cannot be combined with" in done.err
    assert "--epochs" in done.err and "--loss" in done.err
    assert f"'siamkit inspect --config {trained / 'config.yaml'}' accepts flags" in done.err
