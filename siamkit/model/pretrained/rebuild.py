"""Rebuilding: builds a saved network by timm, by plugins, or from objects that the caller gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from siamkit import plugins
from siamkit.errors import CheckpointError, ConfigError, SiamkitError
from siamkit.interfaces import Backbone, BackboneContext
from siamkit.model.backbone import WrappedBackbone
from siamkit.model.build import build_backbone
from siamkit.model.copying import copied
from siamkit.model.create import build_head, width_of
from siamkit.model.heads import Head, as_head
from siamkit.model.pretrained.folder import Folder, Saved, SavedPart
from siamkit.model.pruning import Pruning
from siamkit.model.quantized import Quantized
from siamkit.model.weights import load_exactly
from siamkit.registry import Registry

Tensors = Mapping[str, Tensor]


def inner(backbone: Backbone) -> nn.Module:
    """Return the module whose tensors are saved: the backbone, or the module that it wraps."""
    return backbone.model if isinstance(backbone, WrappedBackbone) else backbone


def rebuild_backbone(folder: Folder, tensors: Tensors, given: nn.Module | None) -> Backbone:
    """Build the backbone of a folder and load its tensors.

    Args:
        folder: The folder.
        tensors: The backbone's tensors.
        given: A module to load the tensors into; None to build the backbone that the folder names.

    Raises:
        ConfigError: The backbone was saved as an object, and ``given`` is None.
        CheckpointError: A plugin is missing, or the tensors don't fit.
    """
    saved, part = folder.saved, folder.saved.backbone
    if given is not None:
        backbone = wrapped(copied(given, "backbone"), saved)
    elif part.kind == "timm":
        backbone = wrapped(timm_model(folder), saved)
    elif part.kind == "plugin":
        entry = _registered(plugins.get().backbones, part, folder)
        options = entry.validate(part.options, str(folder.path), kind="backbone")
        context = BackboneContext(
            part.name,
            pretrained=False,
            in_chans=len(saved.preprocessing.mean),
            image_size=saved.image_size,
        )
        backbone = build_backbone(entry, options, context, pretrained=False).backbone
    else:
        raise _not_given("backbone", part, folder)
    record = pruning_of(folder)
    if record is not None and not record.is_applied(backbone):
        record.apply(backbone, str(folder.path))
    quantized = quantized_of(folder)
    if quantized is not None and not quantized.is_applied(backbone):
        backbone.stages()  # discovered now, while all modules still run
        quantized.apply(backbone, str(folder.path))
    load_exactly(inner(backbone), tensors, f"backbone {part.name!r} of {folder.path}")
    return backbone


def pruning_of(folder: Folder) -> Pruning | None:
    """Return the record of the channels that the backbone of a folder lacks; None if it is whole.

    Raises:
        CheckpointError: The record is of another format.
    """
    values = folder.saved.pruning
    return None if values is None else Pruning.from_json(values, str(folder.path))


def quantized_of(folder: Folder) -> Quantized | None:
    """Return the record of the part that a folder's backbone computes in int8; None without one.

    Raises:
        CheckpointError: The record is of another format.
    """
    values = folder.saved.int8
    return None if values is None else Quantized.from_json(values, str(folder.path))


def rebuild_head(
    folder: Folder, tensors: Tensors, backbone: Backbone, given: nn.Module | None
) -> Head:
    """Build the head of a folder and load its tensors.

    Args:
        folder: The folder.
        tensors: The head's tensors.
        backbone: The backbone whose features or stages the head reads.
        given: A module to load the tensors into; None to build the head that the folder names.

    Raises:
        ConfigError: The head was saved as an object, and ``given`` is None.
        CheckpointError: A plugin is missing, or the tensors don't fit.
    """
    part, reads = folder.saved.head, folder.saved.reads
    if given is not None:
        twin = copied(given, "head")
        where = f"head {type(given).__name__!r}"
        head = as_head(twin, width_of(backbone, reads), where, reads)
    elif part.kind == "plugin":
        entry = _registered(plugins.get().heads, part, folder)
        options = entry.validate(part.options, str(folder.path), kind="head")
        head = build_head(part.name, entry, options, backbone, reads)
    else:
        raise _not_given("head", part, folder)
    load_exactly(head, tensors, f"head {part.name!r} of {folder.path}")
    return head


def timm_model(folder: Folder, *, pretrained: bool = False) -> nn.Module:
    """Build the timm model of a folder. If ``pretrained``, timm also loads the folder's weights.

    Raises:
        CheckpointError: The installed timm cannot build the model.
    """
    arguments = {"num_classes": folder.timm.get("num_classes", 0), **folder.saved.backbone.options}
    try:
        module: nn.Module = timm.create_model(
            f"local-dir:{folder.path}", pretrained=pretrained, **arguments
        )
    except Exception as error:  # the type depends on the architecture
        versions, architecture = folder.saved.versions, folder.timm.get("architecture")
        raise CheckpointError(
            f"timm {timm.__version__} cannot build the backbone {architecture!r}: {error}",
            where=str(folder.path),
            hint=f"the network was saved with timm {versions.get('timm')}: install that version",
        ) from error
    return module


def wrapped(module: nn.Module, saved: Saved) -> Backbone:
    """Return a module as a backbone with the saved preprocessing and layout.

    A :class:`Backbone` is returned unchanged.

    Raises:
        ConfigError: ``module`` is not a module.
    """
    if isinstance(module, Backbone):
        return module
    if not isinstance(module, nn.Module):
        raise ConfigError(
            "is of a wrong type", where="backbone", got=type(module),
            allowed="a torch.nn.Module of the kind that was saved",
        )  # fmt: skip
    part = saved.backbone
    return WrappedBackbone(
        module, saved.preprocessing.preprocessing(), layout=part.layout, select=part.select
    )


def _registered(registry: Registry, part: SavedPart, folder: Folder) -> Any:
    try:
        return registry.get(part.name)
    except SiamkitError as error:
        version = f"=={part.version}" if part.version else ""
        raise CheckpointError(
            f"needs the {registry.kind} {part.name!r} of {part.distribution}: {error.what}",
            where=str(folder.path),
            hint=f"install the plugin: pip install {part.distribution}{version}",
        ) from error


def _not_given(kind: str, part: SavedPart, folder: Folder) -> ConfigError:
    return ConfigError(
        f"the {kind} was a Python object ({part.name}), and the folder does not contain its code",
        where=str(folder.path),
        hint="pass an object of the same class: "
        f"siamkit.from_pretrained({str(folder.path)!r}, {kind}=...)",
    )
