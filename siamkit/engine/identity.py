"""The identity of a prefix: all facts, apart from the image, that determine its output."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.engine.cutting import Cut
from siamkit.freezing.controller import FreezeController
from siamkit.model.machine import this_machine
from siamkit.model.names import named_modules, parent, submodule


def describe(
    controller: FreezeController, cut: Cut, dtype: torch.dtype, numerics: str
) -> dict[str, Any]:
    """Return, as JSON values, what determines a cached row apart from the image and its view.

    These are the prefix's weights, buffers, structure and boundary, and the arithmetic.

    Args:
        controller: The controller that froze the network.
        cut: The cut network.
        dtype: The type of the rows.
        numerics: The name of the kernels' arithmetic
            (:func:`siamkit.engine.kernels.kernel_class`).
    """
    boundary = cut.boundary
    weights = hashlib.sha256()
    for name, fingerprint in sorted(prefix_fingerprints(controller, cut).items()):
        weights.update(f"{name}={fingerprint}\n".encode())
    structure = hashlib.sha256()
    for name in (*boundary.modules, boundary.module):
        structure.update(f"{name}: {submodule(controller.net, name)!r}\n".encode())
    return {
        "boundary": boundary.name,
        "module": boundary.module,
        "holds": cut.frontier.describe(),
        "dtype": str(dtype).removeprefix("torch."),
        "weights": weights.hexdigest(),
        "structure": structure.hexdigest(),
        "numerics": numerics,
    }


def describe_speed(description: Mapping[str, Any], image: Tensor) -> dict[str, Any]:
    """Return, as JSON values, what the speed of a prefix depends on: not on its weights.

    Args:
        description: The prefix, as :func:`describe` returns it.
        image: Images ``[N, C, H, W]`` of the shape that it runs on.
    """
    return {
        **{name: description[name] for name in ("module", "structure", "numerics")},
        "image": list(image.shape[1:]),
        "machine": asdict(this_machine()),
        "device": str(image.device),
        "libraries": {name: _version(name) for name in ("torch", "onnxruntime")},
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def prefix_fingerprints(controller: FreezeController, cut: Cut) -> dict[str, str]:
    """Return the fingerprints of all frozen tensors except those of stages after the boundary."""
    units = [unit for stage in controller.stages for unit in (stage.blocks or (stage,))]
    later = [unit for unit in units if unit.name not in cut.boundary.units]
    behind = {name for unit in later for name in unit.parameters}
    inside = tuple(f"{name}." for unit in later for name in unit.modules)
    return {
        name: fingerprint
        for name, fingerprint in controller.fingerprints.items()
        if name not in behind and not name.startswith(inside)
    }


def describe_network(cut: Cut, image: Tensor) -> dict[str, Any]:
    """Return further facts that determine a cached row, as JSON values.

    They identify a network that was not built from a siamkit config.

    Args:
        cut: The cut network.
        image: An image ``[1, C, H, W]`` of the shape that rows are computed from.
    """
    return {
        "backbone": type(cut.net).__name__,
        "image": list(image.shape[1:]),
        "image_size": list(image.shape[-2:]),
        "code": _code(cut),
    }


def _code(cut: Cut) -> str:
    """Return a hash of the source code of the prefix's classes and of the modules around them.

    The prefix's structure is compared by the modules' reprs, which an edited forward leaves as
    they are.
    """
    names = set(cut.boundary.names)
    for name in cut.boundary.names:
        names |= {f"{name}.{inner}" for inner, _ in named_modules(submodule(cut.net, name))}
        while name:
            name = parent(name)
            names.add(name)
    classes = {type(submodule(cut.net, name.rstrip("."))) for name in names}
    digest = hashlib.sha256()
    for kind in sorted(classes, key=_qualified):
        if kind.__module__.partition(".")[0] != "torch":
            digest.update(f"{_qualified(kind)}\n{_source(kind)}\n".encode(errors="replace"))
    return digest.hexdigest()


def _qualified(kind: type[nn.Module]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _source(kind: type[nn.Module]) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # defined in an interactive session
        return ""
