from __future__ import annotations

import pytest
import torch

from siamkit import api
from siamkit.freezing.boundary import FEATURES, find_boundaries
from siamkit.freezing.controller import FreezeController
from siamkit.freezing.selftest import cut, discrepancy
from siamkit.interfaces import FreezePlan


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
    found, passed_over = cut(net, boundaries, images())
    assert found is not None and not passed_over
    assert discrepancy(net, found, images()) == 0.0
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any("forward" in vars(m) for m in net.modules())


def test_all_frozen_is_cut_at_the_features():
    net, boundaries = apply("resnet10t", [])
    found, _ = cut(net, boundaries, images())
    assert found is not None and found.boundary.name == FEATURES
    assert found.prefix(images()).shape == (2, net.backbone.embedding_dim)


def test_branches_that_cross_the_boundary_are_found_out():
    net, boundaries = apply("hrnet_w18_small", None)
    found, passed_over = cut(net, boundaries, images())
    assert passed_over and "needs more than its output" in passed_over[0]
    assert found is not None and found.boundary != boundaries[0]


def test_nothing_is_cut_where_the_stem_trains():
    assert apply("resnet10t", ["stem"])[1] == ()
