"""The trained network of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from siamkit.api.entries import registries
from siamkit.engine.kernels import KERNELS
from siamkit.errors import CheckpointError, ConfigError
from siamkit.evaluation.calibration import Calibration
from siamkit.inference.embedder import Embedder
from siamkit.model.create import create_net
from siamkit.model.siamese import SiameseNet
from siamkit.runs.open import OpenRun
from siamkit.training.build import resolve_device


def open_run(run_dir: str | Path) -> OpenRun:
    """Return a run, whose files are each read once.

    Raises:
        CheckpointError: There is no run.
    """
    return OpenRun(run_dir, registries)


def load_model(run_dir: str | Path, which: Literal["best", "last"] = "best") -> SiameseNet:
    """Return the trained network of a run, in eval mode.

    Args:
        run_dir: The run.
        which: The best epoch's, or the last saved.

    Raises:
        ConfigError: ``which`` is neither.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    return model_of(open_run(run_dir), which)


def model_of(run: OpenRun, which: Literal["best", "last"] = "best") -> SiameseNet:
    """Return a network of an open run. Errors are those of :func:`load_model`."""
    saved = run.checkpoint(which).model
    net = create_net(run.config, registries(), weights="none").net
    net.load_state_dict({k: v for k, v in saved.items() if not k.startswith("loss.")})
    return net.eval()


def load_embedder(
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
    return embedder_of(open_run(run_dir), which, device=device, kernel=kernel, workers=workers)


def embedder_of(
    run: OpenRun,
    which: Literal["best", "last"] = "best",
    *,
    device: str = "auto",
    kernel: str = "auto",
    workers: int | None = None,
) -> Embedder:
    """Return an embedder of an open run. Arguments and errors are those of load_embedder."""
    allowed = ("auto", *KERNELS)
    if kernel not in allowed:
        raise ConfigError("no such kernel", where="kernel", got=kernel, allowed=", ".join(allowed))
    net: SiameseNet = model_of(run, which).to(resolve_device(device))
    net = net.to(memory_format=torch.channels_last)
    calibration: Calibration | CheckpointError
    try:
        calibration = run.calibration(which)
    except CheckpointError as error:  # nobody misses it before they verify
        calibration = error
    return Embedder(
        net,
        kernel=kernel,
        precision=run.config.train.precision,
        workers=workers,
        calibration=calibration,
    )
