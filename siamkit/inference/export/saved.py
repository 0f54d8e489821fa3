"""Saved networks: exports a network to a folder for siamkit and torch, or for plain timm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from siamkit.errors import ConfigError
from siamkit.files import write_atomic
from siamkit.inference.export.checking import BATCHES, require_same
from siamkit.inference.export.images import BATCH
from siamkit.inference.export.measuring import TORCH, Key, bytes_of, measured
from siamkit.inference.export.runners import torch_runner
from siamkit.inference.export.subject import Converted, Subject
from siamkit.inference.export.thresholds import Threshold
from siamkit.model.pretrained.card import CardSection, card
from siamkit.model.pretrained.folder import BACKBONE, CARD, REST, read_folder
from siamkit.model.pretrained.load import load_net
from siamkit.model.pretrained.rebuild import timm_model
from siamkit.model.pretrained.save import save_net
from siamkit.portable.manifest import Kind
from siamkit.spelling import argument


@dataclass(frozen=True)
class Saving:
    """The files and facts that are saved beside a network.

    Attributes:
        license: The licence of the weights, for the card.
        weights: A text about the weights that training started from.
        sections: The sections of the card on the run.
        objects: The backbone and the head, if the run was started with objects.
    """

    license: str | None
    weights: str | None
    sections: Sequence[CardSection]
    objects: Mapping[str, nn.Module | None]


def export_saved(subject: Subject, kind: Kind, folder: Path, saving: Saving) -> Converted:
    """Write a network as a saved network, load it again as its users do, and measure that.

    Args:
        subject: The network and the images.
        kind: ``torch``: for siamkit, as :func:`siamkit.save_pretrained` writes it. ``timm``: the
            same folder, which must also work with plain timm.
        folder: The folder, which is empty.
        saving: The files and facts that are saved beside the network.

    Raises:
        ConfigError: ``kind`` is ``timm``, and plain timm cannot build the backbone.
        CheckpointError: The loaded network computes something else.
        SiamkitError: The network cannot be saved.
    """
    net, calibration = subject.net, subject.calibration
    subject.say("saves the network")
    save_net(
        net,
        folder,
        license=saving.license,
        weights=saving.weights,
        calibration=None if calibration is None else calibration.to_json(),
        sections=saving.sections,
        as_named=True,
    )
    tensors = bytes_of(folder / BACKBONE, folder / REST)
    images = subject.val.cycled(BATCH)
    if kind == "timm":
        return _by_timm(subject, folder, tensors, images)
    loaded = load_net(folder, **saving.objects).net
    subject.say(f"compares the saved network in batches of {', '.join(map(str, BATCHES))}")
    runner = torch_runner(loaded)
    cosine = require_same(runner, torch_runner(net), images, kind)
    rows = measured(subject, {TORCH: runner}, {TORCH: tensors}, images).rows
    return Converted(
        kind, "float32", BACKBONE, net.embedding_dim, net.normalize, rows, cosine,
        Threshold(calibration),
    )  # fmt: skip


def _by_timm(subject: Subject, folder: Path, tensors: int, images: Any) -> Converted:
    net, opened = subject.net, read_folder(folder)
    part = opened.saved.backbone
    if part.kind != "timm":
        raise ConfigError(
            "cannot be exported for timm: plain timm cannot build this backbone",
            where=f"backbone {part.name!r}",
            hint=f"{argument('format', 'torch')} writes a folder that siamkit loads",
        )
    backbone = timm_model(opened, pretrained=True)
    subject.say(f"compares timm's backbone in batches of {', '.join(map(str, BATCHES))}")
    runner = torch_runner(backbone)
    cosine = require_same(runner, torch_runner(net.backbone), images, "timm")
    alone = len(net.head) == 0
    key: Key = ("timm", "float32")
    rows = measured(
        subject,
        {TORCH: torch_runner(net), key: runner},
        {TORCH: tensors, key: bytes_of(folder / BACKBONE)},
        images,
        unrelated=() if alone else (key,),
    ).rows
    notices: tuple[str, ...] = ()
    if not alone:
        notices = (
            "plain timm loads the backbone without the head, so it gives other embeddings than "
            "the run's network, and the threshold does not apply to them",
        )
    with torch.no_grad():
        width = backbone(torch.from_numpy(images[:1])).shape[1]
    return Converted(
        *key, BACKBONE, width, False, rows, cosine,
        Threshold(subject.calibration if alone else None), notices=notices,
    )  # fmt: skip


def write_card(folder: Path, sections: Sequence[CardSection], license: str | None) -> None:
    """Write the card of a saved network again, with more sections."""
    opened = read_folder(folder, ())
    text = card(
        folder.name, opened.saved, opened.timm.get("architecture"), license=license,
        sections=sections,
    )  # fmt: skip
    write_atomic(folder / CARD, text)
