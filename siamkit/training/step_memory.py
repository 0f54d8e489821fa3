"""The memory of a run's steps: predicts the peak of a step as it will run."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from siamkit.engine.kernels import batch_size
from siamkit.engine.phase import Execution
from siamkit.errors import is_out_of_memory
from siamkit.freezing.allocations import Bytes
from siamkit.freezing.memory import Memory, probe_images
from siamkit.freezing.peak import Costs, Forward, Passes, memory_of_loss, memory_of_step
from siamkit.training.build import Setup
from siamkit.training.optimizer import update_memory
from siamkit.training.step import autocast

Predict = Callable[[int], Memory | None]
"""Returns the memory of a step by the most images in a forward pass; None if the loss fails, or
if the memory runs out for a few images already."""


def predictor(setup: Setup, forward: Forward | None = None) -> Predict:
    """Return a function that predicts the memory of a step under the plan that was applied.

    Args:
        setup: The parts of the run.
        forward: The forward pass of the phase; None for the whole network.
    """
    train = setup.config.train
    views = 1 + setup.loss.second_view
    naive = train.accumulation == "naive" and train.pass_size < train.batch_size
    compared = train.pass_size if naive else train.batch_size
    chosen = forward or whole(setup)

    @cache
    def costs() -> Costs | None:
        try:
            loss = _loss_memory(setup, compared)
        except Exception:  # a loss may need known pairs, or compare only what it knows
            return None
        update = update_memory(setup.optimizer)
        own = list(setup.loss.parameters())
        return Costs(
            loss=loss,
            loss_weights=Bytes.of(*own, *setup.loss.buffers()),
            loss_gradients=Bytes.of(*(p for p in own if p.requires_grad)),
            state=update.state,
            update=update.temporary,
        )

    @cache
    def predict(largest: int) -> Memory | None:
        outside = costs()
        if outside is None:
            return None
        count = -(-compared // largest)
        passes = Passes(
            images=views * -(-compared // count),
            count=count,
            losses=-(-train.batch_size // compared),
        )
        try:
            return memory_of_step(
                setup.net, chosen, passes, outside,
                lambda: autocast(setup.device, train.precision),
            )  # fmt: skip
        except Exception as error:
            # A network without a fake form is tried on a few real images.
            if not is_out_of_memory(error):
                raise
            return None

    return predict


def whole(setup: Setup) -> Forward:
    """Return the forward pass of the whole network."""
    preprocessing = setup.net.preprocessing
    images = probe_images(preprocessing.channels, preprocessing.size, setup.device)
    return Forward(setup.net, images[:1])


def forward_of(setup: Setup, execution: Execution) -> Forward:
    """Return the forward pass of a phase, which may begin at cached or computed activations."""
    images, parts = whole(setup), execution.parts
    if parts is None:
        return images
    rows = parts.times.activations[:1]
    if execution.decision.mode == "cached":
        return Forward(execution.forward, rows)
    prefix, size = parts.cut.prefix, batch_size(setup.device)

    def before(images: Tensor) -> Tensor:
        return torch.cat([prefix(part) for part in images.split(size)])

    return Forward(execution.forward, rows, before, images.example)


def _loss_memory(setup: Setup, images: int) -> Bytes:
    """Return the peak memory of the loss over some images."""
    views = 1 + setup.loss.second_view
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(views * images, setup.net.training_dim, generator=generator)
    labels = torch.arange(images) // setup.config.train.images_per_class
    if any(True for _ in setup.loss.parameters()):  # it may know each class
        labels %= setup.num_classes
    embeddings = F.normalize(drawn).to(setup.device)
    return memory_of_loss(setup.loss, embeddings, labels.repeat(views).to(setup.device))
