"""The measurement of speed: of real networks, in turns, without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from siamkit.compress import latency
from siamkit.compress.latency import speeds
from siamkit.inference.export.images import BATCH


class Watched(nn.Module):
    """A network that writes down each call."""

    def __init__(self, name: str, calls: list[tuple[str, int]]) -> None:
        super().__init__()
        self.name, self.calls = name, calls
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append((self.name, len(images)))
        result: torch.Tensor = self.norm(images)
        return result


def test_networks_take_turns_and_stay_as_they_are() -> None:
    calls: list[tuple[str, int]] = []
    networks = {name: Watched(name, calls).train() for name in ("one", "other")}
    found = speeds(networks, torch.randn(1, 3, 8, 8), seconds=0.0)
    assert {name for name, _ in calls[::2]} == {"one"}
    assert {name for name, _ in calls[1::2]} == {"other"}
    assert {size for _, size in calls} == {1, BATCH}
    for name, network in networks.items():
        assert found[name]["latency_ms"] > 0 and found[name]["images_per_second"] > 0
        assert network.training and not network.norm.num_batches_tracked
    assert torch.is_grad_enabled()


def test_speeds_are_milliseconds_per_image_and_images_per_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []
    found = iter([{"one": 0.002, "other": 0.004}, {"one": 0.016, "other": 0.064}])

    def medians(calls: object, seconds: float) -> dict[str, float]:
        asked.append(seconds)
        return next(found)

    monkeypatch.setattr(latency, "medians", medians)
    networks: dict[str, nn.Module] = {name: nn.Identity() for name in ("one", "other")}
    assert speeds(networks, torch.zeros(1, 3, 8, 8)) == {
        "one": {"latency_ms": 2.0, "images_per_second": 2000.0},
        "other": {"latency_ms": 4.0, "images_per_second": 500.0},
    }
    assert asked == [3.0, 3.0]
