"""The options of the built-in entries: the values at their bounds, and what is left out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from siamkit import plugins
from siamkit.errors import ConfigError
from siamkit.interfaces import FreezePlan, LossContext, Progress, Stage
from siamkit.registry import KINDS

TINY = math.ulp(1.0)
BELOW_1, ABOVE_1 = 1 - TINY / 2, 1 + TINY

# The kind, the entry, the option, allowed values at its bounds, and refused ones beside them.
BOUNDS: list[tuple[str, str, str, list[Any], list[Any]]] = [
    *[("schedulers", name, "warmup", [0, 3], [-TINY])
      for name in ("constant", "cosine", "linear", "step", "one-cycle", "plateau")],
    *[("schedulers", name, "final", [0, 1], [-TINY, ABOVE_1])
      for name in ("cosine", "linear", "one-cycle", "plateau")],
    ("schedulers", "step", "every", [1], [0]),
    ("schedulers", "step", "factor", [TINY, 1], [0, ABOVE_1]),
    ("schedulers", "one-cycle", "start", [TINY, 1], [0, ABOVE_1]),
    ("schedulers", "plateau", "patience", [1], [0]),
    ("schedulers", "plateau", "min_delta", [0], [-TINY]),
    ("schedulers", "plateau", "factor", [TINY, BELOW_1], [0, 1]),
    ("losses", "triplet", "margin", [TINY], [0]),
    ("losses", "contrastive", "pos_margin", [0, BELOW_1], [-TINY, 1]),
    ("losses", "contrastive", "neg_margin", [TINY], [0]),
    ("losses", "multi-similarity", "alpha", [TINY], [0]),
    ("losses", "multi-similarity", "beta", [TINY], [0]),
    ("losses", "multi-similarity", "base", [-1, 1], [-ABOVE_1, ABOVE_1]),
    ("losses", "multi-similarity", "epsilon", [0, 2, None], [-TINY, 2 + 4 * TINY]),
    ("losses", "supcon", "temperature", [0.025], [0.0249]),
    ("losses", "ntxent", "temperature", [0.025], [0.0249]),
    ("losses", "circle", "margin", [TINY, BELOW_1], [0, 1]),
    ("losses", "circle", "scale", [TINY], [0]),
    ("losses", "proxy-anchor", "margin", [0, BELOW_1], [-TINY, 1]),
    ("losses", "proxy-anchor", "alpha", [TINY], [0]),
    ("losses", "arcface", "margin", [0, 89.9], [-TINY, 90]),
    ("losses", "arcface", "scale", [TINY], [0]),
    *[("losses", name, "memory", [2, None], [1])
      for name in ("triplet", "contrastive", "multi-similarity", "supcon", "ntxent", "circle")],
    *[("freeze_policies", name, "lr_mult", [TINY, 100], [0, 100.1])
      for name in ("unfreeze-blocks", "stages", "gradual-unfreeze", "lp-ft", "surgical",
                   "norm-only", "bitfit")],
    ("freeze_policies", "unfreeze-blocks", "n", [1], [0]),
    ("freeze_policies", "stages", "n", [1], [0]),
    ("freeze_policies", "stages", "warmup", [0], [-1]),
    ("freeze_policies", "gradual-unfreeze", "decay", [TINY, 1], [0, ABOVE_1]),
    ("freeze_policies", "gradual-unfreeze", "every", [1], [0]),
    ("freeze_policies", "gradual-unfreeze", "patience", [1], [0]),
    ("freeze_policies", "gradual-unfreeze", "min_delta", [0], [-TINY]),
    ("freeze_policies", "gradual-unfreeze", "window", [1, None], [0]),
    ("freeze_policies", "lp-ft", "decay", [TINY, 1], [0, ABOVE_1]),
    ("freeze_policies", "full", "decay", [TINY, 1], [0, ABOVE_1]),
    ("freeze_policies", "lp-ft", "probe", [1], [0]),
    ("heads", "linear", "dim", [1], [0]),
    ("heads", "mlp", "dim", [1], [0]),
    ("heads", "mlp", "hidden", [1], [0]),
    ("heads", "bnneck", "dim", [1, None], [0]),
    ("heads", "residual", "hidden", [1], [0]),
    ("heads", "multistage", "dim", [1], [0]),
    ("heads", "multistage", "stages", [1, 64], [0, 65]),
    ("optimizers", "adamw", "betas", [(0, BELOW_1), (BELOW_1, 0)], [(-TINY, 0.9), (0.9, 1)]),
    ("optimizers", "sgd", "momentum", [0, BELOW_1], [-TINY, 1]),
    ("backbones", "timm:", "drop_path_rate", [0, BELOW_1], [-TINY, 1]),
]  # fmt: skip


def entry(kind: str, name: str) -> Any:
    return plugins.get().registries[kind].entries[name]


@pytest.mark.parametrize(
    ("kind", "name", "option", "allowed", "refused"),
    BOUNDS,
    ids=[f"{name}-{option}" for _, name, option, _, _ in BOUNDS],
)
def test_an_option_is_allowed_up_to_its_bounds(kind, name, option, allowed, refused):
    for value in allowed:
        assert getattr(entry(kind, name).validate({option: value}, ""), option) == value
    for value in refused:
        with pytest.raises(ConfigError, match=option):
            entry(kind, name).validate({option: value}, "")


def test_every_bound_of_a_built_in_option_is_tested():
    def numbers(schema: Any) -> bool:
        if isinstance(schema, dict):
            keys = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
            return any(key in schema for key in keys) or any(map(numbers, schema.values()))
        return isinstance(schema, list) and any(map(numbers, schema))

    bounded = {
        (kind, one.name, option)
        for kind in KINDS
        for one in plugins.get().registries[kind]
        if one.distribution == "siamkit"
        for option, schema in one.options.model_json_schema().get("properties", {}).items()
        if numbers(schema)
    }
    tested = {(kind, name, option) for kind, name, option, _, _ in BOUNDS}
    # All backbones of timm share one model of options, and so do Adam and AdamW; all policies
    # share the rate.
    shared = {
        ("backbones", "drop_path_rate"), ("optimizers", "betas"), ("freeze_policies", "lr_mult"),
    }  # fmt: skip
    assert {one for one in bounded - tested if (one[0], one[2]) not in shared} == set()


# What the paper of a loss, or the description of a schedule, takes where the user sets nothing.
PUBLISHED: dict[str, dict[str, Any]] = {
    "triplet": {"margin": 0.2, "mining": "semihard"},  # Schroff et al. 2015
    "contrastive": {"pos_margin": 0.0, "neg_margin": 1.0},  # Hadsell et al. 2006
    "multi-similarity": {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": 0.1},
    "supcon": {"temperature": 0.1},  # Khosla et al. 2020
    "ntxent": {"temperature": 0.07},
    "circle": {"margin": 0.4, "scale": 80.0},  # Sun et al. 2020, for fine-grained retrieval
    "proxy-anchor": {"margin": 0.1, "alpha": 32.0},  # Kim et al. 2020
    "arcface": {"margin": 28.6, "scale": 64.0},  # Deng et al. 2019: 0.5 in radians
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_loss_without_options_is_that_of_its_paper(name):
    labels = torch.arange(12) % 4
    embeddings = torch.nn.functional.normalize(
        torch.eye(4)[labels] + torch.randn(12, 4, generator=torch.Generator().manual_seed(1)) / 3
    )
    values = []
    for options in ({}, PUBLISHED[name]):
        torch.manual_seed(0)  # for proxies and class vectors
        one = entry("losses", name)
        loss = one.build(one.validate(options, ""), LossContext(4, 4))
        values.append(loss(embeddings, labels).item())
    assert values[0] == values[1] != 0


def test_a_warm_up_of_a_schedule_is_none_unless_it_is_set():
    for name in ("constant", "cosine", "linear", "step", "plateau"):
        one = entry("schedulers", name)
        assert one.build(one.validate({}, "")).lr_scale(Progress(0, 4)) == 1.0


@pytest.mark.parametrize(
    ("name", "epoch", "history", "expected"),
    [
        ("step", 4, 0, 1.0), ("step", 5, 0, 0.1), ("step", 10, 0, 0.01),
        # Three epochs without improvement, then a third of the rate, down to a hundredth.
        ("plateau", 3, 3, 1.0), ("plateau", 4, 4, 0.3), ("plateau", 7, 7, 0.09),
        ("plateau", 40, 40, 0.01),
        ("cosine", 10, 0, 0.0), ("linear", 10, 0, 0.0), ("linear", 5, 0, 0.5),
        ("one-cycle", 0, 0, 0.04), ("one-cycle", 3, 0, 1.0), ("one-cycle", 10, 0, 1e-4),
    ],
)  # fmt: skip
def test_a_schedule_without_options_reduces_the_rate_as_its_help_says(
    name, epoch, history, expected
):
    one = entry("schedulers", name)
    epochs = 41 if name == "plateau" else 20 if name == "step" else 10
    progress = Progress(epoch, epochs, history=({"recall@1": 0.5},) * history)
    assert one.build(one.validate({}, "")).lr_scale(progress) == pytest.approx(expected, rel=1e-9)


STAGES = (*(Stage(f"s{i}", (f"p{i}",)) for i in range(5)), Stage("head", ("h",)))


def plan(name: str, epoch: int, **options: Any) -> FreezePlan:
    one = entry("freeze_policies", name)
    found: FreezePlan = one.build(one.validate(options, "")).plan(STAGES, Progress(epoch, 10))
    return found


@pytest.mark.parametrize(
    ("name", "first", "later"),
    [
        ("unfreeze-blocks", "p3 p4 h", "p3 p4 h"),
        ("stages", "h", "p3 p4 h"),  # after two epochs
        ("gradual-unfreeze", "h", "p3 p4 h"),  # a stage more in each epoch
        ("surgical", "p0 h", "p0 h"),
    ],
)
def test_a_policy_without_options_trains_what_its_help_says(name, first, later):
    assert plan(name, 0).trainable == set(first.split())
    assert plan(name, 2).trainable == set(later.split())
    rates = plan(name, 2).lr_mult
    assert {rates[stage.name] for stage in STAGES[:-1] if stage.name in rates} == {0.1}
    assert rates.get("head", 1.0) == 1.0 and plan(name, 2).norm == "affine"


def test_the_head_alone_trains_in_the_first_epochs():
    assert [len(plan("stages", epoch).trainable) for epoch in range(4)] == [1, 1, 3, 3]
    assert [len(plan("lp-ft", epoch).trainable) for epoch in range(5)] == [1, 1, 1, 6, 6]
