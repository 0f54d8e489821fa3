"""Does the suffix, fed by the prefix, do what the whole network does?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from siamkit.engine.boundary import Boundary
from siamkit.engine.prefix import Prefix
from siamkit.engine.suffix import Suffix
from siamkit.errors import SiamkitError
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import evaluating, rehearsing

TOLERANCE = 1e-4
"""Largest difference of outputs or gradients, relative to the largest of their values.

On the architectures that can be cut it is 0.0 or, where a library picks another algorithm for
another shape, some 1e-6; on those that cannot it is near one.
"""


@dataclass(frozen=True)
class Cut:
    """A network cut at a boundary that passed its self-test."""

    boundary: Boundary
    prefix: Prefix
    suffix: Suffix


def cut(
    net: SiameseNet, boundaries: Sequence[Boundary], images: Tensor
) -> tuple[Cut | None, list[str]]:
    """Cut the network at the first boundary that passes the self-test.

    Args:
        net: The network, with a plan applied.
        boundaries: Where it may be cut, in order of preference.
        images: A few real images ``[N, C, H, W]``, two or more.

    Returns:
        The cut, or None; and why each boundary before it was passed over.
    """
    reasons: list[str] = []
    for boundary in boundaries:
        try:
            found = Cut(boundary, Prefix(net, boundary), Suffix(net, boundary))
            difference = _difference(net, found, images)
        except SiamkitError as error:
            reasons.append(f"{boundary.name}: {error}")
        except Exception as error:  # the network's own code, fed with something else
            reasons.append(f"{boundary.name}: {type(error).__name__}: {error}")
        else:
            if difference <= TOLERANCE:
                return found, reasons
            reasons.append(
                f"{boundary.name}: what comes after it needs more than its output (outputs or "
                f"gradients differ by {difference:.1g})"
            )
    return None, reasons


def _difference(net: SiameseNet, found: Cut, images: Tensor) -> float:
    if not found.boundary.is_features:
        return discrepancy(net, found, images)
    # Features go straight into the head: the same calls in the same order.
    with evaluating(net):
        _activations(found.prefix, images)
    return 0.0


def discrepancy(net: SiameseNet, cut: Cut, images: Tensor) -> float:
    """Return how far the cut network is from the whole one, in training mode, on ``images``.

    The largest relative difference of the embeddings and of all gradients; infinite where shapes
    differ. Buffers, gradients, modes and the generators' states are as before afterwards.
    """
    with rehearsing(net):
        whole = _outcome(net, net, images)
    with rehearsing(net):
        parts = _outcome(net, lambda batch: cut.suffix(_activations(cut.prefix, batch)), images)
    if whole.keys() != parts.keys():
        return float("inf")
    return max(_relative(whole[name], parts[name]) for name in whole)


def _activations(prefix: Prefix, images: Tensor) -> Tensor:
    devices: list[Any] = [images.device] if images.device.type == "cuda" else []
    with torch.no_grad():
        activations: Tensor = prefix(images)
        with torch.random.fork_rng(devices):
            torch.manual_seed(1)  # a forward that calls dropout itself cannot be held in eval mode
            again = prefix(images)
    if not torch.equal(activations, again):
        raise SiamkitError("it gives something else each time")
    if len(activations) != len(images):
        raise SiamkitError(
            f"{len(images)} images give activations of shape {list(activations.shape)}"
        )
    return activations


def _outcome(
    net: SiameseNet, forward: Callable[[Tensor], Tensor], images: Tensor
) -> dict[str, Tensor]:
    """Return the embeddings and the gradient of every parameter, for a fixed loss and seed."""
    torch.manual_seed(0)  # dropout after the boundary drops the same
    embeddings = forward(images)
    weights = torch.linspace(-1, 1, embeddings.numel(), device=embeddings.device)
    (embeddings.flatten() * weights).sum().backward()
    grads = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
    return {"": embeddings.detach(), **grads}


def _relative(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    scale = max(float(a.abs().max()), 1e-12)
    difference = float((a - b).abs().max()) / scale
    return difference if difference == difference else float("inf")  # NaN never passes
