from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import siamkit
from siamkit import api
from siamkit.config import DataConfig
from siamkit.data.load import load_data
from siamkit.data.loader import Loader, ViewDataset
from siamkit.data.views import EvalView
from siamkit.errors import CheckpointError, ConfigError, DataError, NonFiniteError, PluginError
from siamkit.json_files import read_sealed, unsealed, write_sealed
from siamkit.runs import checkpoint
from siamkit.training import fit
from siamkit.training.state import RunState
from siamkit.training.validation import Evaluator

RunValues = Callable[..., dict[str, Any]]


class Recorder:
    def __init__(self) -> None:
        self.events: list[siamkit.Event] = []

    def __call__(self, event: siamkit.Event) -> None:
        self.events.append(event)

    def data(self, name: str) -> list[dict[str, Any]]:
        return [dict(event.data) for event in self.events if event.name == name]


def latest(run_dir: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a run's last checkpoint, model and optimizer."""
    root = Path(run_dir) / "checkpoints"
    folder = root / (checkpoint.pointed_to(root, checkpoint.LATEST) or "")
    saved = checkpoint.load(folder)
    return {**saved.model, **{f"o/{k}": v for k, v in saved.optimizer.items()}}


def assert_bit_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


@dataclass(frozen=True)
class Done:
    """A run that is over, to be looked at only."""

    values: dict[str, Any]
    result: dict[str, Any]
    watch: Recorder


@pytest.fixture(scope="module")
def done(values_of: RunValues, tmp_path_factory: pytest.TempPathFactory) -> Done:
    values, watch = values_of(tmp_path_factory.mktemp("done") / "run"), Recorder()
    return Done(values, api.fit(values, listeners=[watch]), watch)


def test_a_run_leaves_its_config_events_metrics_and_checkpoints(done: Done) -> None:
    result, watch = done.result, done.watch
    run = Path(result["run_dir"])
    assert {p.name for p in run.iterdir() if not p.name.startswith(".")} == {
        "calibration.json", "checkpoints", "config.yaml", "embeddings", "events.jsonl",
        "metrics.json", "plugins.json",
    }  # fmt: skip
    assert unsealed(json.loads((run / "metrics.json").read_text()), "metrics.json") == result
    logged = [json.loads(line)["event"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert logged == [event.name for event in watch.events]
    assert logged[0] == "run_start" and logged[-1] == "run_end"
    assert not list(run.rglob("*.pt")) and not list(run.rglob("*.pkl"))


def test_the_result_holds_phases_and_held_out_metrics(done: Done) -> None:
    result = done.result
    assert result["epochs"] == 3
    assert [(p["first_epoch"], p["last_epoch"]) for p in result["phases"]] == [(1, 1), (2, 3)]
    for name in ("untrained", "best", "last"):
        metrics = result["metrics"][name]
        assert 0 <= metrics["map@r"] <= metrics["recall@1"] <= 1
    best = result["metrics"]["best"]
    assert best["recall@1"] == max(epoch["recall@1"] for epoch in result["history"])


def test_epochs_count_from_one_in_all_that_people_see_or_parse(done: Done) -> None:
    result, watch = done.result, done.watch
    for name in ("step", "epoch_end"):
        assert sorted({data["epoch"] for data in watch.data(name)}) == [1, 2, 3]
    for name in ("phase_start", "engine"):
        assert {data["epoch"] for data in watch.data(name)} == {1, 2}
    assert [data["epoch"] for data in watch.data("checkpoint")] == [0, 1, 2, 3]
    best = result["metrics"]["best"]
    recalls = [epoch["recall@1"] for epoch in result["history"]]
    assert best["epoch"] == 1 + recalls.index(max(recalls))
    assert result["calibration"]["provenance"]["epoch"] == best["epoch"]
    assert result["phases"][0]["first_epoch"] == 1 and result["phases"][-1]["last_epoch"] == 3
    assert f"best (epoch {best['epoch']})" in repr(siamkit.api.results.TrainingResult(result))
    phases = siamkit.inspect(result["run_dir"]).phases
    assert [(p["first_epoch"], p["last_epoch"]) for p in phases] == [(1, 1), (2, 3)]


@pytest.mark.slow
def test_training_learns_held_out_classes(run_values: RunValues) -> None:
    values = run_values(
        # One that has much to learn: a small random network tells these colours apart already.
        backbone={"name": "timm:resnet10t", "pretrained": False},
        # A random backbone has no statistics worth keeping.
        freeze={"name": "full", "norm": "train"},
        loss={"name": "supcon"},
        train={"epochs": 8, "batch_size": 24, "images_per_class": 6},
        optimizer={"lr": 3e-3},
        data={"augment": "none"},
    )
    values["train"]["monitor"] = "map@r"
    result = api.fit(values)
    history = result["history"]
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert result["metrics"]["best"]["map@r"] > result["metrics"]["untrained"]["map@r"]


def test_untrained_is_the_backbones_own_pooled_features(done: Done, run_values: RunValues) -> None:
    # The same backbone, from the same seed, without a head: its features are the embedding.
    bare = Recorder()
    values = run_values(freeze={"name": "full"}, head={"name": "identity"}, train={"epochs": 1})
    api.fit(values, listeners=[bare])
    assert done.watch.data("untrained") == bare.data("untrained")


def test_phase_changes_are_told_as_they_happen(done: Done) -> None:
    first, second = done.watch.data("phase_start")
    assert [row["stage"] for row in first["changes"]] == [
        "stem", "layer1", "layer2", "layer3", "layer4", "head",
    ]  # fmt: skip
    assert {row["stage"]: row["was"] for row in second["changes"]} == {"layer3": 0, "layer4": 0}
    lr = {row["stage"]: row["lr"] for row in second["changes"]}
    head = next(row["lr"] for row in first["changes"] if row["stage"] == "head")
    assert lr["layer4"] == pytest.approx(head / 10)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_seed_another(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 1})
    runs = [
        api.fit(
            {
                **values,
                "run_dir": f"{values['run_dir']}{i}",
                "train": {**values["train"], "seed": s},
            }
        )
        for i, s in enumerate((7, 7, 8))
    ]
    tensors = [latest(run["run_dir"]) for run in runs]
    assert_bit_equal(tensors[0], tensors[1])
    assert not torch.equal(tensors[0]["head.0.weight"], tensors[2]["head.0.weight"])


def test_training_leaves_the_callers_random_state_alone(run_values: RunValues) -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    api.fit(run_values(train={"epochs": 1}))
    assert torch.equal(torch.randn(4), expected)


def test_the_best_model_is_loaded_back_and_scores_what_was_reported(done: Done) -> None:
    values, result = done.values, done.result
    net = api.load_model(result["run_dir"])
    assert not net.training
    val = load_data(DataConfig(path=values["data"]["path"]), seed=0).val
    view = EvalView(net.backbone.preprocessing)
    loader = Loader(ViewDataset(val, view, seed=0))
    best = result["metrics"]["best"]
    metrics = Evaluator(val, torch.device("cpu")).metrics(loader, net.embed)
    assert metrics["map@r"] == pytest.approx(best["map@r"], abs=1e-6)


def test_gradient_accumulation_is_used_and_explained(run_values: RunValues) -> None:
    watch = Recorder()
    naive = {"micro_batch": 4, "epochs": 1, "accumulation": "naive"}
    api.fit(run_values(train=naive), listeners=[watch])
    (start,) = watch.data("run_start")
    assert any("from the same micro-batch only" in notice for notice in start["notices"])


@pytest.mark.parametrize(("place", "moved"), [("gone", True), ("", False), (None, False)])
def test_data_that_was_moved_can_be_named_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None, moved: bool
) -> None:
    error = DataError("holds no images", where="there", hint="use another folder")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(fit, "load_data", fail)
    path = "sam" + "ple" if place is None else str(tmp_path / place)
    config: Any = SimpleNamespace(data=SimpleNamespace(path=path), train=SimpleNamespace(seed=0))
    run_dir: Any = SimpleNamespace(path=tmp_path / "run")
    with pytest.raises(DataError) as raised:
        fit._load_again(config, run_dir)
    if moved:
        assert (raised.value.what, raised.value.where) == (error.what, error.where)
        assert str(raised.value.hint).startswith("if the data was moved, add ")
        assert str(tmp_path / "run") in str(raised.value.hint)
    else:
        assert raised.value is error


@pytest.mark.parametrize(
    ("wished", "before", "given", "over", "threads", "told"),
    [
        (None, None, False, False, None, False),
        (3, None, True, False, 3, False),
        (3, None, False, False, 3, False),
        (3, 2, False, False, 2, False),  # the setting of the config is not what the run used
        (3, 2, True, False, 3, True),
        (2, 2, True, False, 2, False),
        (None, 2, True, False, 2, False),
        (3, 2, True, True, 3, False),
    ],
)
def test_a_resumed_run_keeps_its_threads_unless_told_otherwise(
    wished: int | None,
    before: int | None,
    given: bool,
    over: bool,
    threads: int | None,
    told: bool,
) -> None:
    notices: list[str] = []
    config: Any = SimpleNamespace(train=SimpleNamespace(threads=wished, epochs=4))
    state = RunState(epoch=4 if over else 1, threads=before)
    changes: Any = SimpleNamespace(sets=lambda key: given and key == "train.threads")
    found = fit._threads(config, state, changes, lambda _, data: notices.append(data["text"]))
    assert found == threads
    text = "the run goes on with 3 threads instead of 2, so its result may differ"
    assert [notice.startswith(text) for notice in notices] == [True] * told
    assert fit._threads(config, state, None, lambda *_: None) == (before or wished)


def test_early_stopping_ends_the_run(run_values: RunValues) -> None:
    watch = Recorder()
    values = run_values(
        train={"epochs": 30, "patience": 2}, optimizer={"lr": 1e-9}, freeze={"name": "freeze-all"}
    )
    result = api.fit(values, listeners=[watch])
    assert result["epochs"] < 30 and result["stopped_early"]
    (stop,) = watch.data("early_stop")
    assert stop["epoch"] - stop["best_epoch"] == 2


@pytest.mark.parametrize("loss", ["proxy-anchor", "arcface"])
def test_a_losss_own_parameters_train_and_are_saved(run_values: RunValues, loss: str) -> None:
    result = api.fit(run_values(loss={"name": loss}, train={"epochs": 2}))
    tensors = latest(result["run_dir"])
    assert any(name.startswith("loss.") for name in tensors)
    assert any(name.startswith("o/loss.") and name.endswith("exp_avg") for name in tensors)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(run_values: RunValues, precision: str) -> None:
    result = api.fit(run_values(train={"precision": precision, "epochs": 1}))
    assert result["epochs"] == 1
    assert latest(result["run_dir"])["head.0.weight"].dtype == torch.float32


def test_a_test_folder_is_scored_once_at_the_end(
    run_values: RunValues, image_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for part, classes in {"train": range(4), "val": (4, 5), "test": (6, 7)}.items():
        for kind in classes:
            shutil.copytree(image_folder / f"class{kind}", root / part / f"class{kind}")
    values = run_values(data={"path": str(root)}, train={"epochs": 1})
    result = api.fit(values)
    assert set(result["metrics"]["test"]) == {"untrained", "best"}
    again = {**values, "run_dir": values["run_dir"] + "2"}
    with pytest.raises(Killed):
        api.fit(again, listeners=[kill_at("checkpoint", 1)])
    assert api.resume(again["run_dir"])["metrics"] == result["metrics"]


def test_a_loss_that_blows_up_ends_the_run_with_the_batch_on_record(run_values: RunValues) -> None:
    watch = Recorder()
    values = run_values(
        optimizer={"lr": 1000, "weight_decay": 1000, "name": "sgd"}, train={"epochs": 9}
    )
    with pytest.raises(NonFiniteError, match=r"not finite in epoch \d, step \d.*no update"):
        api.fit(values, listeners=[watch])
    (record,) = watch.data("non_finite")
    assert len(record["samples"]) == 8 and all(name.endswith(".png") for name in record["samples"])


def test_a_launcher_of_several_processes_is_refused(
    run_values: RunValues, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"several.*got '2'.*without torchrun"):
        api.fit(values)
    assert not Path(values["run_dir"]).exists()
    with pytest.raises(ConfigError, match="without torchrun"):
        api.resume(done.values["run_dir"])
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert api.resume(done.values["run_dir"]) == done.result


def test_a_run_of_one_process_of_a_group_does_not_wait_for_the_others(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(*_: Any) -> None:
        pytest.fail("it waits for the other processes")

    group = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_world_size=lambda: 2,
        all_gather_object=wait,
    )
    monkeypatch.setattr("siamkit.freezing.processes.distributed", group)
    api.fit(run_values(train={"epochs": 1}))


def test_a_run_directory_that_holds_something_is_refused(run_values: RunValues) -> None:
    values = run_values()
    Path(values["run_dir"]).mkdir()
    precious = Path(values["run_dir"]) / "precious.txt"
    precious.write_text("mine")
    with pytest.raises(ConfigError, match="not empty; choose another run_dir"):
        api.fit(values)
    assert precious.read_text() == "mine"


# --- going on with a run -------------------------------------------------------------------------


class Killed(Exception):
    pass


def kill_at(name: str, count: int) -> Callable[[siamkit.Event], None]:
    seen = 0

    def listener(event: siamkit.Event) -> None:
        nonlocal seen
        seen += event.name == name
        if seen == count:
            raise Killed

    return listener


@pytest.fixture(scope="module")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that is never interrupted: dropout on, three phases, warm-ups."""
    return api.fit(resumable(image_folder, tmp_path_factory.mktemp("whole") / "run"))


def resumable(folder: Path, run_dir: Path, workers: int = 0) -> dict[str, Any]:
    return {
        "data": {"path": str(folder), "image_size": 32, "workers": workers},
        "backbone": {"name": "timm:test_resnet", "pretrained": False, "drop_path_rate": 0.3},
        "head": {"name": "bnneck"},
        "freeze": {"name": "gradual-unfreeze", "every": 1},
        "loss": "proxy-anchor",
        "scheduler": {"name": "cosine", "warmup": 1},
        "train": {"epochs": 4, "batch_size": 8, "images_per_class": 2, "unfreeze_warmup": 2},
        "run_dir": str(run_dir),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "count"),
    [("checkpoint", 1), ("checkpoint", 2), ("step", 2), ("step", 8), ("epoch_end", 3)],
)
def test_a_resumed_run_is_bit_equal_to_one_never_interrupted(
    whole: dict[str, Any], image_folder: Path, tmp_path: Path, event: str, count: int
) -> None:
    values = resumable(image_folder, tmp_path / "run")
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at(event, count)])
    resumed = api.resume(values["run_dir"])
    assert_bit_equal(latest(values["run_dir"]), latest(whole["run_dir"]))
    assert resumed["history"] == whole["history"]
    assert resumed["phases"] == whole["phases"]


@pytest.mark.slow
def test_resuming_a_run_that_is_over_gives_its_result_again(run_values: RunValues) -> None:
    result = api.fit(run_values())
    assert api.resume(result["run_dir"]) == result


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    whole: dict[str, Any], image_folder: Path, tmp_path: Path
) -> None:
    values = resumable(image_folder, tmp_path / "run")
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("checkpoint", 4)])
    newest = checkpoint.newest_first(tmp_path / "run" / "checkpoints")[0]
    with (newest / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    watch = Recorder()
    api.resume(values["run_dir"], listeners=[watch])
    (notice,) = watch.data("notice")
    assert "model.safetensors: the file is damaged" in notice["text"]
    assert_bit_equal(latest(values["run_dir"]), latest(whole["run_dir"]))


def test_changed_data_is_refused(image_folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "data"
    shutil.copytree(image_folder, mine)
    values = resumable(mine, tmp_path / "run")
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("checkpoint", 1)])
    for path in sorted(mine.rglob("5.png")):
        path.unlink()
    what = r"data train, data val changed since the run was saved"
    with pytest.raises(CheckpointError, match=what):
        api.resume(values["run_dir"])


def test_other_pixels_in_files_of_the_same_size_are_refused(
    image_folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "data"
    for path in sorted(image_folder.rglob("*.png")):
        target = (mine / path.relative_to(image_folder)).with_suffix(".bmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").save(target)
    values = resumable(mine, tmp_path / "run")
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("checkpoint", 1)])
    for number, path in enumerate(sorted(mine.rglob("*.bmp"))):
        size = path.stat().st_size
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        assert path.stat().st_size == size
    with pytest.raises(
        CheckpointError, match=r"data train, data val changed since the run was saved"
    ):
        api.resume(values["run_dir"])


def test_resuming_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a run directory: it has no config\.yaml"):
        api.resume(tmp_path)


def test_an_observer_plugin_that_fails_is_left_out_and_hurts_nobody(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def broken(event: siamkit.Event) -> None:
        calls.append(event.name)
        raise ValueError("boom")

    watch = Recorder()
    monkeypatch.setattr("siamkit.api.runs.observers", lambda: [broken])
    api.fit(run_values(train={"epochs": 1}), listeners=[watch])
    assert len(calls) == 1
    assert sum("ValueError: boom" in notice["text"] for notice in watch.data("notice")) == 1


def test_a_poisoned_buffer_is_caught_before_it_is_saved(run_values: RunValues) -> None:
    from siamkit.training.tensors import require_finite

    require_finite({"a": torch.ones(2), "steps": torch.tensor(3)}, "fp32")
    with pytest.raises(NonFiniteError, match=r"bn\.running_var holds NaN or infinity"):
        require_finite(
            {"a": torch.ones(2), "bn.running_var": torch.tensor([1.0, float("inf")])}, "fp32"
        )


@pytest.mark.slow
def test_the_worker_count_changes_nothing(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 1})
    first = api.fit(values)
    other = {**values, "data": {**values["data"], "workers": 2}, "run_dir": values["run_dir"] + "2"}
    second = api.fit(other)
    assert_bit_equal(latest(first["run_dir"]), latest(second["run_dir"]))
    assert first["history"] == second["history"]


def test_a_run_that_began_with_a_weights_file_needs_it_no_more(
    run_values: RunValues, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "w.safetensors"
    backbone = api.create_model("timm:test_resnet", pretrained=False).backbone
    save_file(dict(backbone.model.state_dict()), file)
    backbone_values = {"name": "timm:test_resnet", "weights": str(file)}
    values = run_values(backbone=backbone_values)
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("checkpoint", 1)])
    file.unlink()
    watch = Recorder()
    api.resume(values["run_dir"], listeners=[watch])
    (start,) = watch.data("run_start")
    assert start["weights"].startswith("file: w.safetensors")
    assert not any("random" in notice for notice in start["notices"])
    api.load_model(values["run_dir"])


def test_an_unknown_checkpoint_is_not_taken_for_another(done: Done) -> None:
    with pytest.raises(ConfigError, match="which: no such checkpoint, got 'bset', allowed: best"):
        api.load_model(done.result["run_dir"], "bset")  # type: ignore[arg-type]


# --- what a harsh reader asked for ----------------------------------------------------------------


def test_the_optimizer_has_the_rates_of_plan_schedule_and_ramp(run_values: RunValues) -> None:
    watch = Recorder()
    api.fit(
        run_values(
            optimizer={"lr": 0.01},
            scheduler={"name": "linear"},
            train={"epochs": 3, "unfreeze_warmup": 2},
        ),
        listeners=[watch],
    )
    steps = watch.data("step")
    total = steps[0]["steps"]
    first_unfrozen = next(i for i, step in enumerate(steps) if step["epoch"] == 2)
    for done, step in enumerate(steps):
        scale = 1 - done / total
        expected = {"head": 0.01 * scale}
        if step["epoch"] >= 2:
            ramp = min(1.0, (done - first_unfrozen + 1) / 2)
            expected |= dict.fromkeys(("layer3", "layer4"), 0.001 * scale * ramp)
        assert step["rates"] == pytest.approx(expected)
        assert step["lr"] == pytest.approx(0.01 * scale)


@pytest.mark.slow
def test_best_is_right_even_if_the_run_dies_between_its_two_pointers(
    run_values: RunValues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(train={"epochs": 4}, freeze={"name": "full", "norm": "train"})
    whole = api.fit({**values, "run_dir": str(tmp_path / "whole")})
    best = whole["metrics"]["best"]["epoch"]
    write = checkpoint.write_atomic

    pointers: list[str] = []

    def die_at_the_second(path: Path, text: str) -> None:
        if text.startswith(f"epoch-{best:05d}"):
            pointers.append(path.name)
        if len(pointers) == 2:
            raise Killed
        write(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", die_at_the_second)
        with pytest.raises(Killed):
            api.fit(values)
    api.resume(values["run_dir"])
    roots = [Path(d) / "checkpoints" for d in (values["run_dir"], whole["run_dir"])]
    names = {checkpoint.pointed_to(root, checkpoint.BEST) for root in roots}
    assert len(names) == 1
    mine, its = (api.load_model(root.parent).state_dict() for root in roots)
    assert_bit_equal(mine, its)


@pytest.mark.parametrize(
    ("key", "section"),
    [
        ("config optimizer.lr", {"optimizer": {"lr": 0.5}}),
        ("config head.name", {"head": "bnneck"}),
        ("config train.batch_size", {"train": {"batch_size": 16}}),
    ],
)
def test_a_changed_config_is_refused_and_the_field_named(
    run_values: RunValues, key: str, section: dict[str, Any]
) -> None:
    values = run_values()
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("checkpoint", 2)])
    changed = run_values(**section)
    config = Path(values["run_dir"]) / "config.yaml"
    config.write_text(api.load_config({**changed, "run_dir": None}).to_yaml())
    with pytest.raises(CheckpointError, match=f"{key}.* changed since the run was saved"):
        api.resume(values["run_dir"])


def test_another_version_of_a_plugin_is_refused_and_the_plugin_named(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(backbone={"name": "tinyconv"})
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("checkpoint", 1)])
    version = importlib.metadata.version
    with monkeypatch.context() as patch:
        newer = {"siamkit-tinyconv": "99.0"}
        patch.setattr(importlib.metadata, "version", lambda name: newer.get(name) or version(name))
        with pytest.raises(
            CheckpointError, match=r"plugin siamkit-tinyconv changed since the run was saved"
        ) as caught:
            api.resume(values["run_dir"])
    assert caught.value.exit_code == 4
    assert api.resume(values["run_dir"])["history"]


@pytest.mark.slow
def test_a_run_that_dies_before_its_first_epoch_can_be_resumed(run_values: RunValues) -> None:
    values = run_values()
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("untrained", 1)])
    assert api.inspect(values["run_dir"])["phases"]
    whole = api.fit({**values, "run_dir": values["run_dir"] + "2"})
    assert api.resume(values["run_dir"])["history"] == whole["history"]


def test_weights_that_are_nan_end_the_run_as_not_finite(
    run_values: RunValues, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    state = api.create_model("timm:test_resnet", pretrained=False).backbone.model.state_dict()
    save_file({k: v * float("nan") if v.is_floating_point() else v for k, v in state.items()},
              tmp_path / "w.safetensors")  # fmt: skip
    weights = str(tmp_path / "w.safetensors")
    with pytest.raises(NonFiniteError):
        api.fit(run_values(backbone={"name": "timm:test_resnet", "weights": weights}))


@pytest.mark.parametrize(
    ("head", "loss", "clip"),
    [("linear", "supcon", 1.0), ("residual", "supcon", 1.0), ("mlp", "multi-similarity", None),
     ("identity", "supcon", 1.0)],
)  # fmt: skip
def test_images_with_features_of_zeros_neither_end_nor_spoil_a_run(
    tmp_path: Path, head: str, loss: str, clip: float | None
) -> None:
    """Two classes are black, and the backbone has no bias: torch's normalisation explodes there."""
    rng = np.random.default_rng(0)
    for kind in range(6):
        colour = (0, 0, 0) if kind < 2 else tuple(rng.integers(60, 255, 3).tolist())
        for index in range(4):
            path = tmp_path / ("val" if kind > 3 else "train") / str(kind) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), colour).save(path)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    module.preprocessing = siamkit.Preprocessing((0, 0, 0), (1, 1, 1), (32, 32))
    watch = Recorder()
    result = siamkit.fit(
        data={part: tmp_path / part for part in ("train", "val")}, backbone=module, head=head,
        loss=loss, optimizer={"name": "sgd", "lr": 0.01, "clip_norm": clip}, freeze="full",
        epochs=2, batch_size=8, run_dir=tmp_path / "run", train={"images_per_class": 2},
        listeners=[watch],
    )  # fmt: skip
    weights = api.load_model(result.run_dir, "last", backbone=module).state_dict()
    assert all(t.abs().max() < 10 for t in weights.values() if t.is_floating_point())
    notices = [data["text"] for data in watch.data("notice")]
    if head == "identity":
        assert any("training images: 4 of 8 embeddings consist of zeros" in t for t in notices)


def test_a_run_that_learns_nothing_or_gets_worse_says_so(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.training import scoring

    # The untrained features find every image, so that training can only get worse.
    found, nothing = ({"recall@1": value, "map@r": value / 2} for value in (2.0, 0.0))
    monkeypatch.setattr(scoring.Scorer, "untrained", lambda *_: (found, nothing))
    watch = Recorder()
    siamkit.fit(
        run_values(loss={"name": "triplet", "margin": 1e-9}, train={"epochs": 4}),
        listeners=[watch],
    )
    texts = [data["text"] for data in watch.data("notice")]
    assert sum("the run ended below its baseline: recall@1 is" in text for text in texts) == 1
    zeros = [data["train_loss"] == 0 for data in watch.data("epoch_end")]
    assert sum("the loss was 0 in 3 epochs in a row" in text for text in texts) == all(zeros[:3])
    assert all(zeros[:3])


def test_collapsed_embeddings_are_told_once(run_values: RunValues) -> None:
    class Constant(nn.Module):
        embedding_dim = 4

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((4,), 1e-6))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return 1 + features[:, :1] * self.weight

    watch = Recorder()
    values = run_values(train={"epochs": 2})
    del values["head"]
    siamkit.fit(values, head=Constant(), listeners=[watch])
    texts = [data["text"] for data in watch.data("notice")]
    assert sum("held-out images: the embeddings have collapsed" in text for text in texts) == 1


def test_an_observer_cannot_change_the_run(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    def liar(event: siamkit.Event) -> None:
        if event.name == "untrained":
            event.data["recall@1"] = 99  # type: ignore[index]

    monkeypatch.setattr("siamkit.api.runs.observers", lambda: [liar])
    result = api.fit(run_values(train={"epochs": 1}), listeners=[liar])
    assert result["metrics"]["untrained"]["recall@1"] <= 1


@pytest.mark.parametrize("device", ["meta", "cuda:99", "nonsense"])
def test_a_device_that_is_not_here_is_refused(run_values: RunValues, device: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"train\.device: this machine has no such device, got '{device}'"
    ):
        api.fit(run_values(train={"device": device}))


def test_recomputation_with_trained_statistics_is_refused(run_values: RunValues) -> None:
    values = run_values(
        freeze={"name": "full", "norm": "train"}, train={"grad_checkpointing": True}
    )
    with pytest.raises(ConfigError, match=r"train\.grad_checkpointing.*each image twice in the"):
        api.fit(values)


@pytest.mark.parametrize("scale", [-1.0, float("nan")])
def test_a_scheduler_that_breaks_its_contract_is_named(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    from siamkit.builtins.schedulers import Constant

    monkeypatch.setattr(Constant, "lr_scale", lambda self, progress: scale)
    with pytest.raises(PluginError, match="scheduler 'constant' of siamkit: lr_scale must"):
        api.fit(run_values(scheduler="constant"))


def test_a_policy_that_freezes_everything_in_mid_run_is_refused_then(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamkit.builtins.freeze_policies import GradualUnfreeze

    plan = GradualUnfreeze.plan

    def tired(self: Any, stages: Any, progress: siamkit.Progress) -> siamkit.FreezePlan:
        if progress.history:
            return siamkit.FreezePlan(frozenset())
        return plan(self, stages, progress)

    monkeypatch.setattr(GradualUnfreeze, "plan", tired)
    with pytest.raises(ConfigError, match="nothing would train in epochs 2-2"):
        api.fit(run_values(freeze={"name": "gradual-unfreeze", "trigger": "plateau"}))


def test_a_checkpoint_whose_frozen_tensors_changed_is_refused(run_values: RunValues) -> None:
    import hashlib

    from safetensors.torch import save_file

    values = run_values()
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill_at("checkpoint", 3)])
    for folder in (Path(values["run_dir"]) / "checkpoints").glob("epoch-*"):
        tensors = load_file(folder / "frozen.safetensors")
        tensors["backbone.model.layer1.0.conv1.weight"] += 1
        save_file(tensors, folder / "frozen.safetensors")
        manifest = read_sealed(folder / "manifest.json")
        content = (folder / "frozen.safetensors").read_bytes()
        manifest["files"]["frozen.safetensors"] = hashlib.sha256(content).hexdigest()
        write_sealed(folder / "manifest.json", manifest)
    with pytest.raises(siamkit.SiamkitError, match=r"layer1\.0\.conv1\.weight"):
        api.resume(values["run_dir"])


# --- resuming elsewhere --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_goes_on_with_data_that_was_moved(
    run_values: RunValues, image_folder: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(image_folder, here)
    values = run_values(data={"path": str(here)}, train={"epochs": 2})
    whole = api.fit({**values, "run_dir": str(tmp_path / "whole")})

    def stop(event: siamkit.Event) -> None:
        if event.name == "epoch_end":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.fit(values, listeners=[stop])
    here.rename(there)
    run = Path(values["run_dir"])
    with pytest.raises(siamkit.errors.DataError, match=r"add data=PLACE to siamkit\.resume\("):
        api.resume(run)
    result = api.resume(run, data=str(there))
    assert result["metrics"] == whole["metrics"]
    assert_bit_equal(latest(run), latest(tmp_path / "whole"))
    assert api.open_run(run).config.data.path == str(there), "the run keeps the new place"
    api.evaluate(run)


def test_other_data_in_the_new_place_is_refused(
    run_values: RunValues, image_folder: Path, tmp_path: Path
) -> None:
    values = run_values(train={"epochs": 1})
    api.fit(values)
    before = (Path(values["run_dir"]) / "config.yaml").read_text()
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    (other / "class0/0.png").unlink()
    with pytest.raises(CheckpointError, match=r"data (train|val)"):
        api.resume(values["run_dir"], data=other)
    assert (Path(values["run_dir"]) / "config.yaml").read_text() == before


def test_a_change_that_decides_the_result_is_refused(run_values: RunValues) -> None:
    values = run_values(train={"epochs": 1})
    api.fit(values)
    with pytest.raises(ConfigError) as failure:
        api.resume(values["run_dir"], epochs=2, data={"workers": 0})
    text = str(failure.value)
    assert text.startswith("epochs: cannot be changed when a run goes on")
    assert "device" in text.partition("allowed:")[2]
