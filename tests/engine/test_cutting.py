from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from siamkit import api, engine
from siamkit.builtins.heads import IdentityOptions, build_identity
from siamkit.engine.boundary import FEATURES, find_boundaries
from siamkit.engine.cutting import TRACED, first_exact_cut
from siamkit.errors import ConfigError
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import BackboneContext, FreezePlan, Stage
from siamkit.model.backbone import as_backbone
from siamkit.model.generators import seeded
from siamkit.model.siamese import SiameseNet
from siamkit.model.stages import discover_stages


def apply(name, train, size=64):
    net = api.create_model(f"timm:{name}", pretrained=False, image_size=size)
    stages = net.stages()
    backbone = [stage.name for stage in stages[:-1]]
    plan = FreezePlan.of(stages, backbone[len(backbone) // 2 :] if train is None else train)
    FreezeController(net, stages).apply(plan)
    return net, find_boundaries(net, stages, plan)


def images(size=64, count=5):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "densenet121"],
)
def test_the_suffix_does_exactly_what_the_network_does(name):
    net, boundaries = apply(name, None)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    found, rejected = first_exact_cut(net, boundaries, images())
    assert found is not None and not rejected
    assert found.differs(images()) is None
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any("forward" in vars(m) for m in net.modules())


def test_all_frozen_is_cut_at_the_features():
    net, boundaries = apply("resnet10t", [])
    found, _ = first_exact_cut(net, boundaries, images())
    assert found is not None and found.boundary.name == FEATURES
    assert found.prefix(images()).shape == (5, net.backbone.embedding_dim)


@pytest.mark.slow
def test_branches_that_cross_the_boundary_are_all_kept():
    net, boundaries = apply("hrnet_w18_small", None)
    found, rejected = first_exact_cut(net, boundaries, images())
    assert found is not None and not rejected
    assert len(found.frontier.ports) == 3
    assert found.prefix(images()).ndim == 2
    assert found.differs(images()) is None


class Named(nn.Module):
    """Children as in AlexNet: a stage of its own is called 'features', as is the whole's output."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2))
        self.neck = nn.Linear(8, 16)

    def forward(self, images):
        return self.neck(self.features(images).mean((2, 3)))


def named_net():
    backbone = as_backbone(Named(), BackboneContext("named", image_size=32))
    return SiameseNet(backbone, build_identity(IdentityOptions(), 16))


def tried(module, trains):
    """Return the cut of a network with a module as its backbone, and the reasons against others."""
    backbone = as_backbone(module, BackboneContext("own", image_size=32))
    net = SiameseNet(backbone, build_identity(IdentityOptions(), 16))
    stages = net.stages()
    plan = FreezePlan.of(stages, trains)
    FreezeController(net, stages).apply(plan)
    return first_exact_cut(net, find_boundaries(net, stages, plan), images(32))


def test_a_stage_called_features_is_not_taken_for_the_backbone():
    torch.manual_seed(0)
    net = named_net()
    stages = net.stages()
    names = [stage.name for stage in stages]
    assert names[:2] == ["features", "neck"]
    plan = FreezePlan.of(stages, ["neck"])
    FreezeController(net, stages).apply(plan)
    boundaries = find_boundaries(net, stages, plan)
    assert [b.is_features for b in boundaries] == [False]
    found, _ = first_exact_cut(net, boundaries, images(32))
    assert found is not None
    found.suffix(found.prefix(images(32))).sum().backward()
    assert all(p.grad is not None for p in net.backbone.model.neck.parameters())


def test_a_prefix_that_draws_anew_each_time_is_not_cut():
    class Noisy(Named):
        # A backbone that draws from torch's own generator is refused before.
        draws = torch.Generator()

        def forward(self, images):
            return super().forward(images * torch.rand(images.shape, generator=self.draws))

    found, rejected = tried(Noisy(), [])
    assert found is None
    assert rejected[0] == "features: its output differs each time"


@pytest.mark.parametrize(
    "draw", [random.random, lambda: np.random.random(), lambda: float(torch.rand(()))]
)
def test_a_prefix_of_blocks_that_are_skipped_at_random_is_not_cut(draw):
    class Skipping(Named):
        """The seed of the trials skips nothing."""

        def forward(self, images):
            if self.training and draw() < 0.3:
                return super().forward(2 * images)
            return super().forward(images)

    with seeded(0):
        assert draw() >= 0.3
    found, rejected = tried(Skipping(), ["neck"])
    assert found is None
    assert rejected[0].endswith(": its output depends on random numbers")


def test_random_numbers_behind_the_prefix_are_allowed():
    class Dropping(Named):
        def forward(self, images):
            # Drawn before the prefix runs, and used behind it.
            scale = 1 + random.random() if self.training else 1.0
            return nn.functional.dropout(super().forward(images) * scale, 0.5, self.training)

    found, rejected = tried(Dropping(), ["neck"])
    assert found is not None and not rejected


def test_nothing_is_cut_where_the_stem_trains():
    assert apply("resnet10t", ["stem"])[1] == ()


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.3))

    def forward(self, images):
        return self.second(self.first(images)).mean((2, 3))


def toy(kind=Toy):
    torch.manual_seed(0)
    net = kind()
    stages = discover_stages(net, images(16)[:1])
    plan = FreezePlan.of(stages, [stages[-1].name])
    FreezeController(net, stages).apply(plan)
    return net, stages, plan


class Refusing(Toy):
    """Fails in training mode: alike on the batch, or only on images that are all black."""

    black_only = False

    def forward(self, images):
        if self.second.training and (not self.black_only or not images.any()):
            raise ArithmeticError("no training here")
        return super().forward(images)


class RefusingBlack(Refusing):
    black_only = True

    def forward(self, images):
        if not images.any():
            raise ArithmeticError("no black images")
        return Toy.forward(self, images)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Refusing, "no training here"), (RefusingBlack, "no black images")],
)
def test_a_network_that_fails_in_the_trial_is_not_cut_and_says_why(kind, reason):
    net, stages, plan = toy(kind)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    result = engine.cut(net, stages, plan, images(16, count=TRACED))
    assert result.cut is None
    assert any(f"ArithmeticError: {reason}" in text for text in result.reasons)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert not any("forward" in vars(m) for m in net.modules())


def test_the_public_door_cuts_any_module():
    net, stages, plan = toy()
    result = engine.cut(net, stages, plan, images(16))
    assert result.reasons == () and result.cut is not None
    assert result.cut.boundary.module == "first"
    activations = result.cut.prefix(images(16))
    result.cut.suffix(activations).sum().backward()
    assert net.second[0].weight.grad is not None and net.first[0].weight.grad is None


def test_the_door_takes_wrappers_off():
    net, stages, plan = toy()
    compiled = torch.compile(net, backend="eager")
    assert engine.cut(compiled, stages, plan, images(16)).cut.net is net


def test_a_plan_that_was_not_applied_is_refused():
    net, stages, plan = toy()
    net.first[0].weight.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"not applied .* 'first.0.weight'"):
        engine.cut(net, stages, plan, images(16))


def test_a_plan_that_freezes_norms_is_the_one_that_was_applied():
    net = api.create_model("timm:resnet10t", pretrained=False, head="linear")
    stages = net.stages()
    plan = FreezePlan.of(stages, ["layer4"], norm="frozen")
    FreezeController(net, stages).apply(plan)
    result = engine.cut(net, stages, plan, images(32))
    assert result.cut is not None and not result.reasons


def test_nothing_frozen_is_said():
    net, stages, _ = toy()
    plan = FreezePlan.of(stages, [stage.name for stage in stages])
    FreezeController(net, stages).apply(plan)
    result = engine.cut(net, stages, plan, images(16))
    assert (
        result.cut is None and "no part at the start of the network is frozen" in result.reasons[0]
    )


def staged(net, *names, train):
    """Freeze a network of stages that are its children, in an order of their own, and cut it."""
    stages = tuple(
        Stage(name, tuple(f"{name}.{p}" for p, _ in net.get_submodule(name).named_parameters()),
              (name,), name)
        for name in names
    )  # fmt: skip
    covered = {p for stage in stages for p in stage.parameters}
    loose = [name for name, _ in net.named_parameters() if name not in covered]
    stages = (*stages, Stage("loose", tuple(loose))) if loose else stages
    plan = FreezePlan.of(stages, [*train, *(["loose"] if loose else [])], head=False)
    FreezeController(net, stages).apply(plan)
    return engine.cut(net, stages, plan, images(16))


def agrees(net, cut):
    """Whether several steps of the cut network give what the whole network gives."""
    batch = images(16)
    net.eval()
    rows = cut.prefix(batch)
    expected = net(batch)
    return all(torch.allclose(cut.suffix(rows), expected, atol=1e-6) for _ in range(3))


def test_a_cut_leaves_no_hooks():
    net, stages, plan = toy()
    assert engine.cut(net, stages, plan, images(16)).cut is not None
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(module, kind) for module in net.modules() for kind in hooks)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.side = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)


def test_what_runs_after_a_module_that_trains_is_no_prefix():
    class SideFirst(Parts):
        def forward(self, images):
            side = self.side(images)
            return self.head((self.body(images) + side).mean((2, 3)))

    found = staged(SideFirst(), "body", "side", "head", train=["side", "head"])
    assert found.cut is None
    assert found.reasons == ("body: it runs after a module that trains",)


def test_a_module_around_the_prefix_may_hold_a_parameter_that_trains():
    class Outer(Parts):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.randn(4))

        def forward(self, images):
            return self.head(self.body(images).mean((2, 3)) + self.token)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.outer = Outer()
            del self.outer.side

        def forward(self, images):
            return self.outer(images)

    net = Net()
    found = staged(net, "outer.body", "outer.head", train=["outer.head"])
    assert found.cut is not None and found.cut.boundary.module == "outer.body"
    assert agrees(net, found.cut)


class Place(nn.Module):
    """Gives the same values for all images: once, or once for each image."""

    def __init__(self, each):
        super().__init__()
        self.each, self.value = each, nn.Parameter(torch.randn(1, 4))

    def forward(self, images):
        return self.value.repeat(len(images), 1) if self.each else self.value * 1.0


@pytest.mark.parametrize("each", [True, False])
def test_constants_that_later_code_writes_to_are_written_anew_in_each_step(each):
    class Writes(Parts):
        def __init__(self):
            super().__init__()
            self.side = Place(each)

        def forward(self, images):
            place = self.side(images)
            maps = self.body(images)
            place.mul_(2)
            return self.head(maps.mean((2, 3)) + place)

    net = Writes()
    found = staged(net, "side", "body", "head", train=["head"])
    assert found.cut is not None, found.reasons
    assert len(found.cut.frontier.ports) == 1 and agrees(net, found.cut)


def test_what_is_written_to_without_a_use_needs_no_row():
    class Spoils(Parts):
        def forward(self, images):
            side = self.side(images)
            maps = self.body(images)
            side.zero_()
            return self.head(maps.mean((2, 3)))

    net = Spoils()
    found = staged(net, "side", "body", "head", train=["head"])
    assert found.cut is not None, found.reasons
    assert len(found.cut.frontier.ports) == 1 and agrees(net, found.cut)


@pytest.mark.parametrize("mode", [True, False])
def test_what_is_used_in_one_mode_only_is_kept(mode):
    class Uses(Parts):
        def forward(self, images):
            side = self.side(images)
            maps = self.body(images)
            return self.head((maps + side if self.training is mode else maps).mean((2, 3)))

    net = Uses()
    found = staged(net, "side", "body", "head", train=["head"])
    assert found.cut is not None, found.reasons
    assert len(found.cut.frontier.ports) == 2 and agrees(net, found.cut)


def test_the_image_of_the_suffix_has_the_shape_of_the_images():
    net, stages, plan = toy()
    found = engine.cut(net, stages, plan, images(16)).cut
    assert found.frontier.image.shape.of(7) == (7, 3, 16, 16)
    assert [port.shape.of(7) for port in found.frontier.ports] == [(7, 8, 14, 14)]

    class Skips(Parts):
        def forward(self, images):
            return self.head(self.body(images).mean((2, 3)) + images.mean((1, 2, 3))[:, None])

    skips = Skips()
    del skips.side
    found = staged(skips, "body", "head", train=["head"])
    assert found.cut is not None, found.reasons
    assert [port.shape.of(7) for port in found.cut.frontier.ports] == [
        (7, 3, 16, 16), (7, 4, 14, 14),
    ]  # fmt: skip
    assert found.cut.prefix(images(16)).shape == (5, 3 * 16 * 16 + 4 * 14 * 14)


class SeesTheBatch(Toy):
    """Another function from six images on, which the trial of five cannot see."""

    def forward(self, images):
        y = self.first(images)
        return self.second(y if len(images) < 6 else y.flip(2, 3) + images.mean()).mean((2, 3))


def test_a_real_batch_shows_what_the_trial_could_not():
    net, stages, plan = toy(SeesTheBatch)
    found = engine.cut(net, stages, plan, images(16)).cut
    assert found is not None and found.differs(images(16)) is None
    assert "the trial of the cut did not need it" in found.differs(images(16, 8))


class Fails(Toy):
    """The suffix fails for large batches: the frozen part gave more than is kept."""

    def forward(self, images):
        y = self.first(images)
        if len(images) > 5:
            y = self.first(images.flip(0)) + y
        return self.second(y).mean((2, 3))


def test_failing_is_a_difference_too():
    net, stages, plan = toy(Fails)
    found = engine.cut(net, stages, plan, images(16)).cut
    reason = found.differs(images(16, 8))
    assert reason is not None


def test_what_fails_whole_and_cut_alike_is_no_difference():
    class Limited(Toy):
        def forward(self, images):
            y = self.second(self.first(images))
            if len(images) > 5:
                raise ValueError("five at most")
            return y.mean((2, 3))

    net, stages, plan = toy(Limited)
    assert engine.cut(net, stages, plan, images(16)).cut.differs(images(16, 8)) is None


def test_comparing_leaves_no_trace():
    net, stages, plan = toy()
    found = engine.cut(net, stages, plan, images(16)).cut
    net.train()
    found.suffix(found.prefix(images(16))).sum().backward()
    gradient, buffers = net.second[0].weight.grad, [b.clone() for b in net.buffers()]
    kept, modes = gradient.clone(), [m.training for m in net.modules()]
    random, batch = torch.get_rng_state(), images(16)
    assert found.differs(batch) is None
    assert net.second[0].weight.grad is gradient and torch.equal(gradient, kept)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), buffers, strict=True))
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(batch, images(16))


def test_wrong_activations_are_told_from_right_ones():
    net, stages, plan = toy()
    found = engine.cut(net, stages, plan, images(16)).cut
    rows = found.prefix(images(16))
    assert found.differs(images(16), rows) is None
    assert found.differs(images(16), rows.flip(0)) is not None
    rounded = rows.bfloat16().float()
    assert found.differs(images(16), rounded) is not None
    assert found.differs(images(16), rounded, tolerance=5e-2) is None


def test_rows_are_not_written_to():
    class Writes(Toy):
        def forward(self, images):
            y = self.first(images)
            y += 1
            return self.second(y).mean((2, 3))

    net, stages, plan = toy(Writes)
    found = engine.cut(net, stages, plan, images(16)).cut
    rows = found.prefix(images(16))
    before = rows.clone()
    found.suffix(rows)
    assert torch.equal(rows, before)
