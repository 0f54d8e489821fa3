"""Plain names: names of modules and tensors without wrappers, and one name for tied tensors.

``DistributedDataParallel`` and ``DataParallel`` add ``module.`` before every name, and
``torch.compile`` adds ``_orig_mod.``. A *plain* name leaves out these words at every level of the
tree of modules, so a tensor has the same plain name with and without wrappers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_COMPILED = "_orig_mod"
_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def parent(name: str) -> str:
    """Return the name of the module or parameter that holds ``name``; '' is the root."""
    return name.rpartition(".")[0]


def join(prefix: str, name: str) -> str:
    """Return ``prefix.name``. If one of the two is empty, return the other."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside ``DistributedDataParallel``, ``DataParallel``, ``torch.compile``."""
    while (inner := _inside(module)) is not None:
        module = inner
    return module


def submodule(module: nn.Module, name: str) -> nn.Module:
    """Return the module with a plain name, without wrappers. The name '' is the network itself.

    Raises:
        AttributeError: No module has this name.
    """
    inside = unwrap(module)
    for part in name.split(".") if name else ():
        inside = unwrap(getattr(inside, part))  # get_submodule fails inside TorchScript
    return inside


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield each module once with its plain name, in the order of ``module.named_modules()``.

    Wrappers are left out; the modules inside wrappers are not.
    """
    yield from _walk(module, "", set())


def places(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield each module with each of its plain names: a module used in two places has two."""
    yield from _walk(module, "", None)


def named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield each parameter once with its plain name."""
    yielded: set[int] = set()
    for prefix, m in named_modules(module):
        for name, parameter in m.named_parameters(recurse=False):
            if id(parameter) not in yielded:
                yielded.add(id(parameter))
                yield join(prefix, name), parameter


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers by plain name; a tied parameter by its first name only."""
    buffers = {
        join(prefix, name): buffer
        for prefix, m in named_modules(module)
        for name, buffer in m.named_buffers(recurse=False)
    }
    return {**dict(named_parameters(module)), **buffers}


def tied_parameters(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the parameters that several modules share, with all their names.

    A module that is used in several places (as in ALBERT) is one module, so its parameters do not
    count as shared.

    Args:
        module: The network.

    Returns:
        For each tied parameter, by its name in :func:`named_parameters`, the other names; empty if
        no parameter is tied.
    """
    return _several(named_modules(module))


@dataclass(frozen=True)
class Names:
    """A map from any name of a module or parameter to the plain name.

    Attributes:
        plain: The plain name of each known name.
    """

    plain: Mapping[str, str]

    @classmethod
    def of(cls, module: nn.Module) -> Names:
        """Return the names of a network: plain names, names with wrappers, and tied names."""
        everywhere = list(places(module))
        tied = {o: name for name, others in _several(everywhere).items() for o in others}
        known = {id(m): name for name, m in named_modules(module)}
        # Both plain names and the names that torch gives to modules inside wrappers are known.
        plain: dict[str, str] = {}
        for name, m in (*unwrap(module).named_modules(), *everywhere):
            inside = unwrap(m)
            plain[name] = known[id(inside)]
            for key, _ in inside.named_parameters(recurse=False, remove_duplicate=False):
                own = join(known[id(inside)], key)
                plain[join(name, key)] = tied.get(own, own)
        return cls(plain)

    def __getitem__(self, name: str) -> str:
        """Return the plain name for ``name``; an unknown name is returned unchanged."""
        shorter = ".".join(part for part in name.split(".") if part != _COMPILED)
        for candidate in (name, shorter, shorter.removeprefix("module.")):
            if candidate in self.plain:
                return self.plain[candidate]
        return name


def _several(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, tuple[str, ...]]:
    names: dict[int, list[str]] = {}
    for prefix, m in modules:
        for name, parameter in m.named_parameters(recurse=False, remove_duplicate=False):
            names.setdefault(id(parameter), []).append(join(prefix, name))
    return {first: tuple(others) for first, *others in names.values() if others}


def _inside(module: nn.Module) -> nn.Module | None:
    if isinstance(module, _PARALLEL):
        inside: nn.Module = module.module
        return inside
    # torch.compile's wrapper is found by its attribute, because importing its class takes a second.
    return module.get_submodule(_COMPILED) if _COMPILED in module._modules else None


def _walk(
    module: nn.Module, prefix: str, visited: set[int] | None
) -> Iterator[tuple[str, nn.Module]]:
    """Yield modules with plain names; with ``visited``, each module only once."""
    module = unwrap(module)
    if visited is not None:
        if id(module) in visited:
            return
        visited.add(id(module))
    yield prefix, module
    for key, child in module._modules.items():
        if child is not None:
            yield from _walk(child, join(prefix, key), visited)
