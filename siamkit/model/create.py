"""From configuration to a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from siamkit.config import RunConfig, options_of
from siamkit.errors import PluginError, SiamkitError
from siamkit.interfaces import BackboneContext
from siamkit.model.build import build_backbone
from siamkit.model.heads import Head, as_head
from siamkit.model.siamese import SiameseNet
from siamkit.registry import Registry

Weights = Literal["all", "file", "none"]
"""Which of the configured backbone weights to load: all, only a file's, or none at all."""


@dataclass(frozen=True)
class BuiltNet:
    """A network, and where its backbone's weights came from."""

    net: SiameseNet
    weights: str


def create_net(
    config: RunConfig, registries: Mapping[str, Registry], *, weights: Weights = "all"
) -> BuiltNet:
    """Build the network of a config.

    Args:
        config: A resolved config.
        registries: The registry of each component section.
        weights: ``none`` where the weights are about to be replaced anyway.

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
    try:
        module = entry.build(options, in_features)
    except SiamkitError:
        raise
    # SystemExit too: a plugin must not be able to end its host.
    except (Exception, SystemExit) as error:
        raise PluginError(f"{whose} failed to build: {type(error).__name__}: {error}") from error
    return as_head(module, in_features, whose)
