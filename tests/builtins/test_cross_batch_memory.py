"""Losses that compare with embeddings of earlier batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses as pml
from torch import Tensor

import siamkit
from siamkit import api
from siamkit.config import LossConfig
from siamkit.errors import ConfigError
from siamkit.interfaces import Event, Loss, LossContext, Pairs
from siamkit.runs import checkpoint
from siamkit.training.build import built

WITH_MEMORY = ("triplet", "contrastive", "multi-similarity", "supcon", "ntxent", "circle")
LABELS = torch.arange(4).repeat_interleave(2)


def loss_of(name: str, **options: Any) -> Loss:
    loss: Loss = built(
        LossConfig(name=name, **options), api.registries()["loss"], Loss, LossContext(6, 4)
    )
    return loss


def batch(seed: int) -> Tensor:
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows)


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_the_second_batch_is_compared_with_the_first(name: str) -> None:
    alone, remembering = loss_of(name), loss_of(name, memory=16)
    remembering(batch(0), LABELS)
    second = remembering(batch(1), LABELS)
    assert torch.isfinite(second)
    assert float(second) != pytest.approx(float(alone(batch(1), LABELS)), abs=1e-4)


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_saved_memory_goes_on_where_it_was(name: str) -> None:
    """Also after it was full, and began again at its start."""
    one, other = loss_of(name, memory=20), loss_of(name, memory=20)
    for seed in range(4):
        one(batch(seed), LABELS)
    other.load_state_dict({key: value.clone() for key, value in one.state_dict().items()})
    for seed in range(4, 8):
        assert torch.equal(one(batch(seed), LABELS), other(batch(seed), LABELS))


def test_it_gives_what_pytorch_metric_learning_gives() -> None:
    ours = loss_of("supcon", memory=20)
    theirs = pml.CrossBatchMemory(pml.SupConLoss(0.1), 6, 20)
    for seed in range(6):
        assert torch.equal(ours(batch(seed), LABELS), theirs(batch(seed), LABELS))


@pytest.mark.parametrize("memory", [4, 8])
def test_a_memory_without_earlier_batches_is_refused_before_anything_is_written(
    run_values: Callable[..., dict[str, Any]], memory: int
) -> None:
    values = run_values(loss={"name": "supcon", "memory": memory})
    with pytest.raises(ConfigError, match=rf"loss\.memory.*larger than the batch.*got {memory}"):
        api.fit(values)
    assert not Path(values["run_dir"]).exists()


@pytest.mark.parametrize("options", [{}, {"mining": "hard"}, {"mining": "all", "smooth": True}])
def test_triplets_of_a_batch_and_a_full_memory(options: dict[str, Any]) -> None:
    loss = loss_of("triplet", memory=20, **options)
    for seed in range(6):
        assert torch.isfinite(loss(batch(seed), LABELS))


def test_swap_needs_distances_that_a_memory_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"memory: cannot be combined with swap"):
        loss_of("triplet", memory=20, swap=True)


def test_known_pairs_are_refused() -> None:
    loss = loss_of("contrastive", memory=16)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([True]))
    with pytest.raises(ConfigError, match=r"cannot use explicit pairs.*loss\.memory|loss\.memory"):
        loss(batch(0), None, pairs)


@pytest.mark.slow
def test_a_run_with_a_memory_resumes_bit_equal(
    run_values: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"] == 1:
            raise Stop

    values = run_values(loss={"name": "multi-similarity", "memory": 40}, train={"epochs": 2})
    api.fit({**values, "run_dir": str(tmp_path / "whole")})
    with pytest.raises(Stop):
        api.fit(values, listeners=[stop])
    siamkit.resume(values["run_dir"])
    whole, resumed = (
        checkpoint.latest_intact(Path(run) / "checkpoints")[0].model
        for run in (tmp_path / "whole", values["run_dir"])
    )
    assert whole.keys() == resumed.keys()
    assert any("embedding_memory" in name for name in whole)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
