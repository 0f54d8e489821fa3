"""Loading: loads a saved network, and checks that it computes the same as when it was saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from siamkit.config.base import expanded
from siamkit.errors import CheckpointError
from siamkit.files import path_of
from siamkit.hub import HUB, fetch
from siamkit.model.origin import NamedPart, Origin
from siamkit.model.pretrained.folder import BACKBONE, CONFIG, REST, Folder, SavedPart, read_folder
from siamkit.model.pretrained.identity import check_images, difference, fingerprint_of, tolerance
from siamkit.model.pretrained.rebuild import (
    pruning_of,
    quantized_of,
    rebuild_backbone,
    rebuild_head,
)
from siamkit.model.siamese import SiameseNet
from siamkit.registry import PYTHON
from siamkit.tensor_files import load_tensors

HEAD_PREFIX, CHECK = "head.", "check"
"""In the file of the head's tensors: the prefix of their names, and the name of the embeddings of
the test images."""


@dataclass(frozen=True)
class Loaded:
    """A network, and the folder that it was loaded from."""

    net: SiameseNet
    folder: Folder


def load_net(
    folder: str | Path, *, backbone: nn.Module | None = None, head: nn.Module | None = None
) -> Loaded:
    """Load a saved network.

    Args:
        folder: The folder, or ``hf-hub:ORG/NAME`` for a network on the hub.
        backbone: A module to load the backbone's tensors into. It is needed if the saved network's
            backbone was a Python object, which siamkit cannot build from a name. It is copied.
        head: The same for the head.

    Raises:
        ConfigError: There is no such folder, or ``backbone`` or ``head`` is needed but not given.
        CheckpointError: A file is damaged, a plugin is missing, or the rebuilt network's output
            differs from the saved network's.
    """
    opened = read_folder(located(folder))
    tensors, rest = load_tensors(opened.path / BACKBONE), load_tensors(opened.path / REST)
    head_tensors = {name.removeprefix(HEAD_PREFIX): t for name, t in rest.items() if name != CHECK}
    saved = opened.saved
    built = rebuild_backbone(opened, tensors, backbone)
    built_head = rebuild_head(opened, head_tensors, built, head)
    net = SiameseNet(
        built,
        built_head,
        normalize=saved.normalize,
        preprocessing=built.preprocessing.fitted_as(saved.preprocessing.preprocessing()),
    ).eval()
    net.pruning = pruning_of(opened)
    net.quantized = quantized_of(opened)
    net.origin = Origin(
        _component(saved.backbone), _component(saved.head), saved.image_size, saved.weights
    )
    _require_same(net, opened, rest[CHECK])
    return Loaded(net, opened)


def located(folder: str | Path) -> Path:
    """Return the folder of a saved network; fetch it first if the name begins with ``hf-hub:``."""
    path = path_of(folder, "folder", "a saved network, or hf-hub:ORG/NAME")
    name = str(folder)
    if name.startswith(HUB):
        return fetch(name.removeprefix(HUB), [CONFIG], [BACKBONE], [REST])
    return expanded(path)


def _component(part: SavedPart) -> NamedPart:
    name = PYTHON + part.name if part.kind == "object" else part.name
    distribution = "siamkit" if part.kind == "timm" else part.distribution or ""
    return NamedPart(name, part.options, distribution, part.version)


def _require_same(net: SiameseNet, folder: Folder, embeddings: Tensor) -> None:
    saved, where = folder.saved, str(folder.path)
    wanted = saved.preprocessing.preprocessing()
    versions = ", ".join(f"{name} {version}" for name, version in saved.versions.items())
    hint = f"the network was saved with {versions}: load it with the same code and versions"
    if net.preprocessing != wanted:
        raise CheckpointError(
            "the backbone's preprocessing differs from the saved one",
            where=where, got=net.preprocessing, allowed=str(wanted), hint=hint,
        )  # fmt: skip
    apart = difference(net.embed(check_images(net)), embeddings)
    if not apart <= tolerance(net):
        raise CheckpointError(
            f"the embeddings differ from the saved ones by {apart:.2g} of their length on two test "
            "images",
            where=where, hint=hint,
        )  # fmt: skip
    if fingerprint_of(net) != saved.fingerprint:
        raise CheckpointError(
            "the network's tensors are not those that were saved", where=where, hint=hint
        )
