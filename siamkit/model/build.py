"""The builder of backbones: builds the backbone of a registered name, and loads its weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from siamkit.errors import ConfigError, calling
from siamkit.hub import HUB
from siamkit.interfaces import Backbone, BackboneContext
from siamkit.model.backbone import WrappedBackbone, as_backbone
from siamkit.model.weights import files_of, load_backbone_weights
from siamkit.registry import GIVEN, PYTHON, Entry, whose
from siamkit.spelling import setting

OWN = "siamkit"
"""siamkit's own distribution. Its backbones are timm's models with timm's pretrained weights."""


@dataclass(frozen=True)
class BuiltBackbone:
    """A backbone, and the origin of the backbone's weights as text."""

    backbone: Backbone
    weights: str


def build_backbone(
    entry: Entry,
    options: BaseModel,
    context: BackboneContext,
    weights: Path | None = None,
    pretrained: bool | None = None,
) -> BuiltBackbone:
    """Build a backbone.

    Args:
        entry: The backbone's entry in the registry.
        options: The validated options of the entry.
        context: The backbone's name, channels and image size. This function sets ``pretrained``.
        weights: A file to load instead of the entry's pretrained weights.
        pretrained: Whether to load the entry's pretrained weights. True requires them, False starts
            from random weights, and None loads them if the entry has any.

    Returns:
        The backbone and the origin of the weights, such as ``pretrained: timm/resnet50.a1_in1k``,
        ``file: x.safetensors (sha256 ab12cd34ef56)`` or
        ``random (tinyconv has no pretrained weights)``.

    Raises:
        ConfigError: Pretrained weights are required, but the entry has none; or the backbone cannot
            be built with its options, or fails on images of the requested size or channels.
        CheckpointError: The weights cannot be loaded or do not fit.
        PluginError: The plugin failed.
    """
    if pretrained and weights is None and not entry.pretrained:
        raise ConfigError(
            f"backbone {context.name.removeprefix(PYTHON)!r} has no pretrained weights",
            where="backbone.pretrained",
            got=True,
            hint=f"load a weights file with {setting('backbone.weights', 'FILE')}, or start from "
            f"random weights with {setting('backbone.pretrained', False)}",
        )
    load = weights is None and pretrained is not False and entry.pretrained
    context = replace(context, pretrained=load)
    with calling(whose("backbone", context.name, entry.distribution), "failed to build"):
        backbone = as_backbone(entry.build(options, context), context)
    if entry.distribution == GIVEN and weights is None:
        return BuiltBackbone(backbone, f"as given: {context.name.removeprefix(PYTHON)}")
    if weights is not None:
        load_backbone_weights(backbone, weights)
        return BuiltBackbone(backbone, f"file: {weights.name} (sha256 {_sha256(weights)})")
    if load:
        return BuiltBackbone(backbone, f"pretrained: {_source(entry, context, backbone)}")
    reason = f" ({context.name} has no pretrained weights)" if not entry.pretrained else ""
    return BuiltBackbone(backbone, f"random{reason}")


def _source(entry: Entry, context: BackboneContext, backbone: Backbone) -> str:
    model: nn.Module = backbone.model if isinstance(backbone, WrappedBackbone) else backbone
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    if context.name.startswith(f"timm:{HUB}"):
        return context.name.removeprefix("timm:")
    if context.name.startswith("timm:local-dir:"):
        return f"local-dir:{Path(context.name.removeprefix('timm:local-dir:')).name}"
    # Another plugin may load its own weights into timm's architecture.
    if entry.distribution == OWN and config.get("architecture"):
        tag = config.get("tag")
        return f"timm/{config['architecture']}" + (f".{tag}" if tag else "")
    return f"{context.name} ({entry.distribution})"


def _sha256(path: Path) -> str:
    """Return the first digits of the SHA-256 of a weights file, or of a checkpoint's two files."""
    digest = hashlib.sha256()
    for part in files_of(path):
        with part.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()[:12]
