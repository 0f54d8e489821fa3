"""The check of a backbone's stages against a trace of one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from siamkit.interfaces import HEAD, Backbone, Stage
from siamkit.model.grouping import norm_parameters
from siamkit.model.names import parent
from siamkit.model.trace import Trace, trace
from siamkit.testing.common import Expect

_REFUSED = "Training would be refused, or would freeze other parameters than it reports."
_MOVES = "Frozen modules would still change: active dropout, and norm statistics that update."
_NOT_CACHED = "The frozen part could not be cached, or the cache would contain wrong features."
_NO_NORMS = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)


def check_stages(backbone: Backbone, images: Tensor, expect: Expect) -> None:
    """Check that the stages of a backbone, and its blocks, match the order of one forward pass."""
    with expect.during("in a forward of one image", "Users could not use it."):
        order = trace(backbone, images[:1])
    granularities: tuple[Literal["stage", "block"], ...] = ("stage", "block")
    for granularity in granularities:
        _check_units(backbone, granularity, order, expect.within(f"{granularity}s"))


def _check_units(
    backbone: Backbone, granularity: Literal["stage", "block"], order: Trace, expect: Expect
) -> None:
    with expect.during("in stages()", "Users could not use it."):
        stages = backbone.stages(granularity)
        again = backbone.stages(granularity)
    listed = isinstance(stages, tuple | list)
    expect(listed, "a sequence of stages", type(stages).__name__,
           "A second loop over it would find no stages.")  # fmt: skip
    ours = [stage for stage in stages if isinstance(stage, Stage)]
    expect(len(ours) == len(stages), "Stage objects only", stages, _REFUSED)
    expect(list(stages) == list(again), "the same stages each time", again,
           "A resumed run would freeze other parameters.")  # fmt: skip
    names = [stage.name for stage in stages]
    expect(len(set(names)) == len(names), "different names", names, _REFUSED)
    expect(
        HEAD not in names,
        f"no stage named {HEAD!r}, which is the name of the head",
        names,
        _REFUSED,
    )
    _check_parameters(backbone, stages, expect)
    _check_norms(backbone, stages, expect)
    _check_modules(backbone, stages, order, expect)
    for stage in stages:
        if stage.blocks:
            within = expect.within(f"the blocks of {stage.name!r}")
            cut = sorted(p for block in stage.blocks for p in block.parameters)
            expect(cut == sorted(stage.parameters),
                   f"the blocks of {stage.name!r} to contain each of its parameters once", cut,
                   _REFUSED)  # fmt: skip
            _check_norms(backbone, stage.blocks, within, of=stage)
    starts = {stage.name: _start(stage, order) for stage in stages}
    ran = sorted((start, name) for name, start in starts.items() if start is not None)
    in_order = [name for name in names if starts[name] is not None]
    expect(
        [name for _, name in ran] == in_order,
        f"stages in execution order, {[name for _, name in ran]}",
        in_order,
        "The last stages would not be the deepest ones, so policies would train the wrong stages.",
    )


def _start(stage: Stage, order: Trace) -> int | None:
    return min((order.starts[m] for m in stage.modules if order.ran(m)), default=None)


def _check_parameters(backbone: Backbone, stages: Sequence[Stage], expect: Expect) -> None:
    placed = [parameter for stage in stages for parameter in stage.parameters]
    everything = [parameter for parameter, _ in backbone.named_parameters()]
    twice = sorted(p for p, times in Counter(placed).items() if times > 1)
    expect(not twice, "each parameter in one stage", f"{twice} in several stages", _REFUSED)
    missing = sorted(set(everything) - set(placed))
    expect(not missing, "every parameter in a stage", f"{missing} in no stage", _REFUSED)
    unknown = sorted(set(placed) - set(everything))
    expect(not unknown, "names of the backbone's parameters", unknown, _REFUSED)


def _check_norms(
    backbone: Backbone, stages: Sequence[Stage], expect: Expect, of: Stage | None = None
) -> None:
    known = norm_parameters(backbone)
    modules = dict(backbone.named_modules())
    for stage in stages:
        foreign = sorted(stage.norms - set(stage.parameters))
        expect(not foreign, f"norms of {stage.name!r} that are its parameters", foreign,
               _REFUSED)  # fmt: skip
        left_out = sorted(known & set(stage.parameters) - stage.norms)
        expect(
            not left_out,
            f"the norms of {stage.name!r} to contain all of its norm layers",
            f"norms without {left_out}",
            "freeze.norm=frozen would still train them.",
        )
        others = sorted(n for n in stage.norms if isinstance(modules.get(parent(n)), _NO_NORMS))
        expect(not others, f"norms of {stage.name!r} that belong to norm layers", others,
               "freeze.norm=frozen would freeze them.")  # fmt: skip


def _check_modules(
    backbone: Backbone, stages: Sequence[Stage], order: Trace, expect: Expect
) -> None:
    modules = dict(backbone.named_modules())
    owner: dict[str, str] = {}
    for stage in stages:
        stray = sorted({*stage.modules, *filter(None, [stage.output])} - set(modules))
        expect(not stray, f"{stage.name!r} to name only modules of the backbone", stray, _REFUSED)
        twice = [m for m in stage.modules if m in owner]
        expect(not twice, "each module in one stage", f"{twice} in several stages", _MOVES)
        owner.update(dict.fromkeys(stage.modules, stage.name))
    nested = sorted(m for m in owner if m and _owner(parent(m), owner, inner=True) is not None)
    expect(not nested, "only outermost modules", f"{nested} inside other listed modules",
           _MOVES)  # fmt: skip
    for stage in stages:
        for parameter in stage.parameters:
            held = _owner(parent(parameter), owner)
            expect(
                held in (None, stage.name),
                f"the module of {parameter!r} in {stage.name!r}, like the parameter",
                f"a module in {held!r}", _MOVES,
            )  # fmt: skip
    left_out = [
        name
        for name, module in modules.items()
        if name and order.ran(name) and not list(module.children()) and _owner(name, owner) is None
    ]
    expect(not left_out, "every running module in a stage", f"{left_out} in no stage",
           _MOVES)  # fmt: skip
    for stage in stages:
        running = [m for m in stage.modules if order.ran(m)]
        by_time = sorted(running, key=order.starts.__getitem__)
        expect(running == by_time, f"the modules of {stage.name!r} in execution order",
               running, _NOT_CACHED)  # fmt: skip
        if stage.output is not None:
            ends = [order.ends[m] for m in running]
            last = order.ran(stage.output) and all(order.ends[stage.output] >= end for end in ends)
            own = _owner(stage.output, owner) == stage.name
            expect(own and last, f"the output of {stage.name!r} from its last module, "
                   f"{max(running, key=order.ends.__getitem__, default=None)!r}", stage.output,
                   _NOT_CACHED)  # fmt: skip


def _owner(name: str, owner: Mapping[str, str], *, inner: bool = False) -> str | None:
    """Return the name of the stage that lists module ``name`` or the nearest module around it."""
    while name and name not in owner:
        name = parent(name)
    # '' is the root: if it is listed, it contains everything.
    return owner.get(name) if name or not inner else None
