"""The boundary: the end of a network's frozen prefix.

Before the boundary, the network is a fixed function of the image. No parameter trains there. Every
norm, dropout and drop-path module is held in eval mode, so no buffer changes. The input needs no
gradient. So the output at the boundary can be computed once per image and view (an augmented
version of the image).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from siamkit.freezing.hold import is_held
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.names import named_modules, named_parameters, parent, submodule
from siamkit.model.reading import READER
from siamkit.model.trace import watch

FEATURES = "features"
"""The name of the boundary after the whole backbone, at its pooled features ``[N, D]``."""

_FEATURES = ("backbone", READER)
"""The modules of a SiameseNet that return what the head reads."""


@dataclass(frozen=True)
class Boundary:
    """The end of a frozen prefix.

    Attributes:
        name: The name of the prefix's last stage or block, or of a module around several stages, or
            :data:`FEATURES`.
        module: The module whose output is at the boundary.
        units: Names of the stages or blocks in the prefix, stem first.
        modules: The network's modules that make up the prefix, in execution order.
        parameters: The network's parameters in the prefix.
    """

    name: str
    module: str
    units: tuple[str, ...]
    modules: tuple[str, ...]
    parameters: tuple[str, ...]

    @property
    def is_features(self) -> bool:
        """Whether the prefix is the whole backbone of a SiameseNet."""
        return self.module in _FEATURES  # not by name: a stage may be called "features" too

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the prefix's modules and of the boundary's module, each once."""
        return tuple(dict.fromkeys((*self.modules, self.module)))


def find_boundaries(
    net: nn.Module, stages: Sequence[Stage], plan: FreezePlan
) -> tuple[Boundary, ...]:
    """Return the possible boundaries under the plan that was applied to ``net``, deepest first.

    There is a boundary after each stage and block at the frozen start of the network. A module that
    contains such stages or blocks gives a deeper boundary if it is completely frozen and held in
    eval mode. Operations at the end of its forward, such as pooling and flattening, then lie before
    the boundary. A boundary is only possible, not proven: :func:`siamkit.engine.first_exact_cut`
    finds the first one at which the cut network equals the whole one.

    Args:
        net: The network, with ``plan`` applied.
        stages: The network's stages, as the policy sees them.
        plan: The plan.
    """
    # By identity: a module or parameter that is shared has several names.
    name_of = {id(p): name for name, p in named_parameters(net)}
    frozen: list[Stage] = []
    boundaries: list[Boundary] = []
    for stage in stages:
        for unit in stage.blocks or (stage,):
            trains = plan.trainable.intersection(unit.parameters)
            if trains or not all(_is_fixed(net, name) for name in unit.modules):
                return _deepest_first(boundaries)
            frozen.append(unit)
            if unit.output is None:
                continue
            name = stage.name if not stage.blocks or unit is stage.blocks[-1] else unit.name
            title = FEATURES if unit.output in _FEATURES else name
            boundaries.append(_boundary(title, unit.output, frozen))
            before = {p for u in frozen for p in u.parameters}
            for module in _around(unit.output):
                inside = {name_of[id(p)] for p in submodule(net, module).parameters()}
                if not before.issuperset(inside) or not _is_fixed(net, module):
                    break
                if not _adds_to_its_parts(submodule(net, module)):
                    continue
                within = set(stage.parameters).issuperset(inside)
                title = name if within else FEATURES if module in _FEATURES else module
                boundaries.append(_boundary(title, module, frozen))
    return _deepest_first(boundaries)


def row_elements(
    net: nn.Module, boundaries: Sequence[Boundary], image: Tensor
) -> tuple[int | None, ...]:
    """Return, for each boundary, the number of values in its module's output for one image.

    The number is None if the output holds no tensor or the module never runs. If several tensors
    cross the boundary (such as skip connections), a cached row holds more values than this number.

    Args:
        net: The network.
        boundaries: The boundaries.
        image: One image ``[1, C, H, W]``.
    """
    elements: dict[str, int] = {}

    def note(name: str, output: object) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        if tensors:
            elements[name] = sum(tensor.numel() for tensor in tensors)

    watch(net, (b.module for b in boundaries), partial(net, image), note)
    return tuple(elements.get(boundary.module) for boundary in boundaries)


def _deepest_first(boundaries: Sequence[Boundary]) -> tuple[Boundary, ...]:
    """Return the boundaries, deepest first. Per module, only the deepest boundary is kept."""
    kept: dict[str, Boundary] = {}
    for boundary in reversed(boundaries):
        kept.setdefault(boundary.module, boundary)
    return tuple(kept.values())


def _around(module: str) -> Iterator[str]:
    """Yield the names of the modules around ``module``, innermost first, without the root."""
    while module := parent(module):
        yield module


def _boundary(name: str, module: str, units: Sequence[Stage]) -> Boundary:
    return Boundary(
        name,
        module,
        tuple(unit.name for unit in units),
        tuple(m for unit in units for m in unit.modules),
        tuple(p for unit in units for p in unit.parameters),
    )


def _is_fixed(net: nn.Module, name: str) -> bool:
    """Return whether a module and all modules in it are held in eval mode."""
    return all(is_held(module) for _, module in named_modules(submodule(net, name)))


def _adds_to_its_parts(module: nn.Module) -> bool:
    """Return whether a module's own forward may change the output of its last child."""
    called = type(module).forward is not nn.Module.forward
    return called and not isinstance(module, nn.Sequential)
