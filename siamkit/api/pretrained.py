"""Saves a run's network to a folder to share, and loads saved networks."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from siamkit.api.cards import CardFacts, sections_of
from siamkit.api.models import RUN, model_of, open_run
from siamkit.files import is_there, path_of
from siamkit.model.pretrained.load import load_net
from siamkit.model.pretrained.save import save_net
from siamkit.model.settings import usual_settings
from siamkit.model.siamese import SiameseNet
from siamkit.runs.open import OpenRun


@usual_settings()
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

    The network is that of the best epoch, to which the run's figures and threshold belong. The card
    states the data, the figures with their intervals, and the threshold.

    Args:
        run_dir: The run's directory.
        folder: A folder that does not exist yet, or is empty.
        license: The licence of the weights, for the card, spelled as on the hub, such as
            ``apache-2.0``.
        force: Whether to replace a saved network that is in the folder.
        backbone: The module that the run was started with, if its backbone is an object.
        head: The module that the run was started with, if its head is an object.

    Raises:
        ConfigError: The folder is not empty and may not be replaced, or an object is missing.
        CheckpointError: There is no such run, it has no best epoch yet, or it is damaged.
        NonFiniteError: The network's embeddings contain NaN or infinity.
        PluginError: A plugin builds another network from the same tensors.
        ResourceError: The disk is full or not writable.
    """
    target = path_of(folder, "folder", "a new folder")
    objects = {"backbone": backbone, "head": head}
    run = open_run(path_of(run_dir, "run_dir", RUN), **objects)
    net, facts = model_of(run), facts_of(run)
    return save_net(
        net,
        target,
        license=license,
        weights=facts.weights,
        calibration=None if facts.calibration is None else facts.calibration.to_json(),
        sections=sections_of(facts),
        force=force,
        as_named=True,
    )


@usual_settings()
def from_pretrained(
    folder: str | Path,
    *,
    backbone: nn.Module | None = None,
    head: nn.Module | None = None,
) -> SiameseNet:
    """Load a saved network, check that its output is still the same, and return it in eval mode.

    :meth:`siamkit.Embedder.from_pretrained` returns an embedder instead, which takes image files
    and has the threshold.

    Args:
        folder: A folder that ``save_pretrained`` wrote, or ``hf-hub:ORG/NAME`` for a network on the
            hub.
        backbone: A module to hold the backbone's tensors, if the backbone was a Python object. The
            module is copied.
        head: A module to hold the head's tensors, if the head was a Python object. The module is
            copied.

    Raises:
        ConfigError: There is no such folder, an object is missing, or the hub refuses access.
        CheckpointError: A file is damaged, a plugin is missing, the hub is unreachable, or the
            rebuilt network's output differs from the saved network's.
    """
    return load_net(folder, backbone=backbone, head=head).net


def facts_of(run: OpenRun) -> CardFacts:
    """Return the facts of a run for its model card.

    Raises:
        CheckpointError: The calibration is damaged or belongs to another network, or a record of
            the run is damaged or missing.
    """
    calibration = None
    # If the calibration is damaged or of another network, this raises: the card must not omit it.
    if is_there(run.dir.calibration):
        calibration = run.calibration()
    held = run.final_held_out("test") or run.final_held_out("val")
    epoch = run.best_epoch
    return CardFacts.of(run.log, run.dir.events, run.config, calibration, held, epoch)
