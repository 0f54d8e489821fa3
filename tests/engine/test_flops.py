from __future__ import annotations

import pytest
import torch

from siamkit import api
from siamkit.engine.boundary import find_boundaries
from siamkit.engine.cutting import first_exact_cut
from siamkit.engine.flops import count_flops
from siamkit.freezing.controller import FreezeController
from siamkit.freezing.schedule import FreezeSchedule


def counted(backbone, policy, size=64, **options):
    net = api.create_model(backbone, pretrained=False, head="linear", image_size=size)
    stages = net.stages()
    plan = FreezeSchedule(api.create_policy(policy, **options), stages, 4).plan_at(0)
    FreezeController(net, stages).apply(plan)
    images = torch.randn(2, 3, size, size)
    found, _ = first_exact_cut(net, find_boundaries(net, stages, plan), images)
    return count_flops(net, found, images)


@pytest.mark.slow
def test_resnet50_has_the_published_number():
    found = counted("resnet50", "freeze-all", size=224)
    assert found.forward == pytest.approx(2 * 4.09e9, rel=0.01)  # multiply-adds, He et al. 2016
    assert found.prefix > 0.999 * found.forward * (1 - 1e-3)
    assert found.backward < 0.01 * found.forward


def test_what_trains_decides_the_backward_and_the_prefix():
    full = counted("timm:resnet10t", "full", norm="train")
    half = counted("timm:resnet10t", "unfreeze-blocks", n=1)
    assert full.prefix == 0 < half.prefix < half.forward
    assert full.forward == half.forward
    assert half.backward < full.backward


def test_a_grouped_convolution_s_backward_is_at_most_twice_its_forward():
    found = counted("timm:test_efficientnet", "full")
    assert found.forward < found.backward <= 2 * found.forward


def test_the_network_is_left_as_it_was():
    net = api.create_model("timm:resnet10t", pretrained=False, head="linear", image_size=64)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    count_flops(net, None, torch.randn(2, 3, 64, 64))
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
