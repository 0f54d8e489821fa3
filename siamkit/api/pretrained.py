"""Saved networks: a folder to share, made from a run or from a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from siamkit.api.cards import CardFacts, sections_of
from siamkit.api.models import RUN, model_of, open_run
from siamkit.files import is_there, path_of
from siamkit.model.pretrained.load import load_net
from siamkit.model.pretrained.save import save_net
from siamkit.model.siamese import SiameseNet


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
    objects = {"backbone": backbone, "head": head}
    net, facts = _read(path_of(run_dir, "run_dir", RUN), objects)
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
    run = open_run(path, **objects)
    net = model_of(run)
    calibration = None
    if is_there(run.dir.calibration):  # damaged, or another network's: never published in silence
        calibration = run.calibration()
    held = run.held_out("test") or run.held_out("val")
    epoch: int = run.best.state["best_epoch"]
    return net, CardFacts.of(run.log, run.dir.events, run.config, calibration, held, epoch)
