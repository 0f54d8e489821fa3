"""Where the frozen prefix of a network ends.

Before the boundary the network is a fixed function of the image: no parameter trains, every norm,
dropout and drop-path module is held in eval mode, so no buffer changes either, and nothing asks for
a gradient of the input. Its output can be computed once per image and view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from siamkit.freezing.hold import is_held
from siamkit.interfaces import HEAD, FreezePlan, Stage
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import watch

FEATURES = "features"
"""The boundary behind the whole backbone: its pooled features ``[N, D]``."""

_BACKBONE = "backbone"


@dataclass(frozen=True)
class Boundary:
    """The end of a frozen prefix.

    Attributes:
        name: The stage or block that comes last in the prefix, or :data:`FEATURES`.
        module: The module of the network whose output is kept.
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
        """Whether the prefix is the whole backbone."""
        return self.module == _BACKBONE  # by the module: a stage may be called "features" too


def find_boundaries(
    net: SiameseNet, stages: Sequence[Stage], plan: FreezePlan
) -> tuple[Boundary, ...]:
    """Return the possible boundaries under the plan that was applied to ``net``, deepest first.

    The first one that passes its self-test (:mod:`siamkit.engine.cut`) is the one to use:
    in some networks branches cross a boundary, so that its output alone is not enough.

    Args:
        net: The network, with ``plan`` applied.
        stages: Its stages, as the policy sees them.
        plan: The plan.
    """
    held = {name for name, module in net.named_modules() if is_held(module)}
    return boundaries_of(stages, plan, lambda name: _holds(net, name, held))


def boundaries_of(
    stages: Sequence[Stage], plan: FreezePlan, fixed: Callable[[str], bool] = lambda _: True
) -> tuple[Boundary, ...]:
    """Return the possible boundaries of a plan, deepest first. Pure.

    Args:
        stages: The network's stages, stem first.
        plan: The plan.
        fixed: Tells whether a module, everything in it included, stays in eval mode.
    """
    backbone = [stage for stage in stages if stage.name != HEAD]
    units = [unit for stage in backbone for unit in (stage.blocks or (stage,))]
    frozen: list[Stage] = []
    for unit in units:
        if plan.trainable.intersection(unit.parameters) or not all(map(fixed, unit.modules)):
            break
        frozen.append(unit)
    ends = [n for n in range(len(frozen), 0, -1) if frozen[n - 1].output is not None]
    found = [
        _boundary(_stage_ending_at(backbone, unit), unit.output or "", frozen[:end])
        for end in ends
        for unit in frozen[end - 1 : end]
    ]
    if frozen and len(frozen) == len(units):
        found.insert(0, _boundary(FEATURES, _BACKBONE, frozen))
    return tuple(found)


def row_elements(
    net: SiameseNet, boundaries: Sequence[Boundary], image: Tensor
) -> tuple[int | None, ...]:
    """Return how many values one image has at each boundary; None where that is no tensor.

    Args:
        net: The network.
        boundaries: The boundaries.
        image: One image ``[1, C, H, W]``.
    """
    found: dict[str, int] = {}

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            found[name] = output.numel()

    watch(net, (b.module for b in boundaries), partial(net, image), note)
    return tuple(found.get(boundary.module) for boundary in boundaries)


def _boundary(name: str, module: str, units: Sequence[Stage]) -> Boundary:
    return Boundary(
        name,
        module,
        tuple(unit.name for unit in units),
        tuple(m for unit in units for m in unit.modules),
        tuple(p for unit in units for p in unit.parameters),
    )


def _stage_ending_at(stages: Sequence[Stage], unit: Stage) -> str:
    """Return the name of the stage whose last block ``unit`` is, or of ``unit`` itself."""
    return next((s.name for s in stages if s.blocks and s.blocks[-1] is unit), unit.name)


def _holds(net: nn.Module, name: str, held: set[str]) -> bool:
    return all(
        (f"{name}.{inner}" if inner else name) in held
        for inner, _ in net.get_submodule(name).named_modules()
    )
