"""Fitting: chooses the size of forward passes by the memory that is free."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from siamkit.errors import ResourceError
from siamkit.freezing.memory import probe_images
from siamkit.freezing.peak import peak_of_step
from siamkit.spelling import setting
from siamkit.training.build import Setup
from siamkit.training.free_memory import free_bytes
from siamkit.training.optimizer import state_size
from siamkit.training.step import autocast

_SHARE = 0.8
"""The share of the free memory to use. Batches, caches and other processes need some too."""


@dataclass(frozen=True)
class Fit:
    """A choice of the size of forward passes.

    Attributes:
        images: The number of images in a forward pass.
        needed: The predicted peak of a step with passes of this size, in bytes.
        whole: The predicted peak of a step with one pass, in bytes.
        free: The free memory at the time of the choice, in bytes.
    """

    images: int
    needed: int
    whole: int
    free: int


def fitting_pass(setup: Setup) -> Fit | None:
    """Return the largest forward pass that fits; None if the memory of a step is not predictable.

    The plan must be applied. What the process holds already, such as the weights, is counted in the
    prediction, but also missing from the free memory, so the choice is on the safe side.
    """
    batch = setup.config.train.batch_size
    predict = predictor(setup)
    whole, small = predict(batch), predict(max(batch // 4, 1))
    if whole is None or small is None:
        return None
    height, width = setup.net.preprocessing.size
    image = 4 * setup.net.preprocessing.channels * height * width * (1 + setup.loss.second_view)
    held = image if setup.device.type == "cpu" else 0
    return choose(batch, whole, small, free_bytes(setup.device), held)


def halved_pass(setup: Setup, obstacle: str | None, largest: int, where: str) -> int:
    """Return the size of forward passes after the memory ran out.

    Args:
        setup: The parts of the run.
        obstacle: Why smaller passes would change the result; None if they would not.
        largest: The most images in a forward pass so far.
        where: The place in the run, for errors.

    Raises:
        ResourceError: The passes cannot be smaller.
    """
    hint = (
        f"use smaller images ({setting('data.image_size')}) or batches "
        f"({setting('train.batch_size')}), freeze more, or recompute activations "
        f"({setting('train.grad_checkpointing', True)})"
    )
    if largest == 1:
        raise ResourceError(f"out of memory {where}, with one image per forward pass", hint=hint)
    if obstacle is not None:
        raise ResourceError(
            f"out of memory {where}, with {largest} images per forward pass; smaller passes would "
            f"change the result: {obstacle}",
            hint=f"keep norm layers in eval mode ({setting('freeze.norm', 'affine')}), choose a "
            f"head or a backbone without them, or {hint}",
        )
    return -(-largest // 2)


def free_memory(setup: Setup) -> None:
    """Free the gradients of a step that failed, and what torch keeps for later use."""
    setup.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if setup.device.type == "cuda":
        torch.cuda.empty_cache()


def choose(batch: int, whole: int, small: int, free: int, held: int = 0) -> Fit:
    """Return the largest pass whose predicted peak fits into a share of the free memory.

    The peak grows about linearly with the number of images.

    Args:
        batch: The number of images in a batch.
        whole: The peak with a pass of ``batch`` images, in bytes.
        small: The peak with a pass of a quarter of that (at least 1 image).
        free: The free memory.
        held: The bytes of an image, if images wait in this memory until their pass is repeated.
    """
    fewer = max(batch // 4, 1)
    per_image = max(whole - small, 0) / max(batch - fewer, 1)
    fixed = whole - per_image * batch

    def need(images: int) -> int:
        return round(fixed + per_image * images + held * (batch - images))

    images = batch
    while images > 1 and need(images) > _SHARE * free:
        # Halves, as after an error: the parts of a batch are then equal.
        images = -(-images // 2)
    return Fit(images, need(images), whole, free)


def predictor(setup: Setup) -> Callable[[int], int | None]:
    """Return a function that predicts the peak of a step by the images in a forward pass.

    A loss may compare two views of each image, which then pass together.
    """
    preprocessing = setup.net.preprocessing
    image = probe_images(preprocessing.channels, preprocessing.size, setup.device)[:1]
    state, views = state_size(setup.optimizer), 1 + setup.loss.second_view

    def predict(images: int) -> int | None:
        return peak_of_step(
            setup.net, image, images * views, state,
            lambda: autocast(setup.device, setup.config.train.precision),
        )  # fmt: skip

    return predict
