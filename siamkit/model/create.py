"""The builder of networks: builds the network of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from siamkit.config import RunConfig, options_of
from siamkit.errors import calling
from siamkit.interfaces import BackboneContext
from siamkit.model.build import build_backbone
from siamkit.model.heads import Head, as_head
from siamkit.model.siamese import SiameseNet
from siamkit.registry import Registry

Weights = Literal["all", "file", "none"]
"""The configured backbone weights to load: all, only those of a file, or none."""


@dataclass(frozen=True)
class BuiltNet:
    """A network, and the origin of its backbone's weights as text."""

    net: SiameseNet
    weights: str


def create_net(
    config: RunConfig, registries: Mapping[str, Registry], *, weights: Weights = "all"
) -> BuiltNet:
    """Build the network of a config.

    Args:
        config: A resolved config.
        registries: The registry of each component section.
        weights: The weights to load; ``none`` if the caller replaces them anyway.

    Raises:
        SiamkitError: A plugin, weights file or option is at fault.
    """
    entry, options = options_of(config.backbone, registries["backbone"])
    context = BackboneContext(
        config.backbone.name, in_chans=config.data.in_chans, image_size=config.data.image_size
    )
    built = build_backbone(
        entry,
        options,
        context,
        weights=None if weights == "none" else config.backbone.weights,
        pretrained=config.backbone.pretrained if weights == "all" else False,
    )
    head = _build_head(config, registries["head"], built.backbone.embedding_dim)
    return BuiltNet(
        SiameseNet(built.backbone, head, normalize=config.head.normalize), built.weights
    )


def _build_head(config: RunConfig, registry: Registry, in_features: int) -> Head:
    entry, options = options_of(config.head, registry)
    whose = f"head {config.head.name!r} of {entry.distribution}"
    with calling(whose, "failed to build"):
        module = entry.build(options, in_features)
    return as_head(module, in_features, whose)
