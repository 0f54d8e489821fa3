"""The freeze controller: the only code that freezes and unfreezes parameters.

The controller acts between optimizer steps. First it sets all gradients to None (not to zero), so
that a stale gradient, momentum or weight decay cannot move a parameter that is frozen now. Each
time, it sets the flags of all parameters and modules. So applying a plan twice changes nothing, and
a resumed run needs no memory of earlier phases. Modules are never replaced, so the optimizer's
parameters stay the network's parameters.

The controller works on any network, and for ``DistributedDataParallel`` or ``torch.compile`` on the
network inside the wrapper. Names are plain (:mod:`siamkit.model.names`): they are the same with and
without a wrapper.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from siamkit.errors import ConfigError, did_you_mean
from siamkit.freezing import proof
from siamkit.freezing.hold import hold, is_held, release
from siamkit.freezing.processes import require_same
from siamkit.freezing.schedule import (
    StageStatus,
    norm_mode,
    require_plan,
    status,
    without_frozen_norms,
)
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.fingerprint import mark_of
from siamkit.model.grouping import is_norm
from siamkit.model.names import (
    Names,
    join,
    named_modules,
    named_parameters,
    named_tensors,
    parent,
    places,
    unwrap,
)

_SHARE = 0.05
"""The share of a run's time that repeated verifications may take; see ``verify_often``."""


@dataclass(frozen=True)
class Change:
    """The change of one stage by a plan.

    Attributes:
        now: The stage's status under the plan.
        was: The stage's status under the previous plan; None if there was no previous plan.
    """

    now: StageStatus
    was: StageStatus | None


class FreezeController:
    """The controller that applies plans to a network, and proves that frozen tensors do not change.

    Args:
        net: The network: any module, wrapped or not.
        stages: The stages of the network, as the policy sees them; see
            :func:`siamkit.freezing.discover_stages`.
        alone: Whether this process trains the network without the others of its process group of
            ``torch.distributed``, such as a network that only one of them has. Then plans are not
            compared.

    Attributes:
        net: The network without wrappers.
        sizes: The number of values of each parameter, by plain name. A tied parameter counts once.
        plan: The plan that was applied last; None before the first.
        fingerprints: The fingerprint of every frozen tensor, by plain name.

    Raises:
        ConfigError: The stages do not fit the network: they name a parameter that the network
            doesn't have, leave out a parameter, or hold a parameter twice.
    """

    def __init__(self, net: nn.Module, stages: Iterable[Stage], *, alone: bool = False) -> None:
        self.net = unwrap(net)
        self._alone = alone
        self.stages = tuple(stages)
        self.sizes = {name: p.numel() for name, p in named_parameters(net)}
        self.plan: FreezePlan | None = None
        self.fingerprints: dict[str, str] = {}
        self._mark: tuple[Any, ...] = ()
        self._verify_again = 0.0
        self._names = Names.of(net)
        self._averaged = _averaged(net)
        plain = tuple(_plain(stage, self._names) for stage in self.stages)
        _check(plain, self.sizes, type(self.net).__name__)
        self._plain = plain
        self._units = tuple(unit for stage in plain for unit in (stage.blocks or (stage,)))
        self._stage_of = {
            unit.name: stage for stage in plain for unit in (stage.blocks or (stage,))
        }
        self._owner = _owners(self.net, plain, self._units)

    def apply(self, plan: FreezePlan) -> tuple[Change, ...]:
        """Apply ``plan``, and return the changes of the stages whose status changes.

        Call this method between optimizer steps. It takes new fingerprints of all frozen tensors.
        In a process group of ``torch.distributed``, call it in each process: it waits for the
        others, and compares their plans with this one, unless the controller is ``alone``.

        Raises:
            ConfigError: The plan has an invalid rate or norm mode, names a parameter that the
                network doesn't have, or trains one that was frozen when
                ``DistributedDataParallel`` was built. Or the plans of the processes differ. Or the
                parameters of the network are no longer those of its stages.
        """
        now = {name: p.numel() for name, p in named_parameters(self.net)}
        _check(self._plain, now, type(self.net).__name__)
        plan = self._own(plan)
        if not self._alone:
            require_same(plan.trainable)
        before = self.plan and status(self._plain, self.plan, self.sizes)
        self.net.zero_grad(set_to_none=True)
        for name, parameter in named_parameters(self.net):
            parameter.requires_grad_(name in plan.trainable)
        self._set_modes(plan)
        self.plan = plan
        started = time.monotonic()
        self.fingerprints = proof.fingerprints(self.net, self.frozen_tensors(plan))
        self._proved(started)
        after = status(self._plain, plan, self.sizes)
        return tuple(
            Change(now, before[i] if before else None)
            for i, now in enumerate(after)
            if not before or now != before[i]
        )

    def verify(self, when: str) -> None:
        """Check that no frozen tensor has changed since :meth:`apply`.

        Args:
            when: The time of the check, for the message, such as ``epoch 3``.

        Raises:
            FrozenDriftError: A frozen parameter or buffer changed.
        """
        started = time.monotonic()
        proof.verify(self.net, self.fingerprints, when)
        self._proved(started)

    def verify_often(self, when: str) -> bool:
        """Verify, unless a recent verification still holds as far as torch can tell.

        Call this method where a verification each time would take most of a short epoch. It is left
        out while the last one is recent, so that all together take at most a twentieth of the time,
        and the marks of the frozen tensors (:func:`siamkit.model.fingerprint.mark_of`) have not
        changed since. A write through ``tensor.data`` changes no mark; the next full verification
        notices it.

        Args:
            when: As for :meth:`verify`.

        Returns:
            Whether the tensors were verified.

        Raises:
            FrozenDriftError: As for :meth:`verify`.
        """
        if time.monotonic() >= self._verify_again or self._marked() != self._mark:
            self.verify(when)
            return True
        return False

    def _proved(self, started: float) -> None:
        """Note a verification that is complete now."""
        now = time.monotonic()
        self._verify_again = now + (now - started) * (1 / _SHARE - 1)
        self._mark = self._marked()

    def _marked(self) -> tuple[Any, ...]:
        tensors = named_tensors(self.net)
        return mark_of(tensors[name] for name in self.fingerprints if name in tensors)

    def frozen_tensors(self, plan: FreezePlan) -> frozenset[str]:
        """Return the names of the parameters and buffers that must not change under ``plan``."""
        plan = self._own(plan)
        parameters = {name for name in self.sizes if name not in plan.trainable}
        buffers = {
            join(name, buffer)
            for name, module in named_modules(self.net)
            if self._is_fixed(name, module, plan)
            for buffer, _ in module.named_buffers(recurse=False)
        }
        return frozenset(parameters | buffers)

    def training_modules(self, plan: FreezePlan) -> frozenset[str]:
        """Return the names of the modules that are not held in eval mode under ``plan``."""
        plan = self._own(plan)
        return frozenset(
            name
            for name, module in named_modules(self.net)
            if not self._is_fixed(name, module, plan)
        )

    def without_gradient(self) -> list[str]:
        """Return the stages that train, but have no gradient after a backward pass."""
        trainable = frozenset() if self.plan is None else self.plan.trainable
        reached = {name for name, p in named_parameters(self.net) if p.grad is not None}
        return [
            stage.name
            for stage in self._plain
            if (trains := trainable.intersection(stage.parameters)) and reached.isdisjoint(trains)
        ]

    def shared_dropouts(self) -> list[str]:
        """Return the dropout layers in parts that train that a frozen part has too.

        They are held in eval mode with the frozen part, so they are off. A layer that has one name,
        and is called in several parts, is not found.
        """
        plan = self.plan
        return [
            name
            for name, module in places(self.net)
            if plan is not None
            and isinstance(module, nn.modules.dropout._DropoutNd)
            and module.p
            and is_held(module)
            and (owner := self._owner.get(name)) is not None
            and _active(owner, plan)
        ]

    def _own(self, plan: FreezePlan) -> FreezePlan:
        """Return the plan with plain names. A tied parameter trains if one of its names does.

        Raises:
            ConfigError: As for :meth:`apply`.
        """
        plan = require_plan(plan, self.stages, "plan", ConfigError)
        trainable = {self._names[name] for name in plan.trainable}
        if unknown := sorted(trainable - self.sizes.keys()):
            raise ConfigError(
                "the plan trains a parameter that the network doesn't have",
                got=unknown[0],
                of=f"network {type(self.net).__name__}",
                hint=did_you_mean(unknown[0], self.sizes) or None,
            )
        if self._averaged is not None and (alone := sorted(trainable - self._averaged)):
            raise ConfigError(
                "DistributedDataParallel was built while this parameter was frozen, so its "
                "gradients would differ between the processes",
                got=alone[0],
                hint="apply the plan to the network inside, then wrap that network again",
            )
        return without_frozen_norms(replace(plan, trainable=frozenset(trainable)), self.stages)

    def _set_modes(self, plan: FreezePlan) -> None:
        for name, module in named_modules(self.net):
            if self._is_fixed(name, module, plan):
                hold(module)
            else:
                release(module, self.net.training)

    def _is_fixed(self, name: str, module: nn.Module, plan: FreezePlan) -> bool:
        """Return whether ``plan`` makes a module a fixed function, which must be in eval mode."""
        module = unwrap(module)
        own = [self._names[join(name, p)] for p, _ in module.named_parameters(recurse=False)]
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
            return all(self._is_fixed(join(name, n), child, plan) for n, child in children)
        owner = self._owner.get(name)
        return owner is not None and not _active(owner, plan)


def _plain(stage: Stage, names: Names) -> Stage:
    """Return the stage with the plain names of its parameters and modules."""
    return replace(
        stage,
        parameters=tuple(names[name] for name in stage.parameters),
        modules=tuple(names[name] for name in stage.modules),
        norms=frozenset(names[name] for name in stage.norms),
        blocks=tuple(_plain(block, names) for block in stage.blocks),
    )


def _check(stages: Sequence[Stage], sizes: Mapping[str, int], network: str) -> None:
    """Check that stages fit a network.

    Args:
        stages: The stages, with plain names.
        sizes: The number of values of each parameter of the network, by plain name.
        network: The name of the network's class, for messages.

    Raises:
        ConfigError: The stages do not fit.
    """
    held = Counter(name for stage in stages for name in stage.parameters)
    hint = "siamkit.freezing.discover_stages gives the stages of any network"
    if unknown := [name for name in held if name not in sizes]:
        raise ConfigError(
            "the stages name a parameter that the network doesn't have",
            got=unknown[0],
            of=f"network {network}",
            hint=did_you_mean(unknown[0], sizes) or hint,
        )
    if twice := [name for name, count in held.items() if count > 1]:
        raise ConfigError(
            "the stages hold a parameter twice; a parameter with several names (tied weights) "
            "belongs only to the first stage that uses it",
            got=twice[0],
            of=f"network {network}",
            hint=hint,
        )
    if missing := [name for name in sizes if name not in held]:
        raise ConfigError(
            f"the stages leave out {len(missing)} of the network's parameters, "
            "which could never train",
            got=missing[0],
            of=f"network {network}",
            hint=hint,
        )


def _averaged(net: nn.Module) -> frozenset[str] | None:
    """Return the names of the parameters whose gradients are averaged over processes.

    ``DistributedDataParallel`` only averages the gradients of parameters that were not frozen when
    it was built.

    Returns:
        The names; None without ``DistributedDataParallel``, or with one process.
    """
    for module in net.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            if torch.distributed.get_world_size(module.process_group) == 1:
                return None
            return frozenset(name for name, p in named_parameters(net) if p.requires_grad)
    return None


def _active(unit: Stage, plan: FreezePlan) -> bool:
    return any(name in plan.trainable for name in unit.parameters)


def _owners(net: nn.Module, stages: Sequence[Stage], units: Sequence[Stage]) -> dict[str, Stage]:
    """Map each name of a module to the module's block, or to its stage if the stage has no blocks.

    Args:
        net: The network.
        stages: The stages.
        units: All blocks, and the stages without blocks.
    """
    by_module: dict[str, Stage] = {}
    for stage in stages:
        # A module of the stage that is in none of its blocks belongs to the last block.
        fallback = stage.blocks[-1] if stage.blocks else stage
        by_module.update(dict.fromkeys(stage.modules, fallback))
    for unit in units:
        by_module.update(dict.fromkeys(unit.modules, unit))
    owners: dict[str, Stage] = {}
    for name, _ in places(net):
        prefix = name
        while prefix and prefix not in by_module:
            prefix = parent(prefix)
        if prefix in by_module:
            owners[name] = by_module[prefix]
    return owners
