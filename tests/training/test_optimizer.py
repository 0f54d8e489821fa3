from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

from siamkit import api
from siamkit.config import OptimizerConfig
from siamkit.errors import PluginError
from siamkit.interfaces import FreezePlan, Loss, LossContext
from siamkit.model.siamese import SiameseNet
from siamkit.testing import check_optimizer
from siamkit.training.build import build_optimizer
from siamkit.training.optimizer import (
    load_state_tensors,
    named_groups,
    no_decay,
    rates,
    require_groups,
    set_rates,
    state_size,
    state_tensors,
    update_memory,
)
from siamkit.training.warmup import warmup_factors


@pytest.fixture(scope="module")
def net() -> SiameseNet:
    return api.create_model("timm:test_vit", pretrained=False, head={"name": "mlp", "dim": 4})


def loss(name: str) -> Loss:
    entry = api.registries()["loss"].get(name)
    return entry.build(entry.validate({}, name), LossContext(4, 3))


def built(config: OptimizerConfig, net: SiameseNet, loss: Loss) -> torch.optim.Optimizer:
    return build_optimizer(config, api.registries()["optimizer"], net, loss, net.stages())


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_every_parameter_is_in_exactly_one_group(net: SiameseNet, name: str) -> None:
    proxies = loss("proxy-anchor")
    optimizer = built(OptimizerConfig(name=name), net, proxies)
    owned = [id(p) for group in optimizer.param_groups for p in group["params"]]
    everything = [*net.parameters(), *proxies.parameters()]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in everything}


def test_groups_are_stage_by_decay_and_a_loss_has_its_own(net: SiameseNet) -> None:
    optimizer = build_optimizer(
        OptimizerConfig(weight_decay=0.5),
        api.registries()["optimizer"],
        net,
        loss("proxy-anchor"),
        net.stages(),
    )
    decay = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay["head/decay"] == 0.5 and decay["head/no_decay"] == 0.0
    assert decay["loss/no_decay"] == 0.0
    first, *_, last = decay
    assert first.startswith("stem/") and last.startswith("loss/")


def test_vectors_and_what_the_architecture_exempts_are_not_decayed(net: SiameseNet) -> None:
    undecayed = no_decay(net)
    assert "backbone.model.pos_embed" in undecayed, "timm's no_weight_decay()"
    assert "head.0.bias" in undecayed
    assert "head.0.weight" not in undecayed


def test_a_norm_layer_over_positions_is_not_decayed() -> None:
    """Its scale has the shape of its input, without the batch."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 6, 6]))
    assert net[1].weight.ndim == 3
    assert no_decay(net) == {"0.bias", "1.weight", "1.bias"}


def test_rates_multiply_base_stage_schedule_and_warmup() -> None:
    config = OptimizerConfig(lr=0.1, loss_lr_mult=10)
    plan = FreezePlan(frozenset(), {"layer4": 0.5})
    found = rates(config, plan, scale=0.5, warmups={"layer4": 0.25, "layer3": 0.1})
    assert found == pytest.approx({"layer4": 0.1 * 0.5 * 0.5 * 0.25, "layer3": 0.1 * 0.5 * 0.1,
                                   "loss": 0.1 * 10 * 0.5})  # fmt: skip


def test_set_rates_leaves_no_group_at_an_old_rate(net: SiameseNet) -> None:
    optimizer = built(OptimizerConfig(), net, loss("triplet"))
    set_rates(optimizer, {"head": 1.0}, 0.25)
    assert {g["lr"] for g in optimizer.param_groups if g["stage"] == "head"} == {1.0}
    assert {g["lr"] for g in optimizer.param_groups if g["stage"] != "head"} == {0.25}


def test_a_just_unfrozen_stage_reaches_its_rate_in_so_many_steps() -> None:
    since = {"layer4": 2}
    ramp = [warmup_factors(since, step, 10, 4).get("layer4", 1.0) for step in range(20, 26)]
    assert ramp == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup_factors(since, 20, 10, 0) == {}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_state_survives_a_round_trip_by_name(net: SiameseNet, name: str) -> None:
    def make() -> torch.optim.Optimizer:
        return build_optimizer(
            OptimizerConfig(name=name),
            api.registries()["optimizer"],
            net,
            loss("triplet"),
            net.stages(),
        )

    first, second = make(), make()
    size = net.backbone.preprocessing.size
    net(torch.randn(2, 3, *size)).sum().backward()
    first.step()
    load_state_tensors(second, state_tensors(first))
    saved, loaded = state_tensors(first), state_tensors(second)
    assert saved.keys() == loaded.keys() and saved
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)


@pytest.mark.parametrize("flags", [{}, {"fused": True}, {"capturable": True}], ids=str)
def test_restored_state_is_on_the_device_of_its_parameter(flags: dict[str, bool]) -> None:
    """Also state of another shape. A count of steps is on the CPU if torch expects it there."""
    parameter = nn.Parameter(torch.empty(3, 4, device="meta"))
    group = {"params": [parameter], "names": ["p"], "name": "g", **flags}
    optimizer = SimpleNamespace(param_groups=[group], state=defaultdict(dict))
    shapes = {"exp_avg": (3, 4), "row_var": (3, 1), "mu_product": (), "step": ()}
    saved = {f"p::{key}": torch.ones(shape) for key, shape in shapes.items()}
    load_state_tensors(optimizer, saved)  # type: ignore[arg-type]
    found = {key: value.device.type for key, value in optimizer.state[parameter].items()}
    assert found == {**dict.fromkeys(shapes, "meta"), "step": "meta" if flags else "cpu"}


def test_restored_state_is_a_copy_because_what_was_read_may_be_a_mapped_file() -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    group = {"params": [parameter], "names": ["p"], "name": "g"}
    optimizer = SimpleNamespace(param_groups=[group], state=defaultdict(dict))
    shapes = {"exp_avg": (3, 4), "row_var": (3, 1), "step": ()}
    saved = {f"p::{key}": torch.ones(shape) for key, shape in shapes.items()}
    load_state_tensors(optimizer, saved)  # type: ignore[arg-type]
    for key, value in optimizer.state[parameter].items():
        assert torch.equal(value, saved[f"p::{key}"])
        assert value.data_ptr() != saved[f"p::{key}"].data_ptr(), key


@pytest.mark.parametrize("kind", [timm.optim.Lamb, timm.optim.AdamP, timm.optim.Adopt])
def test_steps_that_are_counted_in_a_group_or_as_a_number_survive_too(kind: type) -> None:
    # check_optimizer saves and loads the state as a run does.
    check_optimizer(kind)


class Hoarding(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["history"] = {1, 2}


def test_a_parameter_that_is_left_out_or_added_is_named() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"stage": "head", "names": [name], "params": [p]}
        for name, p in zip("ab", parameters, strict=True)
    ]
    fewer = torch.optim.SGD([dict(groups[0])], lr=0.1)
    more = torch.optim.SGD([dict(group) for group in groups], lr=0.1)
    require_groups(more, groups, "sgd")
    with pytest.raises(PluginError, match="got 'without b'"):
        require_groups(fewer, groups, "sgd")
    with pytest.raises(PluginError, match="got 'with b'"):
        require_groups(more, groups[:1], "sgd")


class Demanding(torch.optim.SGD):
    """Cannot be made again without a further argument."""

    def __init__(self, groups: Any, must: str, **options: Any) -> None:
        super().__init__(groups, **options)


class Reading(torch.optim.SGD):
    """Looks at values, which tensors without data do not have."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if float(parameter.grad.sum()) != 0:
                    self.state[parameter]["mean"] = torch.zeros(2, *parameter.shape)
        super().step()


@pytest.mark.parametrize(
    ("kind", "copies"), [(lambda groups: Demanding(groups, "x", lr=0.1), 2), (Reading, 2)]
)
def test_the_memory_of_an_optimizer_that_cannot_be_tried_is_estimated(
    kind: Any, copies: int
) -> None:
    parameters = [nn.Parameter(torch.zeros(n)) for n in (10, 6)]
    frozen = nn.Parameter(torch.zeros(100), requires_grad=False)
    memory = update_memory(kind([{"params": [*parameters, frozen], "names": list("abc")}]))
    assert memory.state.total == copies * 4 * 16
    assert memory.temporary.total == 4 * 10, "an update works on one parameter after the other"


@pytest.mark.parametrize(
    ("kind", "copies"),
    [
        (torch.optim.Adam, 2),
        (torch.optim.SGD, 0),
        (lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9), 1),
        (lambda groups: Demanding(groups, "x", lr=0.1), 2),
        (Reading, 2),
    ],
)
def test_the_values_that_an_optimizer_keeps_are_counted(kind: Any, copies: int) -> None:
    assert state_size(kind([nn.Parameter(torch.zeros(5))])) == copies


@pytest.mark.parametrize("lost", ["stage", "names"])
def test_a_group_that_lost_its_keys_is_refused(lost: str) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    group: dict[str, Any] = {"stage": "head", "names": ["a"], "params": [parameter]}
    short = torch.optim.SGD([{key: v for key, v in group.items() if key != lost}], lr=0.1)
    with pytest.raises(PluginError, match=r"sgd: a parameter group lost its key 'stage' or 'nam"):
        require_groups(short, [group], "sgd")


def test_groups_hold_the_parameters_of_their_stage_in_order(net: SiameseNet) -> None:
    undecayed = no_decay(net)
    groups = named_groups(OptimizerConfig(weight_decay=0.5), net, loss("triplet"), net.stages())
    for stage in net.stages():
        own = {g["weight_decay"]: g["names"] for g in groups if g["stage"] == stage.name}
        assert own.get(0.5, []) == [n for n in stage.parameters if n not in undecayed]
        assert own.get(0.0, []) == [n for n in stage.parameters if n in undecayed]
        assert all(own.values()), "no group is empty"


def test_restored_state_has_the_memory_layout_of_its_parameter() -> None:
    weight = nn.Parameter(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
    scalar = nn.Parameter(torch.zeros(()))
    group = {"params": [weight, scalar], "names": ["w", "s"], "name": "g"}
    optimizer = SimpleNamespace(param_groups=[group], state=defaultdict(dict))
    moment = torch.arange(96.0).reshape(2, 3, 4, 4)
    saved = {"w::exp_avg": moment, "s::step": torch.tensor(3.0), "s::exp_avg": torch.tensor(0.5)}
    load_state_tensors(optimizer, saved)  # type: ignore[arg-type]
    restored = optimizer.state[weight]["exp_avg"]
    assert torch.equal(restored, moment)
    assert restored.is_contiguous(memory_format=torch.channels_last)
    assert optimizer.state[scalar] == {"step": torch.tensor(3.0), "exp_avg": torch.tensor(0.5)}
    assert restored.data_ptr() != moment.data_ptr()


@pytest.mark.parametrize("where", ["wrapper", "global"])
def test_state_elsewhere_than_with_the_parameters_is_refused(where: str) -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer: Any = torch.optim.AdamW([{"params": [parameter], "names": ["p"], "name": "g"}])
    if where == "wrapper":
        optimizer = timm.optim.Lookahead(optimizer)
    assert not state_tensors(optimizer)
    parameter.grad = torch.ones(3)
    optimizer.step()
    if where == "global":
        state_tensors(optimizer)
        optimizer.state["count"] = 1
    with pytest.raises(PluginError, match=r"state_dict holds more than optimizer\.state"):
        state_tensors(optimizer)


def test_state_that_cannot_be_saved_is_refused(net: SiameseNet) -> None:
    groups = named_groups(OptimizerConfig(), net, loss("triplet"), net.stages())
    optimizer = Hoarding(groups, lr=0.1)
    state_tensors(optimizer)
    optimizer.step()
    with pytest.raises(PluginError, match=r"Hoarding keeps state .* 'history' of .* got 'set'"):
        state_tensors(optimizer)
