"""``train.keep: slim``: a finished run keeps its best network and nothing to continue from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import siamkit
from siamkit import api
from siamkit.cli.app import main
from siamkit.errors import CheckpointError, ConfigError


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, values_of):
    """The same run, once with all checkpoints and once slim."""
    folder = tmp_path_factory.mktemp("slim")
    for keep in ("all", "slim"):
        # The first epoch is the best one, so the best and the last network differ.
        train = {"epochs": 3, "keep": keep}
        siamkit.fit(values_of(folder / keep, train=train, optimizer={"lr": 0.3}))
    return folder


@pytest.fixture
def slim(runs, tmp_path):
    return shutil.copytree(runs / "slim", tmp_path / "slim")


@pytest.mark.slow
def test_a_slim_run_is_small_and_gives_the_same_embeddings(runs, image_folder):
    assert size(runs / "slim" / "checkpoints") < size(runs / "all" / "checkpoints") / 3
    assert not list((runs / "slim").rglob("optimizer.safetensors"))
    all_, slim = (api.load_embedder(runs / keep, device="cpu", workers=0)
                  for keep in ("all", "slim"))  # fmt: skip
    assert torch.equal(all_.embed(image_folder), slim.embed(image_folder))
    assert all_.calibration.threshold == slim.calibration.threshold


def test_a_slim_run_is_evaluated_calibrated_and_inspected_like_others(slim):
    assert siamkit.evaluate(slim)["which"] == "best"
    assert siamkit.calibrate(slim).threshold
    assert siamkit.inspect(slim).phases
    assert len(api.open_run(slim).history) == 3


def test_resuming_a_slim_run_prints_its_result_and_says_what_is_gone(runs, slim, capsys):
    before = json.loads((slim / "metrics.json").read_text())
    assert main(["train", "--resume", str(slim), "--json", "--no-report"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["metrics"] == before["metrics"] and result["history"] == before["history"]
    assert "the optimizer's state and all networks but the best epoch's are gone" in " ".join(
        printed.err.split()
    )
    again = siamkit.resume(slim)
    assert again.history == result["history"]


def test_the_last_network_of_a_slim_run_is_refused(slim):
    run = api.open_run(slim)
    assert run.best.state["best_epoch"] != 2, "the test needs another best epoch than the last"
    with pytest.raises(CheckpointError, match="slim: it kept only the network of its best epoch"):
        siamkit.load_model(slim, which="last")
    assert main(["evaluate", str(slim), "--last"]) == 4


def test_a_finished_run_becomes_slim_when_it_is_resumed_so(runs, tmp_path):
    run = shutil.copytree(runs / "all", tmp_path / "run")
    network = api.open_run(run).best.network
    assert main(["train", "--resume", str(run), "--keep", "slim", "--no-report"]) == 0
    opened = api.open_run(run)
    assert opened.best.is_slim and opened.best.network == network
    assert opened.config.train.keep == "slim"


def test_another_word_is_refused(values_of, tmp_path):
    with pytest.raises(ConfigError, match="keep"):
        siamkit.fit(values_of(tmp_path / "run", train={"keep": "some"}))


def test_a_damaged_slim_run_does_not_promise_an_older_checkpoint(slim):
    (network,) = (slim / "checkpoints").glob("*/model.safetensors")
    network.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="the only checkpoint of the run: restore it"):
        siamkit.load_model(slim)
    assert main(["train", "--resume", str(slim)]) == 4
