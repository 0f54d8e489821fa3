"""The verbs end to end, on small images and a small network without pretrained weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from siamkit.config import yaml_text

MODEL = ["--backbone", "timm:test_resnet", "--no-pretrained", "--image-size", "32"]
SMALL = [*MODEL, "--head", "linear", "--batch-size", "8", "--workers", "0"]


@pytest.fixture(scope="module")
def run(images, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Train three epochs as a user would, in a process of its own."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "siamkit", "train", str(images), *SMALL, "--epochs", "3",
         "--run-dir", str(folder), "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_train_prints_one_object_with_the_run_and_its_metrics(run):
    folder, done = run
    result = json.loads(done.stdout)
    assert result["schema"] == "siamkit.train/1"
    assert (result["run_dir"], result["epochs"]) == (str(folder), 3)
    assert [(p["first_epoch"], p["last_epoch"]) for p in result["phases"]] == [(1, 2), (3, 3)]
    for row in ("untrained", "best"):
        assert 0 <= result["metrics"][row]["recall@1"] <= 1
        assert 0 <= result["metrics"][row]["map@r"] <= 1


def test_train_logs_on_stderr(run):
    log = run[1].stderr
    assert "epoch 0/3  untrained: recall@1" in log
    assert "from epoch 3:" in log
    assert log.count("  gap ") == 3
    assert "\x1b" not in log and "Traceback" not in log


def test_a_runs_config_gives_the_same_config(cli, run):
    saved = run[0] / "config.yaml"
    shown = cli("config", "show", "--config", saved)
    assert yaml_text.load(shown.out) == yaml_text.load(saved.read_text())


def test_a_finished_run_resumes_to_its_result(cli, run):
    done = cli("train", "--resume", run[0], "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert done.json == json.loads(run[1].stdout)


def test_for_people_train_prints_the_summary_on_stdout(cli, run):
    done = cli("train", "--resume", run[0])
    assert "3 epochs, written to" in done.out
    assert "untrained" in done.out and "best (epoch" in done.out
    assert "resumed after epoch 3" in done.err


@pytest.mark.slow
def test_inspect_takes_a_run(cli, run):
    done = cli("inspect", run[0], "--json")
    assert done.json["schema"] == "siamkit.inspect/1"
    assert done.json["backbone"]["name"] == "timm:test_resnet"
    assert "phase 2 of 2: epoch 3" in cli("inspect", run[0]).out


def test_inspect_takes_a_run_or_flags_but_not_both(cli, run):
    done = cli("inspect", run[0], "--epochs", "3")
    assert done.code == 2
    assert "is the directory of a run, so it cannot be combined with --epochs" in done.err


@pytest.mark.parametrize("broken_link", [False, True])
def test_a_run_without_its_config_is_not_taken_for_images(cli, tmp_path, broken_link):
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").touch()
    if broken_link:
        (run / "config.yaml").symlink_to("nowhere")
    done = cli("inspect", run)
    assert done.code == 4
    assert "config.yaml" in done.err


def test_inspect_agrees_with_the_flags_of_train(cli):
    report = cli("inspect", *SMALL, "--epochs", "3", "--parameters", "--json").json
    first, second = report["phases"]
    assert (first["first_epoch"], first["last_epoch"], second["last_epoch"]) == (1, 2, 3)
    assert first["trainable_parameters"] == report["head"]["parameters"]
    assert report["backbone"]["image_size"] == [32, 32]
    listed = {p["name"]: p for p in report["parameters_list"]}
    assert sum(p["numel"] for p in listed.values()) == report["parameters"]
    for index, phase in enumerate(report["phases"]):
        trains = sum(p["numel"] for p in listed.values() if p["trainable"][index])
        assert trains == phase["trainable_parameters"]


def test_inspect_prints_the_parameters_with_their_flags(cli):
    out = cli("inspect", *MODEL, "--head", "linear", "--parameters").out
    assert "backbone.model.conv1.0.weight" in out or "backbone.model.conv1.weight" in out
    assert "frozen" in out and "train" in out


def test_data_left_out_is_the_sample_with_a_notice(cli, monkeypatch):
    from siamkit import api

    paths = []
    monkeypatch.setattr(api, "fit", lambda config, **_: paths.append(config.data.path) or {})
    done = cli("train", *MODEL, "--json")
    assert "notice: no DATA given: training on 'sample'" in done.err
    assert cli("train", *MODEL, "--quiet", "--json").err == ""
    for given in (["sample"], ["--set", "data.path=sample"]):
        assert "no DATA" not in cli("train", *given, *MODEL, "--json").err
    assert paths == ["sample"] * 4


def test_precedence_of_file_set_and_flags(cli, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "train: {epochs: 2, seed: 2, batch_size: 32}\nloss: {name: triplet, margin: 0.5}"
    )
    sets = ["--set", "train.epochs=3", "--set", "train.seed=3"]
    done = cli("config", "show", "--config", file, *sets, "--epochs", "4", "--json")
    train = done.json["config"]["train"]
    assert (train["epochs"], train["seed"], train["batch_size"]) == (4, 3, 32)
    assert done.json["config"]["loss"]["margin"] == 0.5
    other = cli("config", "show", "--config", file, "--loss", "supcon", "--json").json["config"]
    assert other["loss"]["name"] == "supcon" and "margin" not in other["loss"]


def test_every_flag_reaches_its_key(cli, tmp_path):
    flags = {
        "backbone": ("backbone.name", "timm:resnet10t"), "weights": ("backbone.weights", "/w.pth"),
        "head": ("head.name", "linear"), "image-size": ("data.image_size", 64),
        "in-chans": ("data.in_chans", 1), "freeze-policy": ("freeze.name", "full"),
        "loss": ("loss.name", "supcon"), "scheduler": ("scheduler.name", "constant"),
        "optimizer": ("optimizer.name", "sgd"),
        "epochs": ("train.epochs", 7), "batch-size": ("train.batch_size", 48),
        "micro-batch": ("train.micro_batch", 16), "accumulation": ("train.accumulation", "naive"),
        "lr": ("optimizer.lr", 0.5), "seed": ("train.seed", 11), "device": ("train.device", "cpu"),
        "run-dir": ("run_dir", str(tmp_path)), "workers": ("data.workers", 0),
        "threads": ("train.threads", 1),
    }  # fmt: skip
    args = [word for flag, (_, value) in flags.items() for word in (f"--{flag}", str(value))]
    config = cli("config", "show", "/images", "--pretrained", *args, "--json").json["config"]
    for key, value in {**dict(flags.values()), "data.path": "/images",
                       "backbone.pretrained": True}.items():  # fmt: skip
        node = config
        for part in key.split("."):
            node = node[part]
        assert node == value, key


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--backbone", "resnet5"], "--backbone: unknown backbone 'resnet5'; did you mean "
         "'resnet50' or 'timm:resnet5'? 'siamkit list backbones' lists them"),
        (["--freeze-policy", "stage"], "--freeze-policy: unknown freeze policy 'stage'; did you "
         "mean 'stages'? 'siamkit list freeze-policies' lists them"),
        (["--head", "mpl"], "--head: unknown head 'mpl'; did you mean 'mlp'? 'siamkit list heads' "
         "lists them"),
        (["--loss", "tripplet"], "--loss: unknown loss 'tripplet'; did you mean 'triplet'? "
         "'siamkit list losses' lists them"),
        (["--epochs", "-1"], "--epochs: must be greater than or equal to 0, got -1"),
        (["--lr", "-1"], "--lr: must be greater than 0, or 'auto', got '-1'"),
        (["--set", "loss.margin=-1", "--loss", "triplet"],
         "--set loss.margin: must be greater than 0, got -1 (loss 'triplet')"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_bad_values_name_the_flag(cli, args, message):
    for verb in (["config", "show"], ["inspect"], ["train", "sample"]):
        done = cli(*verb, *args)
        assert (done.code, done.err.strip()) == (2, f"error: {message}")


def test_a_missing_folder_exits_with_3(cli):
    done = cli("train", "/no/such/folder", *SMALL, "--json")
    assert done.code == 3
    assert done.json["error"]["type"] == "DataError"
    assert "/no/such/folder" in done.json["error"]["message"]


def test_config_validate(cli, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("loss: {name: triplet, margin: 0.3}\n")
    assert cli("config", "validate", file).out == f"{file}: ok\n"
    assert cli("config", "validate", file, "--json").json["valid"] is True
    file.write_text("loss: {name: triplet, margin: -1.0}\n")
    done = cli("config", "validate", file, "--json")
    assert done.code == 2
    assert done.json["error"]["message"] == (
        f"{file}: loss.margin: must be greater than 0, got -1.0 (loss 'triplet')"
    )


def test_config_schema_describes_every_section(cli):
    schema = json.loads(cli("config", "schema").out)
    assert {"data", "backbone", "train"} <= set(schema["properties"])
    titles = [one["title"] for one in schema["$defs"]["FreezeConfig"]["oneOf"]]
    assert "stages" in titles


def test_config_schema_is_an_object_like_others_with_json(cli):
    result = cli("config", "schema", "--json").json
    assert result["schema"] == "siamkit.schema/1"
    assert result["json_schema"] == json.loads(cli("config", "schema").out)


def test_options_in_a_file_that_names_no_entry_are_those_of_the_flags(cli, tmp_path):
    (tmp_path / "run.yaml").write_text("freeze: {n: 3}\n")
    flags = ["--config", tmp_path / "run.yaml", "--freeze-policy", "unfreeze-blocks"]
    assert cli("config", "show", *flags, "--json").json["config"]["freeze"]["n"] == 3
    (tmp_path / "run.yaml").write_text("freeze: {nn: 3}\n")
    done = cli("config", "show", *flags)
    assert done.code == 2
    assert f"{tmp_path / 'run.yaml'}: freeze.nn: unknown key (freeze policy 'unf" in done.err


def test_a_flag_that_names_a_component_keeps_the_options_that_set_gives_it(cli):
    args = ["config", "show", "--set", "loss.margin=0.4", "--loss", "triplet", "--json"]
    assert cli(*args).json["config"]["loss"]["margin"] == 0.4


@pytest.mark.parametrize("value", ["inf", "nan", "1e300"])
def test_a_rate_must_be_a_number_to_train_with(cli, value):
    done = cli("config", "show", "--lr", value)
    assert done.code == 2
    assert done.err.startswith("error: --lr: must be ")


def test_a_warmup_must_be_finite(cli):
    done = cli("config", "show", "--set", "scheduler.warmup=.inf")
    assert done.code == 2
    assert done.err.startswith("error: --set scheduler.warmup: must be a finite number, got inf")


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_timms_options_are_finite(cli, value):
    done = cli("config", "show", "--set", f"backbone.drop_path_rate={value}")
    assert done.code == 2
    assert done.err.startswith("error: --set backbone.drop_path_rate: must be ")


@pytest.mark.parametrize(
    "kind",
    ["backbones", "freeze-policies", "losses", "schedulers", "heads", "optimizers", "trackers"],
)
def test_every_entry_is_listed_and_explained(cli, kind):
    listed = cli("list", kind, "--json").json["entries"]
    assert listed
    table = cli("list", kind).out
    for entry in listed:
        assert entry["name"] in table
        assert entry["summary"], entry["name"]
        for option in entry["options"]:
            if entry["distribution"] == "siamkit":
                assert option["meaning"], f"{entry['name']}.{option['name']}"


def test_an_entry_is_shown_with_its_options(cli):
    out = cli("list", "losses", "triplet").out
    assert "margin" in out and "--set loss.margin=VALUE" in out.replace("distance", "margin")
    (entry,) = cli("list", "losses", "triplet", "--json").json["entries"]
    assert "margin" in {option["name"] for option in entry["options"]}


@pytest.mark.parametrize(
    ("kind", "name", "example"),
    [
        ("optimizers", "adamw", "--optimizer adamw --set optimizer.betas=VALUE"),
        ("heads", "mlp", "--head mlp --set head."),
        ("trackers", "tensorboard", "Use it with --track tensorboard"),
    ],
)
def test_an_entry_says_how_to_choose_it_and_set_its_options(cli, kind, name, example):
    assert example in " ".join(cli("list", kind, name).out.split())


def test_timms_registry_can_be_searched(cli):
    models = cli("list", "backbones", "--timm", "convnext_tiny*", "--json").json["models"]
    assert {"convnext_tiny", "convnext_tiny_hnf"} <= {m["name"] for m in models}
    assert "fb_in22k" in next(m for m in models if m["name"] == "convnext_tiny")["tags"]
    assert "timm:convnext_tiny" in cli("list", "backbones", "--timm", "convnext_tiny").out
    done = cli("list", "backbones", "--timm", "convnxt_tiny")
    assert done.code == 2
    assert done.err == (
        "error: --timm: no timm model matches, got 'convnxt_tiny'; did you mean 'convnext_tiny'?\n"
    )


@pytest.mark.parametrize(
    ("flags", "section", "key", "value"),
    [
        (["--freeze-policy", "gradual-unfreeze", "--set", "freeze.every=2"], "freeze", "every", 2),
        (["--loss", "supcon", "--set", "loss.temperature=0.5"], "loss", "temperature", 0.5),
        (["--set", "freeze.norm=train", "--freeze-policy", "full"], "freeze", "norm", "train"),
    ],
)
def test_a_flag_that_names_a_component_keeps_the_options_that_set_gives(
    cli, flags, section, key, value
):
    assert cli("config", "show", *flags, "--json").json["config"][section][key] == value


def test_an_unknown_option_is_found_whichever_flag_names_the_component(cli):
    done = cli("config", "show", "--freeze-policy", "full", "--set", "freeze.nonsense=2")
    assert done.code == 2
    assert "--set freeze.nonsense: unknown key (freeze policy 'full')" in done.err


def test_presets_are_listed_and_shown(cli):
    assert "classic" in cli("list", "presets").out
    shown = cli("list", "presets", "classic").out
    assert "margin: 0.2" in shown and "--preset classic" in shown
    entries = cli("list", "presets", "--json").json["entries"]
    assert entries[0]["values"]["loss"]["margin"] == 0.2
    done = cli("list", "presets", "clasic")
    assert done.code == 2 and "did you mean 'classic'?" in done.err


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["train", "sample", "--epochs"], "siamkit train"),
        (["verify", "RUN", "--pairs"], "siamkit verify"),
        (["data", "check", "x", "--root"], "siamkit data check"),
        (["cache", "prune", "--max-gb"], "siamkit cache prune"),
        (["train", "--epochs", "x"], "siamkit train"),
        (["evaluate"], "siamkit evaluate"),
        (["--plugin"], "siamkit"),
    ],
)
def test_wrong_usage_points_to_the_help_of_its_own_command(cli, words, command):
    assert f"'{command} --help' shows the usage" in cli(*words).err


def test_an_unknown_command_of_a_group_suggests_the_nearest(cli):
    done = cli("data", "chek")
    assert done.code == 2
    assert done.err == (
        "error: siamkit data: unknown command 'chek'; did you mean 'check'? 'siamkit data --help' "
        "lists them\n"
    )
