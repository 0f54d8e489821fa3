"""The identity of a prefix: all facts, apart from the image, that determine its output."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.engine.cutting import Cut
from siamkit.freezing.controller import FreezeController
from siamkit.model.machine import this_machine
from siamkit.model.names import join, named_modules, parent, submodule
from siamkit.model.undisturbed import attributes

_KNOWN = ("torch", "builtins")
"""Packages whose version says what their code does."""


def describe(
    controller: FreezeController, cut: Cut, dtype: torch.dtype, numerics: str
) -> dict[str, Any]:
    """Return, as JSON values, what determines a cached row apart from the image and its view.

    These are the prefix's weights, buffers, structure, code and boundary, and the arithmetic.

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
        "code": code_of(cut.net, boundary.names),
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
    }


def code_of(net: nn.Module, names: Iterable[str]) -> str:
    """Return a hash of the code of some modules' classes, and of the modules' attributes.

    Modules are compared by their reprs elsewhere, which an edited forward, another activation
    function or another factor in it leaves as they are. The hash covers the compiled methods, and
    attributes that are plain values or functions; of the modules, those inside, and those around
    them.

    Args:
        net: The network.
        names: The names of the modules.
    """
    every = set(names)
    for name in names:
        every |= {join(name, inner) for inner, _ in named_modules(submodule(net, name))}
        while name:
            name = parent(name)
            every.add(name)
    modules = {name: submodule(net, name) for name in sorted(every)}
    digest = hashlib.sha256()
    for kind in sorted({type(module) for module in modules.values()}, key=_qualified):
        digest.update(f"{_qualified(kind)} {_methods(kind)}\n".encode(errors="replace"))
    for name, module in modules.items():
        # Those of siamkit's own modules around the prefix say how its output is used.
        own = _package(type(module)) == "siamkit"
        for key, value in () if own else sorted(attributes(module).items()):
            digest.update(f"{name}.{key}={_told(value)}\n".encode(errors="replace"))
    return digest.hexdigest()


def _told(value: Any) -> str:
    """Return a text for an attribute, which is the same in every process."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_told, value))}]"
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if isinstance(value, partial):
        return _told((value.func, *value.args, *sorted(value.keywords.items())))
    if isinstance(value, FunctionType):
        return f"{_qualified(value)} {_compiled(value.__code__)}"
    return _qualified(value if isinstance(value, type | BuiltinFunctionType) else type(value))


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _methods(kind: type) -> str:
    """Return the compiled methods of a class and its bases; torch's are known by its version."""
    texts = []
    for base in kind.__mro__:
        for name, member in sorted(vars(base).items() if _package(base) not in _KNOWN else ()):
            inside = member.fget if isinstance(member, property) else member
            if isinstance(inside, staticmethod | classmethod):
                inside = inside.__func__
            while isinstance(inside, FunctionType):  # a decorated method, then what it decorates
                texts.append(f"{name} {_compiled(inside.__code__)}")
                inside = vars(inside).get("__wrapped__")
    return "\n".join(texts)


def _compiled(code: CodeType) -> str:
    constants = []
    for value in code.co_consts:
        if isinstance(value, CodeType):
            constants.append(_compiled(value))
        else:  # the order of a set differs between processes
            constants.append(
                repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)
            )
    return f"{code.co_code.hex()} {code.co_names} {', '.join(constants)}"
