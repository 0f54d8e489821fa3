"""The only code that changes what trains. It acts between optimizer steps.

Order matters, and each step answers a known trap: gradients are dropped (not zeroed) before
anything changes, so that a parameter that is frozen now cannot move by a stale gradient, momentum
or weight decay; every flag is set anew each time, so applying a plan is idempotent and resuming
needs no memory of earlier phases; modules are never swapped, so the optimizer's parameters stay
the network's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from siamkit.freezing import proof
from siamkit.freezing.hold import hold, release
from siamkit.freezing.schedule import StageStatus, norm_mode, status
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.grouping import is_norm
from siamkit.model.siamese import SiameseNet


@dataclass(frozen=True)
class Change:
    """What a plan changed in one stage; ``was`` is None where no plan was applied before."""

    now: StageStatus
    was: StageStatus | None


class FreezeController:
    """Applies plans to a network, and proves that frozen tensors stay as they were.

    Args:
        net: The network.
        stages: Its stages, as the policy sees them.
    """

    def __init__(self, net: SiameseNet, stages: Sequence[Stage]) -> None:
        self.net = net
        self.stages = tuple(stages)
        self.sizes = {name: p.numel() for name, p in net.named_parameters()}
        self.plan: FreezePlan | None = None
        self.fingerprints: dict[str, str] = {}
        self._units = tuple(unit for stage in stages for unit in (stage.blocks or (stage,)))
        self._stage_of = {
            unit.name: stage for stage in stages for unit in (stage.blocks or (stage,))
        }
        self._owner = _owners(net, self.stages, self._units)

    def apply(self, plan: FreezePlan) -> tuple[Change, ...]:
        """Carry out ``plan`` and return what it changed, stage by stage.

        Call it between optimizer steps. Fingerprints of everything frozen are taken anew.
        """
        before = self.plan and status(self.stages, self.plan, self.sizes)
        self.net.zero_grad(set_to_none=True)
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name in plan.trainable)
        self._set_modes(plan)
        self.plan = plan
        self.fingerprints = proof.fingerprints(self.net, self.frozen_tensors(plan))
        after = status(self.stages, plan, self.sizes)
        return tuple(
            Change(now, before[i] if before else None)
            for i, now in enumerate(after)
            if not before or now != before[i]
        )

    def verify(self, when: str) -> None:
        """Check the fingerprints taken by :meth:`apply`.

        Raises:
            FrozenDriftError: A frozen parameter or buffer changed.
        """
        proof.verify(self.net, self.fingerprints, when)

    def frozen_tensors(self, plan: FreezePlan) -> frozenset[str]:
        """Return the names of the parameters and buffers that must not change under ``plan``."""
        parameters = {name for name, _ in self.net.named_parameters() if name not in plan.trainable}
        buffers = {
            f"{name}.{buffer}".removeprefix(".")
            for name, module in self.net.named_modules()
            if self._is_fixed(name, module, plan)
            for buffer, _ in module.named_buffers(recurse=False)
        }
        return frozenset(parameters | buffers)

    def _set_modes(self, plan: FreezePlan) -> None:
        for name, module in self.net.named_modules():
            if self._is_fixed(name, module, plan):
                hold(module)
            else:
                release(module, self.net.training)

    def _is_fixed(self, name: str, module: nn.Module, plan: FreezePlan) -> bool:
        """Tell whether a module computes a fixed function under ``plan``, so belongs in eval."""
        own = [f"{name}.{p}".removeprefix(".") for p, _ in module.named_parameters(recurse=False)]
        if any(p in plan.trainable for p in own) and not is_norm(module):
            return False
        if is_norm(module):
            owner = self._owner.get(name)
            if owner is None or not _active(owner, plan):
                return True
            if own and not any(p in plan.trainable for p in own):
                return True
            return norm_mode(self._stage_of[owner.name], plan) != "train"
        children = list(module.named_children())
        if children:
            prefix = f"{name}." if name else ""
            return all(self._is_fixed(prefix + n, child, plan) for n, child in children)
        owner = self._owner.get(name)
        return owner is not None and not _active(owner, plan)


def _active(unit: Stage, plan: FreezePlan) -> bool:
    return any(name in plan.trainable for name in unit.parameters)


def _owners(net: nn.Module, stages: Sequence[Stage], units: Sequence[Stage]) -> dict[str, Stage]:
    """Return the stage or block that each module belongs to, finest first."""
    by_module: dict[str, Stage] = {}
    for stage in stages:
        # Where a stage is cut into blocks, what no block claims goes with the stage's last one.
        fallback = stage.blocks[-1] if stage.blocks else stage
        by_module.update(dict.fromkeys(stage.modules, fallback))
    for unit in units:
        by_module.update(dict.fromkeys(unit.modules, unit))
    owners: dict[str, Stage] = {}
    for name, _ in net.named_modules(remove_duplicate=False):  # a shared one has several names
        prefix = name
        while prefix and prefix not in by_module:
            prefix = prefix.rpartition(".")[0]
        if prefix:
            owners[name] = by_module[prefix]
    return owners
