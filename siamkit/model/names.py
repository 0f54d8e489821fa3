"""Names behind wrappers, and the tensors that have more than one.

``DistributedDataParallel`` and ``DataParallel`` put ``module.`` before every name, and
``torch.compile`` puts ``_orig_mod.``. A *plain* name leaves them out, wherever in the tree they
stand, so that a tensor has one name whether its network is wrapped or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

_COMPILED = "_orig_mod"
_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)


def parent(name: str) -> str:
    """Return the name of the module or parameter that holds ``name``; '' is the root."""
    return name.rpartition(".")[0]


def join(prefix: str, name: str) -> str:
    """Return ``prefix.name``, either of which may be empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside ``DistributedDataParallel``, ``DataParallel``, ``torch.compile``."""
    while (inner := _inside(module)) is not None:
        module = inner
    return module


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield each module once with its plain name, as ``module.named_modules()`` orders them.

    Wrappers are left out, the modules inside them are not.
    """
    yield from _walk(module, "", set())


def named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield each parameter once with its plain name."""
    seen: set[int] = set()
    for prefix, m in named_modules(module):
        for name, parameter in m.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                yield join(prefix, name), parameter


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers by plain name; a tied one under its first name alone."""
    buffers = {
        join(prefix, name): buffer
        for prefix, m in named_modules(module)
        for name, buffer in m.named_buffers(recurse=False)
    }
    return {**dict(named_parameters(module)), **buffers}


def tied_parameters(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the parameters that have several names: the name that counts, and the other ones.

    The name that counts is the one that ``named_parameters`` gives.

    Args:
        module: The network.

    Returns:
        The other names by the name that counts; nothing where no parameter is tied.
    """
    names: dict[int, list[str]] = {}
    for prefix, m in _walk(module, "", None):
        for name, parameter in m.named_parameters(recurse=False, remove_duplicate=False):
            names.setdefault(id(parameter), []).append(join(prefix, name))
    return {first: tuple(others) for first, *others in names.values() if others}


@dataclass(frozen=True)
class Names:
    """Any name of a module or parameter to the plain one that counts."""

    plain: Mapping[str, str]

    @classmethod
    def of(cls, module: nn.Module) -> Names:
        """Return the names of a network: plain, behind wrappers, and of tied parameters."""
        inner = unwrap(module)
        plain = {
            other: name for name, others in tied_parameters(module).items() for other in others
        }
        # What stands behind a wrapper within, under the name that torch gives it.
        wrapped = {id(m): name for name, m in named_modules(module)}
        for name, m in inner.named_modules():
            if (known := wrapped.get(id(unwrap(m)))) is not None and known != name:
                plain[name] = known
                for key, _ in unwrap(m).named_parameters(recurse=False):
                    plain[join(name, key)] = join(known, key)
        for name, _ in named_modules(module):
            plain.setdefault(name, name)
        for name, _ in named_parameters(module):
            plain.setdefault(name, name)
        return cls(plain)

    def __getitem__(self, name: str) -> str:
        """Return the plain name for ``name``; one that is not the network's comes back as it is."""
        shorter = ".".join(part for part in name.split(".") if part != _COMPILED)
        for candidate in (name, shorter, shorter.removeprefix("module.")):
            if candidate in self.plain:
                return self.plain[candidate]
        return name


def _inside(module: nn.Module) -> nn.Module | None:
    if isinstance(module, _PARALLEL):
        inside: nn.Module = module.module
        return inside
    # Not by its class: importing that costs a second.
    return module.get_submodule(_COMPILED) if _COMPILED in module._modules else None


def _walk(module: nn.Module, prefix: str, seen: set[int] | None) -> Iterator[tuple[str, nn.Module]]:
    module = unwrap(module)
    if seen is not None:
        if id(module) in seen:
            return
        seen.add(id(module))
    yield prefix, module
    for key, child in module._modules.items():
        if child is not None:
            yield from _walk(child, join(prefix, key), seen)
