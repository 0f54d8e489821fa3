"""What all competitors share: the images, their preparation, the batches, head, loss and optimizer.

Each competitor is a program, ``python -m peers.NAME JSON``, whose last line of output is what
:func:`report` prints.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        images: Folder of class folders.
        backbone: A timm model.
        weights: Its weights: a safetensors file.
        view: The fields of siamkit's ``Preprocessing`` for that backbone.
        epochs: Epochs.
        steps: Optimizer steps an epoch; None for all of the epoch's batches.
        train: Modules of the backbone that train along with the head.
        rate: Of the head; modules of the backbone train at ``rate * mult``.
        result: Where a competitor that computes something writes it.
        device: The device; only some competitors know another one than the CPU.
        precision: ``fp32`` or ``bf16``; likewise.
    """

    images: str
    backbone: str
    weights: str
    view: dict[str, Any]
    epochs: int
    steps: int | None = None
    train: tuple[str, ...] = ()
    batch: int = 64
    per_class: int = 4
    hidden: int = 512
    dim: int = 128
    margin: float = 0.2
    rate: float = 1e-3
    mult: float = 0.1
    seed: int = 0
    threads: int = 2
    result: str = ""
    device: str = "cpu"
    precision: str = "fp32"


def read() -> Task:
    """Return the task on the command line, with torch set up for it."""
    import torch

    values = json.loads(sys.argv[1])
    task = Task(**{**values, "train": tuple(values["train"])})
    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    return task


def report(epochs: list[float], visits: int, **more: Any) -> None:
    """Print the seconds of each epoch, the image visits of one, and whatever else is worth it."""
    print(json.dumps({"epochs": epochs, "visits": visits, **more}), flush=True)


class Clock:
    """Collects the seconds of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._since = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self.epochs.append(time.perf_counter() - self._since)


class Images:
    """A map-style data set of (image, label): decode, resize, normalise."""

    def __init__(self, task: Task) -> None:
        from siamkit.data.views import EvalView
        from siamkit.interfaces import Preprocessing

        self._view = EvalView(Preprocessing(**task.view))
        folders = sorted(p for p in Path(task.images).iterdir() if p.is_dir())
        self.samples = [
            (file, label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.iterdir())
        ]
        self.labels = [label for _, label in self.samples]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        file, label = self.samples[index]
        with Image.open(file) as image:
            return self._view(image.convert("RGB")), label

    def __len__(self) -> int:
        return len(self.samples)


class Batches:
    """siamkit's P x K batches, epoch after epoch: each iteration is the next epoch."""

    def __init__(self, task: Task, labels: list[int]) -> None:
        self._task, self._labels, self._epoch = task, labels, 0

    def of(self, epoch: int) -> list[list[int]]:
        from siamkit.data.sampler import pk_batches

        task = self._task
        batches = pk_batches(
            self._labels,
            batch_size=task.batch,
            images_per_class=task.per_class,
            seed=task.seed,
            epoch=epoch,
        )
        return batches[: task.steps]

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.of(self._epoch)
        self._epoch += 1
        return iter(batches)

    def __len__(self) -> int:
        return len(self.of(0))

    @property
    def visits(self) -> int:
        """Images shown in an epoch."""
        return sum(map(len, self.of(0)))


def batch_sampler(task: Task, labels: list[int]) -> Any:
    """Return the batches as torch's ``BatchSampler``, which some trainers insist on."""
    from torch.utils.data import BatchSampler

    class PKSampler(Batches, BatchSampler):
        pass

    return PKSampler(task, labels)


def trunk(task: Task) -> Any:
    """Return the backbone, without a classifier."""
    import timm
    from safetensors.torch import load_file

    model = timm.create_model(task.backbone, num_classes=0)
    model.load_state_dict(load_file(task.weights))
    return model


def head(task: Task, width: int) -> Any:
    """Return the trainable projector to L2-normalised embeddings."""
    from torch import nn

    class Normalize(nn.Module):
        def forward(self, x: Any) -> Any:
            return nn.functional.normalize(x)

    layers = nn.Linear(width, task.hidden), nn.ReLU(), nn.Linear(task.hidden, task.dim)
    return nn.Sequential(*layers, Normalize())


def criterion(task: Task) -> tuple[Any, Any]:
    """Return the triplet loss and its semi-hard miner, as siamkit sets them up."""
    from pytorch_metric_learning import distances, losses, miners

    distance = distances.LpDistance(normalize_embeddings=False, p=2, power=1)
    return (
        losses.TripletMarginLoss(margin=task.margin, distance=distance),
        miners.TripletMarginMiner(task.margin, "semihard", distance=distance),
    )


def loss_function(task: Task) -> Any:
    """Return ``loss(embeddings, labels)``."""
    loss, miner = criterion(task)

    def compute(embeddings: Any, labels: Any) -> Any:
        return loss(embeddings, labels, miner(embeddings, labels))

    return compute


def adam(task: Task, model: Any, projector: Any) -> Any:
    """Return Adam over what trains."""
    import torch

    groups = [{"params": list(projector.parameters()), "lr": task.rate}]
    if deep := [p for p in model.parameters() if p.requires_grad]:
        groups.append({"params": deep, "lr": task.rate * task.mult})
    return torch.optim.Adam(groups)
