"""From configuration to a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from siamkit.config import RunConfig, options_of
from siamkit.interfaces import BackboneContext
from siamkit.model.build import build_backbone
from siamkit.model.siamese import SiameseNet
from siamkit.registry import Registry


@dataclass(frozen=True)
class BuiltNet:
    """A network, and where its backbone's weights came from."""

    net: SiameseNet
    weights: str


def create_net(
    config: RunConfig, registries: Mapping[str, Registry], *, pretrained: bool | None = None
) -> BuiltNet:
    """Build the network of a config.

    Args:
        config: A resolved config.
        registries: The registry of each component section.
        pretrained: Overrides ``backbone.pretrained``; False where the weights are about to be
            replaced anyway.

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
        weights=config.backbone.weights,
        pretrained=config.backbone.pretrained if pretrained is None else pretrained,
    )
    head_entry, head_options = options_of(config.head, registries["head"])
    head = head_entry.build(head_options, built.backbone.embedding_dim)
    return BuiltNet(
        SiameseNet(built.backbone, head, normalize=config.head.normalize), built.weights
    )
