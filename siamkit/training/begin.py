"""The beginning of a run: what a run's directory holds before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from siamkit.config import RunConfig
from siamkit.data.splits import Splits
from siamkit.registry import Registry
from siamkit.runs import checkpoint
from siamkit.runs.checkpoint import Checkpoint
from siamkit.runs.directory import RunDir
from siamkit.training.build import Setup, build_for, identity, providers
from siamkit.training.optimizer import state_tensors
from siamkit.training.requirements import require_loss
from siamkit.training.state import RunState
from siamkit.training.tensors import load_model_tensors, model_tensors

FIRST = "epoch-00000-step-00000000"
"""The name of the checkpoint before the first step."""


def write_records(
    run: RunDir, config: RunConfig, splits: Splits, registries: Mapping[str, Registry]
) -> None:
    """Write a run's config, the plugins that provide its components, and the images left out.

    Args:
        run: The run.
        config: The complete config.
        splits: The data of the run.
        registries: The registry of each component section, and of ``track``.
    """
    run.write_config(config)
    run.write_plugins(providers(config, registries))
    if splits.skipped and config.data.on_unreadable == "quarantine":
        run.write_quarantine(splits.skipped)


def begin(
    folder: Path,
    config: RunConfig,
    registries: Mapping[str, Registry],
    splits: Splits,
    tensors: Mapping[str, Tensor],
    weights: str,
    *,
    inherited: bool = False,
) -> Setup:
    """Write a run that starts from given tensors, so that it can be resumed at its first step.

    Args:
        folder: The run's directory, which exists.
        config: The complete config.
        registries: The registry of each component section, and of ``track``.
        splits: The data of the run.
        tensors: The network's state, and the loss's state under ``loss.*``.
        weights: The origin of the tensors, as text.
        inherited: Whether the head of these tensors was trained, so that it may stay.

    Returns:
        The parts of the run.

    Raises:
        SiamkitError: The run cannot be built, or the tensors do not fit.
    """
    setup = build_for(splits, config, registries, weights="none")
    require_loss(setup, splits)
    load_model_tensors(setup, tensors)
    run = RunDir(folder)
    write_records(run, config, splits, registries)
    facts = identity(config, splits, registries)
    # A computed head is never a trained one: it is computed anew for the network as it is.
    inherited = inherited and not setup.net.head.computed
    state = RunState(weights=weights, identity=facts, inherited=inherited)
    content = Checkpoint(model_tensors(setup), state_tensors(setup.optimizer), state.to_json(), {})
    checkpoint.publish(run.checkpoints, FIRST, content, best=None)
    return setup
