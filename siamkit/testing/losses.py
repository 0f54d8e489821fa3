"""The check of losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.interfaces import Loss, LossContext, Pairs, Triplets
from siamkit.testing.common import Expect, Values, checked_entry, seeded

_DIM, _CLASSES = 8, 4


def check_loss(name: str, options: Values | None = None) -> None:
    """Check a loss: scalar, finite, differentiable, deterministic; zero and connected for nothing.

    Args:
        name: The registered name.
        options: Option values, where the entry's own defaults don't do.
    """
    entry, validated, expect = checked_entry("losses", "loss", name, options)
    with seeded():
        loss = entry.build(validated, LossContext(_DIM, _CLASSES))
        expect(isinstance(loss, Loss), "build to return a Loss", type(loss))
        _check_learning(loss, expect)
        _check_odd_batches(loss, expect)
        _check_tuples(loss, expect)


def _check_learning(loss: Loss, expect: Expect) -> None:
    labels = torch.arange(16) % _CLASSES
    taught = False
    for _ in range(5):
        x = _embeddings(16)
        before = x.detach().clone()
        value = loss(x, labels)
        grad = _backward(value, x, expect)
        taught = taught or bool(grad.any())
        expect(torch.equal(x, before), "the embeddings not to be changed in place", "changed ones")
        again = loss(x, labels)
        expect(torch.equal(value, again), "the same value for the same batch", (value, again))
        order = torch.randperm(16)
        mixed = loss(x[order], labels[order])
        near = torch.allclose(value, mixed, rtol=1e-3, atol=1e-5)
        expect(near, f"{value.item()} for the batch in another order too", mixed.item())
    expect(taught, "a gradient that is not zero for random embeddings of 4 classes", "zero")
    idle = sorted(n for n, p in loss.named_parameters() if p.requires_grad and p.grad is None)
    expect(not idle, "a gradient for each of the loss's own parameters", f"none for {idle}")
    with torch.autocast("cpu", torch.bfloat16):
        under = loss(_embeddings(16), labels)
    expect(bool(under.isfinite()), "a finite value under bfloat16 autocast", under)


def _check_odd_batches(loss: Loss, expect: Expect) -> None:
    same = torch.ones(8, _DIM) / _DIM**0.5
    batches = {
        "one class": (_embeddings(8), torch.zeros(8, dtype=torch.long)),
        "each image of another class": (_embeddings(_CLASSES), torch.arange(_CLASSES)),
        "one image": (_embeddings(1), torch.zeros(1, dtype=torch.long)),
        "identical embeddings": (same.requires_grad_(), torch.arange(8) % _CLASSES),
    }
    for what, (x, labels) in batches.items():
        _backward(loss(x, labels), x, expect.within(what))


def _check_tuples(loss: Loss, expect: Expect) -> None:
    index = torch.arange(4)
    none = index[:0]
    forms: dict[str, Pairs | Triplets] = {
        "pairs": Pairs(index, index + 4, index % 2 == 0),
        "triplets": Triplets(index, index + 4, index + 8),
        "no pairs": Pairs(none, none, none.bool()),
        "no triplets": Triplets(none, none, none),
    }
    for what, tuples in forms.items():
        within = expect.within(f"explicit tuples, {what}")
        x = _embeddings(12)
        try:
            value = loss(x, None, tuples)
        except ConfigError:
            continue
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise within.failure(
                "a value, or ConfigError if it cannot use them", message
            ) from error
        grad = _backward(value, x, within)
        if what.startswith("no "):
            within(value.item() == 0, "zero", value.item())
            within(not grad.any(), "gradients that are zero", grad)


def _embeddings(n: int) -> Tensor:
    return nn.functional.normalize(torch.randn(n, _DIM), dim=1).requires_grad_()


def _backward(value: Tensor, x: Tensor, expect: Expect) -> Tensor:
    """Check a loss's value and return the gradient of the embeddings."""
    expect(isinstance(value, Tensor) and value.shape == (), "a scalar tensor", value)
    expect(bool(value.isfinite()), "a finite value", value.item())
    connected = value.requires_grad
    expect(connected, "a value connected to the embeddings, also if it is zero", value)
    x.grad = None
    torch.autograd.backward(value, retain_graph=True)
    if x.grad is None:
        raise expect.failure(
            "a value connected to the embeddings, also if it is zero", "a loose one"
        )
    expect(bool(x.grad.isfinite().all()), "finite gradients", "NaN or infinity")
    return x.grad
