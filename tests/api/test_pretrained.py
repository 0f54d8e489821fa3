"""A run that is shared: its network, its threshold, its card."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import siamkit
from siamkit.config import yaml_text
from siamkit.errors import CheckpointError, ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs/howto/share.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory, values_of) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "run"
    siamkit.fit(values_of(folder, train={"epochs": 2}))
    return folder


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory) -> Path:
    return siamkit.save_pretrained(run, tmp_path_factory.mktemp("models") / "m", license="mit")


def test_the_network_and_its_threshold_come_back(run, shared, image_folder):
    first = siamkit.load_embedder(run, device="cpu", workers=0)
    back = siamkit.Embedder.from_pretrained(shared, device="cpu", workers=0)
    assert torch.equal(back.embed(image_folder), first.embed(image_folder))
    assert back.fingerprint == first.fingerprint
    assert back.calibration.threshold == first.calibration.threshold
    pair = image_folder / "class0/0.png", image_folder / "class1/1.png"
    assert back.verify(*pair) == first.verify(*pair)
    with pytest.raises(ConfigError, match="this machine has no such device"):
        siamkit.Embedder.from_pretrained(shared, device="abacus")


def test_the_card_states_the_runs_figures(run, shared):
    text = (shared / "README.md").read_text()
    assert yaml_text.load(text.split("---\n", 2)[1])["license"] == "mit"
    metrics = json.loads((run / "metrics.json").read_text())
    best, calibration = metrics["metrics"]["best"], metrics["calibration"]
    assert f"| recall@1 | {best['recall@1']:.4g} |" in text
    assert f"| map@r | {best['map@r']:.4g} |" in text
    assert f"at least {calibration['threshold']:.6g}." in text
    far = calibration["far"]
    assert f"| {far['rate']:.4g} | {far['low']:.4g} to {far['high']:.4g} |" in text
    evaluated = siamkit.evaluate(run, device="cpu")["verification"]
    low, high = evaluated["intervals"]["auc"]
    assert f"| auc | {evaluated['auc']:.4g} | {low:.4g} to {high:.4g} | 0.5 |" in text
    assert "| training | 24 images of 4 classes |" in text
    assert "class-disjoint" in text and "| started from | random |" in text
    assert siamkit.load_embedder(run, device="cpu").fingerprint in text


def test_no_path_of_this_machine_is_published(shared, image_folder, run):
    for name in ("README.md", "config.json"):
        text = (shared / name).read_text()
        assert str(image_folder) not in text and str(run) not in text
    assert f"`{image_folder.name}`" in (shared / "README.md").read_text()


def test_a_threshold_that_is_damaged_is_not_published(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "calibration.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        siamkit.save_pretrained(copy, tmp_path / "m")
    (copy / "calibration.json").unlink()
    siamkit.save_pretrained(copy, tmp_path / "m")
    embedder = siamkit.Embedder.from_pretrained(tmp_path / "m", device="cpu")
    with pytest.raises(CheckpointError, match="no threshold"):
        embedder.calibration  # noqa: B018
    assert "## Threshold" not in (tmp_path / "m" / "README.md").read_text()


def test_a_run_that_has_not_ended_has_no_figures(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / "embeddings")
    with pytest.raises(CheckpointError, match="the file is missing"):
        siamkit.save_pretrained(copy, tmp_path / "lost")
    events = (copy / "events.jsonl").read_text().splitlines(keepends=True)
    (copy / "events.jsonl").write_text("".join(e for e in events if '"run_end"' not in e))
    text = (siamkit.save_pretrained(copy, tmp_path / "m") / "README.md").read_text()
    assert "The run has not ended, so it has no figures yet." in text
    (copy / "events.jsonl").write_text("")
    with pytest.raises(CheckpointError, match=r"events\.jsonl: has no valid run_start event"):
        siamkit.save_pretrained(copy, tmp_path / "n")


def test_a_saved_network_is_replaced_only_if_asked(run, shared, tmp_path):
    folder = Path(shutil.copytree(shared, tmp_path / "m"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=r"m: already holds .*; choose another .*force=True"):
        siamkit.save_pretrained(run, folder, license="apache-2.0")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    siamkit.save_pretrained(run, folder, license="apache-2.0", force=True)
    assert "license: apache-2.0" in (folder / "README.md").read_text()


def test_there_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match="is not a run directory"):
        siamkit.save_pretrained(tmp_path, tmp_path / "m")


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu().mean((2, 3))


def test_a_run_made_with_objects(values_of, tmp_path):
    values = values_of(tmp_path / "run", train={"epochs": 1})
    values.pop("backbone")
    siamkit.fit(values, backbone=Mean())
    with pytest.raises(ConfigError, match="given as a Python object"):
        siamkit.save_pretrained(tmp_path / "run", tmp_path / "m")
    folder = siamkit.save_pretrained(tmp_path / "run", tmp_path / "m", backbone=Mean())
    net = siamkit.from_pretrained(folder, backbone=Mean())
    assert net.embedding_dim == 8


def test_the_pages_examples_run(run, tmp_path, monkeypatch, image_folder, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "runs/emoji")
    for name in ("noto.png", "twemoji.png"):
        shutil.copyfile(image_folder / "class0/0.png", name)
    pushed = []
    monkeypatch.setattr(siamkit, "push_to_hub", lambda *a, **k: pushed.append(a), raising=False)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, {})
    assert capsys.readouterr().out.startswith("True\n")
    assert pushed == [("emoji-model", "me/emoji-model")]
