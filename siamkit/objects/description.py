"""The description of an object: a hash of its code and settings that is equal in every process.

Memory addresses, counters of the process and the order of a set do not affect the hash.
"""

from __future__ import annotations

import copyreg
import hashlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from siamkit.model.names import unwrap
from siamkit.objects.source import global_names, is_framework, parts_of, text_of

_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, type(...))
_SCALARS = (int, float, complex, str, bytes)
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)
_BUILT_IN = (
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_OWN = frozenset(vars(nn.Module())) | {"_compiled_call_impl", "_is_torch_compile"}
_MANGLED = re.compile(r"___torch_mangle_\d+\.")
_DECLARED = re.compile(r"  (\w+) : ")


class Description:
    """Computes the hash of an object that a user passes. Use a new instance for each object.

    The hash covers:

    - the source of functions and of the methods of classes, with the values that they close over
      and their default arguments. Of the global variables that they read, it covers plain values,
      and functions and classes of the same module;
    - the attributes of objects, recursively, by value; arrays and tensors by their bytes;
    - the structure of modules and the shapes of their parameters and buffers. The values of
      parameters and buffers are left out, because a checkpoint restores them.

    Of code of Python, torch and siamkit, and of global functions and classes of other modules, the
    hash covers the name alone. It covers neither other global objects nor the state of objects that
    are written in C and cannot be pickled.
    """

    def __init__(self) -> None:
        self._done: dict[int, bytes] = {}
        self._open: dict[int, int] = {}
        self._alive: list[Any] = []  # keeps every object, so that no id is used twice
        self._numbers: dict[int, int] = {}
        self._weights: set[int] = set()

    def of(self, value: Any) -> bytes:
        """Return the hash of a value."""
        if type(value) in _PLAIN:
            return _hashed((type(value).__name__, repr(value)))
        key = id(value)
        if key in self._open:  # value contains itself: hash the levels between its two uses
            return _hashed(("cycle", str(len(self._open) - self._open[key])))
        if key not in self._done:
            self._alive.append(value)
            self._open[key] = len(self._open)
            self._done[key] = _hashed(self._parts(value))
            del self._open[key]
        return self._done[key]

    def _all(self, values: Iterable[Any]) -> Iterator[bytes]:
        return (self.of(value) for value in values)

    def _items(self, values: Mapping[str, Any]) -> Iterator[str | bytes]:
        """Yield attributes or keyword arguments, sorted by name since their order is arbitrary."""
        for name in sorted(values):
            yield name
            yield self.of(values[name])

    def _parts(self, value: Any) -> Iterable[str | bytes]:
        match value:
            case nn.Module():
                return self._module(unwrap(value))
            case Tensor():
                return self._tensor(value)
            case np.ndarray() | np.generic():
                return self._array(np.asarray(value))
            case types.FunctionType():
                return self._function(value)
            case types.MethodType():
                return ("method", self.of(value.__func__), self.of(value.__self__))
            case types.CodeType():
                return ("code", *self._all(parts_of(value)))
            case types.ModuleType():
                return ("python module", value.__name__)
            case partial():
                given = (*self._all(value.args), "keywords", *self._items(value.keywords))
                return ("partial", self.of(value.func), *given)
            case type():
                return self._class(value)
            case Enum():
                return ("enum", _name(type(value)), value.name)
        if isinstance(value, (*_TORCH, *_BUILT_IN)):
            return self._named(value)
        return self._object(value)

    def _named(self, value: Any) -> Iterator[str | bytes]:
        if isinstance(value, _TORCH):
            yield from ("torch", str(value))
            return
        yield from ("built in", _name(value))
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            yield self.of(owner)

    # --- code ------------------------------------------------------------------------------------

    def _function(self, function: types.FunctionType) -> Iterator[str | bytes]:
        inside = vars(function).get("_torchdynamo_orig_callable")
        if inside is not None:  # torch.compile
            yield self.of(inside)
            return
        yield from ("function", _name(function))
        code, module = function.__code__, str(function.__globals__.get("__name__"))
        known = is_framework(module)
        if not known:
            yield text_of(code) or self.of(code)
        for cell in function.__closure__ or ():
            try:
                yield self.of(cell.cell_contents)
            except ValueError:
                yield "empty"
        yield from self._all(function.__defaults__ or ())
        yield from self._items(function.__kwdefaults__ or {})
        yield from self._items(vars(function))
        for name in () if known else sorted(global_names(code) & function.__globals__.keys()):
            yield from self._global(name, function.__globals__[name], module)

    def _global(self, name: str, value: Any, module: str) -> Iterator[str | bytes]:
        """Yield the name and hash of a global variable that a function of ``module`` reads."""
        if isinstance(value, types.FunctionType | type):
            yield name
            yield self.of(value) if value.__module__ == module else _name(value)
        elif isinstance(value, partial) or _is_data(value, set()):
            yield name
            yield self.of(value)

    def _class(self, cls: type) -> Iterator[str | bytes]:
        yield from ("class", _name(cls))
        if is_framework(cls.__module__):
            return
        yield from self._all(cls.__bases__)
        for name, member in sorted(vars(cls).items()):
            special = name.startswith("__") and name.endswith("__")
            if isinstance(member, _SLOTS) or name == "_abc_impl":
                continue
            if not special or isinstance(member, types.FunctionType):
                yield name
                yield self.of(member)

    # --- values ----------------------------------------------------------------------------------

    def _tensor(self, tensor: Tensor) -> Iterator[str | bytes]:
        yield from _shape(tensor)
        # A checkpoint restores weights, and so the tensors that are computed from them.
        if tensor.grad_fn is None and _storage(tensor) not in self._weights:
            yield _bytes(tensor)

    def _array(self, array: np.ndarray[Any, Any]) -> Iterator[str | bytes]:
        yield from ("array", str(array.dtype), str(array.shape))
        if array.dtype.hasobject:
            yield from self._all(array.ravel().tolist())
        else:
            yield array.tobytes()

    def _object(self, value: Any) -> Iterator[str | bytes]:
        yield from ("object", self.of(type(value)))
        if isinstance(value, RemovableHandle):
            return  # it holds a counter of the process
        if isinstance(value, _SCALARS):
            base = next(kind for kind in _SCALARS if isinstance(value, kind))
            yield base.__repr__(value)
        elif isinstance(value, set | frozenset):
            # Sort by name first, because in a cycle a hash depends on earlier visits.
            yield from sorted(self._all(sorted(value, key=_rank)))
            yield "items"
        elif isinstance(value, list | tuple):
            yield from self._all(value)
            yield "items"
        elif isinstance(value, dict | types.MappingProxyType):
            for key, item in value.items():
                yield self.of(key)
                yield self.of(item)
            yield "items"
        elif _reduces(value):
            yield from self._reduced(value)
            return
        yield from self._items(_attributes(value))

    def _reduced(self, value: Any) -> Iterator[bytes]:
        """Yield what pickle would store of an object; nothing if pickling fails."""
        try:
            special = copyreg.dispatch_table.get(type(value))
            reduced = value.__reduce_ex__(4) if special is None else special(value)
            parts = [reduced] if isinstance(reduced, str) else list(reduced)
            parts = [*parts[:3], *(list(items or ()) for items in parts[3:5])]
        except Exception:  # the object's own code
            return
        yield from self._all(parts)
        inside = getattr(value, "__wrapped__", None)  # a cached function is pickled by its name
        if inside is not None:
            yield self.of(inside)

    # --- modules ---------------------------------------------------------------------------------

    def _module(self, module: nn.Module) -> Iterator[str | bytes]:
        if id(module) not in self._numbers:
            for inner in module.modules():
                self._weights.update(map(_storage, _saved(inner).values()))
        # The number distinguishes one module that is used twice from two equal modules.
        yield from ("module", self._number(module), self.of(type(module)))
        saved = _saved(module)
        for name, tensor in saved.items():
            yield from (name, self._number(tensor), *_shape(tensor))
        for name, buffer in module._buffers.items():
            if name not in saved:
                yield from (name, self.of(buffer))
        if isinstance(module, torch.jit.ScriptModule):
            yield from self._script(module)
        else:
            own = vars(module)
            yield from self._items({name: own[name] for name in own.keys() - _OWN})
            for name in sorted(_OWN & own.keys()):
                if name.endswith("hooks") and own[name]:
                    yield name
                    yield from self._all(own[name].values())
        for name, child in module._modules.items():
            yield name
            yield self.of(child)

    def _script(self, module: torch.jit.ScriptModule) -> Iterator[str | bytes]:
        code, constants = module._c.code_with_constants
        lines = _MANGLED.sub("", code).splitlines()
        declared = {match[1]: line for line in lines if (match := _DECLARED.match(line))}
        yield from sorted(declared.values())  # torch orders them as a set
        yield from (line for line in lines if not _DECLARED.match(line))
        yield from self._items(constants)
        names = declared.keys() - _OWN - _saved(module).keys() - set(module._modules.keys())
        yield from self._items({name: getattr(module, name, None) for name in names})

    def _number(self, value: Any) -> str:
        self._alive.append(value)
        return str(self._numbers.setdefault(id(value), len(self._numbers)))


def _hashed(parts: Iterable[str | bytes]) -> bytes:
    """Return the hash of some parts, each with its type and length."""
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode(errors="surrogatepass")
        digest.update(f"{type(part).__name__} {len(content)}\0".encode())
        digest.update(content)
    return digest.digest()


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None)}"


def _rank(value: Any) -> tuple[str, str]:
    plain = isinstance(value, _SCALARS)
    return type(value).__qualname__, repr(value) if plain else _name(value)


def _is_data(value: Any, inside: set[int]) -> bool:
    """Return whether a value is plain: numbers, text, arrays, tensors, and containers of them."""
    if isinstance(value, dict | list | tuple | set | frozenset):
        if id(value) in inside:
            return True
        inside.add(id(value))
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return all(_is_data(item, inside) for item in items)
    return isinstance(value, (*_PLAIN, *_SCALARS, *_TORCH, np.ndarray, np.generic, Enum)) or (
        isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    )


def _attributes(value: Any) -> dict[str, Any]:
    """Return the state of an object's own ``__getstate__``, or all attributes without one."""
    if _overrides(value, "__getstate__"):
        try:
            return {"state": value.__getstate__()}
        except Exception:  # the object's own code
            return {}
    attributes = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        for name, member in vars(cls).items():
            if isinstance(member, types.MemberDescriptorType) and hasattr(value, name):
                attributes[name] = getattr(value, name)
    return attributes


def _reduces(value: Any) -> bool:
    """Return whether only pickle can get an object's state, because no attributes hold it."""
    own = _overrides(value, "__reduce__") or _overrides(value, "__reduce_ex__")
    return own or type(value) in copyreg.dispatch_table or not _attributes(value)


def _overrides(value: Any, method: str) -> bool:
    return getattr(type(value), method) is not getattr(object, method)


def _saved(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers in a checkpoint of a module, without its children's."""
    tensors = {**module._parameters, **module._buffers}
    dropped = module._non_persistent_buffers_set
    return {name: t for name, t in tensors.items() if t is not None and name not in dropped}


def _shape(tensor: Tensor) -> tuple[str, ...]:
    shape = "not yet known" if is_lazy(tensor) else str(tuple(tensor.shape))
    return "tensor", shape, str(tensor.dtype), str(tensor.layout)


def _storage(tensor: Tensor) -> int:
    """Return a number for the memory of a tensor, or for the tensor if it has no memory."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except Exception:  # lazy, sparse and other special tensors
        return id(tensor)


def _bytes(tensor: Tensor) -> bytes:
    """Return a tensor's values as bytes; empty if it has no values, as on the device ``meta``."""
    try:
        dense = tensor.detach().dequantize() if tensor.is_quantized else tensor.detach()
        dense = dense if dense.layout == torch.strided else dense.to_dense()
        dense = dense.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return dense.view(torch.uint8).numpy().tobytes()
    except Exception:  # each kind of tensor has errors of its own
        return b""
