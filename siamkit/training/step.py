"""The stepper: carries out one optimizer step over micro-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise

import torch
from torch import Tensor, nn

from siamkit.batches import Batch
from siamkit.engine.kernels.base import AUTOCAST
from siamkit.errors import ConfigError, NonFiniteError, PluginError
from siamkit.guard import name_of
from siamkit.interfaces import Loss, Pairs, Triplets
from siamkit.model.siamese import SiameseNet
from siamkit.model.unit import SHORTEST
from siamkit.spelling import setting
from siamkit.words import plural

BatchTuples = Pairs | Triplets


def micro_batches(batch: Sequence[int], size: int | None, unit: int) -> list[list[int]]:
    """Cut a P x K batch into micro-batches of about equal size, at most ``size`` images each.

    Cuts fall between classes, so that no class loses its positive pairs. Each part has at least
    two classes, so that it has negatives. For this, a part may be one class larger than ``size``.

    Args:
        batch: Image indices of two or more classes, with the K images of a class side by side.
        size: Largest micro-batch, at least 2 K; None for the whole batch.
        unit: K, the number of images per class.
    """
    units = math.ceil(len(batch) / unit)
    parts = 1 if size is None else min(math.ceil(units / (size // unit)), units // 2)
    edges = [round(i * units / parts) * unit for i in range(parts + 1)]
    return [list(batch[a:b]) for a, b in pairwise(edges)]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the autocast context of a precision.

    Raises:
        ConfigError: fp16 is requested on a device other than CUDA.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            "fp16 needs a CUDA device",
            where="train.precision",
            got=str(device),
            allowed="fp32, bf16",
        )
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


class Stepper:
    """Carries out optimizer steps.

    Attributes:
        forward: Maps a batch's inputs to embeddings: the whole network, or the suffix.

    Args:
        net: The network, in training mode.
        loss: The loss.
        optimizer: The run's optimizer.
        device: The device to compute on.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        clip_norm: Largest gradient norm, or None.
    """

    def __init__(
        self,
        net: SiameseNet,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        precision: str = "fp32",
        clip_norm: float | None = None,
    ) -> None:
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.device, self.precision, self.clip_norm = device, precision, clip_norm
        self.forward: Callable[[Tensor], Tensor] = net
        self._embedded: list[Tensor] = []  # of this step, to explain an error
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def __call__(self, work: Iterable[tuple[Batch, BatchTuples | None, float]]) -> float:
        """Do one step over all micro-batches and return the loss.

        Args:
            work: Each micro-batch, its known pairs or triplets, and the weight of its loss, which
                is the micro-batch's share of the step.

        Raises:
            NonFiniteError: The loss or the gradient is NaN or infinite; nothing was updated.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._embedded.clear()
        total = 0.0
        for batch, known, weight in work:
            loss = self._loss(batch, known) * weight
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._not_finite("the loss", value)
            self.scaler.scale(loss).backward()
            total += value
        self._update()
        return total

    def _loss(self, batch: Batch, known: BatchTuples | None) -> Tensor:
        batch = batch.to(self.device, non_blocking=True)
        with autocast(self.device, self.precision):
            embeddings = self.forward(batch.inputs)
        self._embedded.append(embeddings.detach())
        # Distances of nearly equal embeddings need full precision.
        if known is None:
            loss = self.loss(embeddings.float(), batch.labels)
        else:
            loss = self.loss(embeddings.float(), None, moved(known, self.device))
        return _scalar(loss, name_of(self.loss, f"loss {type(self.loss).__name__}"))

    def _update(self) -> None:
        parameters = [p for p in self._parameters() if p.grad is not None]
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not torch.isfinite(norm):
            # The fp16 scaler provokes this on purpose. It skips the step and halves its scale;
            # below a scale of one, that no longer helps.
            if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
                self.optimizer.zero_grad(set_to_none=True)
                raise self._not_finite("the gradient", float(norm))
        elif self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _not_finite(self, what: str, got: float) -> NonFiniteError:
        """Return the error about a value, with its cause where the embeddings show it."""
        embeddings = torch.cat(self._embedded)
        zeros = int((embeddings.abs().amax(dim=1) <= SHORTEST).sum())
        hint = advice(self.precision)
        if not torch.isfinite(embeddings).all():
            hint = f"the network's embeddings are not finite before the loss; {hint}"
        elif zeros:
            hint = (
                f"{zeros} of the {plural(len(embeddings), 'embedding')} consist of zeros, which "
                "have no direction: the features of these images are zero. Use larger images "
                f"({setting('data.image_size')}), another backbone, or {advice(self.precision)}"
            )
        return NonFiniteError(f"{what} is not finite", got=got, hint=hint)

    def _parameters(self) -> Iterator[nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from group["params"]


def advice(precision: str) -> str:
    """Return the advice against numbers that grow too large, for messages."""
    lower = f"lower the learning rate ({setting('optimizer.lr')})"
    return lower if precision == "fp32" else f"{lower} or use fp32 ({setting('train.precision')})"


def _scalar(loss: object, whose: str) -> Tensor:
    """Return the value of a loss, if training can follow its gradient.

    Raises:
        PluginError: The loss is no real scalar tensor, or has no gradient.
    """
    if not isinstance(loss, Tensor) or loss.ndim:
        raise PluginError(
            f"{whose} must return a scalar tensor",
            got=list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__,
        )
    if not loss.is_floating_point():
        raise PluginError(f"{whose} must return a real number", got=str(loss.dtype))
    if not loss.requires_grad:
        raise PluginError(
            f"{whose} returned a value without a gradient, so nothing would be trained",
            hint="compute it from the embeddings, without detach(), item() or torch.no_grad(); a "
            "batch with nothing to learn from gives embeddings.sum() * 0",
        )
    return loss


def moved(known: BatchTuples, device: torch.device) -> BatchTuples:
    """Return the same pairs or triplets on ``device``."""
    return type(known)(*(indices.to(device) for indices in vars(known).values()))
