"""torch's settings: siamkit computes the same, whatever the caller has set.

A caller's default dtype, default device, autocast, ``no_grad`` or ``inference_mode`` also holds in
the functions that the caller calls. There it would change the numbers of a run, or end it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

T = TypeVar("T")

_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def usual_settings() -> Iterator[None]:
    """Compute the block as a new process does, and restore the caller's settings afterwards.

    In the block, new tensors are float32 and on the CPU, gradients are recorded, and autocast is
    off. As a decorator, ``@usual_settings()`` does so for each call. Don't use it on a generator,
    whose caller would get the settings too: see :func:`each_with_usual_settings`.
    """
    if "torch" not in sys.modules:  # then nobody has set anything, and metrics need no torch
        yield
        return
    import torch

    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in _AUTOCAST_DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        # The context of a device slows down every call of torch, so it is entered only if needed.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if (dtype := torch.get_default_dtype()) != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


def each_with_usual_settings(items: Iterator[T]) -> Iterator[T]:
    """Yield ``items``; each is computed with the :func:`usual_settings`, and used without them."""
    end = object()
    while True:
        with usual_settings():
            item = next(items, end)
        if item is end:
            return
        yield item  # type: ignore[misc]
