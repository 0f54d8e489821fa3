from __future__ import annotations

import pytest
import torch
from torch import nn

from siamkit import api
from siamkit.builtins.heads import IdentityOptions, build_identity
from siamkit.engine.boundary import FEATURES, find_boundaries
from siamkit.engine.cutting import first_exact_cut
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import BackboneContext, FreezePlan
from siamkit.model.backbone import as_backbone
from siamkit.model.siamese import SiameseNet


def apply(name, train, size=64):
    net = api.create_model(f"timm:{name}", pretrained=False, image_size=size)
    stages = net.stages()
    backbone = [stage.name for stage in stages[:-1]]
    plan = FreezePlan.of(stages, backbone[len(backbone) // 2 :] if train is None else train)
    FreezeController(net, stages).apply(plan)
    return net, find_boundaries(net, stages, plan)


def images(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name",
    ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224", "densenet121"],
)
def test_the_suffix_does_exactly_what_the_network_does(name):
    net, boundaries = apply(name, None)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    found, passed_over = first_exact_cut(net, boundaries, images())
    assert found is not None and not passed_over
    assert found.differs(images()) is None
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any("forward" in vars(m) for m in net.modules())


# Convolutions, attention and mixers; class tokens, position embeddings, relative ones, windows,
# dense and split branches: as many kinds of forward as there are.
ARCHITECTURES = {
    "resnet18": 64, "res2net50_26w_4s": 64, "resnest14d": 64, "regnety_002": 64, "repvgg_a0": 64,
    "efficientnet_b0": 64, "mobilenetv4_conv_small": 64, "ghostnet_050": 64,
    "nfnet_l0": 64, "dla34": 64, "inception_v3": 96, "convnextv2_atto": 64, "hgnetv2_b0": 64,
    "poolformer_s12": 64, "edgenext_xx_small": 64, "mobilevit_xxs": 64, "mambaout_femto": 64,
    "swin_tiny_patch4_window7_224": 224, "deit_tiny_distilled_patch16_224": 224,
    "eva02_tiny_patch14_224": 224, "xcit_nano_12_p16_224": 224, "cait_xxs24_224": 224,
    "levit_128s": 224, "pvt_v2_b0": 64, "pit_ti_224": 224, "mixer_s32_224": 224,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_suffix_is_exact_on_every_kind_of_architecture(name):
    size = ARCHITECTURES[name]
    net, boundaries = apply(name, None, size)
    found, passed_over = first_exact_cut(net, boundaries, images(size))
    assert found is not None and not passed_over, passed_over
    assert found.differs(images(size)) is None


def test_all_frozen_is_cut_at_the_features():
    net, boundaries = apply("resnet10t", [])
    found, _ = first_exact_cut(net, boundaries, images())
    assert found is not None and found.boundary.name == FEATURES
    assert found.prefix(images()).shape == (2, net.backbone.embedding_dim)


def test_branches_that_cross_the_boundary_are_found_out():
    net, boundaries = apply("hrnet_w18_small", None)
    found, passed_over = first_exact_cut(net, boundaries, images())
    assert passed_over and "needs more than its output" in passed_over[0]
    assert found is not None and found.boundary != boundaries[0]


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
        def forward(self, images):
            return super().forward(nn.functional.dropout(images, 0.5, training=True))

    backbone = as_backbone(Noisy(), BackboneContext("noisy", image_size=32))
    net = SiameseNet(backbone, build_identity(IdentityOptions(), 16))
    stages = net.stages()
    plan = FreezePlan.of(stages, [])
    FreezeController(net, stages).apply(plan)
    found, passed_over = first_exact_cut(net, find_boundaries(net, stages, plan), images(32))
    assert found is None
    assert passed_over[0] == "features: it gives something else each time"


def test_nothing_is_cut_where_the_stem_trains():
    assert apply("resnet10t", ["stem"])[1] == ()
