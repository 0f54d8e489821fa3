"""The check of a loss's direction: a loss must pull a class together and push classes apart.

A loss can be finite and smooth, with the right shape, and still train a network in the wrong
direction. So the check moves embeddings by hand and compares the losses, and trains embeddings by
the loss's gradient and compares their similarities.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.interfaces import Loss, Pairs, Triplets
from siamkit.testing.batches import Batches, backward, same_tuples, value_of
from siamkit.testing.common import Expect

_STEPS, _RATE, _PARTED = 60, 0.05, 0.1
_CLASSES, _EACH = 4, 4
_NEAR, _FAR = math.radians(30), math.radians(110)
_WORSE = "Training would make the embedding worse than before."
_ZERO = "A batch without tuples would change the network, or stop the run."

Tuples = Pairs | Triplets


def check_pull(loss: Loss, batch: Batches, expect: Expect) -> None:
    """Check that training by labels separates classes (images, if the loss compares two views)."""
    n = _CLASSES * _EACH
    labels = torch.arange(n) % (_CLASSES if batch.views == 1 else n // batch.views)
    _check_parting(
        loss, batch, labels, lambda z: loss(z, labels), expect.within("trained by labels")
    )


def check_tuples(loss: Loss, batch: Batches, expect: Expect) -> None:
    """Check a loss on explicit pairs and on triplets. It may refuse each kind with ConfigError."""
    expect = expect.within("explicit tuples")
    index = torch.arange(4)
    none = index[:0]
    pairs = Pairs(index, index + 4, index % 2 == 0)
    triplets = Triplets(index, index + 4, index + 8)
    takes = {}
    for what, given, empty in (
        ("pairs", pairs, Pairs(none, none, none.bool())),
        ("triplets", triplets, Triplets(none, none, none)),
    ):
        takes[what] = _takes(loss, batch, given, expect.within(what))
        if takes[what]:
            _check_one_kind(loss, batch, given, expect.within(what))
            within = expect.within(f"no {what}")
            x = batch.embeddings(12)
            value = value_of(loss, x, None, empty, within)
            grad = backward(value, x, within)
            within(value.item() == 0, "zero", value.item(), _ZERO)
            within(not grad.any(), "gradients that are zero", grad, _ZERO)
    if takes["pairs"]:
        _check_pairs(loss, batch, expect.within("pairs"))
    if takes["triplets"]:
        _check_triplets(loss, batch, expect.within("triplets"))


def _takes(loss: Loss, batch: Batches, tuples: Tuples, expect: Expect) -> bool:
    wanted = "a value, or ConfigError for unusable tuples"
    with expect.during("in forward", "Training on such a list would end in a traceback.", wanted):
        try:
            loss(batch.embeddings(12), None, tuples)
        except ConfigError:
            return False
    return True


def _check_one_kind(loss: Loss, batch: Batches, tuples: Tuples, expect: Expect) -> None:
    x, before = batch.embeddings(12), copy.deepcopy(tuples)
    backward(value_of(loss, x, None, tuples, expect), x, expect)
    expect(
        same_tuples(tuples, before),
        "a forward that does not change the tuples",
        "changed tuples",
        "The next use of the tuples would have another meaning.",
    )
    with torch.no_grad():
        value_of(loss, x, None, tuples, expect.within("under torch.no_grad()"))


def _turned(x: Tensor, angle: float) -> Tensor:
    """Return unit vectors at an angle to each row of ``x [N, D]``."""
    away = torch.randn_like(x)
    away = nn.functional.normalize(away - (away * x).sum(1, keepdim=True) * x, dim=1)
    return math.cos(angle) * x + math.sin(angle) * away


def _check_pairs(loss: Loss, batch: Batches, expect: Expect) -> None:
    x = batch.embeddings(4).detach()
    index = torch.arange(4)
    for same, less, more, how in (
        (True, _NEAR, _FAR, "nearer"),
        (False, _FAR, _NEAR, "farther apart"),
    ):
        pairs = Pairs(index, index + 4, torch.full((4,), same))
        low, high = (
            value_of(loss, torch.cat([x, _turned(x, a)]), None, pairs, expect).item()
            for a in (less, more)
        )
        expect(
            low < high,
            f"a lower loss for pairs with same={same} that are {how}",
            f"{low}, not below {high}",
            _WORSE,
        )
    n = _CLASSES * _EACH
    labels = torch.arange(n) % _CLASSES
    first, second = torch.triu_indices(n, n, 1)
    every = Pairs(first, second, labels[first] == labels[second])
    _check_parting(loss, batch, labels, lambda z: loss(z, None, every), expect.within("training"))


def _check_triplets(loss: Loss, batch: Batches, expect: Expect) -> None:
    x = batch.embeddings(4).detach()
    index = torch.arange(4)
    triplets = Triplets(index, index + 4, index + 8)

    def at(positive: float, negative: float) -> float:
        moved = torch.cat([x, _turned(x, positive), _turned(x, negative)])
        return value_of(loss, moved, None, triplets, expect).item()

    middle = math.radians(60)
    near, far = at(middle, _NEAR), at(middle, _FAR)
    expect(
        far < near,
        "a lower loss if the negative is farther from the anchor",
        f"{far}, not below {near}",
        _WORSE,
    )
    near, far = at(_NEAR, middle), at(_FAR, middle)
    expect(
        near < far,
        "a lower loss if the positive is nearer to the anchor",
        f"{near}, not below {far}",
        _WORSE,
    )
    n = _CLASSES * _EACH
    labels = torch.arange(n) % _CLASSES
    same = labels[:, None] == labels[None]
    a, p, q = torch.where((same & ~torch.eye(n).bool())[:, :, None] & ~same[:, None])
    every = Triplets(a, p, q)
    _check_parting(loss, batch, labels, lambda z: loss(z, None, every), expect.within("training"))


def _check_parting(
    loss: Loss,
    batch: Batches,
    labels: Tensor,
    scored: Callable[[Tensor], Tensor],
    expect: Expect,
) -> None:
    """Check that training free embeddings by the loss's gradient separates the classes."""
    x = batch.embeddings(len(labels))
    optimizer = torch.optim.Adam([x, *loss.parameters()], lr=_RATE)
    with expect.during("in a step of training", "Training would stop there."):
        for _ in range(_STEPS):
            optimizer.zero_grad()
            scored(nn.functional.normalize(x, dim=1)).backward()
            optimizer.step()
    z = nn.functional.normalize(x.detach(), dim=1)
    similarity = z @ z.T  # [N, N]
    same = labels[:, None] == labels[None]
    own = similarity[same & ~torch.eye(len(z)).bool()].mean().item()
    others = similarity[~same].mean().item()
    expect(
        own - others > _PARTED,
        f"separate classes after {_STEPS} steps on free embeddings: a higher cosine similarity "
        "within classes than between classes",
        f"{own:.3f} within and {others:.3f} between", _WORSE,
    )  # fmt: skip
