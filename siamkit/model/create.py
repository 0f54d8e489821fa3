"""The builder of networks: builds the network of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel

from siamkit.config import AUTO, DataConfig, HeadConfig, RunConfig, options_of
from siamkit.errors import calling
from siamkit.interfaces import Backbone, BackboneContext, Preprocessing, StageOptions
from siamkit.model.build import build_backbone
from siamkit.model.default_head import default_head, fallback_text
from siamkit.model.heads import Head, Reads, as_head
from siamkit.model.origin import NamedPart, Origin
from siamkit.model.pruning import Pruning
from siamkit.model.quantized import Quantized
from siamkit.model.reading import StageReader, outputs_of
from siamkit.model.siamese import SiameseNet
from siamkit.registry import Entry, Registry, whose

Weights = Literal["all", "file", "none"]
"""Which of the configured backbone weights to load: ``all``, only those of a ``file``, or none."""


@dataclass(frozen=True)
class BuiltNet:
    """A network.

    Attributes:
        net: The network.
        weights: The origin of the backbone's weights, as text.
        head: The section of its head, which the config may leave open.
        notices: Notices for the user.
    """

    net: SiameseNet
    weights: str
    head: HeadConfig
    notices: tuple[str, ...] = ()


def create_net(
    config: RunConfig, registries: Mapping[str, Registry], *, weights: Weights = "all"
) -> BuiltNet:
    """Build the network of a config.

    Args:
        config: A resolved config.
        registries: The registry of each component section, such as ``backbone`` and ``head``.
        weights: Which weights to load. Pass ``none`` if they will be replaced anyway.

    Raises:
        SiamkitError: A plugin, a weights file or an option is at fault.
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
    pruning = None
    if config.backbone.pruning is not None:
        pruning = Pruning.load(config.backbone.pruning)
        pruning.apply(built.backbone, str(config.backbone.pruning))
    quantized = None
    if config.backbone.int8 is not None and weights == "none":
        # The graph is a tensor of the run, so only a network that gets these tensors can have it.
        quantized = Quantized.load(config.backbone.int8)
        built.backbone.stages()  # discovered now, while all modules still run
        quantized.apply(built.backbone, str(config.backbone.int8))
    chosen = config.head
    notices: tuple[str, ...] = ()
    if chosen.name == AUTO:
        usual = default_head(config, registries["head"], built.backbone)
        chosen, notices = usual.head, fallback_text(usual.why)
    head_entry, head_options = options_of(chosen, registries["head"])
    head = build_head(chosen.name, head_entry, head_options, built.backbone)
    net = SiameseNet(
        built.backbone,
        head,
        normalize=chosen.normalize,
        preprocessing=prepared(built.backbone.preprocessing, config.data),
    )
    net.pruning = pruning
    net.quantized = quantized
    net.origin = Origin(
        NamedPart.of(config.backbone.name, entry, options),
        NamedPart.of(chosen.name, head_entry, head_options),
        config.data.image_size,
        built.weights if weights == "all" else None,
    )
    return BuiltNet(net, built.weights, chosen, notices)


def prepared(preprocessing: Preprocessing, data: DataConfig) -> Preprocessing:
    """Return a backbone's preprocessing with the fit and the value range of a config.

    With ``data.fit: auto``, the backbone's own fit stays. With ``data.range: auto``, the range is
    the full one.
    """
    fit = preprocessing.fit if data.fit == "auto" else data.fit
    return replace(preprocessing, fit=fit, value_range=data.value_range)


def build_head(
    name: str, entry: Entry, options: BaseModel, backbone: Backbone, reads: Reads = None
) -> Head:
    """Build a head. If its options are :class:`StageOptions`, it reads several stages.

    Args:
        name: The head's name.
        entry: The head's entry in the registry.
        options: The validated options of the entry.
        backbone: The backbone whose features or stages the head reads.
        reads: The modules whose outputs the head reads; None for those that its options name.

    Raises:
        ConfigError: The head reads stages that the backbone does not have.
        PluginError: The plugin failed.
    """
    if isinstance(options, StageOptions) and reads is None:
        reads = outputs_of(backbone, options.stages)
    in_features = width_of(backbone, reads)
    head = whose("head", name, entry.distribution)
    with calling(head, "failed to build"):
        module = entry.build(options, in_features)
    return as_head(module, in_features, head, reads)


def width_of(backbone: Backbone, reads: Reads) -> int:
    """Return the width of what a head gets that reads some modules of a backbone."""
    return backbone.embedding_dim if reads is None else StageReader(backbone, reads).width
