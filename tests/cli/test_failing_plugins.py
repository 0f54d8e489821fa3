"""A plugin that fails in the middle of a command: one line that names it, and no traceback."""

from __future__ import annotations

import pytest

SOURCE = """
import os

import siamkit
import torch
from torch import nn


def fails(place):
    if os.environ.get("MINE_FAILS") == place:
        raise ZeroDivisionError("no way")


class Identity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        fails("loss")
        return gradient


class Scatter(siamkit.Loss):
    def forward(self, embeddings, labels, tuples=None):
        x = Identity.apply(embeddings)
        same = labels[:, None] == labels[None]
        distance = (x[:, None] - x[None]).square().sum(-1)
        return (distance * same).mean() - (distance * ~same).mean()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())

    def forward(self, images):
        fails("backbone")
        if len(images) > 3:  # not the forwards of the build
            fails("batch")
        return self.body(images)


class Arm:
    def __init__(self, options):
        self.place = options.place

    def __call__(self, event):
        if event.name == "epoch_end":
            os.environ["MINE_FAILS"] = self.place


class ArmOptions(siamkit.Options):
    place: str = "nowhere"


@siamkit.hookimpl
def siamkit_register_losses(register):
    register("mine", lambda options, context: Scatter())


@siamkit.hookimpl
def siamkit_register_backbones(register):
    register("mine", lambda options, context: Net())


@siamkit.hookimpl
def siamkit_register_trackers(register):
    register("arm", Arm, options=ArmOptions)
"""


@pytest.fixture
def train(cli, install, images, tmp_path, monkeypatch):
    """Train for two epochs with the plugin; it fails at ``place`` from the second epoch on."""
    monkeypatch.setenv("MINE_FAILS", "nowhere")
    install("siamkit-mine", SOURCE)

    def run(place, *more):
        monkeypatch.setenv("MINE_FAILS", "nowhere")
        config = tmp_path / "run.yaml"
        config.write_text(f"track: [{{name: arm, place: {place}}}]\n")
        return cli("train", images, "--config", config, "--run-dir", tmp_path / "run",
                   "--backbone", "mine", "--loss", "mine", "--freeze-policy", "full",
                   "--image-size", 32, "--epochs", 2, "--batch-size", 8, "--workers", 0,
                   "--set", "train.images_per_class=2", "--device", "cpu", *more)  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("loss", "loss 'mine' of siamkit-mine failed in backward: ZeroDivisionError: no way"),
        ("backbone", "backbone 'mine' of siamkit-mine failed in forward: ZeroDivisionError: no"),
    ],
)
def test_training(train, tmp_path, place, text):
    done = train(place)
    assert done.code == 5
    assert f"error: {text}" in " ".join(done.err.split())
    assert "Traceback" not in done.err and "unexpected" not in done.err
    assert "epoch 1/2" in done.err, "the second epoch failed, not the first"
    done = train(place, "--run-dir", tmp_path / "other", "--json")
    assert done.json["error"]["type"] == "PluginError"
    assert text in done.json["error"]["message"]


def test_a_trained_network(cli, train, images, tmp_path, monkeypatch):
    assert train("nowhere").code == 0
    monkeypatch.setenv("MINE_FAILS", "batch")
    run, text = tmp_path / "run", "error: backbone 'mine' of siamkit-mine failed"
    for command in (
        ("embed", run, images, "-o", tmp_path / "embeddings.npy"),
        ("evaluate", run, images),
        ("verify", run, *sorted(images.rglob("*.png"))[:2]),
    ):
        done = cli(*command)
        assert done.code == 5 and text in " ".join(done.err.split()), done.err
        assert "Traceback" not in done.err
