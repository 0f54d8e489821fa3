"""The adapters from functions and pytorch-metric-learning losses to siamkit's interfaces."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Collection, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.interfaces import (
    FreezePlan,
    FreezePolicy,
    Loss,
    LossContext,
    Pairs,
    Progress,
    Scheduler,
    Stage,
    Triplets,
)

_HALF = (torch.float16, torch.bfloat16)


class FunctionPolicy(FreezePolicy):
    """A freeze policy made from a function.

    Args:
        function: Returns a plan for the stages and the progress of a run. If it reads
            ``progress.history``, it must have an attribute ``metric_driven = True``.
    """

    def __init__(self, function: Callable[[Sequence[Stage], Progress], FreezePlan]) -> None:
        self._function = function
        self.metric_driven = bool(getattr(function, "metric_driven", False))

    def plan(self, stages: Sequence[Stage], progress: Progress) -> FreezePlan:
        """Return the function's plan."""
        return self._function(stages, progress)


class FunctionScheduler(Scheduler):
    """A scheduler made from a function, which returns a multiplier of every rate."""

    def __init__(self, function: Callable[[Progress], float]) -> None:
        self._function = function

    def lr_scale(self, progress: Progress) -> float:
        """Return the function's multiplier."""
        return float(self._function(progress))


class MetricLearningLoss(Loss):
    """A loss of pytorch-metric-learning, with or without a miner.

    The loss is computed in float32 or better, also under autocast, because nearly equal distances
    are subtracted.

    Args:
        criterion: The loss. A loss that takes reference embeddings (``SelfSupervisedLoss``,
            ``VICRegLoss``) gets the embeddings of a second view of each image.
        miner: Selects tuples by labels; None: the loss uses all tuples.
    """

    def __init__(self, criterion: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.criterion, self.miner = criterion, miner
        self.second_view = wants_second_view(criterion)
        self._refusals: dict[type, str | None] = {}

    @staticmethod
    def takes(criterion: Any, miner: Any) -> bool:
        """Return whether the arguments are a loss, and a miner or None."""
        if not isinstance(criterion, nn.Module) or isinstance(criterion, Loss):
            return False
        if not (miner is None or isinstance(miner, nn.Module)):
            return False
        taken = inspect.signature(criterion.forward).parameters
        return "embeddings" in taken or {"labels", "ref_emb"} & set(taken) != set()

    def forward(
        self, embeddings: Tensor, labels: Tensor | None, tuples: Pairs | Triplets | None = None
    ) -> Tensor:
        """Return the scalar loss of ``embeddings [N, D]``.

        If the loss needs a second view, N is twice the batch size, and the second half holds the
        second views of the images of the first half.

        Raises:
            ConfigError: The loss cannot use the kind of tuples in the batch.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(working_dtype(self.criterion, embeddings))  # [N, D]
            if self.second_view:
                return self._two_views(embeddings, labels)
            loss: Tensor = self.criterion(embeddings, labels, self._indices(embeddings, labels,
                                                                            tuples))  # fmt: skip
            return loss

    def _indices(
        self, embeddings: Tensor, labels: Tensor | None, tuples: Pairs | Triplets | None
    ) -> tuple[Tensor, ...] | None:
        if tuples is not None:
            self._require_use(tuples, embeddings)
            return explicit_indices(tuples)
        if labels is None:
            raise ConfigError(f"loss {self._name} got neither labels nor tuples")
        return None if self.miner is None else self.miner(embeddings, labels)

    def _require_use(self, tuples: Pairs | Triplets, embeddings: Tensor) -> None:
        kind = type(tuples)
        if kind not in self._refusals:
            self._refusals[kind] = why_unused(self.criterion, kind, embeddings)
        reason = self._refusals[kind]
        if reason is not None:
            what = kind.__name__.lower()
            raise ConfigError(
                f"loss {self._name} cannot use explicit {what}: {reason}",
                hint="train on labels, or use another loss, such as 'contrastive' for pairs or "
                "'triplet' for triplets",
            )

    def _two_views(self, embeddings: Tensor, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise ConfigError(
                f"loss {self._name} compares two views of each image, so it cannot use explicit "
                "pairs or triplets"
            )
        first, second = embeddings.chunk(2)
        loss: Tensor = self.criterion(first, ref_emb=second)
        return loss

    @property
    def _name(self) -> str:
        return type(self.criterion).__name__


def working_dtype(criterion: nn.Module, embeddings: Tensor) -> torch.dtype:
    """Return the dtype to compute a loss in: its parameters', or else float32 or better."""
    # With embeddings of another dtype, the criterion would convert its own parameters, and the
    # optimizer would not notice.
    for parameter in criterion.parameters():
        return parameter.dtype
    return torch.float32 if embeddings.dtype in _HALF else embeddings.dtype


def explicit_indices(tuples: Pairs | Triplets) -> tuple[Tensor, ...]:
    """Return tuples as index tensors ``[T]``, in the form that pytorch-metric-learning takes."""
    if isinstance(tuples, Triplets):
        return tuples.anchor, tuples.positive, tuples.negative
    # A pair has no anchor, so each of its images is an anchor once, as in pairs made from labels.
    first = torch.cat([tuples.first, tuples.second])
    second = torch.cat([tuples.second, tuples.first])
    same = tuples.same.bool().repeat(2)
    return first[same], second[same], first[~same], second[~same]


def why_unused(criterion: nn.Module, kind: type, like: Tensor) -> str | None:
    """Return the reason why a loss does not respond to explicit tuples of a kind, or None.

    A triplet loss, for example, returns zero for pairs that share no anchor, without an error, and
    training would change nothing. So the loss is tried on embeddings in which the positives are
    near and the negatives far, and on embeddings in which it is the other way round.

    Args:
        criterion: The loss; a copy is tried, since a loss may keep state.
        kind: :class:`Pairs` or :class:`Triplets`.
        like: Embeddings ``[N, D]`` with the width, dtype and device to try the loss with.
    """
    if like.shape[1] < 2:
        return None  # the trial needs two dimensions
    trial = copy.deepcopy(criterion)
    index = torch.arange(2, device=like.device)
    same, other = torch.ones_like(index).bool(), torch.zeros_like(index).bool()
    tuples: Pairs | Triplets = Triplets(index, index + 2, index + 6)
    if kind is Pairs:
        tuples = Pairs(torch.cat([index, index + 4]), torch.cat([index + 2, index + 6]),
                       torch.cat([same, other]))  # fmt: skip
    try:
        with torch.no_grad():
            good, bad = (
                float(trial(_fan(like, positive, negative), None, explicit_indices(tuples)))
                for positive, negative in permutations((30, 110))
            )
    except Exception as error:  # the loss's own code
        return f"{type(error).__name__}: {error}"
    return None if good != bad else "its value is the same for good and bad embeddings"


def _fan(like: Tensor, positive: float, negative: float) -> Tensor:
    """Return embeddings ``[8, D]``: two anchors, two positives, two anchors and two negatives.

    The positives are turned by ``positive`` degrees from the anchors, the negatives by
    ``negative`` degrees.
    """
    angles = torch.tensor([0.0, 5.0]).repeat(4)
    angles += torch.tensor([0.0, positive, 0.0, negative]).repeat_interleave(2)
    angles = angles * math.pi / 180
    fan = torch.zeros(8, like.shape[1])
    fan[:, 0], fan[:, 1] = angles.cos(), angles.sin()
    return fan.to(like)


def wants_second_view(criterion: nn.Module) -> bool:
    """Return whether a loss of pytorch-metric-learning compares two views of each image.

    It does so if its forward takes reference embeddings (``ref_emb``) and no labels, or if it is a
    ``VICRegLoss``.
    """
    parameters = inspect.signature(criterion.forward).parameters
    if "ref_emb" in parameters and "labels" not in parameters:
        return True
    # The forward of VICReg takes labels, but ignores them.
    return any(kind.__name__ == "VICRegLoss" for kind in type(criterion).__mro__)


def require_use(criterion: nn.Module, miner: nn.Module | None) -> None:
    """Refuse a miner beside a loss that would never call it.

    Raises:
        ConfigError: The loss compares two views of each image.
    """
    if miner is not None and wants_second_view(criterion):
        raise ConfigError(
            f"{type(criterion).__name__} compares two views of each image and takes no tuples, so "
            "its miner would never be called",
            where="loss",
            got=type(miner),
            hint=f"pass the loss alone: loss={type(criterion).__name__}(...)",
        )


def require_fit(criterion: nn.Module, context: LossContext) -> None:
    """Refuse a loss of pytorch-metric-learning whose parameters do not fit the data or network.

    Raises:
        ConfigError: The loss has too few classes, or is made for embeddings of another width.
    """
    dim, classes = context.embedding_dim, context.num_classes
    for module in criterion.modules():
        if not any("num_classes" in _arguments(kind) for kind in type(module).__mro__):
            continue
        each = getattr(module, "centers_per_class", getattr(module, "sub_centers", 1))
        for name, parameter in module.named_parameters(recurse=False):
            shape = list(parameter.shape)
            sides = (shape, shape[::-1]) if len(shape) == 2 else ()  # [D, C] or [C, D]
            if sides and not any(a == dim and b >= classes * each for a, b in sides):
                raise ConfigError(
                    f"{type(module).__name__} is made for another number of classes or width of "
                    f"embeddings: the shape of {name} is wrong",
                    where="loss",
                    got=shape,
                    allowed=f"{classes} classes or more, and embeddings of width {dim}",
                    hint=f"build it with num_classes={classes}, embedding_size={dim}",
                )


def _arguments(kind: type) -> Collection[str]:
    made = vars(kind).get("__init__")
    return inspect.signature(made).parameters if inspect.isfunction(made) else ()
