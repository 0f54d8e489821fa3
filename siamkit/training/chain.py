"""The chain test: whether a part of a network can be replaced by one module that gets the images.

A quantized part is one graph from the images to a module's output. The modules before it then pass
the images on. That is right only if nothing but these modules computes anything in between.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from siamkit.engine.boundary import Boundary
from siamkit.engine.cutting import Cut
from siamkit.engine.difference import relative_difference
from siamkit.errors import ConfigError
from siamkit.model.names import submodule
from siamkit.model.quantized import passed
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import evaluating

BACKBONE = "backbone."
"""The start of the names of a backbone's modules in its network."""

_SAME = 1e-4  # of the largest output: the patched network against the suffix


def before(boundary: Boundary) -> tuple[str, ...]:
    """Return the backbone's modules that run before the boundary's module, not inside it."""
    inside = boundary.module + "."
    return tuple(
        name.removeprefix(BACKBONE)
        for name in boundary.modules
        if name != boundary.module and not name.startswith(inside)
    )


def require_chain(net: SiameseNet, cut: Cut, images: Tensor) -> None:
    """Check that the network gives the same if its modules before the boundary pass images on.

    Args:
        net: The network.
        cut: The cut network.
        images: A few images ``[N, C, H, W]``.

    Raises:
        ConfigError: It does not: operations between the modules need their outputs.
    """
    with evaluating(net):
        activations = cut.prefix(images)
        expected = cut.suffix(activations)
    modules = {name: submodule(net, f"{BACKBONE}{name}") for name in before(cut.boundary)}
    target = submodule(net, cut.boundary.module)
    own = {module: module.__dict__.get("forward") for module in (*modules.values(), target)}
    try:
        for module in modules.values():
            module.__dict__["forward"] = passed
        target.__dict__["forward"] = partial(_answer, images, activations)
        with evaluating(net):
            same = relative_difference(net(images), expected) <= _SAME
    except Exception:  # the network's own code, on images where it expects activations
        same = False
    finally:
        for module, forward in own.items():
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward
    if not same:
        raise ConfigError("its modules up to there do not simply follow each other")


def _answer(images: Tensor, activations: Tensor, received: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the activations if a module received the images as they are.

    Raises:
        ValueError: An operation between the modules has changed them.
    """
    if received.shape != images.shape or not torch.equal(received, images):
        raise ValueError
    return activations
