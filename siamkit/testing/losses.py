"""The check of losses: values, gradients, unusual batches, and the direction of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from siamkit.interfaces import Loss, LossContext
from siamkit.model.generators import seeded
from siamkit.testing.batches import DIM, STOPS, Batches, backward, value_of
from siamkit.testing.common import Expect, Values, loose_leaves
from siamkit.testing.pulls import check_pull, check_tuples
from siamkit.testing.subjects import checked_entry, conformance

_CLASSES = 4
_WIDE, _MANY = 5, 30
_LENGTH = 20.0
_RANDOM = "Two runs with one seed, or a resumed run, would give different networks."


@conformance
def check_loss(
    given: str | nn.Module | tuple[nn.Module, nn.Module],
    options: Values | None = None,
    *,
    embedding_dim: int = DIM,
) -> None:
    """Check that a loss is a finite, deterministic scalar that trains in the right direction.

    Args:
        given: The registered name, a loss, a loss of pytorch-metric-learning, or a tuple of such a
            loss and a miner. Objects are copied. A loss with class vectors must be made for at
            least four classes.
        options: Option values of a named loss, if the defaults are unsuitable.
        embedding_dim: The width of the embeddings. Set it for a loss that was made for one width.
    """
    entry, validated, expect = checked_entry("losses", given, options)

    def build(dim: int = embedding_dim, classes: int = _CLASSES) -> Loss:
        with expect.during("in build", "Users could not use it."):
            loss = entry.build(validated, LossContext(dim, classes))
        expect(isinstance(loss, Loss), "build to return a Loss", type(loss),
               "Training would be refused.")  # fmt: skip
        return loss  # type: ignore[no-any-return]

    with seeded(0):
        loss = build()
        batch = Batches(embedding_dim, 1 + loss.second_view)
        _check_ownership(loss, batch, expect)
        _check_values(loss, batch, expect)
        _check_contexts(loss, batch, expect)
        _check_odd_batches(loss, batch, expect)
        # An object with parameters was made for one width and one number of classes.
        if isinstance(given, str) or not list(loss.parameters()):
            other = build(_WIDE, _MANY)
            within = expect.within(f"embeddings of {_WIDE} dimensions, {_MANY} classes")
            x, labels = Batches(_WIDE, batch.views)(torch.arange(_MANY))
            backward(value_of(other, x, labels, None, within), x, within)
        check_tuples(build(), batch, expect)
        check_pull(build(), batch, expect)


def _labels(n: int = 16) -> Tensor:
    return torch.arange(n) % _CLASSES


def _check_ownership(loss: Loss, batch: Batches, expect: Expect) -> None:
    """Check that the loss registers all its parameters in build."""
    before = {name for name, _ in loss.named_parameters()}
    x, labels = batch(_labels())
    value = value_of(loss, x, labels, None, expect)
    after = {name for name, _ in loss.named_parameters()}
    expect(before == after, "the same parameters after a forward", sorted(after - before),
           "The optimizer has only the parameters that exist after build, so it would never train "
           "these.")  # fmt: skip
    backward(value, x, expect)
    loose = loose_leaves(value, loss, (x,))
    expect(
        not loose,
        "only parameters of the loss to receive gradients",
        f"{loose}, not registered",
        "They would be neither trained nor saved: use nn.Parameter.",
    )


def _check_values(loss: Loss, batch: Batches, expect: Expect) -> None:
    learns = False
    for _ in range(5):
        x, labels = batch(_labels())
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
        order = batch.order(16)
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


def _check_contexts(loss: Loss, batch: Batches, expect: Expect) -> None:
    x, labels = batch(_labels())
    with torch.autocast("cpu", torch.bfloat16):
        under = value_of(loss, x, labels, None, expect.within("autocast"))
    expect(bool(under.isfinite()), "a finite value under bfloat16 autocast", under.item(), STOPS)
    within = expect.within(f"embeddings of length {_LENGTH:g}, as from heads without normalize")
    x = (_LENGTH * x).detach().requires_grad_()
    backward(value_of(loss, x, labels, None, within), x, within)
    with torch.no_grad():
        value_of(loss, batch(_labels())[0], labels, None, expect.within("under torch.no_grad()"))


def _check_odd_batches(loss: Loss, batch: Batches, expect: Expect) -> None:
    # A loss that compares views may take statistics over the images, as VICReg does.
    few = "one image" if batch.views == 1 else "two images"
    odd = {
        "one class": batch(torch.zeros(8, dtype=torch.long)),
        "each image of a different class": batch(torch.arange(_CLASSES)),
        few: batch(torch.zeros(batch.views, dtype=torch.long)),
        "seven images": batch(_labels(7)),
        "identical embeddings": batch(_labels(8), same=True),
    }
    for what, (x, labels) in odd.items():
        within = expect.within(what)
        backward(value_of(loss, x, labels, None, within), x, within)
