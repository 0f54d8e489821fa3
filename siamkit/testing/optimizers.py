"""The check of optimizers: they keep groups and frozen parameters, and resume exactly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.model.generators import seeded
from siamkit.testing.common import Expect, Values
from siamkit.testing.subjects import checked_entry, conformance
from siamkit.training.optimizer import load_state_tensors, require_groups, state_tensors

_RATE, _STEPS = 1e-2, 20

Groups = list[dict[str, Any]]
Build = Callable[[Groups], torch.optim.Optimizer]


@conformance
def check_optimizer(
    given: str | Callable[[Groups], torch.optim.Optimizer], options: Values | None = None
) -> None:
    """Check an optimizer on a small network of two stages and a head.

    Args:
        given: The registered name, or a function from parameter groups to an optimizer, such as
            ``torch.optim.RMSprop``.
        options: Option values of a named optimizer, if the defaults are unsuitable.
    """
    entry, validated, expect = checked_entry("optimizers", given, options)

    def build(groups: Groups) -> torch.optim.Optimizer:
        with expect.during("in build", "Users could not use it."):
            optimizer = entry.build(validated, [dict(group) for group in groups])
        expect(isinstance(optimizer, torch.optim.Optimizer),
               "build to return a torch.optim.Optimizer", type(optimizer),
               "Training would be refused.")  # fmt: skip
        with expect.during("in the groups that it keeps", "Training would be refused."):
            require_groups(optimizer, groups, expect.subject)
        return optimizer  # type: ignore[no-any-return]

    with seeded(0):
        net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
        _check_frozen(build, copy.deepcopy(net), expect)
        _check_rates(build, copy.deepcopy(net), expect)
        _check_resume(build, net, expect)


def _groups(net: nn.Sequential) -> Groups:
    return [
        {
            "name": f"{stage}/{'decay' if decay else 'no_decay'}", "stage": stage, "lr": _RATE,
            "names": [f"{number}.{kind}"], "params": [net[number].get_parameter(kind)],
            "weight_decay": 1e-2 if decay else 0.0,
        }
        for number, stage in enumerate(("stem", "layer1", "head"))
        for kind, decay in (("weight", True), ("bias", False))
    ]  # fmt: skip


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int, expect: Expect) -> float:
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed % 3))
    optimizer.zero_grad(set_to_none=True)
    loss: Tensor = (net(inputs) - inputs[:, :2]).square().mean()
    loss.backward()
    with expect.during("in step()", "Training would stop there."):
        optimizer.step()
    return loss.item()


def _check_frozen(build: Build, net: nn.Sequential, expect: Expect) -> None:
    optimizer = build(_groups(net))
    for seed in range(3):
        _step(net, optimizer, seed, expect)
    net[0].requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    losses = [_step(net, optimizer, seed, expect) for seed in range(_STEPS)]
    now = net.state_dict()
    moved = [n for n in now if n.startswith("0.") and not torch.equal(now[n], before[n])]
    expect(
        not moved,
        "unchanged parameters without a gradient",
        f"{moved} changed",
        "Frozen parameters would change, which ends the run with a FrozenDriftError.",
    )
    still = [n for n in now if not n.startswith("0.") and torch.equal(now[n], before[n])]
    expect(not still, "every parameter with a gradient to change", f"{still} unchanged",
           "They would never be trained.")  # fmt: skip
    first, last = sum(losses[:3]), sum(losses[-3:])
    expect(
        last < first,
        f"a smaller loss after {_STEPS} steps at a rate of {_RATE}",
        f"{last / 3:.4g} at the end, {first / 3:.4g} at the start",
        "Training would make the network worse.",
    )


def _check_rates(build: Build, net: nn.Sequential, expect: Expect) -> None:
    optimizer = build(_groups(net))
    before = copy.deepcopy(net.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if group["stage"] == "stem" else _RATE
    _step(net, optimizer, 0, expect)
    now = net.state_dict()
    moved = [n for n in now if n.startswith("0.") and not torch.equal(now[n], before[n])]
    expect(not moved, "an unchanged group with lr 0", f"{moved} changed",
           "Schedules and the rates of stages would have no effect.")  # fmt: skip


def _check_resume(build: Build, net: nn.Sequential, expect: Expect) -> None:
    whole, part = copy.deepcopy(net), net
    one, other = build(_groups(whole)), build(_groups(part))
    for seed in range(6):
        _step(whole, one, seed, expect)
    for seed in range(3):
        _step(part, other, seed, expect)
    with expect.during("when its state is saved and loaded", "No run could be resumed."):
        resumed = build(_groups(part))
        load_state_tensors(resumed, {n: t.clone() for n, t in state_tensors(other).items()})
    for seed in range(3, 6):
        _step(part, resumed, seed, expect)
    own = part.state_dict()
    differ = [n for n, t in whole.state_dict().items() if not torch.equal(t, own[n])]
    expect(not differ, "the same weights from a resumed run", f"different weights in {differ}",
           "Resuming would give another network.")  # fmt: skip
