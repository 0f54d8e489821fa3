"""The evaluation of held-out images when the memory is short."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import siamkit
from siamkit.errors import ResourceError
from siamkit.interfaces import Event
from siamkit.model.siamese import SiameseNet
from siamkit.runs import checkpoint
from siamkit.training import scoring
from siamkit.training.scoring import Scorer
from siamkit.training.state import RunState
from siamkit.training.validation import Evaluator


class Small(nn.Module):
    """Has no memory for more than ``limit`` images outside of training steps."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and len(images) > self.limit:
            raise RuntimeError("could not create a primitive")
        return self.conv(images).mean((2, 3))


def fit(data: Path, run: Path, limit: int, **train: Any) -> tuple[Any, list[str]]:
    events: list[Event] = []
    result = siamkit.fit(
        data=data, backbone=Small(limit), head="residual", freeze="full", epochs=2, batch_size=8,
        image_size=32,
        run_dir=run, engine={"cut": "off"}, listeners=[events.append], train=train,
    )  # fmt: skip
    return result, [e.data["text"] for e in events if "out of memory" in e.data.get("text", "")]


def test_the_passes_of_an_evaluation_become_smaller(image_folder: Path, tmp_path: Path) -> None:
    plenty, _ = fit(image_folder, tmp_path / "plenty", 1000)
    short, told = fit(image_folder, tmp_path / "short", 3)
    assert told == [
        "out of memory where the validation images are embedded, with 8 images per forward pass: "
        "from here on, such a pass has at most 4 images",
        "out of memory where the validation images are embedded, with 4 images per forward pass: "
        "from here on, such a pass has at most 2 images",
    ]
    for ours, theirs in zip(short["history"], plenty["history"], strict=True):
        assert ours == pytest.approx(theirs)
    state = checkpoint.latest_intact(tmp_path / "short/checkpoints")[0].state
    assert (state["largest_scored"], state["largest_pass"]) == (2, None), "the steps had memory"


@pytest.mark.slow
def test_one_image_that_does_not_fit_ends_the_run_and_says_where(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Tensor:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(Evaluator, "embed", full)
    with pytest.raises(ResourceError, match=r"validation images are embedded, with one image"):
        fit(image_folder, tmp_path / "run", 1000)


def test_an_evaluation_has_no_larger_passes_than_the_training(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    embed = Evaluator.embed

    def watched(self: Evaluator, source: Any, forward: Any, batch_size: int) -> Tensor:
        sizes.add(batch_size)
        return embed(self, source, forward, batch_size)

    monkeypatch.setattr(Evaluator, "embed", watched)
    monkeypatch.setattr("siamkit.training.fitting.free_bytes", lambda device: 1)
    fit(image_folder, tmp_path / "run", 1000, micro_batch="auto")
    assert sizes == {1}


def test_the_network_before_training_is_measured_in_parts(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(image_folder, tmp_path / "whole", 1000)
    sizes: list[int] = []
    project = SiameseNet.project

    def watched(self: SiameseNet, features: Tensor) -> Tensor:
        sizes.append(len(features))
        return project(self, features)

    monkeypatch.setattr(SiameseNet, "project", watched)
    monkeypatch.setattr(scoring, "_PROJECTED", 5)
    fit(image_folder, tmp_path / "parts", 1000)
    assert sizes[:2] == [5, 5]
    states = [
        checkpoint.latest_intact(tmp_path / name / "checkpoints")[0].state
        for name in ("whole", "parts")
    ]
    assert states[0]["start"] == states[1]["start"] != {}


@pytest.mark.parametrize(
    ("bounds", "pass_size", "bound", "most"),
    [((None, None), 99, 64, 64), ((None, None), 8, 64, 8), ((5, None), 8, 5, 5), ((9, 3), 8, 3, 3)],
)
def test_a_pass_has_as_many_images_as_training_memory_and_a_limit_allow(
    bounds: tuple[int | None, int | None], pass_size: int, bound: int, most: int
) -> None:
    setup: Any = SimpleNamespace(config=SimpleNamespace(train=SimpleNamespace(pass_size=pass_size)))
    scorer = Scorer(setup, {}, RunState(largest_pass=bounds[0], largest_scored=bounds[1]), print)
    assert (scorer._bound, scorer._most) == (bound, most)


def test_passes_are_halved_upwards_and_one_image_is_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "release_unused", lambda device: None)
    told: list[str] = []
    setup: Any = SimpleNamespace(device=torch.device("cpu"))
    loaded: Any = SimpleNamespace(source=SimpleNamespace(close=lambda: None), trains=True)
    state = RunState()
    scorer = Scorer(setup, {"train": loaded}, state, lambda _, data: told.append(data["text"]))
    scorer._halve("train", 5)
    assert state.largest_scored == 3 and told[0].endswith("such a pass has at most 3 images")
    with pytest.raises(ResourceError, match="one image per forward pass"):
        scorer._halve("train", 1)
