"""The check of freeze policies."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import get_args

from siamkit import plugins
from siamkit.interfaces import (
    HEAD,
    BackboneContext,
    FreezePlan,
    FreezePolicy,
    NormMode,
    Progress,
    Stage,
)
from siamkit.model.build import build_backbone
from siamkit.model.siamese import SiameseNet
from siamkit.testing.common import Expect, Values, checked_entry, histories, seeded

_EPOCHS = range(1, 13)
# A network with batch norm and one with layer norm and parameters that no module owns.
_SMALL = ("timm:resnet10t", "timm:vit_tiny_patch16_224")


def check_freeze_policy(
    name: str, options: Values | None = None, *, backbone: str | None = None
) -> None:
    """Check a freeze policy by simulating whole runs, of 1 to 12 epochs, on real stages.

    Args:
        name: The registered name.
        options: Option values, where the entry's own defaults don't do.
        backbone: The backbone whose stages it is for; a small ResNet and a small ViT if left out.
    """
    entry, validated, expect = checked_entry("freeze_policies", "freeze policy", name, options)
    policy = entry.build(validated)
    expect(isinstance(policy, FreezePolicy), "build to return a FreezePolicy", policy)
    for net in _SMALL if backbone is None else (backbone,):
        for unit, stages in _stages_of(net).items():
            for epochs in _EPOCHS:
                within = expect.within(f"{net}, {unit}s, {epochs} epochs")
                _check_plans(lambda: entry.build(validated), stages, epochs, within)


@lru_cache(maxsize=8)
def _stages_of(name: str) -> dict[str, tuple[Stage, ...]]:
    """Return the stages, and the blocks, of a whole network: a backbone with an ``mlp`` head."""
    entry = plugins.get().backbones.get(name)
    context = BackboneContext(name, False, image_size=64 if name in _SMALL else None)
    with seeded():
        options = entry.validate({}, name)
        backbone = build_backbone(entry, options, context, pretrained=False).backbone
        mlp = plugins.get().heads.get("mlp")
        head = mlp.build(mlp.validate({}, "head"), backbone.embedding_dim)
    net = SiameseNet(backbone, head)
    return {"stage": net.stages("stage"), "block": net.stages("block")}


def _check_plans(
    build: Callable[[], FreezePolicy], stages: tuple[Stage, ...], epochs: int, expect: Expect
) -> None:
    given = list(stages)
    runs = {}
    for label, metrics in histories(epochs).items():
        moments = [Progress(e, epochs, history=metrics[:e]) for e in range(epochs)]
        policy, other = build(), build()
        plans = [policy.plan(given, moment) for moment in moments]
        # Another instance, asked in another order, as a resumed run or `siamkit inspect` would.
        mirrored = [other.plan(given, moment) for moment in reversed(moments)][::-1]
        for epoch, (plan, again) in enumerate(zip(plans, mirrored, strict=True)):
            at = expect.within(f"epoch {epoch}")
            at(isinstance(plan, FreezePlan), "plan to return a FreezePlan", plan)
            at(plan == again, "the same plan for the same progress, whatever came before", again)
            _check_plan(plan, stages, at)
        expect(given == list(stages), "plan not to change the stages that it is given", given)
        head = {p for stage in stages if stage.name == HEAD for p in stage.parameters}
        trains = any(head & plan.trainable for plan in plans)
        expect(trains, "the head to train in at least one epoch", "it never does")
        runs[label] = plans
    same = runs["rising"] == runs["flat"]
    expect(
        same or build().metric_driven, "plans that ignore the history, or metric_driven = True",
        "plans that depend on it",
    )  # fmt: skip


def _check_plan(plan: FreezePlan, stages: tuple[Stage, ...], expect: Expect) -> None:
    unknown = sorted(plan.trainable - {p for stage in stages for p in stage.parameters})
    expect(not unknown, "trainable to hold names of parameters in the stages", unknown)
    strange = sorted(set(plan.lr_mult) - {stage.name for stage in stages})
    expect(not strange, "lr_mult by the names of the stages given", strange)
    bad = {name: m for name, m in plan.lr_mult.items() if not (math.isfinite(m) and m >= 0)}
    expect(not bad, "rate multipliers that are finite and not negative", bad)
    expect(plan.norm in get_args(NormMode), f"norm to be one of {get_args(NormMode)}", plan.norm)
