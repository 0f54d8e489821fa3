"""The directory of a comparison: what it takes over, keeps and removes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from siamkit.comparison import directory
from siamkit.comparison.arms import Arm
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.plan import Plan, Round
from siamkit.comparison.results import ArmResult
from siamkit.errors import CheckpointError, ConfigError
from siamkit.json_files import sealed

FACTS: dict[str, Any] = {"folds": 3, "data": "a", "weights": "w", "arms": ["x"], "config": {"a": 1}}


@pytest.fixture
def place(tmp_path: Path) -> ComparisonDir:
    return ComparisonDir(tmp_path / "c")


def test_the_names_of_folders_count_arms_and_rounds(place: ComparisonDir) -> None:
    assert place.table(Round(7, 2)) == place.tables / "seed-7-fold-2"
    assert place.run((3, 12), 1) == place.runs / "arm-03-round-012-1"


def test_a_new_comparison_writes_its_plan_and_the_same_one_goes_on(place: ComparisonDir) -> None:
    place.begin(FACTS)
    before = place.plan.read_text()
    assert json.loads(before)["folds"] == 3
    place.begin(dict(FACTS))
    assert place.plan.read_text() == before


@pytest.mark.parametrize("value", [(0.5, 1.0), [(1, 2), (3, 4)], Path("a"), None])
def test_values_of_python_are_the_same_when_they_are_read_back(
    place: ComparisonDir, value: Any
) -> None:
    facts = {**FACTS, "arms": [{"name": "a", "values": {"data.augment.crop_scale": value}}]}
    place.begin(facts)
    place.begin(facts)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"folds": 2}, "another folds, got .2., allowed: 3; repeat its own command, or choose"),
        ({"config": {"a": 1, "b": 3}}, "another configuration, got 'b=3', allowed: b=None;"),
        ({"config": {"a": 2}}, "another configuration, got 'a=2', allowed: a=1;"),
        ({"arms": ["y"]}, "another list of arms, got 'y', allowed: x;"),
        (
            {"arms": ["x", {"name": "y", "values": {"a": 1}}]},
            "another list of arms, got 'y', allowed: x;",
        ),
        ({"new": 1}, "another new, got .1., allowed: None"),
        ({"data": "b"}, r"another set of images; choose another folder \(output="),
        ({"weights": "v"}, r"another set of weights; choose another folder \(output="),
    ],
)
def test_another_plan_is_refused(place: ComparisonDir, change: dict[str, Any], told: str) -> None:
    place.begin(FACTS)
    with pytest.raises(ConfigError, match=f"the folder holds a comparison with {told}"):
        place.begin({**FACTS, **change})


def test_a_recipe_is_kept_in_another_run_directory(tmp_path: Path) -> None:
    place = ComparisonDir(tmp_path / "recipe", option="run_dir")
    place.begin(FACTS)
    with pytest.raises(ConfigError, match=r"choose another folder \(run_dir="):
        place.begin({**FACTS, "data": "b"})


def test_failures_that_the_user_can_mend_are_forgotten_and_others_stay(
    place: ComparisonDir,
) -> None:
    plan = Plan(tuple(Arm(name) for name in "abc"), 2, (0,))
    place.begin(FACTS)
    place.keep((1, 0), ArmResult(failed="out of memory", mendable=True))
    place.keep((2, 0), ArmResult(failed="the loss is NaN"))
    place.forget_mendable(plan)
    assert set(place.done(plan)) == {(2, 0)} == set(ComparisonDir(place.path).done(plan))


@pytest.mark.parametrize(("length", "shown"), [(200, "x" * 200), (201, "x" * 200 + "...")])
def test_long_values_are_cut(place: ComparisonDir, length: int, shown: str) -> None:
    place.begin(FACTS)
    with pytest.raises(ConfigError) as caught:
        place.begin({**FACTS, "folds": "x" * length})
    assert (caught.value.got, caught.value.allowed) == (shown, "3")


def test_a_comparison_without_its_plan_is_named(place: ComparisonDir) -> None:
    place.begin(FACTS)
    place.results.mkdir()
    place.plan.unlink()
    (place.results / "mine.json").touch()
    with pytest.raises(ConfigError, match="holds no comparison"):
        place.require_free()
    (place.results / "arm-00-round-000.json").touch()
    with pytest.raises(CheckpointError, match="cannot go on without") as caught:
        place.require_free()
    assert caught.value.where == str(place.plan)


def test_only_an_empty_folder_is_taken(place: ComparisonDir) -> None:
    place.path.mkdir()
    place.require_free()
    (place.path / ".siamkit-0123456789abcdef").mkdir()  # what a killed process left
    place.require_free()
    (place.path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is not empty, and holds no comparison"):
        place.begin(FACTS)
    assert sorted(path.name for path in place.path.iterdir()) == [
        ".siamkit-0123456789abcdef", "mine.txt",
    ]  # fmt: skip


def test_a_file_and_a_folder_in_a_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a directory"):
        ComparisonDir(tmp_path / "file").require_free()
    for name in ("config.yaml", "events.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="lies in the run"):
        ComparisonDir(tmp_path / "inner").require_free()


def test_results_are_kept_and_the_runs_behind_them_are_not(place: ComparisonDir) -> None:
    place.begin(FACTS)
    for unit, variant in (((1, 0), 0), ((1, 0), 1), ((1, 1), 0), ((11, 0), 0)):
        place.run(unit, variant).mkdir(parents=True)
    plan = Plan((Arm("a"), Arm("b")), 2, (0,))
    assert place.done(plan) == {}
    result = ArmResult(seconds=1.5, epochs=2, notices=("a",), phases=({"first_epoch": 1},))
    place.keep((1, 0), result)
    assert place.done(plan) == ComparisonDir(place.path).done(plan) == {(1, 0): result}
    left = sorted(path.name for path in place.runs.iterdir())
    assert left == ["arm-01-round-001-0", "arm-11-round-000-0"]


def test_a_run_that_cannot_be_removed_loses_no_result(
    place: ComparisonDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(16, "Device or resource busy", str(path))

    place.begin(FACTS)
    place.run((0, 0), 0).mkdir(parents=True)
    monkeypatch.setattr(directory.shutil, "rmtree", busy)
    place.keep((0, 0), ArmResult())
    assert place.done(Plan((Arm("a"),), 1, (0,))) == {(0, 0): ArmResult()}


@pytest.mark.parametrize("content", [{}, {"val": {}, "test": {}}, {"val": [], "test": 3}])
def test_a_result_of_another_version_is_named(place: ComparisonDir, content: Any) -> None:
    place.begin(FACTS)
    place.keep((0, 1), ArmResult())
    path = place.results / "arm-00-round-001.json"
    path.write_text(json.dumps(sealed(content)))
    plan = Plan((Arm("a"),), 2, (0,))
    with pytest.raises(CheckpointError, match="is of another version of siamkit") as caught:
        ComparisonDir(place.path).done(plan)
    assert caught.value.where == str(path)


def test_a_run_that_is_finished_is_not_claimed_again(place: ComparisonDir) -> None:
    place.begin(FACTS)
    with place.claimed((0, 0)) as mine:
        assert mine
        place.keep((0, 0), ArmResult())
    with place.claimed((0, 0)) as mine:
        assert not mine
    with place.claimed((0, 1)) as mine:
        assert mine


def test_at_the_end_runs_with_a_result_go_and_others_stay(place: ComparisonDir) -> None:
    place.begin(FACTS)
    place.keep((0, 1), ArmResult())
    for unit, variant in (((0, 1), 0), ((0, 1), 1), ((1, 1), 0)):
        place.run(unit, variant).mkdir(parents=True)  # it was killed before it removed its runs
    place.finish()
    assert [path.name for path in place.runs.iterdir()] == ["arm-01-round-001-0"]


def test_at_the_end_the_folder_of_runs_goes_if_nothing_else_is_in_it(place: ComparisonDir) -> None:
    place.begin(FACTS)
    with place.claimed((0, 0)):
        pass
    (place.runs / "mine.txt").touch()
    place.finish()
    assert [path.name for path in place.runs.iterdir()] == ["mine.txt"]
    (place.runs / "mine.txt").unlink()
    place.finish()
    assert not place.runs.exists()
