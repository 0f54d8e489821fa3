"""Whole comparisons of tiny networks on small pictures."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses

import siamkit
from siamkit import api
from siamkit.api import comparing, helping
from siamkit.comparison import work as working
from siamkit.comparison.arms import Arm, without_training
from siamkit.comparison.compare import _require_some, compare
from siamkit.comparison.directory import ComparisonDir
from siamkit.comparison.plan import Plan
from siamkit.comparison.summary import summary
from siamkit.config import read_file
from siamkit.data import usability
from siamkit.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NoMemoryError,
    NonFiniteError,
    SiamkitError,
)
from siamkit.report.comparison import told

Common = Callable[..., dict[str, Any]]
SMALL: dict[str, Any] = {"policies": ["freeze-all", "full"], "folds": 2, "seeds": 1}


class Stopped(Exception):
    """Stands for a process that ends."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared") / "comparison"


@pytest.fixture(scope="module")
def compared(common: Common, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIAMKIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return siamkit.compare(common(), output=place, **SMALL)


def figures(result: Any) -> dict[str, Any]:
    """What must not depend on how often a comparison was interrupted."""
    return {row["name"]: (row["value"], row["interval"], row["to_best"]) for row in result["arms"]}


# --- what it gives -------------------------------------------------------------------------------


def test_every_arm_and_both_networks_without_training_are_measured(compared: Any) -> None:
    rows = {row["name"]: row for row in compared["arms"]}
    assert set(rows) == {"untrained", "closed form", "freeze-all", "full"}
    assert all(row["runs"] == 2 for row in rows.values())
    assert (rows["untrained"]["epochs"], rows["full"]["epochs"]) == (0, 2)
    assert rows["full"]["images"] > 0
    values = [row["value"] for row in compared["arms"]]
    assert values == sorted(values, reverse=True)
    assert compared.best == compared.arms[0]["name"]


def test_the_networks_without_training_are_those_of_plain_runs(
    compared: Any, place: Path, tmp_path: Path
) -> None:
    """A table of the comparison, trained as any data is, gives the figures of that round."""
    table = place / "tables" / "seed-0-fold-1" / "images.csv"
    stored = json.loads((place / "results" / "arm-03-round-001.json").read_text())
    base = json.loads((place / "comparison.json").read_text())["config"]
    run = siamkit.fit(
        data={"path": str(table), "root": str(_root(place)), "image_size": 32, "views": 1,
              "workers": 0},
        backbone={"name": base["backbone.name"], "pretrained": False},
        head={"name": "mlp", "hidden": 16, "dim": 8}, loss={"name": "triplet"},
        train={"epochs": 2, "batch_size": 8, "images_per_class": 2}, freeze={"name": "full"},
        run_dir=tmp_path / "run", report=False,
    )  # fmt: skip
    for metric, by_class in stored["test"].items():
        queries = sum(count for count, _ in by_class.values())
        mean = sum(total for _, total in by_class.values()) / queries
        assert mean == pytest.approx(run.metrics["test"]["best"][metric], abs=1e-12)
    rows = {row["name"]: row for row in compared["arms"]}
    assert rows["full"]["phases"][0]["first_epoch"] == 1


def _root(place: Path) -> Path:

    with (place / "tables" / "seed-0-fold-0" / "images.csv").open() as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    return next(
        folder for folder in _folders(place.parents[1]) if all((folder / p).exists() for p in paths)
    )


def _folders(above: Path) -> list[Path]:
    return [path for path in above.rglob("shapes*") if path.is_dir()]


@pytest.mark.usefixtures("compared")
def test_each_class_is_held_out_once_per_seed_and_never_trained_in_that_run(place: Path) -> None:

    held: list[str] = []
    for fold in range(2):
        with (place / "tables" / f"seed-0-fold-{fold}" / "images.csv").open() as file:
            rows = list(csv.DictReader(file))
        by_split: dict[str, set[str]] = {}
        for row in rows:
            by_split.setdefault(row["split"], set()).add(row["label"])
        assert not by_split["test"] & (by_split["train"] | by_split["val"])
        assert not by_split["train"] & by_split["val"]
        held += by_split["test"]
    assert sorted(held) == [f"class{kind}" for kind in range(8)]


def test_the_best_configuration_is_ready_for_training(compared: Any, tmp_path: Path) -> None:
    values = read_file(compared.config)
    best = compared.best
    expected = {"closed form": "freeze-all", "untrained": "freeze-all"}.get(best, best)
    assert values["freeze"]["name"] == expected
    assert values["data"]["path"].endswith(Path(values["data"]["path"]).name)
    assert values["run_dir"] is None
    result = api.fit(api.load_config(values, {"run_dir": str(tmp_path / "run")}))
    assert result.run_dir.is_dir()


def test_the_runs_are_removed_and_the_page_is_written(compared: Any, place: Path) -> None:
    assert sorted(p.name for p in place.iterdir()) == [
        "best.yaml", "comparison.html", "comparison.json", "results", "tables",
    ]  # fmt: skip
    assert compared.report == place / "comparison.html"
    page = compared.report.read_text()
    assert all(sentence.split("'")[1] in page for sentence in compared.verdict[:1])


@pytest.mark.slow
def test_arms_share_the_features(common: Common, tmp_path: Path) -> None:
    siamkit.compare(
        common(engine={"cache": "always"}), losses=["triplet", "contrastive"],
        policies=["freeze-all"], folds=2, seeds=1, output=tmp_path / "c",
    )  # fmt: skip
    filling = {
        path.stem: json.loads(path.read_text())["filling"]
        for path in sorted((tmp_path / "c" / "results").iterdir())
    }
    assert filling["arm-02-round-000"] > 0
    assert filling["arm-03-round-000"] == 0


# --- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "after", [4, pytest.param(1, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)]
)
def test_a_stopped_comparison_goes_on_to_the_same_table(
    compared: Any, common: Common, tmp_path: Path, after: int
) -> None:
    steps: list[str] = []

    def watch(step: Any) -> None:
        if step.result is not None:
            steps.append(step.arm)
            if len(steps) == after:
                raise Stopped

    with pytest.raises(Stopped):
        siamkit.compare(common(), output=tmp_path / "c", watch=watch, **SMALL)
    again = siamkit.compare(common(), output=tmp_path / "c", watch=watch, **SMALL)
    assert len(steps) == 8
    assert figures(again) == figures(compared)
    assert again.verdict[0] == compared.verdict[0]


@pytest.mark.slow
def test_a_run_that_was_killed_in_the_middle_goes_on(
    compared: Any, common: Common, tmp_path: Path
) -> None:
    epochs: list[int] = []

    def listen(event: siamkit.Event) -> None:
        if event.name == "epoch_end":
            epochs.append(event.data["epoch"])
        if event.name == "checkpoint" and event.data["epoch"] == 1 and len(epochs) == 3:
            raise Stopped  # the first epoch of the second trained arm is saved

    with pytest.raises(Stopped):
        siamkit.compare(common(), output=tmp_path / "c", listeners=[listen], **SMALL)
    before = len(epochs)
    again = siamkit.compare(common(), output=tmp_path / "c", listeners=[listen], **SMALL)
    assert figures(again) == figures(compared)
    assert epochs[before] == 2, "the epoch that was saved is not trained again"


def test_a_finished_comparison_trains_nothing(
    compared: Any, common: Common, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "run_arm", None)
    again = siamkit.compare(common(), output=place, **SMALL)
    assert dict(again) == dict(compared)


def test_waiting_for_another_process_is_said_once(
    common: Common, place: Path, compared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    shutil.move(copy / "results" / "arm-03-round-001.json", tmp_path)
    steps, looks = [], []

    def other_works(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            shutil.move(tmp_path / "arm-03-round-001.json", copy / "results")

    monkeypatch.setattr(working.time, "sleep", other_works)
    with ComparisonDir(copy).claimed((3, 1)):
        again = siamkit.compare(common(), output=copy, watch=steps.append, **SMALL)
    assert len(looks) == 3
    (step,) = steps
    assert told(step) == "run 2 of 2: full: waits for another process, which trains it ..."
    assert figures(again) == figures(compared)


@pytest.mark.slow
def test_processes_share_the_work(
    common: Common, compared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, steps, plain = [], [], working.run_arm
    results = tmp_path / "c" / "results"

    def run_arm(*given: Any) -> Any:
        while not own and not list(results.glob("*.json")):  # the other process is faster at first
            time.sleep(0.1)
        own.append(given[0][0])
        return plain(*given)

    monkeypatch.setattr(working, "run_arm", run_arm)
    together = siamkit.compare(common(), output=tmp_path / "c", jobs=2, watch=steps.append, **SMALL)
    assert figures(together) == figures(compared)
    assert 1 <= len(own) <= 7
    assert {config.train.threads for config in own} == {max(1, torch.get_num_threads() // 2)}
    ended = [(step.arm, step.round) for step in steps if step.result is not None]
    assert len(set(ended)) == len(ended) == 8, "the runs of both processes are told, each once"
    assert not any(step.waiting for step in steps)
    assert not together.notices
    assert read_file(tmp_path / "c" / "best.yaml")["train"]["threads"] is None


@pytest.mark.slow
def test_a_comparison_that_is_stopped_ends_its_processes(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(*given: Any, **named: Any) -> Any:
        started.append(subprocess.Popen(*given, **named))
        return started[-1]

    def stop(step: Any) -> None:
        raise Stopped

    monkeypatch.setattr(
        helping, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": start})
    )
    with pytest.raises(Stopped):
        siamkit.compare(common(), output=tmp_path / "c", jobs=3, watch=stop, **SMALL)
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)


@pytest.mark.slow
def test_a_process_that_fails_is_told(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helping, "_COMMAND", ("-c", "raise SystemExit('no memory')"))
    result = siamkit.compare(common(), output=tmp_path / "c", jobs=2, **SMALL)
    (notice,) = result.notices
    assert notice == "1 other process failed, and the rest did the work: no memory"


def test_a_finished_comparison_starts_no_processes(
    compared: Any, common: Common, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helping, "subprocess", None)
    assert dict(siamkit.compare(common(), output=place, jobs=2, **SMALL)) == dict(compared)


def test_a_launcher_of_several_processes_spoils_nothing(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        siamkit.compare(common(), output=tmp_path / "c", **SMALL)
    assert not (tmp_path / "c").exists()


PARENT = """
import sys, time, siamkit
from siamkit.comparison import work

def wait(*given):
    print("begun", flush=True)
    time.sleep(600)

work.run_arm = wait
siamkit.compare({values}, output={output!r}, jobs=2, folds=2, seeds=2, policies=["full"])
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(common: Common, tmp_path: Path) -> None:
    values, place = common(), tmp_path / "c"
    values["train"]["epochs"] = 500
    code = PARENT.format(values=values, output=str(place))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"begun\n"
        (helper,) = children_of(parent.pid)
        deadline = time.monotonic() + 120
        while not list(place.glob("runs/*/checkpoints/*")) and time.monotonic() < deadline:
            time.sleep(0.1)  # until the other process trains
        assert is_running(helper)
        parent.kill()
    while is_running(helper) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(helper)
    assert len(list(place.glob("results/*.json"))) < 8


def children_of(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_other_processes_have_no_objects(common: Common, tmp_path: Path) -> None:
    values = common(loss=losses.TripletMarginLoss())
    with pytest.raises(ConfigError, match=r"jobs: must be 1, .* got 2; install a plugin"):
        siamkit.compare(**values, output=tmp_path / "c", jobs=2, folds=2, seeds=1)
    with pytest.raises(ConfigError, match="jobs"):
        siamkit.compare(common(), output=tmp_path / "c", jobs=0, **SMALL)
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_settings_that_change_no_result_reach_a_run_that_was_stopped(
    common: Common, compared: Any, tmp_path: Path
) -> None:
    def listen(event: siamkit.Event) -> None:
        if event.name == "checkpoint":
            raise Stopped

    with pytest.raises(Stopped):
        siamkit.compare(common(), output=tmp_path / "c", listeners=[listen], **SMALL)
    (config,) = (tmp_path / "c" / "runs").glob("*/config.yaml")
    assert read_file(config)["train"]["checkpoint_every"] is None
    values = common()
    values["train"]["checkpoint_every"] = "5m"
    with pytest.raises(Stopped):
        siamkit.compare(values, output=tmp_path / "c", listeners=[listen], **SMALL)
    assert read_file(config)["train"]["checkpoint_every"] == "5m"
    assert figures(siamkit.compare(values, output=tmp_path / "c", **SMALL)) == figures(compared)


def test_while_another_process_trains_an_arm_the_others_are_trained_here(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = {"recall@1": {"a": (1, 0.5)}, "map@r": {"a": (1, 0.5)}}
    result = working.ArmResult(totals, totals, seconds=1.0)
    monkeypatch.setattr(working, "run_arm", lambda *_: result)
    done: list[str] = []
    other = ComparisonDir(tmp_path / "c").claimed((1, 0))
    waited: list[list[str]] = []

    def watch(step: Any) -> None:
        if step.result is not None:
            done.append(step.arm)
        elif step.arm == "untrained" and not done:
            assert other.__enter__()  # the other process takes the second arm

    def sleep(seconds: float) -> None:
        waited.append(list(done))
        other.__exit__(None, None, None)  # and ends without a result

    monkeypatch.setattr(working.time, "sleep", sleep)
    siamkit.compare(common(), output=tmp_path / "c", watch=watch, **{**SMALL, "budget": 0.1})
    assert waited == [["untrained", *SMALL["policies"]]]
    assert done == ["untrained", *SMALL["policies"], "closed form"]


def test_another_process_s_run_is_left_to_it(common: Common, tmp_path: Path) -> None:
    place = ComparisonDir(tmp_path)
    other = ComparisonDir(tmp_path)
    with place.claimed((2, 0)) as mine, other.claimed((2, 0)) as theirs:
        assert (mine, theirs) == (True, False)
        with other.claimed((2, 1)) as free:
            assert free
    with other.claimed((2, 0)) as now:
        assert now


def test_a_folder_with_another_comparison_is_refused(
    compared: Any, common: Common, place: Path
) -> None:
    with pytest.raises(ConfigError, match="another folds"):
        siamkit.compare(common(), output=place, **{**SMALL, "folds": 3})
    with pytest.raises(ConfigError, match="another configuration"):
        siamkit.compare(common(loss={"name": "contrastive"}), output=place, **SMALL)
    with pytest.raises(ConfigError, match="another list of arms"):
        siamkit.compare(common(), output=place, **{**SMALL, "policies": ["full"]})


@pytest.mark.slow
def test_a_larger_budget_or_other_workers_go_on(compared: Any, common: Common, place: Path) -> None:
    values = common()
    values["data"] = {**values["data"], "workers": 1}
    again = siamkit.compare(values, output=place, budget=3600, **SMALL)
    assert figures(again) == figures(compared)


def test_a_folder_of_something_else_is_refused(common: Common, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no comparison"):
        siamkit.compare(common(), output=tmp_path / "c", **SMALL)
    assert (tmp_path / "c" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("wrong", [{}, {"policies": ["ful"]}])
def test_nothing_of_the_user_is_removed_when_images_in_memory_are_refused(
    common: Common, image_folder: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    for name in ("data", "runs", "tables"):
        (tmp_path / "c" / name).mkdir(parents=True)
        (tmp_path / "c" / name / "mine.txt").write_text("mine")
    pairs = [(p, p.parent.name) for p in sorted(image_folder.rglob("*.png"))]
    with pytest.raises(ConfigError):
        siamkit.compare(common(), data=pairs, output=tmp_path / "c", **{**SMALL, **wrong})
    with pytest.raises(ConfigError):
        siamkit.compare(common(), output=tmp_path / "c", **{**SMALL, **wrong})
    kept = sorted(str(p.relative_to(tmp_path / "c")) for p in (tmp_path / "c").rglob("*.txt"))
    assert kept == ["data/mine.txt", "runs/mine.txt", "tables/mine.txt"]


@pytest.mark.slow
def test_other_groups_are_other_data(common: Common, image_folder: Path, tmp_path: Path) -> None:
    def table(shift: int) -> dict[str, Any]:
        rows = ["path,label,group"]
        for path in sorted(image_folder.rglob("*.png")):
            group = (int(path.stem) + shift * int(path.parent.name[-1])) % 6 // 2
            rows.append(f"{path.relative_to(image_folder)},{path.parent.name},g{group}")
        (tmp_path / "groups.csv").write_text("\n".join(rows) + "\n")
        path = {"path": str(tmp_path / "groups.csv"), "root": str(image_folder)}
        return common(data={**common()["data"], **path})

    given = {"policies": ["freeze-all"], "folds": 3, "seeds": 1, "output": tmp_path / "c"}
    siamkit.compare(table(0), **given)
    with pytest.raises(ConfigError, match="another set of images"):
        siamkit.compare(table(1), **given)


@pytest.mark.slow
def test_other_weights_are_another_comparison(
    common: Common, compared: Any, place: Path, tmp_path: Path
) -> None:
    import timm
    from safetensors.torch import save_file

    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    backbone = {"name": "timm:test_resnet", "weights": str(weights)}
    given = {"policies": ["freeze-all"], "folds": 2, "seeds": 1, "output": tmp_path / "c"}
    siamkit.compare(common(backbone=backbone), **given)
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    with pytest.raises(ConfigError, match="another set of weights"):
        siamkit.compare(common(backbone=backbone), **given)


def test_a_damaged_working_run_is_trained_again(
    compared: Any, common: Common, tmp_path: Path
) -> None:
    def listen(event: siamkit.Event) -> None:
        if event.name == "epoch_end":
            raise Stopped

    with pytest.raises(Stopped):
        siamkit.compare(common(), output=tmp_path / "c", listeners=[listen], **SMALL)
    (config,) = (tmp_path / "c" / "runs").glob("*/config.yaml")
    config.write_text("{ garbage")
    again = siamkit.compare(common(), output=tmp_path / "c", **SMALL)
    assert figures(again) == figures(compared)


def test_a_damaged_result_is_named_and_can_be_trained_again(
    compared: Any, common: Common, tmp_path: Path, place: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    path = copy / "results" / "arm-02-round-001.json"
    values = json.loads(path.read_text())
    values["epochs"] += 1
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="damaged") as caught:
        siamkit.compare(common(), output=copy, **SMALL)
    assert "remove the file" in str(caught.value)
    path.unlink()
    assert figures(siamkit.compare(common(), output=copy, **SMALL)) == figures(compared)


# --- arms ----------------------------------------------------------------------------------------


def test_every_arm_is_checked_before_the_first_run(common: Common, tmp_path: Path) -> None:
    for wrong in (
        {"losses": ["triplet", "triplett"]},
        {"vary": {"train.epochs": [1, -1]}},
        {"tune": {"optimizer.lr": [0.1, -1]}},
    ):
        with pytest.raises(ConfigError):
            siamkit.compare(common(), output=tmp_path / "c", **SMALL | wrong)
        assert not (tmp_path / "c").exists()


def test_two_arms_of_one_name_are_refused(common: Common, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs=1: two arms are the same"):
        siamkit.compare(
            common(), policies=["full"], vary={"train.epochs": [1, "1"]}, output=tmp_path / "c"
        )


def test_the_time_until_the_end_follows_from_the_runs_so_far(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs without training take 1 s, and the others 10 s and 2 s for the features.

    Features count for the budget. Those of the first round are not expected again.
    """
    totals = {"recall@1": {"a": (1, 0.5), "b": (1, 0.5)}, "map@r": {"a": (1, 0.5), "b": (1, 0.5)}}

    def run_arm(configs: Any, *others: Any) -> Any:
        trains = configs[0].train.epochs > 0
        seconds, filling = (10.0, 2.0) if trains else (1.0, 0.0)
        return working.ArmResult(totals, totals, seconds=seconds, filling=filling)

    monkeypatch.setattr(working, "run_arm", run_arm)
    steps: list[Any] = []

    def ahead(**options: Any) -> list[float | None]:
        steps.clear()
        siamkit.compare(common(), watch=steps.append, **SMALL | options)
        return [step.ahead for step in steps]

    def whole(done: int) -> float:
        return 22.0 * 2 - sum([1, 1, 10, 10, 1, 1, 10, 10][:done])

    # Nothing is known before the first trained run, which is the third one.
    assert ahead(output=tmp_path / "a") == [
        None, None, None, None, None,
        *(whole(done) for done in (3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8)),
    ]  # fmt: skip
    assert [(step.round, step.rounds) for step in steps] == [(1, 2)] * 8 + [(2, 2)] * 8
    assert [step.arm for step in steps[::2]] == ["untrained", "closed form", *SMALL["policies"]] * 2
    assert [step.means for step in steps[:2]] == [{}, {"recall@1": 0.5, "map@r": 0.5}]
    # A budget ends it earlier, but not before the first round.
    assert ahead(output=tmp_path / "b", budget=40.0) == [
        None, None, None, None, None, 26.0, 26.0, 0.0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"policies": "full"}, "policies"),
        ({"policies": []}, "policies"),
        ({"losses": ["triplet", "triplet"]}, "losses"),
        ({"metric": "eer"}, "metric"),
        ({"folds": 1}, "folds"),
        ({"seeds": 0}, "seeds"),
        ({"budget": 0}, "budget"),
        ({"vary": {"train.seed": [1, 2]}}, "train.seed"),
        ({"vary": {"train.device": ["cpu", "meta"]}}, "train.device: this machine has no such"),
        ({"vary": {"data.val_fraction": [0.2, 0.5]}}, "data.val_fraction"),
        ({"data": {"folds": 3}}, "folds"),
        ({"equal": "time", "tune": {"train.epochs": [1, 2]}}, "train.epochs"),
        ({"vary": {"optimizer.lr": [1, 2]}, "tune": {"optimizer.lr": [1, 2]}}, "optimizer.lr"),
    ],
)
def test_wrong_arguments_are_named(
    common: Common, tmp_path: Path, wrong: dict[str, Any], where: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        siamkit.compare(common(), output=tmp_path / "c", **wrong)
    assert where in str(caught.value)


@pytest.mark.slow
def test_an_arm_whose_training_fails_is_left_out(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = working.run_arm

    def run_arm(configs: Any, *others: Any) -> Any:
        if configs[0].freeze.name == "full":
            raise NonFiniteError("the loss is NaN")
        return plain(configs, *others)

    monkeypatch.setattr(working, "run_arm", run_arm)
    result = siamkit.compare(common(), output=tmp_path / "c", **SMALL)
    assert "full" not in {row["name"] for row in result["arms"]}
    assert result["failed"] == [{"name": "full", "round": 1, "why": "the loss is NaN"}]
    alone: dict[str, Any] = {"output": tmp_path / "d", "policies": ["full"], "folds": 2, "seeds": 1}
    with pytest.raises(siamkit.SiamkitError, match=r"every arm failed.*mend the cause"):
        siamkit.compare(common(), **alone)
    monkeypatch.setattr(working, "run_arm", plain)
    mended = siamkit.compare(common(), **alone)
    assert not mended["failed"], "its cause may be mended, so the failure of all is not kept"
    assert "full" in {row["name"] for row in mended["arms"]}


def test_if_all_networks_without_training_fail_their_failure_is_told_and_forgotten(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice of a recipe compares no others if the budget is too short for trials."""
    totals = {name: {"a": (1, 0.5)} for name in ("recall@1", "map@r")}
    given = Plan(tuple(without_training()), 2, (0,)), api.load_config(common()), api.registries()
    place = ComparisonDir(tmp_path / "c")
    broken = True

    def run_arm(configs: Any, *others: Any) -> Any:
        if broken:
            raise NoMemoryError("out of memory")
        return working.ArmResult(totals, totals, seconds=1.0)

    monkeypatch.setattr(working, "run_arm", run_arm)
    with pytest.raises(SiamkitError, match=r"every arm failed; the first one: out of memory.*mend"):
        compare(*given, place)
    broken = False
    assert summary(compare(*given, place))["failed"] == []


def test_failures_in_a_round_that_the_budget_ended_leave_the_other_rounds(tmp_path: Path) -> None:
    plan, place = Plan((Arm("a"), Arm("b")), 2, (0,)), ComparisonDir(tmp_path)
    done = {(arm, 0): working.ArmResult(seconds=1.0) for arm in range(2)}
    results = {**done, (1, 1): working.ArmResult(failed="the loss is NaN")}
    _require_some(plan, results, 1, place, "again")
    with pytest.raises(SiamkitError, match="every arm failed"):
        _require_some(plan, results, 2, place, "again")


@pytest.mark.slow
def test_a_finished_comparison_is_shown_where_its_device_is_missing(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: dict[str, Any] = {"output": tmp_path / "c", "policies": ["full"], "folds": 2, "seeds": 1}
    done = siamkit.compare(common(), **alone)

    def missing(name: str) -> torch.device:
        raise ConfigError("this machine has no such device", where="train.device", got=name)

    monkeypatch.setattr("siamkit.comparison.compare.resolve_device", missing)
    assert figures(siamkit.compare(common(), **alone)) == figures(done)
    with pytest.raises(ConfigError, match="no such device"):
        siamkit.compare(common(), **{**alone, "output": tmp_path / "d"})
    assert not (tmp_path / "d").exists()


@pytest.mark.slow
def test_a_comparison_goes_on_only_where_its_device_is(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone: dict[str, Any] = {"output": tmp_path / "c", "policies": ["full"], "folds": 2, "seeds": 1}

    def watch(step: Any) -> None:
        if step.round == 2:
            raise Stopped

    with pytest.raises(Stopped):
        siamkit.compare(common(), **alone, watch=watch)

    def missing(name: str) -> torch.device:
        raise ConfigError("this machine has no such device", where="train.device", got=name)

    def fails(*given: Any) -> Any:
        raise ConfigError("a plugin is broken")

    with monkeypatch.context() as patch:
        patch.setattr("siamkit.comparison.compare.resolve_device", missing)
        with pytest.raises(ConfigError, match="no such device"):
            siamkit.compare(common(), **alone)
    with monkeypatch.context() as patch:
        patch.setattr(working, "run_arm", fails)
        with pytest.raises(siamkit.SiamkitError, match=r"every arm failed.*mend the cause"):
            siamkit.compare(common(), **alone)
    result = siamkit.compare(common(), **alone)
    assert not result["failed"], "what every arm failed of was the machine's"
    assert {row["runs"] for row in result["arms"]} == {2}


@pytest.mark.slow
def test_a_tuned_value_is_chosen_on_the_validation_images(common: Common, tmp_path: Path) -> None:
    result = siamkit.compare(
        common(), policies=["full"], tune={"train.epochs": [1, 2]}, folds=2, seeds=1,
        output=tmp_path / "c",
    )  # fmt: skip
    (row,) = (row for row in result["arms"] if row["name"] == "full")
    assert all(values["train.epochs"] in (1, 2) for values in row["tuned"])
    still = next(row for row in result["arms"] if row["name"] == "untrained")
    assert still["tuned"] == [{}, {}]
    if result.best == "full":
        assert read_file(result.config)["train"]["epochs"] in (1, 2)
    assert "train.epochs" in str(result["tuned"])


def test_the_budget_ends_the_comparison_after_a_whole_round(common: Common, tmp_path: Path) -> None:
    result = siamkit.compare(
        common(), policies=["full"], folds=2, seeds=3, budget=0.01, output=tmp_path / "c"
    )
    assert (result["rounds"], result["of"], result["over_budget"]) == (1, 6, True)
    assert all(row["runs"] == 1 for row in result["arms"])
    assert all(row["interval"] is None for row in result["arms"])


@pytest.mark.slow
def test_cheap_arms_train_longer_if_all_shall_take_equally_long(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"policies": ["freeze-all", "full"], "folds": 2, "seeds": 1, "equal": "time"}
    result = siamkit.compare(common(), output=tmp_path / "c", **given)
    epochs = {row["name"]: row["epochs"] for row in result["arms"] if row["trains"]}
    assert min(epochs.values()) == 2
    assert max(epochs.values()) <= 40
    first = json.loads((tmp_path / "c" / "pilot" / "comparison.json").read_text())
    assert first["equal"] == "images"
    again = siamkit.compare(common(), output=tmp_path / "c", **given)
    assert dict(again) == dict(result), "the lengths are measured once"
    for name, number in epochs.items():
        monkeypatch.setattr(comparing, "summary", lambda c, n=name: {**summary(c), "best": n})
        chosen = siamkit.compare(common(), output=tmp_path / "c", **given)
        assert read_file(chosen.config)["train"]["epochs"] == number, "as it was trained"
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="equal: is unknown"):
        siamkit.compare(common(), output=tmp_path / "d", equal="money")


def test_if_times_are_measured_again_all_runs_of_an_arm_have_the_same_length(
    common: Common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow arm has no memory at first, so the quick one gets no more epochs than it."""
    totals = {name: {"a": (1, 0.5)} for name in ("recall@1", "map@r")}
    broken = True

    def run_arm(configs: Any, *others: Any) -> Any:
        epochs, policy = configs[0].train.epochs, configs[0].freeze.name
        if broken and policy == "full":
            raise NoMemoryError("out of memory")
        seconds = 1.0 + epochs * (10.0 if policy == "full" else 1.0)
        # Patience ends each run before its last epoch.
        return working.ArmResult(totals, totals, seconds=seconds, epochs=max(0, epochs - 1))

    def watch(step: Any) -> None:
        if broken and step.round == 2 and step.arm == "untrained":
            raise Stopped

    monkeypatch.setattr(working, "run_arm", run_arm)
    given: dict[str, Any] = {"output": tmp_path / "c", "watch": watch, "equal": "time", **SMALL}
    with pytest.raises(Stopped):
        siamkit.compare(common(), **given)
    (quick,) = (tmp_path / "c" / "results").glob("arm-02-*.json")
    assert json.loads(quick.read_text())["epochs"] == 1
    broken = False
    result = siamkit.compare(common(), **given)
    stored = [json.loads(p.read_text()) for p in (tmp_path / "c" / "results").glob("arm-02-*.json")]
    assert [one["epochs"] for one in stored] == [19, 19]
    assert [one["planned"] for one in stored] == [20, 20]
    (notice,) = (text for text in result["notices"] if "measured again" in text)
    assert notice.startswith("'freeze-all' trains for 20 epochs, because the times were measured")
    assert read_file(tmp_path / "c" / "best.yaml")["train"]["epochs"] in (0, 2, 20)
    again = siamkit.compare(common(), **given)
    assert figures(again) == figures(result)
    assert not again["notices"], "nothing is removed again"


# --- data ----------------------------------------------------------------------------------------


@pytest.fixture
def damaged(image_folder: Path, tmp_path: Path) -> Path:
    """A copy of the pictures, of which one is cut off."""
    root = tmp_path / "damaged"
    shutil.copytree(image_folder, root)
    cut_off(root / "class3" / "2.png")
    return root


def cut_off(path: Path) -> None:
    """Cut off the second half of an image's pixels; its header stays whole."""
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("how", ["skip", pytest.param("quarantine", marks=pytest.mark.slow)])
def test_unreadable_images_are_looked_for_once(
    common: Common, damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """All arms are measured on what is left, so their runs need to read headers only."""
    decoded: list[int] = []
    plain = usability.look

    def look(paths: Any, *given: Any, full: bool = False, **named: Any) -> Any:
        decoded.extend([len(paths)] * full)
        return plain(paths, *given, full=full, **named)

    monkeypatch.setattr(usability, "look", look)
    data = {**common()["data"], "path": str(damaged), "on_unreadable": how, "max_skipped": 0.5}
    still: dict[str, Any] = {**SMALL, "policies": ["freeze-all"]}
    values = common(data=data, train={**common()["train"], "epochs": 1})
    result = siamkit.compare(values, output=tmp_path / "c", **still)
    assert decoded == [48]
    assert {row["runs"] for row in result["arms"]} == {2}
    assert any("left out 1 unreadable image" in notice for notice in result["notices"])
    for path in (tmp_path / "c" / "tables").rglob("images.csv"):
        assert "class3/2.png" not in path.read_text()
    assert read_file(result.config)["data"]["on_unreadable"] == how


def test_an_image_that_is_damaged_during_a_comparison_is_named(
    common: Common, damaged: Path, tmp_path: Path
) -> None:
    data = {**common()["data"], "path": str(damaged), "on_unreadable": "skip", "max_skipped": 0.5}

    def watch(step: Any) -> None:
        if step.result is not None:
            cut_off(damaged / "class5" / "1.png")

    given: dict[str, Any] = {**SMALL, "policies": ["full"], "output": tmp_path / "c"}
    with pytest.raises(DataError, match=r"class5.1\.png.*truncated"):
        siamkit.compare(common(data=data), watch=watch, **given)
    with pytest.raises(ConfigError, match="another set of images"):
        siamkit.compare(common(data=data), **given)


@pytest.mark.slow
def test_images_in_memory_are_compared(
    common: Common, image_folder: Path, tmp_path: Path, compared: Any
) -> None:
    pairs = [(p, p.parent.name) for p in sorted(image_folder.rglob("*.png"))]
    values = {**common(), "data": {"image_size": 32, "workers": 0, "views": 1}}
    result = siamkit.compare(values, data=pairs, output=tmp_path / "c", **SMALL)
    assert figures(result) == figures(compared)
    again = siamkit.compare(values, data=pairs, output=tmp_path / "c", **SMALL)
    assert figures(again) == figures(compared)


@pytest.mark.slow
def test_the_test_split_takes_no_part(common: Common, image_folder: Path, tmp_path: Path) -> None:
    rows = ["path,label,split"]
    for path in sorted(image_folder.rglob("*.png")):
        kind = path.parent.name
        split = "test" if kind == "class0" else "val" if kind in ("class1", "class2") else "train"
        rows.append(f"{path.relative_to(image_folder)},{kind},{split}")
    rows = [row for row in rows if not row.startswith("class0/5")] + ["class0/5.png,class9,test"]
    table = image_folder.parent / "split.csv"
    table.write_text("\n".join(rows) + "\n")
    data = {**common()["data"], "path": str(table), "root": str(image_folder)}
    result = siamkit.compare(common(data=data), output=tmp_path / "c", **SMALL)
    assert any("takes no part" in notice for notice in result["notices"])
    text = (tmp_path / "c" / "tables" / "seed-0-fold-0" / "images.csv").read_text()
    assert "class0" not in text
    assert "class1" in text


@pytest.mark.slow
def test_groups_stay_together(common: Common, image_folder: Path, tmp_path: Path) -> None:
    rows = ["path,label,group"]
    for path in sorted(image_folder.rglob("*.png")):
        kind = int(path.parent.name[-1])
        rows.append(f"{path.relative_to(image_folder)},{path.parent.name},g{kind // 2}{path.stem}")
    table = tmp_path / "groups.csv"
    table.write_text("\n".join(rows) + "\n")
    data = {**common()["data"], "path": str(table), "root": str(image_folder)}
    siamkit.compare(
        common(data=data), output=tmp_path / "c", policies=["freeze-all"], folds=2, seeds=1
    )
    split_of: dict[str, set[str]] = {}
    group = dict(row.split(",")[::2] for row in rows[1:])

    with (tmp_path / "c" / "tables" / "seed-0-fold-0" / "images.csv").open() as file:
        for row in csv.DictReader(file):
            split_of.setdefault(group[row["path"]], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in split_of.values())


def test_pairs_are_refused(common: Common, image_folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    names = [p.relative_to(image_folder) for p in sorted(image_folder.rglob("*.png"))]
    table.write_text(
        "a,b,same\n"
        + "".join(f"{a},{b},{int(i % 2)}\n" for i, (a, b) in enumerate(pairwise(names)))
    )
    data = {**common()["data"], "path": str(table), "root": str(image_folder)}
    with pytest.raises(DataError, match="needs images with labels"):
        siamkit.compare(common(data=data), output=tmp_path / "c", **SMALL)
    assert not (tmp_path / "c").exists()


def test_too_many_folds_are_refused_before_anything_is_trained(
    common: Common, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="folds"):
        siamkit.compare(common(), output=tmp_path / "c", **{**SMALL, "folds": 5})
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_a_given_policy_is_the_only_one(common: Common, tmp_path: Path) -> None:
    result = siamkit.compare(
        common(freeze={"name": "full"}), folds=2, seeds=1, output=tmp_path / "c"
    )
    assert {row["name"] for row in result["arms"]} == {"untrained", "closed form", "full"}


def test_images_in_memory_of_a_refused_comparison_are_removed(
    common: Common, image_folder: Path, tmp_path: Path
) -> None:
    pairs = [(p, p.parent.name) for p in sorted(image_folder.rglob("*.png"))]
    with pytest.raises(DataError, match="folds"):
        siamkit.compare(common(), data=pairs, output=tmp_path / "c", folds=7)
    assert not (tmp_path / "c").exists()
