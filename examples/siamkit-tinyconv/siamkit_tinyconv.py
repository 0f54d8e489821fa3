"""A siamkit plugin: the backbone ``tinyconv`` and the freeze policy ``first-only``."""

from itertools import pairwise

from torch import nn

import siamkit


class FirstOnly(siamkit.FreezePolicy):
    """Trains the backbone's first stage and the head."""

    def plan(self, stages, progress):
        return siamkit.FreezePlan.of(stages, [stages[0].name])


def build_tinyconv(options, context):
    """Three small convolutions, for tests and for copying."""
    widths = [context.in_chans, 16, 32, 64]
    layers = [
        nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
        for a, b in pairwise(widths)
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@siamkit.hookimpl
def siamkit_register_backbones(register):
    register("tinyconv", build_tinyconv)


@siamkit.hookimpl
def siamkit_register_freeze_policies(register):
    register("first-only", lambda options: FirstOnly(), summary=FirstOnly.__doc__)
