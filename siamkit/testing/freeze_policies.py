"""The check of freeze policies: simulates whole runs on several networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import get_args

from torch import nn

from siamkit import plugins
from siamkit.errors import ConfigError
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
from siamkit.model.generators import seeded
from siamkit.model.siamese import SiameseNet
from siamkit.objects.identity import qualified_name
from siamkit.testing.common import Expect, Values, histories, untouched
from siamkit.testing.subjects import checked_entry, conformance
from siamkit.words import plural

_EPOCHS = (1, 2, 3, 5, 8, 12)
_LONG = 100
# One network with batch norm, and one with layer norm and with parameters of the root module.
_SMALL = ("timm:resnet10t", "timm:vit_tiny_patch16_224")
_STOPS = "The run would stop there, or never start."
_OTHER = "A resumed run would train other parameters than the original run."

Plans = list[FreezePlan]


@conformance
def check_freeze_policy(
    given: str | FreezePolicy | Callable[[Sequence[Stage], Progress], FreezePlan],
    options: Values | None = None,
    *,
    backbone: str | nn.Module | None = None,
) -> None:
    """Check a freeze policy by simulating whole runs of 1 to 100 epochs on several networks.

    A policy can refuse a network by raising ConfigError in the first epoch.

    Args:
        given: The registered name, a policy, or a function ``(stages, progress) -> FreezePlan``.
        options: Option values of a named policy, if the defaults are unsuitable.
        backbone: The only backbone to check with, as a name or a module. None: a small ResNet, a
            small ViT, and networks of two and three stages, with and without a head.
    """
    entry, validated, expect = checked_entry("freeze_policies", given, options)

    def build() -> FreezePolicy:
        with expect.during("in build", "Users could not use it."):
            policy = entry.build(validated)
        expect(isinstance(policy, FreezePolicy), "build to return a FreezePolicy", policy,
               "Training would be refused.")  # fmt: skip
        return policy  # type: ignore[no-any-return]

    refusals = []
    accepted = False
    for net, stages in _networks(backbone):
        refusal = _refusal(build(), stages, expect.within(net))
        if refusal is None:
            accepted = True
            _check_network(build, stages, expect.within(net), thorough="stages of" in net)
        else:
            refusals.append(f"{net}: {refusal}")
    expect(accepted, "plans for at least one network", refusals, "It would refuse every run.")


def _networks(backbone: str | nn.Module | None) -> Iterator[tuple[str, tuple[Stage, ...]]]:
    """Yield the name and stages of each network, small ones first: their messages are shorter."""
    if backbone is None:
        for count in (2, 3):
            stages = [_stage(name) for name in ("stem", "layer1", "layer2")[:count]]
            yield f"{count} stages of a network without a head", tuple(stages)
            yield f"{count} stages of a network", (*stages, _stage(HEAD, ""))
    for net in _SMALL if backbone is None else (backbone,):
        # The stages of a module are not cached, since it may be changed between two checks.
        find, name = (
            (_cached_stages_of, net) if isinstance(net, str) else (_stages_of, qualified_name(net))
        )
        for unit, stages_or_blocks in find(net).items():
            yield f"{name}, {unit}s", stages_or_blocks


def _stage(name: str, prefix: str = "backbone.") -> Stage:
    own = prefix + name
    parameters = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")
    names = tuple(f"{own}.{parameter}" for parameter in parameters)
    return Stage(name, names, (own,), own, frozenset(names[2:]))


def _stages_of(given: str | nn.Module) -> dict[str, tuple[Stage, ...]]:
    """Return the stages and the blocks of a network: a backbone with the head ``mlp``."""
    entry, options, _ = checked_entry("backbones", given, None)
    name = given if isinstance(given, str) else entry.name
    context = BackboneContext(name, False, image_size=64 if name in _SMALL else None)
    with seeded(0):
        backbone = build_backbone(entry, options, context, pretrained=False).backbone
        mlp = plugins.get().heads.get("mlp")
        head = mlp.build(mlp.validate({}, "head"), backbone.embedding_dim)
    net = SiameseNet(backbone, head)
    return {"stage": net.stages("stage"), "block": net.stages("block")}


_cached_stages_of = lru_cache(maxsize=8)(_stages_of)


def _refusal(policy: FreezePolicy, stages: tuple[Stage, ...], expect: Expect) -> str | None:
    """Return the reason why the policy refuses a network, or None."""
    with expect.within("1 epoch: epoch 0").during("in plan", _STOPS):
        try:
            policy.plan(list(stages), Progress(0, 1))
        except ConfigError as error:
            return str(error)
    return None


def _check_network(
    build: Callable[[], FreezePolicy],
    stages: tuple[Stage, ...],
    expect: Expect,
    *,
    thorough: bool,
) -> None:
    longest: dict[str, Plans] = {}
    for epochs in (_LONG, *_EPOCHS) if thorough else _EPOCHS[::-1]:
        runs: dict[str, Plans] = {}
        for label, (monitor, history) in histories(epochs).items():
            if not thorough and label not in ("rising", "noisy"):
                continue
            moments = [Progress(e, epochs, 0, 0, history[:e], monitor) for e in range(epochs)]
            within = expect.within(f"{plural(epochs, 'epoch')}, {label}")
            with untouched(within, moments):
                runs[label] = _check_run(build, stages, moments, within)
            known = longest.setdefault(label, runs[label])
            changed = [e for e, plan in enumerate(runs[label]) if plan != known[e]]
            within(
                not changed, f"the same plans as in a run of {len(known)} epochs",
                f"other plans in epochs {changed[:5]}",
                "A plan must not depend on progress.epochs: a longer run would change the phases "
                "that are already complete.",
            )  # fmt: skip
        given = [plans for label, plans in runs.items() if "pairs" not in label]
        expect.within(plural(epochs, "epoch"))(
            build().metric_driven is True or all(plans == given[0] for plans in given),
            "plans that ignore the history, or metric_driven = True",
            "plans that depend on the history",
            "'siamkit inspect' would show other phases than those of the run.",
        )  # fmt: skip
    if any(stage.name == HEAD for stage in stages):
        _check_head_elsewhere(build, stages, expect)


def _check_run(
    build: Callable[[], FreezePolicy],
    stages: tuple[Stage, ...],
    moments: list[Progress],
    expect: Expect,
) -> Plans:
    given = list(stages)
    policy = build()
    plans = [_plan(policy, given, moment, expect) for moment in moments]
    kept = [_copy(plan) for plan in plans]
    other = build()
    # A second policy, called in reverse order: a resumed run and `siamkit inspect` call plan in
    # other orders than a whole run.
    mirrored = [_copy(_plan(other, given, moment, expect)) for moment in moments[::-1]][::-1]
    for moment, plan, again in zip(moments, kept, mirrored, strict=True):
        at = expect.within(f"epoch {moment.epoch}")
        at(plan == again, "the same plan for the same progress, whatever the earlier calls", again,
           _OTHER)  # fmt: skip
        _check_plan(plan, stages, at)
        stepped = replace(moment, step=50 * moment.epoch + 7, steps=50 * moment.epochs)
        with_steps = _plan(build(), given, stepped, at)
        at(plan == with_steps, "a plan that does not depend on the step", with_steps,
           "A policy decides per epoch, and gets step 0 in every run.")  # fmt: skip
    expect(
        all(plan == was for plan, was in zip(plans, kept, strict=True)),
        "plans that do not change later", "changed plans",
        "A run's record of its phases would change afterwards.",
    )  # fmt: skip
    expect(given == list(stages), "a plan() that does not change its stages", given, _OTHER)
    head = {p for stage in stages if stage.name == HEAD for p in stage.parameters}
    trains = not head or any(head & plan.trainable for plan in plans)
    expect(trains, "the head to train in at least one epoch", "a head that never trains",
           "The head would keep its random weights.")  # fmt: skip
    return kept


def _plan(
    policy: FreezePolicy, stages: Sequence[Stage], moment: Progress, expect: Expect
) -> FreezePlan:
    at = expect.within(f"epoch {moment.epoch}")
    with at.during("in plan", _STOPS):
        plan = policy.plan(stages, moment)
    at(isinstance(plan, FreezePlan), "plan to return a FreezePlan", plan, _STOPS)
    return plan


def _copy(plan: FreezePlan) -> FreezePlan:
    return FreezePlan(plan.trainable, dict(plan.lr_mult), plan.norm)


def _check_plan(plan: FreezePlan, stages: tuple[Stage, ...], expect: Expect) -> None:
    unknown = sorted(plan.trainable - {p for stage in stages for p in stage.parameters}, key=str)
    expect(not unknown, "trainable with names of parameters in the stages", unknown[:5], _STOPS)
    strange = sorted(set(plan.lr_mult) - {stage.name for stage in stages}, key=str)
    expect(not strange, "lr_mult with the names of the stages as keys", strange, _STOPS)
    bad = {name: mult for name, mult in plan.lr_mult.items() if not _is_rate(mult)}
    expect(not bad, "rate multipliers that are finite and not negative", bad, _STOPS)
    modes = get_args(NormMode)
    expect(plan.norm in modes, f"norm to be one of {modes}", plan.norm, _STOPS)
    if not any(stage.name == HEAD for stage in stages):
        return  # a run refuses this before it starts, with the reason
    norms = {n for stage in stages if stage.name != HEAD for n in stage.norms}
    trainable = plan.trainable - norms if plan.norm == "frozen" else plan.trainable
    expect(bool(trainable), "at least one trainable parameter", "an epoch in which nothing trains",
           "The run would stop there.")  # fmt: skip
    moving = [s.name for s in stages if trainable.intersection(s.parameters)]
    expect(
        any(plan.lr_mult.get(name, 1.0) > 0 for name in moving),
        "a rate above zero for at least one stage that trains", dict(plan.lr_mult),
        "The epoch would take time and change nothing.",
    )  # fmt: skip


def _is_rate(mult: object) -> bool:
    plain = isinstance(mult, int | float) and not isinstance(mult, bool)
    return plain and math.isfinite(mult) and mult >= 0  # type: ignore[arg-type, operator]


def _check_head_elsewhere(
    build: Callable[[], FreezePolicy], stages: tuple[Stage, ...], expect: Expect
) -> None:
    """Check that the policy identifies the head by its name, not by its position."""
    others = [stage for stage in stages if stage.name != HEAD]
    head = [stage for stage in stages if stage.name == HEAD]
    elsewhere = (*others[:1], *head, *others[1:])
    for epoch in range(6):
        moment = Progress(epoch, 6, history=histories(6)["noisy"][1][:epoch])
        at = expect.within(f"with the head listed second, epoch {epoch}")
        last, moved = (_plan(build(), given, moment, at) for given in (stages, elsewhere))
        at(
            last == moved, "the head to be identified by its name, siamkit.interfaces.HEAD",
            "another plan for a head in another position",
            "In a network whose head has no parameters, the deepest stage would count as the head.",
        )  # fmt: skip
