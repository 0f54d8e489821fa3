"""Stage discovery: finds the stages of any network. Freeze policies freeze and unfreeze stages.

A network's parameters are put into ordered groups (:mod:`siamkit.model.grouping`), in the order in
which its modules run (:mod:`siamkit.model.trace`). Every module, also one without parameters,
belongs to exactly one stage, so that freezing a stage can hold all its modules in eval mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError, did_you_mean
from siamkit.interfaces import HEAD, Stage
from siamkit.model.grouping import (
    bucket,
    coarse_groups,
    fine_groups,
    in_order,
    join_norms,
    norm_parameters,
    place,
    run_name,
    structural_groups,
    unit_name,
)
from siamkit.model.names import (
    join,
    named_modules,
    named_parameters,
    submodule,
    tied_parameters,
    unwrap,
)
from siamkit.model.trace import Trace, trace

STEM = "stem"
"""The name of the first stage, if the network's author defines the stages."""


def discover_stages(module: nn.Module, example: Any, head: str | None = None) -> tuple[Stage, ...]:
    """Return the stages of ``module``, the stem first.

    Stages are disjoint, cover every parameter, and are in the execution order of one forward. There
    are at most eight stages, and the head. A parameter that no layer holds (class token, position
    embeddings, a last projection) belongs to the stage that runs when the parameter is first used.
    A tied parameter belongs to the first stage that uses it. Final norms belong to the last stage.
    A TorchScript module is one stage, because hooks cannot watch the modules inside it.

    Args:
        module: Any module. Wrappers (``DistributedDataParallel``, ``DataParallel``,
            ``torch.compile``) are removed.
        example: The input of one forward in eval mode: one image ``[1, C, H, W]``, a tuple of
            arguments or a mapping of keyword arguments.
        head: The name of the module, such as ``fc``, that becomes the last stage,
            :data:`~siamkit.interfaces.HEAD`. With None, there is no such stage, and a policy that
            trains only the head (``freeze-all``) trains nothing.

    Returns:
        The stages, with names relative to the module inside all wrappers; empty if the module has
        no parameters.

    Raises:
        ConfigError: ``head`` is not a module with its own parameters, or the forward fails on the
            example.
    """
    module = unwrap(module)
    everything = [name for name, _ in named_parameters(module)]
    if head is not None:
        head = _head_of(module, head)
    if not everything:
        return ()
    try:
        order = trace(module, example)
    except Exception as error:  # the module's own code
        raise ConfigError(
            f"the forward of {type(module).__name__} failed on the example: "
            f"{type(error).__name__}: {error}",
            got=_described(example),
            hint="pass an example that the module accepts, of the weights' type and device",
        ) from error
    last = [] if head is None else _below(module, head, order)
    norms = norm_parameters(module)
    if isinstance(module, torch.jit.ScriptModule):
        rest = [name for name in everything if name not in last]
        first = [Stage(STEM, tuple(rest), ("",), None, norms.intersection(rest))] if rest else []
        return (
            *first,
            *([Stage(HEAD, tuple(last), norms=norms.intersection(last))] if last else ()),
        )
    names, members = _named_groups(module, order, [n for n in everything if n not in set(last)])
    if last:
        names, members = [*names, HEAD], [*members, last]
    units = _Units(module, order, everything, norms)
    children = [name for name, _ in module.named_children()]
    stages = units.build(names, members, children or [""])
    fine = fine_groups(module)
    return tuple(
        stage if stage.name == HEAD else units.with_blocks(stage, names, fine) for stage in stages
    )


def _named_groups(
    module: nn.Module, order: Trace, parameters: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Return the names of the stages that hold ``parameters``, and the parameters of each."""
    if not parameters:
        return [], []
    groups, has_stem = coarse_groups(module, order)
    wanted = set(parameters)
    groups = [rest for group in groups if (rest := [n for n in group if n in wanted])]
    groups = join_norms(groups, norm_parameters(module))  # a norm next to the head is no stage
    runs = bucket(groups) if groups else [[list(parameters)]]
    members = [list(chain.from_iterable(run)) for run in runs]
    placed = set(chain.from_iterable(members))
    members = place([name for name in parameters if name not in placed], members, order)
    # A stage is named after modules of its own, but modules of other stages hold tied weights too.
    tied = tied_parameters(module)
    everything = [name for name, _ in named_parameters(module) if name not in tied]
    return _stage_names(runs, everything, has_stem), members


def _head_of(module: nn.Module, head: str) -> str:
    """Return the plain name of the head's module.

    Raises:
        ConfigError: ``head`` is no name, there is no such module, or it has no parameters.
    """
    if not isinstance(head, str):
        raise ConfigError(
            "must be the name of a module", where="head", got=type(head), allowed="such as 'fc'"
        )
    modules = {name: m for name, m in named_modules(module) if name}
    name = head if head in modules else head.removeprefix("module.").removeprefix("_orig_mod.")
    if name not in modules:
        raise ConfigError(
            "no module has this name",
            where="head",
            got=head,
            allowed=", ".join(n for n, _ in module.named_children()) + ", or a module in them",
            hint=did_you_mean(head, modules) or None,
        )
    if not any(True for _ in modules[name].parameters()):
        raise ConfigError(
            "the head has no parameters, so nothing in it can train", where="head", got=head
        )
    return name


def _below(module: nn.Module, head: str, order: Trace) -> list[str]:
    """Return the names of the head's parameters, except those that are used before the head runs.

    Raises:
        ConfigError: All parameters of the head are used before the head runs.
    """
    start = order.start(head)
    tied = tied_parameters(module)
    earlier = {
        name
        for name in tied
        if start is not None and (use := order.first_use(name)) is not None and use < start
    }
    names = [name for name, _ in named_parameters(module)]
    own = [name for name in names if name.startswith(f"{head}.") and name not in earlier]
    if not own:
        raise ConfigError(
            "the head shares all its parameters with modules that run before it",
            where="head",
            got=head,
            hint="tied weights belong to the first stage that uses them; leave head out",
        )
    return own


def _described(example: Any) -> str:
    if isinstance(example, Tensor):
        return f"a tensor {list(example.shape)}, {example.dtype}, on {example.device}"
    return type(example).__name__


def blocks_of(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the blocks of all stages; a stage without blocks stands for itself."""
    return tuple(chain.from_iterable(stage.blocks or (stage,) for stage in stages))


def _stage_names(
    runs: Sequence[Sequence[list[str]]], everything: Sequence[str], has_stem: bool
) -> list[str]:
    names: list[str] = []
    for index, run in enumerate(runs):
        if index == 0 and has_stem and len(runs) > 1:
            names.append(STEM)
            continue
        first, last = (unit_name(run[at], everything) for at in (0, -1))
        # If the root holds the parameter directly, no module can give the stage a name.
        bare = first in everything and "." not in first
        name = STEM if bare and index == 0 else run_name(first, last)
        while name in names or name == HEAD:  # HEAD is the stage of the ``head`` argument
            name += "_"
        names.append(name)
    return names


class _Units:
    """A builder of stages, or of a stage's blocks, from lists of parameter names.

    A *unit* is a stage or a block.
    """

    def __init__(
        self, module: nn.Module, order: Trace, everything: Sequence[str], norms: frozenset[str]
    ) -> None:
        self.module = module
        self.order = order
        self.everything = everything
        self.norms = norms
        self.tied = {
            name: first
            for first, others in tied_parameters(module).items()
            for name in (first, *others)
        }

    def build(
        self, names: Sequence[str], members: Sequence[Sequence[str]], roots: Sequence[str]
    ) -> list[Stage]:
        """Return a stage for each name.

        Args:
            names: The names of the stages.
            members: The parameters of each stage.
            roots: The modules at or below which the stages' modules are looked for.
        """
        position = {name: at for at, name in enumerate(self.everything)}
        unit_of = {name: index for index, group in enumerate(members) for name in group}
        for other, name in self.tied.items():
            if name in unit_of:
                unit_of[other] = unit_of[name]
        modules = self._place_modules(unit_of, roots)
        return [
            Stage(
                name=name,
                parameters=tuple(sorted(group, key=position.__getitem__)),
                modules=tuple(modules.get(index, ())),
                output=self._output(modules.get(index, ())),
                norms=self.norms.intersection(group),
            )
            for index, (name, group) in enumerate(zip(names, members, strict=True))
        ]

    def _output(self, modules: Sequence[str]) -> str | None:
        """Return the name of the module that returned last; None if hooks cannot watch it."""
        ends = {m: self.order.ends.get(m, math.inf) for m in modules if self.order.ran(m)}
        last = max(ends, key=ends.__getitem__, default=None)
        return last if last in self.order.ends else None

    def with_blocks(self, stage: Stage, taken: Sequence[str], fine: Sequence[list[str]]) -> Stage:
        """Return ``stage`` with its blocks.

        They are the blocks that timm defines, or else the members of a ``Sequential`` or
        ``ModuleList`` in the stage.

        Args:
            stage: A stage without blocks. It is returned unchanged if no blocks are found.
            taken: Names that blocks must not have, because stages have them.
            fine: timm's fine groups of parameter names; see :func:`fine_groups`.
        """
        own = set(stage.parameters)
        groups = self._within(own, fine)
        if len(groups) < 2:
            whole = [m for m in stage.modules if any(p.startswith(m + ".") for p in own)]
            groups = self._within(own, chain.from_iterable(self._cut(name) for name in whole))
        if len(groups) < 2:
            return stage
        placed = set(chain.from_iterable(groups))
        loose = [name for name in stage.parameters if name not in placed]
        groups = place(loose, groups, self.order)
        names: list[str] = []
        for group in groups:
            others = [name for name in taken if name != stage.name] + names
            names.append(unit_name(group, self.everything, [*others, stage.name]))
        blocks = self.build(names, groups, stage.modules)
        return Stage(
            stage.name, stage.parameters, stage.modules, stage.output, stage.norms, tuple(blocks)
        )

    def _within(self, own: Set[str], groups: Iterable[list[str]]) -> list[list[str]]:
        """Return the groups in execution order, without the parameters that are not ``own``.

        Such a parameter is of another stage, or is the second name of a tied weight.
        """
        parts = [part for group in groups if (part := [name for name in group if name in own])]
        return join_norms(in_order(parts, self.order), self.norms)

    def _cut(self, name: str) -> list[list[str]]:
        whole = [join(name, n) for n, _ in named_parameters(submodule(self.module, name))]
        return structural_groups(self.module, name) or [whole]

    # --- modules ---------------------------------------------------------------------------------

    def _place_modules(
        self, unit_of: Mapping[str, int], roots: Sequence[str]
    ) -> dict[int, list[str]]:
        """Return the names of each unit's outermost modules, by the index of the unit.

        All parameters of such a module belong to the unit. A module without parameters belongs to
        the unit of the module around it, if that module has only one unit. Otherwise, it belongs to
        the unit whose parameters were used last before it ran.
        """
        placed: list[tuple[str, int | None]] = []
        for root in roots:
            self._visit(root, None, unit_of, placed)
        runs = sorted(
            (start, unit) for name, unit in unit_of.items()
            if (start := self.order.first_use(name)) is not None
        )  # fmt: skip
        result: dict[int, list[tuple[int, str]]] = {}
        before, latest = 0, -1
        for name, unit in placed:
            start = self.order.start(name)
            if unit is None and start is not None:
                unit = next((u for s, u in reversed(runs) if s < start), 0)
            # A module that did not run joins the unit of the module defined before it.
            before = before if unit is None else unit
            latest = latest if start is None else start
            result.setdefault(before, []).append((latest, name))
        return {
            unit: [name for _, name in sorted(ticked, key=lambda pair: pair[0])]
            for unit, ticked in result.items()
        }

    def _visit(
        self,
        name: str,
        owner: int | None,
        unit_of: Mapping[str, int],
        placed: list[tuple[str, int | None]],
    ) -> None:
        module = submodule(self.module, name)
        own = [p for n, _ in named_parameters(module) if (p := join(name, n)) in unit_of]
        # A shared weight only tells the unit of the module that used it first.
        held = {
            unit_of[p] for p in own if p not in self.tied or self.order.used_in(self.tied[p], name)
        }
        if owner is None and len(held) == 1:
            (owner,) = held
        # A list of modules is never called, so a hook cannot watch or replace it.
        called = self.order.ran(name) or not self.order.ran_within(name)
        if len(held) <= 1 and called:
            placed.append((name, owner))
            return
        for key, _ in module.named_children():
            self._visit(join(name, key), owner, unit_of, placed)
