"""The known traps of layer freezing; each test fails on the wrong behaviour.

Trap 14 (layer-wise decay follows the stage order) is in ``builtins/test_freeze_policies.py``, and
trap 15 (``num_features`` is not the width) in ``model/test_backbone.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import siamkit
from siamkit import api
from siamkit.config import OptimizerConfig
from siamkit.errors import ConfigError, FrozenDriftError
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import FreezePlan, Loss, LossContext, Progress, Stage
from siamkit.model.siamese import SiameseNet
from siamkit.model.undisturbed import undisturbed
from siamkit.training.build import build_optimizer, checkpoint_activations
from siamkit.training.optimizer import rates, set_rates, state_tensors

BACKBONE = "timm:resnet10t"
RunValues = Callable[..., dict[str, Any]]


class Parts:
    """A network, its controller and its optimizer, and a step over random images."""

    def __init__(self, backbone: str = BACKBONE, size: int = 32, **optimizer: Any) -> None:
        torch.manual_seed(0)
        head = {"name": "mlp", "hidden": 8, "dim": 4}
        self.net: SiameseNet = api.create_model(
            backbone, pretrained=False, head=head, image_size=size
        )
        self.size = size
        self.stages: tuple[Stage, ...] = self.net.stages()
        self.loss: Loss = (
            api.registries()["loss"]
            .get("triplet")
            .build(
                api.registries()["loss"].get("triplet").validate({"margin": 1.0}, ""),
                LossContext(4, 4),
            )
        )
        self.config = OptimizerConfig(**{"lr": 0.01, **optimizer})
        self.optimizer = build_optimizer(
            self.config, api.registries()["optimizer"], self.net, self.loss, self.stages
        )
        self.controller = FreezeController(self.net, self.stages)

    def train_stages(self, *names: str, **plan: Any) -> FreezePlan:
        made = FreezePlan.of(self.stages, names, **plan)
        self.controller.apply(made)
        set_rates(self.optimizer, rates(self.config, made, 1.0), self.config.lr)
        return made

    def step(self, steps: int = 1) -> None:
        self.net.train()
        for _ in range(steps):
            self.optimizer.zero_grad(set_to_none=True)
            images = torch.randn(8, 3, self.size, self.size)
            labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
            self.loss(self.net(images), labels).backward()
            self.optimizer.step()

    def snapshot(self, prefix: str) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self.net.state_dict().items() if k.startswith(prefix)}


def changed(before: dict[str, Tensor], net: nn.Module) -> set[str]:
    now = net.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


STEM, LAYER1, LAYER4 = "backbone.model.conv1", "backbone.model.layer1", "backbone.model.layer4"


def test_trap_1_a_frozen_batch_norm_keeps_its_statistics_through_every_train_call() -> None:
    parts = Parts()
    parts.train_stages("layer4")
    before = parts.snapshot("backbone.")
    outer = nn.Sequential(parts.net)
    for ancestor in (outer, parts.net, parts.net.backbone, parts.net.backbone.model.layer1):
        ancestor.train()
        parts.net(torch.randn(4, 3, 32, 32))
    assert changed(before, parts.net) == set()
    parts.train_stages("layer4", norm="train")
    parts.step()
    moved = {name for name in changed(before, parts.net) if "running" in name}
    assert moved and all(name.startswith(LAYER4) for name in moved)


def test_trap_1_affine_norms_of_a_trainable_stage_train_but_keep_their_statistics() -> None:
    parts = Parts()
    parts.train_stages("layer4")
    before = parts.snapshot(LAYER4)
    parts.step()
    moved = changed(before, parts.net)
    assert any("bn" in name and name.endswith("weight") for name in moved)
    assert not any("running" in name for name in moved)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("timm:resnet10t", {"drop_path_rate": 0.5}),
        ("timm:convnext_atto", {"drop_path_rate": 0.5}),
        ("timm:test_vit", {"drop_path_rate": 0.5}),
    ],
)
def test_trap_2_the_frozen_part_is_a_fixed_function(backbone: str, options: dict[str, Any]) -> None:
    net = api.create_model(backbone, pretrained=False, image_size=64, **options)
    size = net.backbone.preprocessing.size
    stages = net.stages()
    images = torch.randn(4, 3, *size)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # residual branches start at zero
            nn.init.ones_(module.weight)
    controller = FreezeController(net, stages)
    controller.apply(FreezePlan.of(stages, []))
    net.train()
    assert torch.equal(net.backbone(images), net.backbone(images))
    controller.apply(FreezePlan.of(stages, [stage.name for stage in stages]))
    assert not torch.equal(net.backbone(images), net.backbone(images)), "drop-path is off for good"


def test_trap_3_no_phase_replaces_a_parameter_or_module() -> None:
    parts = Parts()
    modules = {name: id(m) for name, m in parts.net.named_modules()}
    owned = {id(p) for group in parts.optimizer.param_groups for p in group["params"]}
    for names in ((), ("layer4",), ("stem", "layer1", "layer4"), ()):
        parts.train_stages(*names)
        assert {id(p) for p in parts.net.parameters()} == owned
        assert {name: id(m) for name, m in parts.net.named_modules()} == modules


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_trap_4_a_refrozen_parameter_does_not_move(optimizer: str) -> None:
    parts = Parts(name=optimizer, lr=0.1, weight_decay=0.1)
    parts.train_stages("layer4")
    parts.step(2)
    # As after a backward that no step followed: gradients and momentum are there.
    parts.loss(
        parts.net(torch.randn(8, 3, 32, 32)),
        torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
    ).backward()
    parts.train_stages()
    before = parts.snapshot("backbone.")
    parts.optimizer.step()
    parts.step(3)
    assert changed(before, parts.net) == set()


def test_trap_5_adams_moments_survive_an_unfreeze() -> None:
    parts = Parts()
    parts.train_stages()
    parts.step(3)
    before = {k: v.clone() for k, v in state_tensors(parts.optimizer).items()}
    assert all(name.startswith("head.") for name in before), "frozen parameters have no state"
    parts.train_stages("layer4")
    after = state_tensors(parts.optimizer)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    parts.step()
    assert state_tensors(parts.optimizer)["head.0.weight::step"] == 4


def test_trap_6_parameters_of_equal_value_are_all_in_the_optimizer() -> None:
    parts = Parts()
    biases = [p for n, p in parts.net.named_parameters() if n.endswith("bn1.bias")]
    assert len(biases) > 2 and all(torch.equal(b[:1], biases[0][:1]) for b in biases)
    owned = [id(p) for group in parts.optimizer.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in parts.net.parameters())


def test_trap_7_a_run_resumes_in_the_right_phase_with_the_same_groups(
    run_values: RunValues, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop_in_epoch_two(event: siamkit.Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"] == 2:
            raise Stop

    whole = api.fit({**run_values(), "run_dir": str(tmp_path / "whole")})
    with pytest.raises(Stop):
        api.fit(run_values(), listeners=[stop_in_epoch_two])
    phases: list[dict[str, Any]] = []
    resumed = api.resume(
        tmp_path / "run",
        listeners=[lambda e: phases.append(dict(e.data)) if e.name == "phase_start" else None],
    )
    assert [phase["trainable_parameters"] for phase in phases] == [
        whole["phases"][1]["trainable_parameters"]
    ]
    assert resumed["history"] == whole["history"]


def test_trap_8_a_schedule_that_knows_its_length_survives_every_unfreeze(
    run_values: RunValues,
) -> None:
    rates_seen: list[float] = []
    api.fit(
        run_values(
            freeze={"name": "gradual-unfreeze", "every": 1},
            scheduler={"name": "one-cycle"},
            train={"epochs": 5},
        ),
        listeners=[lambda e: rates_seen.append(e.data["lr"]) if e.name == "step" else None],
    )
    peak = rates_seen.index(max(rates_seen))
    assert 0 < peak < len(rates_seen) - 1
    assert rates_seen[:peak] == sorted(rates_seen[:peak])
    assert rates_seen[peak:] == sorted(rates_seen[peak:], reverse=True)


def test_trap_9_an_unfrozen_stage_starts_at_its_multiple_of_the_current_rate() -> None:
    parts = Parts(lr=0.01)
    plan = FreezePlan.of(parts.stages, ["layer4"], lr_mult={"layer4": 0.1})
    set_rates(parts.optimizer, rates(parts.config, plan, scale=0.3), 0.01 * 0.3)
    by_group = {group["name"]: group["lr"] for group in parts.optimizer.param_groups}
    assert by_group["layer4/decay"] == pytest.approx(0.01 * 0.1 * 0.3)
    assert by_group["layer4/no_decay"] == pytest.approx(0.01 * 0.1 * 0.3)
    assert by_group["head/decay"] == pytest.approx(0.01 * 0.3)


def test_trap_12_recomputed_activations_behind_a_frozen_part_keep_their_gradients() -> None:
    parts = Parts()
    parts.train_stages("layer4")
    parts.net.train()
    images = torch.randn(4, 3, 32, 32)

    def gradients() -> dict[str, Tensor]:
        parts.net.zero_grad(set_to_none=True)
        parts.net(images).square()[:, 0].sum().backward()
        return {n: p.grad.clone() for n, p in parts.net.named_parameters() if p.grad is not None}

    plain = gradients()
    checkpoint_activations(parts.net)
    again = gradients()
    assert any(name.startswith(LAYER4) for name in plain)
    assert again.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient)


def saved_activations(net: nn.Module, images: torch.Tensor) -> int:
    """Return the bytes that autograd saves in a training forward, without the parameters."""
    own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
    saved: dict[int, torch.Tensor] = {}  # keeps them alive, so that no address comes twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with undisturbed(net), hooks:
        net(images)
    return sum(t.untyped_storage().nbytes() for at, t in saved.items() if at not in own)


def test_trap_13_norms_follow_their_stage_so_backward_stops_at_the_boundary() -> None:
    parts = Parts(size=64)
    images = torch.randn(2, 3, 64, 64)
    saved: dict[str, int] = {}
    for name, stages in {
        "none": [],
        "top": ["layer4"],
        "all": [s.name for s in parts.stages],
    }.items():
        plan = parts.train_stages(*stages)
        wanted = tuple(n for s in parts.stages if s.name in (*stages, "head") for n in s.parameters)
        assert plan.trainable == set(wanted), "no norm parameter of a frozen stage trains"
        saved[name] = saved_activations(parts.net, images)
    # With a frozen backbone only the head's own few inputs are saved: no image map at all.
    assert saved["none"] < 64 * 64 * 4
    assert saved["top"] < saved["all"] / 5


def test_trap_13_a_trainable_norm_far_below_is_shown_by_inspect(run_values: RunValues) -> None:
    values = run_values(freeze={"name": "norm-only"})
    report = api.inspect(values)
    phase = report["phases"][0]
    assert all(stage["needs_backward"] for stage in phase["stages"])
    assert any("'stem' train, but backward runs through" in note for note in report["notices"])
    plain = api.inspect(run_values(freeze={"name": "freeze-all"}))
    frozen = plain["phases"][0]
    assert not any("backward" in note for note in plain["notices"])
    assert phase["memory"]["activations"] > 2 * frozen["memory"]["activations"]


def test_trap_16_frozen_means_no_gradient_not_a_hidden_one() -> None:
    parts = Parts()
    parts.train_stages("layer4")
    parts.net.train()
    parts.net(torch.randn(4, 3, 32, 32)).sum().backward()
    with_gradient = {n for n, p in parts.net.named_parameters() if p.grad is not None}
    assert with_gradient and all(n.startswith((LAYER4, "head.")) for n in with_gradient)


def test_trap_17_training_freezes_what_it_says_and_proves_it(run_values: RunValues) -> None:
    values = run_values(freeze={"name": "unfreeze-blocks", "n": 1})
    result = api.fit(values)
    root = Path(result["run_dir"]) / "checkpoints"
    trained = api.load_model(result["run_dir"], "last").state_dict()
    start = Path(values["run_dir"] + "-start")
    with pytest.raises(KeyboardInterrupt):
        api.fit({**values, "run_dir": str(start)}, listeners=[interrupt_at_first_checkpoint])
    initial = api.load_model(start, "last").state_dict()
    moved = {name for name, value in initial.items() if not torch.equal(value, trained[name])}
    assert moved and all(name.startswith((LAYER4, "head.")) for name in moved)
    manifest = (root / (root / "LATEST").read_text().strip() / "manifest.json").read_text()
    assert "backbone.model.layer1.0.bn1.running_mean" in manifest
    assert "backbone.model.layer4.0.conv1.weight" not in manifest


def interrupt_at_first_checkpoint(event: siamkit.Event) -> None:
    if event.name == "checkpoint":
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("event", "freeze"),
    [
        ("step", {"name": "unfreeze-blocks", "n": 1}),  # one phase: only saving can tell
        ("checkpoint", {"name": "stages", "warmup": 1}),  # saved already: only the phase's end can
    ],
)
def test_trap_17_a_plugin_that_writes_to_a_frozen_tensor_fails_the_run(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch, event: str, freeze: dict[str, Any]
) -> None:
    import siamkit.training.build as build

    built: list[Any] = []
    create_net = build.create_net

    def spy(*args: Any, **kwargs: Any) -> Any:
        made = create_net(*args, **kwargs)
        built.append(made.net)
        return made

    def vandal(seen: siamkit.Event) -> None:
        # The first checkpoint comes before anything is frozen.
        if seen.name == event and (event == "step" or seen.data["epoch"] == 1):
            with torch.no_grad():
                built[-1].backbone.model.layer1[0].conv1.weight.add_(1e-3)

    monkeypatch.setattr(build, "create_net", spy)
    with pytest.raises(FrozenDriftError, match=r"backbone\.model\.layer1\.0\.conv1\.weight"):
        api.fit(run_values(freeze=freeze), listeners=[vandal])


def test_trap_18_nothing_to_train_is_refused_before_the_run(run_values: RunValues) -> None:
    values = run_values(head={"name": "identity"}, freeze={"name": "freeze-all"})
    with pytest.raises(
        ConfigError, match=r"policy 'freeze-all' freezes every stage \(stem, layer1"
    ):
        api.fit(values)
    assert not Path(values["run_dir"]).exists()


def test_a_phase_may_freeze_what_an_earlier_one_trained() -> None:
    parts = Parts()
    parts.train_stages("layer4", norm="train")
    parts.step()
    parts.train_stages("layer3")
    before = parts.snapshot(LAYER4)
    parts.step(2)
    assert changed(before, parts.net) == set()
    parts.controller.verify("the end")


def test_a_policy_is_asked_with_real_progress(run_values: RunValues) -> None:
    seen: list[Progress] = []

    class Watching(siamkit.FreezePolicy):
        def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
            seen.append(progress)
            return FreezePlan.of(stages, [])

    net = api.create_model(BACKBONE, pretrained=False)
    siamkit.phases(net, Watching(), epochs=3)
    assert list(dict.fromkeys(p.epoch for p in seen)) == [0, 1, 2]
