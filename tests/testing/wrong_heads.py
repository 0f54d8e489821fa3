"""Wrong heads and optimizers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mutant import Mutant
from torch import nn


def head(forward, init=None):
    class Made(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.fc = nn.Linear(width, 4)
            if init:
                init(self, width)

    Made.forward = forward
    return lambda options, in_features: Made(in_features)


def hidden(self, width):
    self.more = [nn.Linear(4, 4)]


def optimizer(step=None, groups=lambda groups: groups):
    class Made(torch.optim.SGD):
        pass

    if step:
        Made.step = step
    return lambda options, given: Made(groups(given), lr=1e-2, momentum=0.9)


def climbs(self, closure=None):
    with torch.no_grad():
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad, alpha=group["lr"])


def decays_all(self, closure=None):
    torch.optim.SGD.step(self, closure)
    with torch.no_grad():
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * 0.01)


def one_rate(self, closure=None):
    with torch.no_grad():
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=1e-2)


def remembers(self, closure=None):
    """Keeps its moments in an attribute, which no checkpoint holds."""
    moments = self.__dict__.setdefault("moments", {})
    with torch.no_grad():
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    moment = moments.setdefault(id(p), torch.zeros_like(p))
                    moment.mul_(0.9).add_(p.grad)
                    p.sub_(moment, alpha=group["lr"])


HEADS = [
    ("fixed-width", lambda options, in_features: nn.Linear(512, 8),
     "assumes the width of the features", "16 features"),
    ("dropout", head(lambda self, x: F.dropout(self.fc(x))),
     "F.dropout without training=self.training", "same embeddings"),
    ("over-the-batch", head(lambda self, x: F.normalize(self.fc(x), dim=0)),
     "normalises over the batch", "other images"),
    ("squeeze", head(lambda self, x: self.fc(x).unsqueeze(1).squeeze()),
     "squeeze() drops the batch too where it is one image", "one image"),
    ("in-place", head(lambda self, x: self.fc(x.mul_(0.5))),
     "changes the features, which are cached", "features"),
    ("list", head(lambda self, x: self.more[0](self.fc(x)), hidden),
     "keeps layers in a Python list", "not registered"),
    ("detached", head(lambda self, x: self.fc(x.detach())), "cuts the backbone off", "features"),
    ("tuple", head(lambda self, x: (self.fc(x), x)), "returns two things", "tuple"),
]  # fmt: skip

OPTIMIZERS = [
    ("own-groups", optimizer(groups=lambda groups: [p for g in groups for p in g["params"]]),
     "makes one group of all parameters", "group"),
    ("trainable-only", optimizer(groups=lambda groups: groups[2:]),
     "leaves out what is frozen at first", "own every parameter"),
    ("climbs", optimizer(climbs), "adds the gradient", "smaller loss"),
    ("decays-all", optimizer(decays_all), "decays what is frozen too", "without a gradient"),
    ("one-rate", optimizer(one_rate), "ignores the groups' rates", "lr 0"),
    ("remembers", optimizer(remembers), "keeps its moments out of its state", "resumed"),
    ("function", lambda options, groups: lambda: None, "is no optimizer of torch's", "Optimizer"),
    ("needs-closure", optimizer(lambda self, closure: closure()),
     "wants a closure, which the run does not give", "TypeError"),
]  # fmt: skip

MUTANTS = [
    Mutant(name, kind, build, wrong, says)
    for kind, table in (("heads", HEADS), ("optimizers", OPTIMIZERS))
    for name, build, wrong, says in table
]
UNCAUGHT: list[Mutant] = []
