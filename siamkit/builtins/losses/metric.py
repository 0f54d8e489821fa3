"""The adapter from pytorch-metric-learning to siamkit's ``Loss``.

Only the build functions of the losses import this module, since it imports pytorch-metric-learning.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_metric_learning import distances, losses
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.interfaces import Loss, Pairs, Triplets
from siamkit.objects.adapters import explicit_indices, working_dtype

Unit = Literal["pair", "triplet", "class"]
"""The smallest group of embeddings that a loss compares.

``pair``: single pairs, so the loss can use pairs and triplets. ``triplet``: a positive with
negatives of the same anchor, so the loss can use triplets only. ``class``: an embedding with learnt
class vectors, so the loss needs labels.
"""


class MetricLoss(Loss):
    """A loss of pytorch-metric-learning, with an optional miner.

    The loss is computed in float32 or better (in the type of its own parameters, if it has any),
    also under autocast: losses subtract nearly equal distances, and bfloat16 keeps only 8 bits.

    Args:
        name: The registered name, for errors.
        criterion: The loss; its parameters become this module's.
        unit: The smallest group of embeddings that the loss compares.
        miner: Picks pairs or triplets by label; None lets the criterion use all in the batch.
            Explicit tuples are used as they are.
        as_triplets: Pass triplets to the criterion as (anchor, positive, negative); by default, as
            positive pairs and negative pairs.
    """

    def __init__(
        self,
        name: str,
        criterion: nn.Module,
        unit: Unit,
        *,
        miner: nn.Module | None = None,
        as_triplets: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.criterion = criterion
        self.unit = unit
        self.miner = miner
        self.as_triplets = as_triplets

    def with_memory(self, size: int | None, embedding_dim: int) -> MetricLoss:
        """Make this loss compare each batch with the last ``size`` embeddings, and return it.

        With None, the loss compares within the batch only, as before.
        """
        if size is not None:
            self.criterion = CrossBatchMemory(self.criterion, embedding_dim, size, self.miner)
            self.miner = None
        return self

    def forward(
        self, embeddings: Tensor, labels: Tensor | None, tuples: Pairs | Triplets | None = None
    ) -> Tensor:
        """Return the scalar loss of ``embeddings [N, D]``.

        Raises:
            ConfigError: The loss cannot use the kind of tuples in ``tuples``, or got neither labels
                nor tuples; or its cross-batch memory is not larger than the batch.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(working_dtype(self.criterion, embeddings))  # [N, D]
            indices: tuple[Tensor, ...] | None
            if tuples is not None:
                indices = self._explicit(tuples)
            elif labels is None:
                raise ConfigError(f"loss {self.name!r} got neither labels nor tuples")
            else:
                indices = None if self.miner is None else self.miner(embeddings, labels)
            loss: Tensor = self.criterion(embeddings, labels, _never_one(indices))
            return loss

    def _explicit(self, tuples: Pairs | Triplets) -> tuple[Tensor, ...]:
        """Return tuples in the form that pytorch-metric-learning takes."""
        if isinstance(self.criterion, CrossBatchMemory):
            raise ConfigError(
                "compares with earlier batches by label, so it cannot use explicit pairs or "
                "triplets",
                where="loss.memory",
                hint="set loss.memory to null",
            )
        if self.unit == "class":
            raise ConfigError(
                f"loss {self.name!r} cannot use explicit pairs or triplets: it compares embeddings "
                "with learnt class vectors, so it needs labels",
                hint="use 'triplet' or 'supcon' for triplets, 'contrastive' or "
                "'multi-similarity' for pairs",
            )
        if isinstance(tuples, Triplets):
            if self.as_triplets:
                return explicit_indices(tuples)
            return (
                *_distinct(tuples.anchor, tuples.positive),
                *_distinct(tuples.anchor, tuples.negative),
            )
        if self.unit == "triplet":
            raise ConfigError(
                f"loss {self.name!r} cannot use explicit pairs: it compares a positive with the "
                "negatives of the same anchor, and single pairs share no anchor",
                hint="use triplets, or the losses 'contrastive' or 'multi-similarity'",
            )
        return explicit_indices(tuples)


def _distinct(anchor: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return each pair once: triplets that share an anchor can repeat a pair."""
    pairs = torch.unique(torch.stack([anchor, other]), dim=1)
    return pairs[0], pairs[1]


def _never_one(indices: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    """Return ``indices`` with a pair repeated if there is at most one of each kind.

    pytorch-metric-learning returns zero for one pair of each kind, as if there were none. The
    losses here average over positive pairs or ignore repetitions, so the repetition does not change
    the value.
    """
    if indices is None or len(indices) != 4 or any(len(index) > 1 for index in indices):
        return indices
    anchor_p, positive, anchor_n, negative = indices
    if len(anchor_p):
        return anchor_p.repeat(2), positive.repeat(2), anchor_n, negative
    return anchor_p, positive, anchor_n.repeat(2), negative.repeat(2)


class CrossBatchMemory(losses.CrossBatchMemory):  # type: ignore[misc]
    """A cross-batch memory whose write position is a buffer, so that checkpoints hold it.

    Wang et al. 2020, Cross-Batch Memory for Embedding Learning, arXiv 1912.06798.
    """

    def reset_queue(self) -> None:
        """Empty the memory."""
        super().reset_queue()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # of all that came

    def forward(self, embeddings: Tensor, labels: Tensor, *args: Any) -> Any:
        """Return the loss, and keep the embeddings ``[N, D]``.

        Raises:
            ConfigError: The memory is not larger than the batch.
        """
        if len(embeddings) >= self.memory_size:
            raise ConfigError(
                "must be larger than the batch size, because the batch's own embeddings count",
                where="loss.memory",
                got=self.memory_size,
                allowed=f"more than {len(embeddings)}",
            )
        count = int(self.count)
        self.queue_idx, self.has_been_filled = count % self.memory_size, count >= self.memory_size
        loss = super().forward(embeddings, labels, *args)
        self.count += len(embeddings)
        return loss


class ArcFace(losses.ArcFaceLoss):  # type: ignore[misc]
    """ArcFace with a finite gradient for an embedding that equals its class vector."""

    def get_angles(self, cosine: Tensor) -> Any:
        """Return the angles in radians.

        The slope of the arc cosine is infinite at both ends, and up to version 2.13 torch's clamp
        passes gradients there.
        """
        return super().get_angles(cosine.clamp(-1 + 1e-6, 1 - 1e-6))


def distance(name: Literal["euclidean", "squared-euclidean", "cosine"]) -> nn.Module:
    """Return pytorch-metric-learning's measure for a distance.

    For ``cosine``, this is the cosine similarity: the criteria know that it grows as embeddings
    come closer. The Euclidean distances do not normalise the embeddings.
    """
    if name == "cosine":
        similarity: nn.Module = distances.CosineSimilarity()
        return similarity
    power = 2 if name == "squared-euclidean" else 1
    lp: nn.Module = distances.LpDistance(normalize_embeddings=False, p=2, power=power)
    return lp
