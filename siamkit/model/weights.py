"""Weights files: loads them into a module strictly, without running code from the file."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from siamkit.errors import CheckpointError
from siamkit.files import require_unicode
from siamkit.interfaces import Backbone
from siamkit.model.backbone import WrappedBackbone
from siamkit.model.names import parent

_Tensors = dict[str, Tensor]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""The suffixes of weights files."""

LISTED = 10
"""An error lists this many mismatches of each kind, and states the number of further ones."""

_NESTS = ("state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.", "backbone.", "model.")
_KINDS = ("TorchScript", "legacy .tar")
_ADVICE = re.compile(r"weights_only|torch\.load|safe_globals|trust|file an issue|Weights only load")
_OWN_PREFIX = "backbone.model."
_OWN_MODEL, _OWN_FROZEN = "model.safetensors", "frozen.safetensors"
_CLASSIFIERS = ("fc", "classifier", "head", "head_dist", "head.fc", "last_linear", "classif")


def load_exactly(
    module: nn.Module, tensors: Mapping[str, Tensor], where: str, hint: str | None = None
) -> None:
    """Load tensors into a module, in place.

    The names and shapes must be those of the module's own tensors. The module's tensors take on the
    types of the loaded ones.

    Args:
        module: The module.
        tensors: The tensors by name.
        where: The file or folder that the tensors are from, for errors.
        hint: The next step, for errors.

    Raises:
        CheckpointError: A tensor is missing, left over, or of another shape.
    """
    target = module.state_dict(keep_vars=True)
    missing = sorted(target.keys() - tensors.keys())
    extra = sorted(tensors.keys() - target.keys())
    shapes = [k for k in target.keys() & tensors.keys() if target[k].shape != tensors[k].shape]
    if missing or extra or shapes:
        lists = (("missing", missing), ("left over", extra), ("of another shape", sorted(shapes)))
        text = "; ".join(
            f"{len(names)} {what}: {', '.join(names[:5])}" for what, names in lists if names
        )
        what = f"the tensors do not fit the module ({text})"
        raise CheckpointError(what, where=where, hint=hint)
    for name, tensor in target.items():
        if tensor.dtype != tensors[name].dtype:  # for example, in half precision
            tensor.data = tensor.data.to(tensors[name].dtype)
    module.load_state_dict(tensors)


def load_net_tensors(net: nn.Module, saved: Mapping[str, Tensor], where: str) -> None:
    """Load the network's tensors of a checkpoint. The loss's tensors, under ``loss.``, are ignored.

    Raises:
        CheckpointError: The tensors do not fit the network.
    """
    own = {name: tensor for name, tensor in saved.items() if not name.startswith("loss.")}
    hint = "the network must have the same tensors whenever it is built: register them in __init__"
    load_exactly(net, own, where, hint)


def load_backbone_weights(backbone: Backbone, path: Path) -> None:
    """Load a weights file into ``backbone``, in place.

    The file must hold every tensor of the backbone, with the same name and shape; otherwise, the
    backbone is not changed. A classifier in the file is ignored. If the backbone takes another
    number of image channels, the first convolution is converted as timm does.

    Args:
        backbone: The backbone, of the same architecture as the file.
        path: A ``.safetensors`` file, or a ``.pth``, ``.pt`` or ``.bin`` file that holds tensors
            only. The file holds a plain state dict, or a state dict under ``state_dict`` or
            ``model``. Names may have the prefixes of DistributedDataParallel, ``torch.compile`` and
            siamkit's own checkpoints.

    Raises:
        CheckpointError: The file is missing, damaged, holds code, or belongs to another model.
    """
    module = backbone.model if isinstance(backbone, WrappedBackbone) else backbone
    target = module.state_dict()
    state = _strip(_unwrap(read_tensors(path), path), target)
    state = _drop_extras(state, target, module)
    # This counter of batches is not used. Safetensors converters and old files leave it out.
    state = {k: v for k, v in target.items() if k.endswith("num_batches_tracked")} | state
    state = {key: _fit_channels(value, target.get(key)) for key, value in state.items()}
    _check(state, target, path)
    module.load_state_dict(state, strict=True)


def files_of(path: Path) -> tuple[Path, ...]:
    """Return the files that hold the weights at ``path``.

    A siamkit checkpoint stores frozen tensors in another file, so ``model.safetensors`` of a
    checkpoint stands for both files.
    """
    frozen = path.with_name(_OWN_FROZEN)
    return (frozen, path) if path.name == _OWN_MODEL and frozen.is_file() else (path,)


def read_tensors(path: Path) -> Mapping[str, Any]:
    """Return the content of a weights file, read without running code from it.

    Raises:
        CheckpointError: The file cannot be read, or is not a weights file.
        ConfigError: The path is not valid Unicode.
    """
    if not path.is_file():
        what = "is a folder, not a weights file" if path.is_dir() else "no such weights file"
        raise CheckpointError(what, where=str(path))
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CheckpointError(
            "not a weights file", where=str(path), got=path.suffix, allowed=", ".join(SUFFIXES)
        )
    if suffix == ".safetensors":
        require_unicode(path)
    try:
        if suffix == ".safetensors":
            return {name: t for file in files_of(path) for name, t in load_file(file).items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about an old file's pickle protocol
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "refused, because the file holds more than tensors and reading it could run code "
            f"({_reason(error)})",
            where=str(path),
            hint="save only the state dict, preferably as .safetensors",
        ) from None
    except Exception as error:  # a damaged file can raise any exception
        raise CheckpointError(
            f"the weights file is damaged or cannot be read: {_reason(error)}", where=str(path)
        ) from None
    if not isinstance(content, Mapping):
        raise CheckpointError("must hold a state dict", where=str(path), got=type(content).__name__)
    return content


def _reason(error: Exception) -> str:
    """Return why torch could not read a file, without its advice to run the file's code."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {found[1]}"
    if kind := next((kind for kind in _KINDS if kind in text), None):
        return f"it is a {kind} file"
    sentences = (part.strip() for part in re.split(r"(?<=\.)\s+|\n", text))
    readable = [part.rstrip(".") for part in sentences if re.search("[A-Za-z]{3}", part)]
    return next((part for part in readable if not _ADVICE.search(part)), type(error).__name__)


def _unwrap(content: Mapping[str, Any], path: Path) -> _Tensors:
    for nest in _NESTS:
        inner = content.get(nest)
        if isinstance(inner, Mapping) and not _is_state(content):
            return _unwrap(inner, path)
    if not _is_state(content):
        raise CheckpointError(
            "holds no state dict",
            where=str(path),
            got=", ".join(map(str, list(content)[:LISTED])) or "nothing",
            allowed=f"tensors by name, or a state dict under {' or '.join(_NESTS)}",
        )
    return dict(content)


def _is_state(content: Mapping[str, Any]) -> TypeGuard[Mapping[str, Tensor]]:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def _strip(state: _Tensors, target: Mapping[str, Tensor]) -> _Tensors:
    """Return ``state`` without the name prefixes of wrappers that the backbone does not have."""
    own = {k.removeprefix(_OWN_PREFIX): v for k, v in state.items() if k.startswith(_OWN_PREFIX)}
    if own:
        return own  # a siamkit checkpoint, without its head
    for prefix in _WRAPPERS:
        wrapped = all(key.startswith(prefix) for key in state)
        if wrapped and not any(key.startswith(prefix) for key in target):
            return _strip({key.removeprefix(prefix): v for key, v in state.items()}, target)
    return state


def _drop_extras(state: _Tensors, target: Mapping[str, Tensor], module: nn.Module) -> _Tensors:
    """Return ``state`` without the classifier, and without buffers that the module computes."""
    config: Any = getattr(module, "pretrained_cfg", None) or {}
    named = config.get("classifier") or ()
    classifiers = {*_CLASSIFIERS, *((named,) if isinstance(named, str) else named)}
    heads = {name.partition(".")[0] for name in classifiers}
    computed = {name for name, _ in module.named_buffers()}

    def extra(key: str) -> bool:
        if key in target:
            return False
        # If timm leaves out a classifier, an Identity is in its place.
        headless = key.partition(".")[0] in heads and isinstance(_holder(module, key), nn.Identity)
        return parent(key) in classifiers or headless or key in computed

    return {key: value for key, value in state.items() if not extra(key)}


def _holder(module: nn.Module, key: str) -> nn.Module:
    """Return the innermost module on the path of ``key`` that exists."""
    for part in key.split("."):
        inner = module._modules.get(part)
        if inner is None:
            break
        module = inner
    return module


def _fit_channels(value: Tensor, like: Tensor | None) -> Tensor:
    if like is None or value.ndim != 4 or like.ndim != 4 or value.shape == like.shape:
        return value
    same_but_channels = value.shape[0] == like.shape[0] and value.shape[2:] == like.shape[2:]
    if not same_but_channels or value.shape[1] != 3 or like.shape[1] > 4:
        return value
    return adapt_input_conv(like.shape[1], value)


def _check(state: Mapping[str, Tensor], target: Mapping[str, Tensor], path: Path) -> None:
    shapes = [
        f"{key} {list(state[key].shape)} for {list(value.shape)}"
        for key, value in target.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        _list("missing", [key for key in target if key not in state]),
        _list("unexpected", [key for key in state if key not in target]),
        _list("of another shape", shapes),
    ]
    if any(problems):
        fits = sum(key in state and state[key].shape == v.shape for key, v in target.items())
        raise CheckpointError(
            f"the weights do not fit this backbone: the file has {fits} of its {len(target)} "
            "tensors" + "".join(problems),
            where=str(path),
        )


def _list(kind: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    more = f", and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return f"\n  {len(items)} {kind}: {', '.join(items[:LISTED])}{more}"
