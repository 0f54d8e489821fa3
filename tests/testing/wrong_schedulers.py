"""Wrong schedulers."""

from __future__ import annotations

import itertools
import math
import random
import time

import numpy as np
import torch
from mutant import Mutant

from siamkit.interfaces import Scheduler


def scheduler(lr_scale, **state):
    """Return the build of a scheduler with this method ``lr_scale(self, progress)``."""

    class Scaled(Scheduler):
        def __init__(self):
            self.__dict__.update({key: make() for key, make in state.items()})

    Scaled.lr_scale = lr_scale
    Scaled.__abstractmethods__ = frozenset()
    return lambda options: Scaled()


def torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    optimizer.step()
    return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


def steps_torchs(self, progress):
    self.inner.optimizer.step()
    self.inner.step()
    return self.inner.get_last_lr()[0]


SHARED = itertools.count()


def plateau(self, progress):
    if progress.history and progress.monitored[-1] < self.memory.get("best", 0.0):
        self.memory["scale"] = self.memory.get("scale", 1.0) * 0.5
    if progress.history:
        self.memory["best"] = max(progress.monitored[-1], self.memory.get("best", 0.0))
    return self.memory.get("scale", 1.0)


def pops(self, progress):
    for metrics in progress.history:
        metrics.pop("train_loss", None)
    return 1.0


def warm_up(length):
    return lambda self, p: (p.fraction * p.epochs) / length if p.epoch < length else 1.0


MUTANTS = [
    Mutant(name, "schedulers", build, wrong, says)
    for name, build, wrong, says in [
        ("line-of-30", scheduler(lambda self, p: 1 - p.epoch / 30),
         "falls to zero at epoch 30 and below it after that", "not negative"),
        ("table-of-five", scheduler(lambda self, p: (1, 0.5, 0.2, 0.1, 0.05)[p.epoch]),
         "has a value for five epochs", "IndexError"),
        ("one-epoch", scheduler(lambda self, p: 1 - p.epoch / (p.epochs - 1) / 2),
         "divides by the epochs but one", "ZeroDivisionError"),
        ("steps-unknown", scheduler(lambda self, p: 1 - p.step / p.steps),
         "divides by the steps, which may be unknown", "ZeroDivisionError"),
        ("inverse-root", scheduler(lambda self, p: p.step**-0.5),
         "step to the power of -0.5, from step 0", "ZeroDivisionError"),
        ("whole-numbers", scheduler(lambda self, p: p.epoch // p.epochs),
         "divides whole numbers", "zero"),
        ("idle-epoch", scheduler(lambda self, p: p.epoch / p.epochs),
         "begins with an epoch at a rate of zero", "epoch"),
        ("late-nan", scheduler(lambda self, p: math.nan if p.fraction > 0.9 else 1.0),
         "is not a number near the end", "finite"),
        ("complex-root", scheduler(lambda self, p: (0.9 - p.fraction) ** 0.9),
         "the polynomial decay of a negative number is complex", "finite number"),
        ("absolute", scheduler(lambda self, p: 3e-4 * (1 - 0.5 * p.fraction)),
         "returns a rate, not a multiplier of the user's", "multiplier"),
        ("explodes", scheduler(lambda self, p: 1.1**p.epoch),
         "grows without an end", "multiplier"),
        ("torch-inside", scheduler(steps_torchs, inner=torchs),
         "steps one of torch's schedulers at each call", "same scale"),
        ("shared-counter", scheduler(lambda self, p: 1 / (1 + next(SHARED))),
         "counts the calls of all schedulers", "same scale"),
        ("generator", scheduler(lambda self, p: next(self.values),
                                values=lambda: iter([1.0, 0.5, 0.25])),
         "is spent after three steps", "StopIteration"),
        ("jitter", scheduler(lambda self, p: random.uniform(0.9, 1.1)),
         "draws its values", "same scale"),
        ("clock", scheduler(lambda self, p: 1 + time.perf_counter() % 1),
         "depends on the time", "same scale"),
        ("remembers-the-best", scheduler(plateau, memory=dict),
         "keeps the best metric in itself", "same scale"),
        ("recall-alone", scheduler(
            lambda self, p: 0.5 if any(m["recall@1"] < 0.5 for m in p.history) else 1.0),
         "reads recall@1, which pairs do not have", "recall@1"),
        ("empty-history", scheduler(lambda self, p: 1 - 0.5 * p.monitored[-1]),
         "reads the last metric before there is one", "IndexError"),
        ("running-epoch", scheduler(
            lambda self, p: 1.0 if p.epoch == 0 else 1 - p.monitored[p.epoch] / 2),
         "reads the metric of the epoch that is running", "IndexError"),
        ("numpy-number", scheduler(lambda self, p: np.float32(1.0)),
         "returns a number that JSON does not know", "float32"),
        ("tensor", scheduler(lambda self, p: torch.tensor(1.0)), "returns a tensor", "tensor"),
        ("per-group", scheduler(lambda self, p: [1.0, 0.1]), "returns a list", "finite number"),
        ("pops-metrics", scheduler(pops), "changes the run's history", "history"),
        ("exits", scheduler(lambda self, p: exit(2)), "ends the program", "SystemExit"),
    ]
]  # fmt: skip

UNCAUGHT = [
    Mutant("no-warmup", "schedulers", scheduler(lambda self, p: 1.0),
           "ignores its own option: only its author knows what that means", ""),
]  # fmt: skip
