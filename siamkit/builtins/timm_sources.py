"""Backbones from a folder or the hub: ``timm:local-dir:DIR`` and ``timm:hf-hub:ORG/NAME``.

timm builds these backbones, but it accepts two kinds of weights files that this module refuses: a
file that lacks some of the model's tensors, which would stay random, and a damaged file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamkit.errors import CheckpointError, ConfigError, SiamkitError, did_you_mean
from siamkit.hub import HUB, fetch
from siamkit.spelling import setting

if TYPE_CHECKING:
    from torch import nn

    from siamkit.interfaces import BackboneContext

LOCAL = "local-dir:"
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""The weight files of a folder, in timm's order of preference."""

_CONFIG = "config.json"


def is_source(name: str) -> bool:
    """Return whether a timm model's name, without ``timm:``, stands for a folder or for the hub."""
    return name.startswith((LOCAL, HUB))


def create_from_source(
    name: str, arguments: Mapping[str, Any], context: BackboneContext, ways_out: str
) -> nn.Module:
    """Return the timm model of a folder or of the hub, without its classifier.

    Args:
        name: The model's name, without ``timm:``.
        arguments: The keyword arguments for timm's ``create_model``.
        context: The run's settings of the backbone: image size, channels, pretrained or not.
        ways_out: The hint of the error if the hub's files cannot be fetched.

    Raises:
        ConfigError: There is no such folder, the folder holds no timm model, or the model does not
            take the arguments.
        CheckpointError: The hub is unreachable, or the weights are missing, damaged, or another
            model's.
    """
    import timm

    where = f"backbone {context.name!r}"
    files = ([_CONFIG], WEIGHTS) if context.pretrained else ([_CONFIG],)
    if name.startswith(HUB):
        folder = fetch(name.removeprefix(HUB), *files, hint=ways_out)
    else:
        folder = _local(name.removeprefix(LOCAL), where)
    config = _config(folder, where, context.pretrained)
    weights = _weights(folder, where) if context.pretrained else None
    _require_channels(config, context, where)
    given = dict(arguments)
    if context.image_size is not None and _about(config).get("fixed_input_size"):
        given["img_size"] = context.image_size
    try:
        model: nn.Module = timm.create_model(
            f"{LOCAL}{folder}", pretrained=weights is not None, **given
        )
    except Exception as error:  # each architecture raises other types
        raise _unbuilt(folder, weights, given, where, error) from error
    if weights is not None:
        _require_loaded(model, weights, where)
    return model


def _local(place: str, where: str) -> Path:
    from siamkit.config.base import expanded

    if not place:
        raise ConfigError("names no folder", where=where, allowed="timm:local-dir:FOLDER")
    try:
        return expanded(Path(place))
    except ValueError as error:
        raise ConfigError(str(error), where=where) from None


def _config(folder: Path, where: str, pretrained: bool) -> Mapping[str, Any]:
    """Return timm's config of a folder. If siamkit wrote the folder, check its files as well."""
    import timm

    from siamkit.model.pretrained.folder import BACKBONE, SECTION, read_config, read_folder

    config: Mapping[str, Any] = read_config(folder)
    ours = SECTION in config
    if ours:
        config = read_folder(folder, (BACKBONE,) if pretrained else ()).timm
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        whole = "in Python, siamkit.from_pretrained loads the whole network"
        raise ConfigError(
            "its config.json names no architecture, so timm cannot build it",
            where=f"{where}: {folder}",
            hint=whole if ours else "timm.models.save_for_hf writes such a folder",
        )  # fmt: skip
    if not timm.is_model(architecture):
        raise ConfigError(
            f"its config.json names an architecture that timm {timm.__version__} does not have",
            where=f"{where}: {folder}", got=architecture,
            hint=did_you_mean(architecture, timm.list_models()) or "another version may have it",
        )  # fmt: skip
    if not all(isinstance(config.get(key, {}), dict) for key in ("pretrained_cfg", "model_args")):
        raise CheckpointError("the file is damaged", where=str(folder / _CONFIG))
    return config


def _about(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the weights: in old configs, the whole config."""
    about: Mapping[str, Any] = config.get("pretrained_cfg", config)
    return about


def _weights(folder: Path, where: str) -> Path:
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(
            "has no weights file", where=f"{where}: {folder}", allowed=", ".join(WEIGHTS)
        )
    return weights


def _channels(config: Mapping[str, Any]) -> int:
    """Return the number of image channels that a folder's weights are for."""
    size = _about(config).get("input_size") or (3,)
    return int(config.get("model_args", {}).get("in_chans") or size[0])


def _require_channels(config: Mapping[str, Any], context: BackboneContext, where: str) -> None:
    """Raise if timm cannot adapt the weights to the channels, and would use random weights.

    timm adapts weights for RGB to any number of channels, and all weights to one channel.
    """
    channels = _channels(config)
    if context.pretrained and context.in_chans not in (1, channels) and channels != 3:
        raise ConfigError(
            f"its weights are for images of {channels} channels, and timm cannot adapt them",
            where=where, got=context.in_chans, allowed=f"1 or {channels}",
            hint=f"use {setting('data.in_chans', channels)}",
        )  # fmt: skip


def _unbuilt(
    folder: Path, weights: Path | None, given: Mapping[str, Any], where: str, error: Exception
) -> SiamkitError:
    """Return the error for a failure of timm: about the weights, or about the arguments."""
    import timm

    from siamkit.model.weights import read_tensors

    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = " ".join(line.strip() for line in lines[:3])
    if weights is not None:
        try:
            timm.create_model(f"{LOCAL}{folder}", pretrained=False, **given)
        except Exception:  # so the weights are not the cause
            weights = None
    if weights is not None:
        read_tensors(weights)  # raises if the file is damaged
        return CheckpointError(
            f"timm cannot load this weights file: {reason}", where=f"{where}: {weights}"
        )
    arguments = ", ".join(f"{key}={value}" for key, value in given.items() if key != "num_classes")
    return ConfigError(
        f"timm cannot build it with {arguments}: {reason}", where=f"{where}: {folder}"
    )


def _require_loaded(model: nn.Module, weights: Path, where: str) -> None:
    """Raise if the file lacks tensors of the model, which timm only logs, or holds NaN."""
    import torch

    from siamkit.model.weights import LISTED, read_tensors

    tensors = read_tensors(weights)
    for nest in ("state_dict", "model"):
        if isinstance(inner := tensors.get(nest), dict):
            tensors = inner
    names = {str(name).removeprefix("module.") for name in tensors}
    missing = [
        name
        for name, tensor in model.state_dict().items()
        if name not in names and not name.endswith("num_batches_tracked")
    ]
    if missing:
        more = f", and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise CheckpointError(
            f"lacks {len(missing)} of the model's tensors, which would stay random: "
            f"{', '.join(missing[:LISTED])}{more}",
            where=f"{where}: {weights}",
            hint="save the model with timm.models.save_for_hf",
        )
    values = [value for value in tensors.values() if isinstance(value, torch.Tensor)]
    if not all(bool(torch.isfinite(v).all()) for v in values if v.is_floating_point()):
        raise CheckpointError("holds NaN or infinity", where=f"{where}: {weights}")
