"""Saved networks: a folder to share, made from a run or from a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from siamkit.api.arguments import objects_of
from siamkit.api.cards import CardFacts, sections_of
from siamkit.api.entries import registries
from siamkit.api.models import RUN
from siamkit.config import resolve
from siamkit.errors import CheckpointError
from siamkit.files import path_of
from siamkit.model.create import create_net
from siamkit.model.pretrained.load import load_net
from siamkit.model.pretrained.save import save_net
from siamkit.model.siamese import SiameseNet
from siamkit.model.weights import load_net_tensors
from siamkit.objects.overlay import overlaid, require_same
from siamkit.runs import checkpoint
from siamkit.runs.calibration import best_checkpoint, calibration_of
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut


def save_pretrained(
    run_dir: str | Path,
    folder: str | Path,
    *,
    license: str | None = None,
    force: bool = False,
    backbone: nn.Module | None = None,
    head: nn.Module | None = None,
) -> Path:
    """Save a run's network to a folder, with its threshold and a model card, and return the folder.

    The network is the best epoch's: the one that the run's figures and its threshold belong to.
    The card states the data, the figures with their intervals, and the threshold.

    Args:
        run_dir: The run.
        folder: A folder that does not exist yet, or is empty.
        license: The licence of the weights as the hub spells it, for the card.
        force: Replace a saved network that is there.
        backbone: The backbone module, if the run was started with one.
        head: The same for the head.

    Raises:
        ConfigError: The folder is not empty, or an object is missing.
        CheckpointError: There is no such run, it has no best epoch yet, or it is damaged.
        NonFiniteError: The network gives NaN.
        ResourceError: The disk is full or not writable.
    """
    target = path_of(folder, "folder", "a new folder")
    given = objects_of({"backbone": backbone, "head": head}, "save_pretrained")
    net, facts = _read(path_of(run_dir, "run_dir", RUN), given)
    return save_net(
        net,
        target,
        license=license,
        weights=facts.weights,
        calibration=None if facts.calibration is None else facts.calibration.to_json(),
        sections=sections_of(facts),
        force=force,
    )


def from_pretrained(
    folder: str | Path,
    *,
    backbone: nn.Module | None = None,
    head: nn.Module | None = None,
) -> SiameseNet:
    """Return a saved network, in eval mode; it computes what it did when it was saved.

    :meth:`siamkit.Embedder.from_pretrained` returns one that takes files, with the threshold.

    Args:
        folder: What ``save_pretrained`` wrote, or ``hf-hub:ORG/NAME`` for one on the hub.
        backbone: A module for the backbone's tensors, where it was saved as a Python object; it is
            copied.
        head: The same for the head.

    Raises:
        ConfigError: There is no such folder, or an object is missing.
        CheckpointError: A file is damaged, a plugin is missing, or the rebuilt network's output
            differs from the saved network's.
    """
    return load_net(folder, backbone=backbone, head=head).net


def _read(path: Path, objects: dict[str, Any]) -> tuple[SiameseNet, CardFacts]:
    """Read a run: its best epoch's network, and what the card says of it."""
    run = RunDir.open(path)
    known, _ = overlaid(registries(), objects)
    config = resolve(known, run.read_config(), where=str(run.config))
    require_same(objects, config, str(run.config))
    name = best_checkpoint(run)
    saved = checkpoint.load(run.checkpoints / name)
    net = create_net(config, known, weights="none").net
    load_net_tensors(net, saved.model, str(run.checkpoints / name))
    try:
        calibration = calibration_of(run, name)
    except CheckpointError:
        if run.calibration.is_file():
            raise  # damaged, or another network's: never published in silence
        calibration = None
    held = HeldOut.load(run, "test") or HeldOut.load(run, "val")
    epoch: int = saved.state["best_epoch"]
    if held is not None and held.epoch != epoch:
        held = None  # the run was resumed, and hasn't come to its end again
    return net.eval(), CardFacts.of(run.events, config, calibration, held, epoch)
