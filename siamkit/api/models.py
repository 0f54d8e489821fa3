"""The trained network of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from siamkit.api.entries import load_config, registries
from siamkit.engine.kernels import KERNELS
from siamkit.errors import CheckpointError, ConfigError
from siamkit.evaluation.calibration import Calibration
from siamkit.inference.embedder import Embedder
from siamkit.model.create import create_net
from siamkit.model.device import resolve_device
from siamkit.model.siamese import SiameseNet
from siamkit.runs import checkpoint
from siamkit.runs.calibration import calibration_of
from siamkit.runs.directory import RunDir


def load_model(run_dir: str | Path, which: Literal["best", "last"] = "best") -> SiameseNet:
    """Return the trained network of a run, in eval mode.

    Args:
        run_dir: The run.
        which: The best epoch's, or the last saved.

    Raises:
        ConfigError: ``which`` is neither.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    run = RunDir.open(Path(run_dir))
    config = load_config(run.read_config(), where=str(run.config))
    folder = run.checkpoints / _checkpoint_name(run, which)
    net = create_net(config, registries(), weights="none").net
    saved = checkpoint.load(folder).model
    net.load_state_dict({k: v for k, v in saved.items() if not k.startswith("loss.")})
    return net.eval()


def load(
    run_dir: str | Path,
    which: Literal["best", "last"] = "best",
    *,
    device: str = "auto",
    kernel: str = "auto",
    workers: int | None = None,
) -> Embedder:
    """Return an embedder of images with the trained network of a run, and its calibration.

    Args:
        run_dir: The run.
        which: The best epoch's network, or the last saved.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        kernel: How the network runs: ``auto`` measures, or a name as in ``engine.prefix``.
        workers: Processes that load images; None for as many as this machine has use for.

    Raises:
        ConfigError: ``which``, ``device`` or ``kernel`` is none of these.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    run = RunDir.open(Path(run_dir))
    config = load_config(run.read_config())
    allowed = ("auto", *KERNELS)
    if kernel not in allowed:
        raise ConfigError("no such kernel", where="kernel", got=kernel, allowed=", ".join(allowed))
    net: SiameseNet = load_model(run_dir, which).to(resolve_device(device))
    net = net.to(memory_format=torch.channels_last)
    calibration: Calibration | CheckpointError
    try:
        calibration = calibration_of(run, _checkpoint_name(run, which))
    except CheckpointError as error:  # nobody misses it before they verify
        calibration = error
    return Embedder(
        net,
        kernel=kernel,
        precision=config.train.precision,
        workers=workers,
        calibration=calibration,
    )


def _checkpoint_name(run: RunDir, which: str) -> str:
    pointers = {"best": checkpoint.BEST, "last": checkpoint.LATEST}
    if which not in pointers:
        raise ConfigError("no such checkpoint", where="which", got=which, allowed="best, last")
    return checkpoint.pointed_to(run.checkpoints, pointers[which]) or pointers[which]
