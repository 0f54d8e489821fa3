"""A GPU that runs out of memory in mid-run: forward passes become smaller, and the batch stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import siamkit
from siamkit.errors import ResourceError
from siamkit.runs import checkpoint
from siamkit.training import fitting
from siamkit.training.free_memory import free_bytes, release_unused

TOO_MUCH = 1 << 50  # bytes, more than any device has


class Small(nn.Module):
    """A network that asks its device for too much memory.

    It does so in training, for more than ``limit`` images, after ``when`` larger passes.
    """

    def __init__(self, limit: int, when: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=4)
        self.limit, self.left = limit, when

    def forward(self, images: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and len(images) > self.limit:
            if not self.left:
                torch.empty(TOO_MUCH, dtype=torch.uint8, device=images.device)
            self.left -= 1
        return self.conv(images).mean((2, 3))


def make(limit: int, when: int = 0) -> Small:
    torch.manual_seed(0)
    return Small(limit, when)


@pytest.fixture
def fit(image_folder: Path, tmp_path: Path, device: torch.device) -> Any:
    """A function that trains a whole network and returns its path, its history and its notices."""

    def run(name: str, backbone: nn.Module, **train: Any) -> tuple[Path, Any, list[str]]:
        events: list[siamkit.Event] = []
        result = siamkit.fit(
            data=image_folder, backbone=backbone, freeze="full", epochs=2, batch_size=16,
            image_size=32, run_dir=tmp_path / name, engine={"cut": "off"}, device=str(device),
            optimizer={"name": "sgd", "lr": 0.01}, listeners=[events.append], train=train,
        )  # fmt: skip
        said = [e.data["text"] for e in events if "forward pass" in e.data.get("text", "")]
        return tmp_path / name, result, said

    return run


def test_the_device_really_refuses_that_much(device: torch.device) -> None:
    with pytest.raises(RuntimeError, match=r"memory") as caught:
        torch.empty(TOO_MUCH, dtype=torch.uint8, device=device)
    assert siamkit.errors.is_out_of_memory(caught.value)


def test_out_of_memory_halves_the_passes_and_not_the_batch(fit: Any) -> None:
    whole, expected, _ = fit("whole", make(1000))
    small, result, said = fit("small", make(5, when=1))
    assert len(said) == 2, "16, then 8, then 4 images"
    assert "at most 4 images" in said[1] and "the same up to rounding" in said[1]
    for ours, theirs in zip(result["history"], expected["history"], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
    ours, theirs = (
        checkpoint.latest_intact(run / "checkpoints")[0].state for run in (small, whole)
    )
    assert ours["largest_pass"] == 4 and ours["step"] == theirs["step"]


def test_one_image_that_does_not_fit_ends_the_run(fit: Any) -> None:
    with pytest.raises(ResourceError, match=r"out of memory .*one image per forward pass"):
        fit("run", make(0))


def test_little_free_memory_makes_the_passes_smaller_from_the_start(
    fit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit("whole", make(1000))[1]
    monkeypatch.setattr(fitting, "free_bytes", lambda device: 1)
    _, result, said = fit("auto", make(1000), micro_batch="auto")
    assert "a forward pass has at most 1 image" in said[0]
    for ours, theirs in zip(result["history"], whole["history"], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)


def test_enough_free_memory_keeps_one_pass(fit: Any) -> None:
    assert fit("auto", make(1000), micro_batch="auto")[2] == []


def test_what_tensors_take_is_not_free(device: torch.device) -> None:
    release_unused(device)
    before = free_bytes(device)
    assert before > 0
    taken = torch.ones(256 << 20, dtype=torch.uint8, device=device)
    if device.type == "cuda":
        assert before - free_bytes(device) >= len(taken)
        del taken
        release_unused(device)
        assert abs(before - free_bytes(device)) < 64 << 20
