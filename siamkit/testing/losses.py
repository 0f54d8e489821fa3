"""The check of losses: values, gradients, unusual batches, and the direction of training."""

from __future__ import annotations

import torch
from torch import Tensor

from siamkit.interfaces import Loss, LossContext
from siamkit.testing.batches import DIM, STOPS, backward, embeddings, value_of
from siamkit.testing.common import (
    Expect,
    Values,
    checked_entry,
    conformance,
    loose_leaves,
    seeded,
)
from siamkit.testing.pulls import check_pull, check_tuples

_CLASSES = 4
_WIDE, _MANY = 5, 30
_LENGTH = 20.0
_RANDOM = "Two runs with one seed, or a resumed run, would give different networks."


@conformance
def check_loss(name: str, options: Values | None = None) -> None:
    """Check a loss: scalar, finite, deterministic, connected, and trains in the right direction.

    Args:
        name: The registered name.
        options: Option values, if the defaults are unsuitable.
    """
    entry, validated, expect = checked_entry("losses", name, options)

    def build(dim: int = DIM, classes: int = _CLASSES) -> Loss:
        with expect.during("in build", "Users could not use it."):
            loss = entry.build(validated, LossContext(dim, classes))
        expect(isinstance(loss, Loss), "build to return a Loss", type(loss),
               "Training would be refused.")  # fmt: skip
        return loss  # type: ignore[no-any-return]

    with seeded():
        loss = build()
        _check_ownership(loss, expect)
        _check_values(loss, expect)
        _check_contexts(loss, expect)
        _check_odd_batches(loss, expect)
        other = build(_WIDE, _MANY)
        within = expect.within(f"embeddings of {_WIDE} dimensions, {_MANY} classes")
        x = embeddings(_MANY, _WIDE)
        backward(value_of(other, x, torch.arange(_MANY), None, within), x, within)
        check_tuples(build(), expect)
        check_pull(build(), expect)


def _labels(n: int = 16) -> Tensor:
    return torch.arange(n) % _CLASSES


def _check_ownership(loss: Loss, expect: Expect) -> None:
    """Check that the loss registers all its parameters in build."""
    before = {name for name, _ in loss.named_parameters()}
    x = embeddings(16)
    value = value_of(loss, x, _labels(), None, expect)
    after = {name for name, _ in loss.named_parameters()}
    expect(before == after, "the same parameters after a forward", sorted(after - before),
           "The optimizer only has the parameters of build, so it would never train "
           "them.")  # fmt: skip
    backward(value, x, expect)
    loose = loose_leaves(value, loss, (x,))
    expect(
        not loose,
        "only parameters of the loss to receive gradients",
        f"{loose}, not registered",
        "They would be neither trained nor saved: use nn.Parameter.",
    )


def _check_values(loss: Loss, expect: Expect) -> None:
    labels = _labels()
    learns = False
    for _ in range(5):
        x = embeddings(16)
        before, given = x.detach().clone(), labels.clone()
        value = value_of(loss, x, labels, None, expect)
        learns = learns or bool(backward(value, x, expect).any())
        expect(
            torch.equal(x, before),
            "a forward that does not change the embeddings in place",
            "changed embeddings",
            "The gradients of the network would be wrong.",
        )
        expect(
            torch.equal(labels, given),
            "a forward that does not change the labels in place",
            "changed labels",
            "Every later use of the batch would have wrong labels.",
        )
        again = value_of(loss, x, labels, None, expect)
        expect(torch.equal(value, again), "the same value for the same batch",
               (value.item(), again.item()), _RANDOM)  # fmt: skip
        order = torch.randperm(16)
        mixed = value_of(loss, x[order], labels[order], None, expect.within("in another order"))
        near = torch.allclose(value, mixed, rtol=1e-3, atol=1e-5)
        expect(near, f"{value.item()} for the batch in another order too", mixed.item(),
               "Training would depend on the order of the images, which has no "
               "meaning.")  # fmt: skip
    expect(learns, "a nonzero gradient for random embeddings of 4 classes", "zero",
           "Training would have no effect.")  # fmt: skip
    idle = sorted(n for n, p in loss.named_parameters() if p.requires_grad and p.grad is None)
    expect(not idle, "a gradient for each of the loss's own parameters", f"none for {idle}",
           "They would keep their random values.")  # fmt: skip


def _check_contexts(loss: Loss, expect: Expect) -> None:
    labels = _labels()
    with torch.autocast("cpu", torch.bfloat16):
        under = value_of(loss, embeddings(16), labels, None, expect.within("autocast"))
    expect(bool(under.isfinite()), "a finite value under bfloat16 autocast", under.item(), STOPS)
    within = expect.within(f"embeddings of length {_LENGTH:g}, as from heads without normalize")
    x = (_LENGTH * embeddings(16)).detach().requires_grad_()
    backward(value_of(loss, x, labels, None, within), x, within)
    with torch.no_grad():
        value_of(loss, embeddings(16), labels, None, expect.within("under torch.no_grad()"))


def _check_odd_batches(loss: Loss, expect: Expect) -> None:
    same = torch.ones(8, DIM) / DIM**0.5
    batches = {
        "one class": (embeddings(8), torch.zeros(8, dtype=torch.long)),
        "each image of a different class": (embeddings(_CLASSES), torch.arange(_CLASSES)),
        "one image": (embeddings(1), torch.zeros(1, dtype=torch.long)),
        "seven images": (embeddings(7), _labels(7)),
        "identical embeddings": (same.requires_grad_(), _labels(8)),
    }
    for what, (x, labels) in batches.items():
        within = expect.within(what)
        backward(value_of(loss, x, labels, None, within), x, within)
