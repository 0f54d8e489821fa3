"""Stage discovery: the ordered units of any network, for freeze policies to act on.

A network's parameters are put into ordered groups (:mod:`siamkit.model.grouping`), checked against
the order in which its modules really run (:mod:`siamkit.model.trace`), and every module, parameter-
free ones included, is given to exactly one stage: what is frozen must also stop moving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from torch import Tensor, nn

from siamkit.interfaces import Stage
from siamkit.model.grouping import (
    bucket,
    coarse_groups,
    fine_groups,
    in_order,
    join_norms,
    norm_parameters,
    run_name,
    structural_groups,
    unit_name,
)
from siamkit.model.trace import Trace, join, parent, trace

STEM = "stem"
"""The name of the first stage, wherever the network's author says what a stage is."""


def discover_stages(module: nn.Module, example: Tensor) -> tuple[Stage, ...]:
    """Return the stages of ``module``, stem first: disjoint, and covering every parameter.

    At most eight, in execution order as one forward shows it. Parameters that the root holds
    itself (class tokens, position embeddings) belong to the stem, final norms to the last stage.

    Args:
        module: From images ``[N, C, H, W]`` to features.
        example: One image ``[1, C, H, W]``, run once in eval mode.

    Returns:
        The stages, their names relative to ``module``; none where it has no parameters.
    """
    everything = [name for name, _ in module.named_parameters()]
    if not everything:
        return ()
    order = trace(module, example)
    groups, has_stem = coarse_groups(module, order)
    runs = bucket(groups) if groups else [[everything]]
    names = _stage_names(runs, everything, has_stem)
    placed = set(chain.from_iterable(chain.from_iterable(runs)))
    members = [list(chain.from_iterable(run)) for run in runs]
    members[0] = [name for name in everything if name not in placed] + members[0]
    norms = norm_parameters(module)
    units = _Units(module, order, everything, norms)
    children = [name for name, _ in module.named_children()]
    stages = units.build(names, members, children or [""])
    return tuple(units.with_blocks(stage, names, fine_groups(module)) for stage in stages)


def blocks_of(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages cut into their blocks; one that cannot be cut stands for itself."""
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
        # A parameter of the root alone has no module to be named after.
        name = STEM if first in everything and "." not in first else run_name(first, last)
        while name in names:
            name += "_"
        names.append(name)
    return names


class _Units:
    """Builds stages, or the blocks of one, from lists of parameter names."""

    def __init__(
        self, module: nn.Module, order: Trace, everything: Sequence[str], norms: frozenset[str]
    ) -> None:
        self.module = module
        self.order = order
        self.everything = everything
        self.norms = norms

    def build(
        self, names: Sequence[str], members: Sequence[Sequence[str]], roots: Sequence[str]
    ) -> list[Stage]:
        """Return a stage for each name, holding the modules at or below ``roots``."""
        position = {name: at for at, name in enumerate(self.everything)}
        unit_of = {name: index for index, group in enumerate(members) for name in group}
        modules = self._place_modules(unit_of, roots)
        return [
            Stage(
                name=name,
                parameters=tuple(sorted(group, key=position.__getitem__)),
                modules=tuple(modules.get(index, ())),
                output=max(
                    (m for m in modules.get(index, ()) if self.order.ran(m)),
                    key=self.order.ends.__getitem__,
                    default=None,
                ),
                norms=self.norms.intersection(group),
            )
            for index, (name, group) in enumerate(zip(names, members, strict=True))
        ]

    def with_blocks(self, stage: Stage, taken: Sequence[str], fine: Sequence[list[str]]) -> Stage:
        """Return ``stage`` with its blocks, if it can be cut: at timm's, else at its sequence."""
        own = set(stage.parameters)
        groups = [[name for name in group if name in own] for group in fine]
        groups = join_norms([g for g in in_order(groups, self.order) if g], self.norms)
        if len(groups) < 2:
            whole = [m for m in stage.modules if any(p.startswith(m + ".") for p in own)]
            cuts = [self._cut(name) for name in whole]
            groups = join_norms(in_order(list(chain.from_iterable(cuts)), self.order), self.norms)
        if len(groups) < 2:
            return stage
        placed = set(chain.from_iterable(groups))
        groups[0] = groups[0] + [name for name in stage.parameters if name not in placed]
        names: list[str] = []
        for group in groups:
            others = [name for name in taken if name != stage.name] + names
            names.append(unit_name(group, self.everything, [*others, stage.name]))
        blocks = self.build(names, groups, stage.modules)
        return Stage(
            stage.name, stage.parameters, stage.modules, stage.output, stage.norms, tuple(blocks)
        )

    def _cut(self, name: str) -> list[list[str]]:
        whole = [join(name, n) for n, _ in self.module.get_submodule(name).named_parameters()]
        return structural_groups(self.module, name) or [whole]

    # --- modules ---------------------------------------------------------------------------------

    def _place_modules(
        self, unit_of: Mapping[str, int], roots: Sequence[str]
    ) -> dict[int, list[str]]:
        """Return, by unit, the outermost modules whose parameters are all of that unit.

        A module without parameters belongs to the module around it, where that is of one unit,
        else to the unit whose parameterised module ran last before it.
        """
        placed: list[tuple[str, int | None]] = []
        for root in roots:
            self._visit(root, None, unit_of, placed)
        runs = sorted(
            (start, unit) for name, unit in unit_of.items()
            if (start := self.order.starts.get(parent(name))) is not None
        )  # fmt: skip
        result: dict[int, list[tuple[int, str]]] = {}
        before, latest = 0, -1
        for name, unit in placed:
            start = self.order.start(name)
            if unit is None and start is not None:
                unit = next((u for s, u in reversed(runs) if s < start), 0)
            # What never ran stands where it was defined.
            before = before if unit is None else unit
            latest = latest if start is None else start
            result.setdefault(before, []).append((latest, name))
        return {
            unit: [name for _, name in sorted(found, key=lambda pair: pair[0])]
            for unit, found in result.items()
        }

    def _visit(
        self,
        name: str,
        owner: int | None,
        unit_of: Mapping[str, int],
        placed: list[tuple[str, int | None]],
    ) -> None:
        module = self.module.get_submodule(name)
        held = {unit_of[p] for n, _ in module.named_parameters() if (p := join(name, n)) in unit_of}
        if owner is None and len(held) == 1:
            (owner,) = held
        # A list of modules is never called, so nothing could watch it or stand in for it.
        called = self.order.ran(name) or not self.order.ran_within(name)
        if len(held) <= 1 and called:
            placed.append((name, owner))
            return
        for key, _ in module.named_children():
            self._visit(join(name, key), owner, unit_of, placed)
