"""A pretrained network without batch norm: its batch norms are folded into the convolutions."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import siamkit


def without_norms(backbone: str) -> nn.Module:
    """Return a pretrained backbone whose batch norms are part of the convolutions before them.

    A batch norm belongs to the convolution that stands before it in the same module, as in timm's
    EfficientNets. Its activation, if it has one, stays in its place.

    Raises:
        AssertionError: A batch norm is left, or the features are others.
    """
    net = siamkit.create_model(backbone).backbone.model.eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net(images)
    for module in [*net.modules()]:
        last = ""
        for name, child in [*module.named_children()]:
            if isinstance(child, nn.Conv2d):
                last = name
            elif isinstance(child, nn.BatchNorm2d):
                setattr(module, last, fuse_conv_bn_eval(getattr(module, last), child))
                setattr(module, name, getattr(child, "act", nn.Identity()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    with torch.no_grad():
        torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-4)
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    return net
