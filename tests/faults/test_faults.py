"""The short form of the harness: a few cases of each kind. The long form is run.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import POSITIONS, Damage, _judged
from disks import case as full_disk
from fuzz import cases as fuzzed
from kills import Kills
from page import tables
from processes import ACTIVITIES, COMMAND, Programs, Trap
from records import Journal, Record
from subjects import POLICIES, Subject, differences, outcome

from siamkit.api import registries

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="needs processes that fork"
)


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Kills:
    folder = tmp_path_factory.mktemp("faults")
    return Kills(folder, Programs(folder))


def test_every_freeze_policy_of_siamkit_is_a_subject() -> None:
    assert {e.name for e in registries()["freeze"] if e.distribution == "siamkit"} == set(POLICIES)


@pytest.mark.slow
def test_every_activity_that_can_be_killed_takes_place(kills: Kills) -> None:
    _, _, calls = kills.whole(Subject("stages", True))
    assert [activity for activity in ACTIVITIES if not calls[activity]] == []
    assert all(operations for _, operations in calls["saving"])


# Of one kind of run: killed in a save, in the fill of its cache, and in training.
@pytest.mark.parametrize("number", [134, 114, pytest.param(14, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_if_nothing_was(kills: Kills, number: int) -> None:
    record = kills.case(number, seed=0)
    assert record.problem is None, record
    assert record.count >= 1, "the trap was sprung"


@pytest.mark.slow
def test_a_run_that_goes_on_otherwise_is_found(kills: Kills) -> None:
    """The comparison can fail."""
    whole, expected, _ = kills.whole(Subject("stages", True))
    other = kills.folder / "other"
    args = ["train", "--config", whole.parent / "config.yaml", "--run-dir", other, "--seed", "1"]
    assert kills.programs.run([*args, "--no-report"], kills.folder / "none").code == 0
    assert any(key.startswith("tensors.last") for key in differences(outcome(other), expected))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_full_disk_loses_nothing(kills: Kills, number: int) -> None:
    record = full_disk(kills, number, seed=0)
    assert record.problem is None, record
    assert record.happened.startswith("exit 7"), record


@pytest.mark.slow
def test_damaged_files_are_refused_or_change_nothing(kills: Kills) -> None:
    damage = Damage(kills, seed=0)
    drawn = [case for case in damage.draw(400) if case[3] in ("verify", "search", "cache list")]
    for number, case in enumerate(drawn[:8]):
        record = damage.case(str(number), *case)
        assert record.problem is None, record
    assert {case[2] for case in damage.draw(400)} == set(POSITIONS)


def test_damage_that_changes_a_result_is_found() -> None:
    assert _judged("verify", "state.json", 0, {"same": True}, {"same": False}, "")[1]
    assert _judged("verify", "state.json", 1, None, {}, "unexpected KeyError")[1]
    assert _judged("verify", "state.json", 2, None, {}, "")[1]
    assert _judged("verify", "state.json", 4, None, {}, "damaged")[1] is None


@pytest.mark.slow
def test_every_reader_raises_errors_of_ours_only(kills: Kills) -> None:
    for _, attempt in fuzzed(kills, 300, 0):
        record = attempt()
        assert record.problem is None, record


def test_a_trap_kills_where_it_says(kills: Kills) -> None:
    config = kills.whole(Subject("stages", True))[0].parent / "config.yaml"
    run = kills.folder / "trapped"
    args = ["train", "--config", config, "--run-dir", run, "--no-report"]
    ended = kills.programs.run(args, kills.folder / "none", trap=Trap("saving", 1, operation=2))
    assert ended.was_killed
    assert [p.name for p in (run / "checkpoints").glob("epoch-*")] == ["epoch-00000-step-00000000"]
    assert list((run / "checkpoints").glob(".siamkit-*")), "it was writing the next one"
    ended = kills.programs.run(["list", "losses"], run, trap=Trap(COMMAND, 0, seconds=0.0))
    assert ended.was_killed


def test_a_journal_goes_on_and_becomes_a_page(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    journal.add(Record("kill", "0/1", "saving", "a | b", "bit-equal", None, 2))
    journal.add(Record("fuzz", "0/YAML", "YAML", "9 inputs", "4 read, 5 refused", None, 9))
    again = Journal(tmp_path / "log.jsonl")
    assert again.records == journal.records
    assert again.has("kill", "0/1") and not again.has("kill", "0/2")
    text = tables(again.records)
    assert "2 kills in 1 cases; 0 wrong." in text and "| saving | 1 | 2 | bit-equal: 1 |" in text
    assert "| YAML | 9 | 4 read, 5 refused |" in text
