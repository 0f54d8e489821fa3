"""The stepper: carries out one optimizer step, in one or several forward passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
from torch import Tensor, nn

from siamkit.batches import Batch
from siamkit.engine.kernels.base import AUTOCAST
from siamkit.errors import (
    ConfigError,
    NoMemoryError,
    NonFiniteError,
    PluginError,
    is_out_of_memory,
)
from siamkit.guard import name_of
from siamkit.interfaces import Loss, Pairs, Triplets
from siamkit.model.device import float64_device
from siamkit.model.generators import seed_generators
from siamkit.model.siamese import SiameseNet
from siamkit.model.unit import SHORTEST
from siamkit.spelling import setting
from siamkit.training.exactness import require_repeated
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
        ConfigError: fp16 is requested on a device that cannot scale gradients.
    """
    if precision == "fp16" and device.type not in ("cuda", "cpu"):
        raise ConfigError(
            "fp16 needs a CUDA device or the CPU",
            where="train.precision",
            got=str(device),
            allowed="fp32, bf16",
        )
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def embedded(
    forward: Callable[[Tensor], Tensor],
    inputs: Tensor,
    device: torch.device,
    precision: str,
    *,
    again: bool = False,
) -> Tensor:
    """Return the embeddings of inputs in the precision of a run.

    Args:
        forward: Maps inputs to embeddings.
        inputs: The inputs, on any device.
        device: The device to compute on.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        again: Whether the inputs are needed again. They then stay as they are, also if the network
            changes its input in place.
    """
    moved = inputs.to(device, non_blocking=True)
    if again and moved is inputs:
        moved = inputs.clone()
    with autocast(device, precision):
        return forward(moved)


@dataclass(frozen=True)
class LossWork:
    """The work of one loss in a step.

    Attributes:
        batches: Yields the batch of each forward pass.
        passes: The number of forward passes.
        tuples: Known pairs or triplets, as positions in the images of all passes.
        weight: The share of this loss in the step.
    """

    batches: Iterator[Batch]
    passes: int
    tuples: BatchTuples | None
    weight: float


class Stepper:
    """Carries out optimizer steps.

    If a loss needs several forward passes, its gradient is that of a single pass over all images
    (GradCache; Gao et al. 2021, arXiv 2101.06983). First, all passes but the last give embeddings
    without a graph. The loss compares all embeddings, and gives the gradient of each. Then each
    pass runs once more, with the same random numbers, and propagates its gradients back. So only
    the graph of one pass is in memory at a time. Whether a network allows this is decided before
    (:mod:`siamkit.training.splitting`).

    Attributes:
        forward: Maps a batch's inputs to embeddings: the whole network, or the suffix. May be set.
        overflowed: Whether the gradients of the last step overflowed in fp16. The step updated
            nothing then, and the scale of the loss is smaller from then on.
        first: Whether no step of the run was done before. May be set.

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
        self._seed = 0
        self._pass = 0
        self.overflowed = False
        self.first = False
        self.scaler = self._new_scaler()

    def __call__(self, work: Iterable[LossWork], seed: int = 0) -> float:
        """Do one step over all losses and return their weighted sum.

        Args:
            work: The work of each loss.
            seed: The seed of the random numbers that the forward passes and the losses draw.

        Raises:
            ConfigError: A forward pass cannot be repeated, so its gradient would be wrong; nothing
                was updated.
            NonFiniteError: The loss or the gradient is NaN or infinite; nothing was updated.
            PluginError: The loss gives no gradient.
            ResourceError: The memory is too small for the loss alone, or ran out in the update.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._embedded.clear()
        self._seed, self._pass = seed, 0
        try:
            total = sum(self._backward(part) for part in work)
            self._update()
        except Exception:
            # The scaler may have divided the gradients already, and refuses to do so twice.
            state, self.scaler = self.scaler.state_dict(), self._new_scaler()
            self.scaler.load_state_dict(state)
            raise
        return total

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def _backward(self, work: LossWork) -> float:
        """Add the gradients of one loss, and return its weighted value."""
        first = self._pass
        batches: list[Batch] = []
        outputs: list[Tensor] = []
        for batch in islice(work.batches, work.passes):
            batches.append(batch)
            # The last pass keeps its graph, so that it need not run again.
            last = len(batches) == work.passes
            with torch.set_grad_enabled(last):
                outputs.append(self._embed(batch, first + len(outputs), again=not last))
        self._pass += work.passes
        trains = outputs[-1].requires_grad
        leaves = [promoted(output.detach()).requires_grad_(trains) for output in outputs]
        self._embedded += [leaf.detach() for leaf in leaves]

        def compare() -> float:
            loss = self._loss(leaves, batches, work.tuples, first) * work.weight
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._not_finite("the loss", value)
            self.scaler.scale(loss).backward()
            return value

        value = _if_it_fits(compare)
        if value is None:
            outputs.clear()  # and with them the graph of the last pass
            if _if_it_fits(compare) is None:
                raise self._loss_too_large(sum(len(leaf) for leaf in leaves))
            raise MemoryError("the loss does not fit next to the last forward pass")
        if trains:
            self._propagate(outputs.pop(), leaves[-1])
            for place, before in enumerate(outputs):
                output = self._embed(batches[place], first + place)
                require_repeated(before, output, self.precision)
                self._propagate(output, leaves[place])
        return value

    def _embed(self, batch: Batch, place: int, *, again: bool = False) -> Tensor:
        """Return the output of a forward pass. The same place draws the same random numbers."""
        seed_generators((self._seed + place) % 2**63)
        return embedded(self.forward, batch.inputs, self.device, self.precision, again=again)

    def _loss(
        self,
        embeddings: Sequence[Tensor],
        batches: Sequence[Batch],
        known: BatchTuples | None,
        first: int,
    ) -> Tensor:
        views = 2 if self.loss.second_view else 1
        # A loss that draws at random draws the same, whatever the number of passes before it.
        seed_generators((self._seed + first + 2**62) % 2**63)
        # Distances of nearly equal embeddings need full precision.
        everything = by_view(embeddings, views)
        if known is None:
            labels = by_view([batch.labels for batch in batches], views)
            # Does not wait until the device has finished its work.
            labels = labels.to(self.device, non_blocking=True)
            loss = self.loss(everything, labels)
        else:
            loss = self.loss(everything, None, moved(known, self.device))
        return _scalar(loss, self._name_of_loss(), trains=everything.requires_grad)

    def _name_of_loss(self) -> str:
        return name_of(self.loss, f"loss {type(self.loss).__name__}")

    @staticmethod
    def _propagate(output: Tensor, leaf: Tensor) -> None:
        """Propagate the gradient of the loss back from the output of a pass."""
        if leaf.grad is not None:  # the loss may use a part of the images only
            output.backward(leaf.grad.to(output.dtype))

    def _update(self) -> None:
        parameters = [p for p in self._parameters() if p.grad is not None]
        if not parameters:
            raise _without_gradient(self._name_of_loss())
        self.scaler.unscale_(self.optimizer)
        norm = total_norm([p.grad for p in parameters if p.grad is not None])
        self.overflowed = not torch.isfinite(norm)
        if self.overflowed:
            # The fp16 scaler provokes this on purpose, and halves its scale. Below a scale of one,
            # that no longer helps.
            if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
                self.optimizer.zero_grad(set_to_none=True)
                raise self._not_finite("the gradient", float(norm))
        else:
            if self.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
            self._step()
        self.scaler.update()

    def _step(self) -> None:
        try:
            self.scaler.step(self.optimizer)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise NoMemoryError(
                "out of memory in the update of the parameters, some of which may have changed",
                hint="use an optimizer with less state (sgd), or freeze more; the run can be "
                "resumed from its latest checkpoint",
            ) from None

    def _loss_too_large(self, embeddings: int) -> NoMemoryError:
        return NoMemoryError(
            f"out of memory in {self._name_of_loss()}, which compares "
            f"{plural(embeddings, 'embedding')} at once; smaller forward passes would not help",
            hint=f"use a smaller batch ({setting('train.batch_size')}), or a loss that compares "
            "fewer pairs or triplets; the run can be resumed from its latest checkpoint",
        )

    def _not_finite(self, what: str, got: float) -> NonFiniteError:
        """Return the error about a value, with its cause where the embeddings show it."""
        embeddings = torch.cat(self._embedded)
        zeros = int((embeddings.abs().amax(dim=1) <= SHORTEST).sum())
        hint = advice(self.precision, first=self.first)
        if not torch.isfinite(embeddings).all():
            hint = f"the network's embeddings are not finite before the loss; {hint}"
        elif zeros:
            hint = (
                f"{zeros} of the {plural(len(embeddings), 'embedding')} consist of zeros, which "
                "have no direction: the features of these images are zero. Use larger images "
                f"({setting('data.image_size')}), another backbone, or {hint}"
            )
        return NonFiniteError(f"{what} is not finite", got=got, hint=hint)

    def _parameters(self) -> Iterator[nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from group["params"]


def advice(precision: str, *, first: bool = False) -> str:
    """Return the advice against numbers that grow too large, for messages.

    Args:
        precision: The numeric type of the passes.
        first: Whether no step was done before, so that the learning rate cannot be the cause.
    """
    lower = f"lower the learning rate ({setting('optimizer.lr')})"
    if first:
        lower = f"try another loss ({setting('loss.name')})"
    return lower if precision == "fp32" else f"{lower} or use fp32 ({setting('train.precision')})"


def promoted(embeddings: Tensor) -> Tensor:
    """Return embeddings in float32, or in float64 if they have that type."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together; not finite only if a gradient is not finite."""
    norm: Tensor = nn.utils.get_total_norm(gradients)
    if torch.isfinite(norm):
        return norm
    # The squares of float32 may overflow where the gradients do not.
    device = float64_device(norm.device)
    each = [g.to(float64_device(g.device)).double().norm().to(device) for g in gradients]
    exact: Tensor = torch.stack(each).norm()
    return exact


def by_view(parts: Sequence[Tensor], views: int) -> Tensor:
    """Join the parts of a batch. Each part holds the first views of its images, then the second.

    Args:
        parts: The rows of each part ``[views * n, ...]``.
        views: The number of views of each image.

    Returns:
        The first views of all images, then their second views.
    """
    if len(parts) == 1:
        return parts[0]
    chunks = [part.chunk(views) for part in parts]
    return torch.cat([chunk[view] for view in range(views) for chunk in chunks])


def _scalar(loss: object, whose: str, *, trains: bool) -> Tensor:
    """Return the value of a loss, if training can follow its gradient.

    Args:
        loss: What the loss returned.
        whose: The name of the loss.
        trains: Whether the embeddings have a gradient.

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
    if not loss.requires_grad and not trains:
        raise PluginError(
            "the network returned embeddings without a gradient, so nothing would be trained",
            hint="compute them in its forward without detach() or torch.no_grad(), from what the "
            "plan trains",
        )
    if not loss.requires_grad:
        raise _without_gradient(whose)
    return loss


def _without_gradient(whose: str) -> PluginError:
    return PluginError(
        f"{whose} returned a value without a gradient, so nothing would be trained",
        hint="compute it from the embeddings, without detach(), item() or torch.no_grad(); a "
        "batch with nothing to learn from gives embeddings.sum() * 0",
    )


def _if_it_fits(compute: Callable[[], float]) -> float | None:
    """Return the result of ``compute``; None if the memory ran out.

    What ``compute`` held is free again then, because its exception has ended.
    """
    try:
        return compute()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None


def moved(known: BatchTuples, device: torch.device) -> BatchTuples:
    """Return the same pairs or triplets on ``device``."""
    uploaded = (each.to(device, non_blocking=True) for each in vars(known).values())
    return type(known)(*uploaded)
