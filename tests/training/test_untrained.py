"""Which part gives NaN or infinity, and whether the training may be the cause."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import siamkit
from siamkit.errors import NonFiniteError
from siamkit.freezing.schedule import FreezeSchedule
from siamkit.interfaces import FreezePlan, FreezePolicy, Progress, Stage
from siamkit.training.state import RunState
from siamkit.training.untrained import first_not_finite, untrained_cause

IMAGES = torch.ones(2, 3, 8, 8)


class Ratio(nn.Module):
    """Divides by the range of values, so a black image becomes NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        activations = self.first((images - low) / (high - low))
        return self.second(activations).mean((2, 3))


class InTurn(FreezePolicy):
    """Trains the first part in the first epoch, then the second one."""

    def plan(self, stages: Any, progress: Progress) -> FreezePlan:
        return FreezePlan.of(stages, [stages[min(progress.epoch, 1)].name])


def setup_of(precision: str = "fp32") -> Any:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    stages = (
        Stage("first", ("0.weight", "0.bias"), ("0",)),
        Stage("second", ("1.weight", "1.bias"), ("1",)),
    )
    return SimpleNamespace(
        net=net, schedule=FreezeSchedule(InTurn(), stages, 4), device=torch.device("cpu"),
        config=SimpleNamespace(train=SimpleNamespace(precision=precision)),
    )  # fmt: skip


@pytest.mark.parametrize("broken", [None, 0, 1])
def test_the_first_part_that_is_not_finite_is_found(broken: int | None) -> None:
    setup = setup_of()
    if broken is not None:
        nn.init.constant_(setup.net[broken].weight, float("inf"))
    found = first_not_finite(setup.net, setup.schedule.stages, IMAGES)
    assert (None if found is None else found.name) == [None, "first", "second"][
        0 if broken is None else broken + 1
    ]
    assert not any(module._forward_hooks for module in setup.net.modules())


@pytest.mark.parametrize(
    ("broken", "epoch", "epoch_step", "blamed"),
    [
        # Before the first step, nothing has been trained.
        (0, 0, 0, "stage 'first'"), (1, 0, 0, "stage 'second'"),
        # A part that trains, or has trained before it was frozen again, may have exploded.
        (0, 0, 1, None), (0, 1, 0, None), (0, 3, 2, None),
        # So may what an untrained part is given.
        (1, 0, 1, None), (1, 1, 1, None),
    ],
)  # fmt: skip
def test_only_a_part_that_was_never_trained_is_named(
    broken: int, epoch: int, epoch_step: int, blamed: str | None
) -> None:
    setup = setup_of()
    nn.init.constant_(setup.net[broken].weight, float("nan"))
    state = RunState(epoch=epoch, epoch_step=epoch_step, history=[{}] * epoch)
    text = untrained_cause(setup, state, [IMAGES])
    assert (text is None) if blamed is None else (text or "").startswith(blamed)


def test_all_batches_are_looked_at_and_the_precision_counts() -> None:
    for precision, advice in (("fp32", False), ("fp16", True), ("bf16", True)):
        setup, bad = setup_of(precision), IMAGES * float("nan")
        assert untrained_cause(setup, RunState(), [IMAGES, IMAGES]) is None
        text = untrained_cause(setup, RunState(), [IMAGES, bad])
        assert text is not None and ("use fp32" in text) is advice


def folders(make_images: Callable[..., Path], black: str) -> Path:
    """A set in which an image of one part is black."""
    counts = {f"{part}/{part[0]}{kind}": 4 for part in ("train", "val") for kind in range(3)}
    root = make_images(counts, size=32)
    Image.new("RGB", (32, 32)).save(root / black / f"{black[0]}0" / "0.png")
    return root


@pytest.mark.parametrize("cut", ["auto", "off"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_frozen_part_is_named_and_not_the_learning_rate(
    make_images: Callable[..., Path], tmp_path: Path, part: str, cut: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(NonFiniteError) as caught:
        siamkit.fit(
            data={"path": str(folders(make_images, part)), "image_size": 32, "workers": 0,
                  "views": 1, "augment": "none"},
            backbone=Ratio(), head="mlp", freeze={"name": "unfreeze-blocks", "n": 1},
            batch_size=12, epochs=1, run_dir=tmp_path / "run", engine={"cut": cut},
            train={"images_per_class": 4},
        )  # fmt: skip
    text = str(caught.value)
    assert "stage 'first' gives NaN or infinity, and the run has not trained it" in text
    assert "lower the learning rate" not in text
    assert ("epoch 1, step 1" in text) is (part == "train")
