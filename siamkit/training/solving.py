"""Solving: computes a run's head from its training images, without a gradient step."""

from __future__ import annotations

import torch
from torch import Tensor

from siamkit.data.splits import Splits
from siamkit.engine.execution import Engine
from siamkit.engine.phase import Execution
from siamkit.errors import ConfigError, calling
from siamkit.interfaces import HEAD
from siamkit.model.siamese import plugins_of
from siamkit.spelling import setting
from siamkit.training.build import Setup
from siamkit.training.late_sets import stocked
from siamkit.training.loading import SOLVE
from siamkit.training.scoring import Scorer


def require_solvable(setup: Setup, splits: Splits) -> None:
    """Refuse a run without epochs if nothing but training can determine its head.

    Raises:
        ConfigError: The run has no epochs, and its head has no closed form or its data no classes.
    """
    if setup.config.train.epochs:
        return
    name, head = setup.config.head.name, setup.net.head
    if not any(True for _ in head.parameters()):
        return
    if splits.train.tuples is not None:
        raise ConfigError(
            "a head can only be computed without training from images with labels, and the data is "
            "pairs or triplets",
            where="train.epochs", got=0, hint="train for an epoch or more",
        )  # fmt: skip
    if head.closed_form is None:
        raise ConfigError(
            f"head {name!r} cannot be computed without training",
            where="train.epochs", got=0,
            hint=f"use {setting('head.name', 'multistage')}, or {setting('head.name', 'identity')} "
            "for the backbone's own features, or train for an epoch or more",
        )  # fmt: skip


def read_training(scorer: Scorer, engine: Engine, execution: Execution | None) -> Tensor:
    """Return what the head reads of the training images ``[N, D]``, in views without augmentation.

    Args:
        scorer: Embeds the images.
        engine: The engine of the run.
        execution: The execution of the first phase, or of the current one if the head is computed
            after each epoch; None before it, or after another one.
    """
    if execution is not None and scorer.setup.net.head.computed:
        return torch.from_numpy(scorer.read_now(SOLVE, execution))
    if execution is None or not execution.gives_features:
        return torch.from_numpy(scorer.embedded(SOLVE, scorer.setup.net.extractor, None))
    ready = stocked(scorer, engine, execution, SOLVE)
    return torch.from_numpy(scorer.read(SOLVE, execution, live=not ready))


def solve(setup: Setup, read: Tensor, labels: Tensor) -> None:
    """Load the closed form of the head into the network.

    Args:
        setup: The parts of the run.
        read: What the head reads of each training image ``[N, D]``.
        labels: The label of each image ``[N]``.

    Raises:
        DataError: The images do not determine a head.
        PluginError: The head's plugin failed.
    """
    head = setup.net.head
    assert head.closed_form is not None
    owner = next((name for name in plugins_of(setup.net) if name.startswith(HEAD)), "the head")
    with calling(owner, "failed to compute its closed form"):
        head.load_state_dict(dict(head.closed_form(read, labels)))
