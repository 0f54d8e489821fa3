"""The identity of a prefix: all facts, apart from the image, that determine its output."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
    function or another factor in it leaves as they are. The hash covers the compiled methods, the
    class attributes and the functions that they call in the same module, the modules' attributes
    and forward hooks, and the versions of the packages; of the modules, those inside, and those
    around them.

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
    digest, teller = hashlib.sha256(), _Teller()
    kinds = sorted({type(module) for module in modules.values()}, key=_qualified)
    for package in sorted({"torch", *map(_package, kinds)}):
        digest.update(f"{package} {_version(package)}\n".encode())
    for kind in kinds:
        digest.update(f"{_qualified(kind)} {teller.of_class(kind)}\n".encode(errors="replace"))
    for name, module in modules.items():
        # Those of siamkit's own modules around the prefix say how its output is used.
        own = _package(type(module)) == "siamkit"
        for key, value in () if own else sorted(attributes(module).items()):
            digest.update(f"{name}.{key}={teller.of(value)}\n".encode(errors="replace"))
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            if not str(getattr(hook, "__module__", "")).startswith("siamkit."):
                digest.update(f"{name} {teller.of(hook)}\n".encode(errors="replace"))
    return digest.hexdigest()


_SMALL = 4096
"""The most values of a tensor in an attribute that are compared: larger ones are mostly what the
last forward stored."""


class _Teller:
    """Tells code and values as texts, which are the same in every process."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._functions: dict[FunctionType, str] = {}

    def of(self, value: Any) -> str:
        """Return the text of a value."""
        if isinstance(value, bool | int | float | str | None):
            return repr(value)
        if id(value) in self._open:
            return "itself"
        self._open.add(id(value))
        try:
            return self._inside(value)
        finally:
            self._open.discard(id(value))

    def _inside(self, value: Any) -> str:
        match value:
            case tuple() | list():
                return f"[{', '.join(map(self.of, value))}]"
            case set() | frozenset():
                return f"{{{', '.join(sorted(map(self.of, value)))}}}"
            case dict():
                items = (f"{self.of(key)}: {self.of(held)}" for key, held in value.items())
                return f"{{{', '.join(sorted(items))}}}"
            case Tensor() | np.ndarray():
                return _contents(value)
            case partial():
                return self.of((value.func, *value.args, *sorted(value.keywords.items())))
            case MethodType():
                return self.of((value.__func__, value.__self__))
            case FunctionType():
                if value not in self._functions:
                    text = self._of_function(value)
                    self._functions[value] = hashlib.sha256(
                        text.encode(errors="replace")
                    ).hexdigest()
                return self._functions[value]
            case SimpleNamespace():
                return self.of(vars(value))
        if is_dataclass(value) and not isinstance(value, type):
            return f"{_qualified(type(value))} {self.of(vars(value))}"
        return _qualified(value if isinstance(value, type | BuiltinFunctionType) else type(value))

    def of_class(self, kind: type) -> str:
        """Return the text of a class and its bases: their methods and plain attributes."""
        texts = []
        for base in kind.__mro__:
            for name, member in sorted(vars(base).items() if not _is_known(base) else ()):
                inside = member.fget if isinstance(member, property) else member
                if isinstance(inside, staticmethod | classmethod):
                    inside = inside.__func__
                if isinstance(inside, FunctionType):
                    texts.append(f"{name} {self.of(inside)}")
                elif isinstance(inside, _PLAIN) and not name.startswith("__"):
                    texts.append(f"{name} = {self.of(inside)}")
        return "\n".join(texts)

    def _of_function(self, function: FunctionType) -> str:
        """Return the text of a function, and of what it uses: defaults, closure, its module."""
        texts = [f"{_qualified(function)} {_compiled(function.__code__)}"]
        texts.append(self.of((function.__defaults__ or (), function.__kwdefaults__ or {})))
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # the cell is empty
                texts.append(self.of(cell.cell_contents))
        if (decorated := vars(function).get("__wrapped__")) is not None:
            texts.append(self.of(decorated))
        used = {} if _is_known(function) else function.__globals__
        for name in sorted(_names(function.__code__) & used.keys()):
            held = used[name]
            same = getattr(held, "__module__", None) == function.__module__
            if isinstance(held, _PLAIN) or (isinstance(held, FunctionType) and same):
                texts.append(f"{name} = {self.of(held)}")
        return "\n".join(texts)


_PLAIN = (bool, int, float, str, tuple, list, dict, set, frozenset, Tensor, np.ndarray)
_RELEASED = ("torch", "torchvision", "timm", "transformers", "numpy", "builtins")
"""Packages whose version says what their functions do."""


def _is_known(thing: Any) -> bool:
    """Return whether a version says what a class or a function does."""
    package = str(thing.__module__).partition(".")[0]
    return package in (_KNOWN if isinstance(thing, type) else _RELEASED)


def _contents(value: Tensor | NDArray[Any]) -> str:
    text = f"{value.dtype} {list(value.shape)}"
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return text
        if value.numel() <= _SMALL:
            return f"{text} {value.detach().cpu().tolist()}"
    elif value.size <= _SMALL and value.dtype.kind in "biufc":
        return f"{text} {value.tolist()}"
    return text


def _qualified(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _names(code: CodeType) -> set[str]:
    """Return the global names that a function's code and the code inside it may read."""
    inner = (_names(value) for value in code.co_consts if isinstance(value, CodeType))
    return set(code.co_names).union(*inner)


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
