"""The measured speed of networks, on the device of the run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from siamkit.inference.export.images import BATCH
from siamkit.inference.export.timing import medians
from siamkit.model.trace import evaluating


def speeds(
    networks: Mapping[str, nn.Module], image: Tensor, seconds: float = 3.0
) -> dict[str, dict[str, float]]:
    """Return the speed of each network, by its name.

    The networks take turns, so that a load of the machine hits all of them.

    Args:
        networks: The networks, on the device of ``image``.
        image: One image ``[1, C, H, W]``.
        seconds: The time to measure each network with each batch size.

    Returns:
        ``latency_ms``: the median time of one image, in milliseconds; ``images_per_second``: in
        batches of 32, by the median time.
    """
    with ExitStack() as modes:
        for network in networks.values():
            modes.enter_context(evaluating(network))
        alone, batch = (
            medians({name: partial(_run, net, images) for name, net in networks.items()}, seconds)
            for images in (image, image.expand(BATCH, *image.shape[1:]).contiguous())
        )
    return {
        name: {"latency_ms": alone[name] * 1e3, "images_per_second": BATCH / batch[name]}
        for name in networks
    }


def _run(network: nn.Module, images: Tensor) -> None:
    network(images)
    _wait(images.device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
