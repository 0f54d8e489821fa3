from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from siamkit import api
from siamkit.errors import ConfigError, FrozenDriftError
from siamkit.freezing.controller import FreezeController, _owners
from siamkit.freezing.hold import is_held
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.grouping import is_norm
from siamkit.model.siamese import SiameseNet


def make(backbone: str = "timm:resnet10t", head: str = "bnneck") -> FreezeController:
    net = api.create_model(backbone, pretrained=False, head=head)
    return FreezeController(net, net.stages())


def norms(net: SiameseNet, prefix: str) -> list[nn.Module]:
    return [m for n, m in net.named_modules() if n.startswith(prefix) and is_norm(m)]


def test_applying_a_plan_twice_changes_nothing_and_reports_nothing() -> None:
    controller = make()
    plan = FreezePlan.of(controller.stages, ["layer4"])
    assert len(controller.apply(plan)) == len(controller.stages)
    assert controller.apply(plan) == ()


def test_changes_say_what_was_and_what_is() -> None:
    controller = make()
    controller.apply(FreezePlan.of(controller.stages, []))
    (change,) = controller.apply(FreezePlan.of(controller.stages, ["layer4"]))
    assert change.now.name == "layer4"
    assert change.was is not None and change.was.trainable == 0
    assert change.now.trainable == change.now.parameters > 0


def test_flags_follow_the_plan_and_gradients_are_dropped() -> None:
    controller = make()
    controller.apply(FreezePlan.of(controller.stages, ["layer4"]))
    controller.net(torch.randn(4, 3, 32, 32)).sum().backward()
    plan = FreezePlan.of(controller.stages, ["layer3"])
    plain = controller.net.zero_grad
    # A network may zero gradients in place by default; a frozen parameter would still move.
    controller.net.zero_grad = lambda set_to_none=False: plain(set_to_none)  # type: ignore[method-assign]
    controller.apply(plan)
    for name, parameter in controller.net.named_parameters():
        assert parameter.requires_grad is (name in plan.trainable)
        assert parameter.grad is None


@pytest.mark.parametrize(
    ("mode", "trains"), [("train", True), ("affine", False), ("frozen", False)]
)
def test_the_norm_mode_of_a_trainable_stage(mode: str, trains: bool) -> None:
    controller = make()
    controller.apply(FreezePlan.of(controller.stages, ["layer4"], norm=mode))
    controller.net.train()
    assert {norm.training for norm in norms(controller.net, "backbone.model.layer4")} == {trains}
    assert {norm.training for norm in norms(controller.net, "backbone.model.layer3")} == {False}
    (neck,) = norms(controller.net, "head.")
    assert neck.training, "a new norm's statistics mean nothing before they are trained"


def test_frozen_norms_do_not_train_whoever_made_the_plan() -> None:
    controller = make()
    plan = FreezePlan.of(controller.stages, ["layer4"], norm="frozen")
    controller.apply(plan)
    net = controller.net.train()
    for name, parameter in net.named_parameters():
        if ".bn" in name or "downsample.2" in name:
            assert not parameter.requires_grad, name
    assert any(p.requires_grad for n, p in net.named_parameters() if ".layer4." in n)
    assert "backbone.model.layer4.0.bn1.weight" in controller.fingerprints
    (neck,) = norms(net, "head.")
    assert all(p.requires_grad for p in neck.parameters())
    assert controller.apply(plan) == ()


class NormalizedNet(nn.Sequential):
    """A whole network whose class has the name of a norm."""


def test_the_name_of_a_networks_class_holds_nothing_in_eval_mode() -> None:
    body = NormalizedNet(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    net = NormalizedNet(body, nn.Conv2d(4, 4, 1))
    stages = (
        Stage("body", tuple(f"0.{n}" for n, _ in body.named_parameters()), ("0",), "0",
              frozenset({"0.1.weight", "0.1.bias"})),
        Stage("last", ("1.weight", "1.bias"), ("1",), "1"),
    )  # fmt: skip
    controller = FreezeController(net, stages)
    controller.apply(FreezePlan.of(stages, ["body", "last"], norm="train"))
    net.train()
    assert all(module.training for module in net.modules())


def test_the_eval_mode_of_the_whole_network_is_kept_by_a_plan() -> None:
    controller = make()
    controller.net.eval()
    controller.apply(FreezePlan.of(controller.stages, ["layer4"]))
    assert not any(module.training for module in controller.net.modules())


def test_one_block_of_a_stage_trains_and_its_neighbour_stays_fixed() -> None:
    controller = make("resnet50")
    controller.apply(FreezePlan.of(controller.stages, ["layer4.2"], norm="train"))
    controller.net.train()
    assert all(norm.training for norm in norms(controller.net, "backbone.model.layer4.2"))
    assert not any(norm.training for norm in norms(controller.net, "backbone.model.layer4.1"))


def test_single_parameters_train_where_norms_stay() -> None:
    controller = make()
    names = {n for n in controller.sizes if n.endswith("conv1.weight") and "layer4" in n}
    controller.apply(FreezePlan(frozenset(names), norm="train"))
    controller.net.train()
    assert not any(norm.training for norm in norms(controller.net, "backbone."))


def test_fingerprints_cover_frozen_parameters_and_the_buffers_of_fixed_norms() -> None:
    controller = make()
    controller.apply(FreezePlan.of(controller.stages, ["layer4"]))
    names = set(controller.fingerprints)
    assert "backbone.model.layer1.0.conv1.weight" in names
    assert "backbone.model.layer1.0.bn1.running_mean" in names
    assert "backbone.model.layer4.0.bn1.running_mean" in names, "affine keeps the statistics"
    assert "backbone.model.layer4.0.conv1.weight" not in names
    assert not any(name.startswith("head.") for name in names)


@pytest.mark.parametrize(
    "name", ["backbone.model.layer1.0.conv1.weight", "backbone.model.layer1.0.bn1.running_var"]
)
def test_a_frozen_tensor_that_changes_fails_the_proof(name: str) -> None:
    controller = make()
    controller.apply(FreezePlan.of(controller.stages, ["layer4"]))
    controller.verify("now")
    with torch.no_grad():
        controller.net.state_dict()[name].mul_(1.0001).add_(1e-6)
    with pytest.raises(FrozenDriftError, match=name.replace(".", r"\.")):
        controller.verify("now")


def test_a_recent_proof_is_not_repeated_while_torch_notes_no_change() -> None:
    controller = make()
    controller.apply(FreezePlan.of(controller.stages, ["layer4"]))
    controller._verify_again = float("inf")
    with torch.no_grad():
        controller.net.backbone.model.layer4[0].conv1.weight.add_(1)  # trains
    assert controller.verify_often("now") is False
    frozen = controller.net.backbone.model.layer1[0].conv1.weight
    frozen.data += 1  # torch does not count it
    controller.verify_often("now")
    with pytest.raises(FrozenDriftError, match=r"changed at the end: .*layer1\.0\.conv1"):
        controller.verify("the end")
    controller._verify_again = 0.0
    with pytest.raises(FrozenDriftError):
        controller.verify_often("now")


@pytest.mark.parametrize("kind", ["in place", "statistics", "replaced", "gone"])
def test_what_torch_notes_is_drift_however_recent_the_proof_is(kind: str) -> None:
    controller = make()
    controller.apply(FreezePlan.of(controller.stages, ["head"]))
    controller._verify_again = float("inf")
    norm = controller.net.backbone.model.layer1[0].bn1
    with torch.no_grad():
        if kind == "in place":
            norm.weight.mul_(2)
        elif kind == "statistics":
            norm.running_mean.data.add_(1)
        elif kind == "replaced":
            norm.weight = nn.Parameter(norm.weight * 2)
        else:
            norm.weight = None
    with pytest.raises(FrozenDriftError, match=r"layer1\.0\.bn1"):
        controller.verify_often("now")


def test_a_verification_that_is_due_is_done() -> None:
    controller = make()
    controller.apply(FreezePlan.of(controller.stages, ["layer4"]))
    controller._verify_again = 0.0
    assert controller.verify_often("now") is True


def test_proofs_take_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = make()
    ticks = iter([100.0, 102.0])  # the verification takes 2 seconds
    monkeypatch.setattr("siamkit.freezing.controller.time.monotonic", lambda: next(ticks))
    controller.apply(FreezePlan.of(controller.stages, ["head"]))
    assert controller._verify_again == pytest.approx(102 + 38)


def test_a_parameter_that_is_gone_is_drift_and_ends_the_next_plan() -> None:
    controller = make()
    stages = controller.stages
    controller.apply(FreezePlan.of(stages, ["head"]))
    nn.utils.parametrizations.weight_norm(controller.net.backbone.model.conv1[0])
    with pytest.raises(FrozenDriftError, match=r"changed at epoch 1: backbone\..*conv1\.0\.weight"):
        controller.verify("epoch 1")
    with pytest.raises(ConfigError, match="a parameter that the network doesn't have"):
        controller.apply(FreezePlan.of(stages, ["head"]))


def test_the_modules_that_train_are_those_that_are_not_held() -> None:
    controller = make()
    plan = FreezePlan.of(controller.stages, ["layer4"], norm="affine")
    controller.apply(plan)
    found = controller.training_modules(plan)
    held = {name for name, module in controller.net.named_modules() if is_held(module)}
    assert found == {name for name, _ in controller.net.named_modules()} - held
    assert "backbone.model.layer4.0.conv1" in found
    assert "backbone.model.layer3.0.conv1" not in found


def test_a_transformers_position_dropout_freezes_with_its_stem() -> None:
    controller = make("timm:test_vit")
    last = controller.stages[-2].name
    controller.apply(FreezePlan.of(controller.stages, [last]))
    controller.net.train()
    assert is_held(controller.net.backbone.model.pos_drop)
    assert controller.net.backbone.model.blocks[-1].training


class Blocks(nn.Module):
    """A stage of two blocks, and a norm that is in none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.ModuleDict(
            {"a": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2), "b": nn.Linear(2, 2)}
        )


def test_a_module_outside_the_blocks_of_a_stage_belongs_to_its_last_block() -> None:
    a = Stage("stage.a", ("stage.a.weight", "stage.a.bias"), ("stage.a",))
    norm = ("stage.norm.weight", "stage.norm.bias")
    b = Stage("stage.b", (*norm, "stage.b.weight", "stage.b.bias"), ("stage.b",))
    whole = Stage("stage", (*a.parameters, *b.parameters), ("stage",), blocks=(a, b))
    owners = _owners(Blocks(), [whole], [a, b])
    assert {name: owner.name for name, owner in owners.items()} == {
        "stage": "stage.b", "stage.a": "stage.a", "stage.norm": "stage.b", "stage.b": "stage.b",
    }  # fmt: skip


def test_stages_that_no_gradient_reaches_are_named() -> None:
    class Detaches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(2, 2) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.a(x)).detach())

    net = Detaches()
    stages = [Stage(n, (f"{n}.weight", f"{n}.bias"), (n,), n) for n in "abc"]
    controller = FreezeController(net, stages)
    assert controller.without_gradient() == []
    controller.apply(FreezePlan.of(stages, ["b", "c"]))
    assert controller.without_gradient() == ["b", "c"], "no backward pass yet"
    net(torch.randn(3, 2)).sum().backward()
    assert controller.without_gradient() == ["b"]


@pytest.mark.parametrize(("shared", "p", "named"), [(True, 0.5, ["b.1"]), (True, 0, []),
                                                    (False, 0.5, [])])  # fmt: skip
def test_a_dropout_that_frozen_and_trained_parts_share_is_named(
    shared: bool, p: float, named: list[str]
) -> None:
    first = nn.Dropout(p)
    second = first if shared else nn.Dropout(p)
    net = nn.ModuleDict({
        "a": nn.Sequential(nn.Linear(2, 2), first, nn.ReLU()),
        "b": nn.Sequential(nn.Linear(2, 2), second, nn.ReLU()),
    })  # fmt: skip
    stages = [Stage(n, (f"{n}.0.weight", f"{n}.0.bias"), (n,), n) for n in "ab"]
    controller = FreezeController(net, stages)
    assert controller.shared_dropouts() == []
    controller.apply(FreezePlan.of(stages, ["b"]))
    assert controller.shared_dropouts() == named
    controller.apply(FreezePlan.of(stages, ["a", "b"]))
    assert controller.shared_dropouts() == []


def pair() -> nn.Module:
    return nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})


@pytest.mark.parametrize(
    ("first", "second", "what", "got", "hint"),
    [
        (("a.weigth", "b.bias"), ("z.z",), "name a parameter that the network doesn't have",
         "a.weigth", "did you mean 'a.weight'?"),
        (("zz", "yy"), (), "name a parameter that the network doesn't have", "zz",
         "siamkit.freezing.discover_stages gives the stages of any network"),
        (("a.weight", "a.bias", "b.weight", "b.bias"), ("b.bias", "a.bias"),
         "hold a parameter twice", "a.bias",
         "siamkit.freezing.discover_stages gives the stages of any network"),
        (("a.weight",), ("b.weight",), "leave out 2 of the network's parameters", "a.bias",
         "siamkit.freezing.discover_stages gives the stages of any network"),
    ],
)  # fmt: skip
def test_stages_that_do_not_fit_are_told_by_the_first_parameter(
    first: tuple[str, ...], second: tuple[str, ...], what: str, got: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        FreezeController(pair(), (Stage("one", first), Stage("two", second)))
    error = caught.value
    assert what in error.what
    assert (error.got, error.hint) == (got, hint)


def test_a_plan_for_parameters_that_are_not_there_names_the_first_and_the_nearest() -> None:
    names = ("a.weight", "a.bias", "b.weight", "b.bias")
    controller = FreezeController(pair(), (Stage("all", names, ("a", "b")),))
    for unknown, got, hint in (
        ({"b.biass", "zz"}, "b.biass", "did you mean 'b.bias'?"),
        ({"zz", "yy"}, "yy", None),
    ):
        with pytest.raises(ConfigError, match="the plan trains a parameter") as caught:
            controller.apply(FreezePlan(frozenset({"a.bias", *unknown})))
        assert (caught.value.got, caught.value.hint) == (got, hint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "Train"}, r"plan: plan has an unknown norm mode, got 'Train', allowed: frozen"),
        ({"lr_mult": {"layer9": 0.1}}, r"a rate for an unknown stage, got 'layer9', allowed: stem"),
        ({"lr_mult": {"layer4": -1.0}}, r"'layer4' must be finite and >= 0, got -1\.0"),
    ],
)
def test_a_plan_with_a_wrong_norm_mode_or_rate_is_refused(change: Any, message: str) -> None:
    controller = make()
    plan = FreezePlan.of(controller.stages, ["layer4"], **change)
    for call in (controller.apply, controller.frozen_tensors, controller.training_modules):
        with pytest.raises(ConfigError, match=message):
            call(plan)
    assert controller.plan is None


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(ConfigError, match="plan: must be a FreezePlan, got <class 'NoneType'>"):
        make().apply(None)  # type: ignore[arg-type]
