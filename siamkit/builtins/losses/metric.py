"""The one adapter between pytorch-metric-learning and siamkit's ``Loss``.

Imported by the build functions alone, for it takes pytorch-metric-learning with it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_metric_learning import distances, losses
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.interfaces import Loss, Pairs, Triplets

Unit = Literal["pair", "triplet", "class"]
"""What a loss judges by itself.

``pair``: each pair alone, so it can use pairs and triplets. ``triplet``: a positive against
negatives of the same anchor, so it can use triplets only. ``class``: an embedding against learnt
class vectors, so it needs labels.
"""

_HALF = (torch.float16, torch.bfloat16)


class MetricLoss(Loss):
    """A loss of pytorch-metric-learning, with an optional miner.

    It runs in float32 at least (in its own parameters' type, if it has any), under autocast too:
    differences of nearly equal distances are what it is made of, and bfloat16 keeps 8 bits of them.

    Args:
        name: The registered name, for errors.
        criterion: The loss; its parameters become this module's.
        unit: What it judges by itself.
        miner: Picks tuples from labels; None lets the criterion use all of them. Explicit tuples
            are used as they are.
        as_triplets: The criterion takes (anchor, positive, negative), not two kinds of pairs.
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

    def forward(
        self, embeddings: Tensor, labels: Tensor | None, tuples: Pairs | Triplets | None = None
    ) -> Tensor:
        """Return the scalar loss of ``embeddings [N, D]``.

        Raises:
            ConfigError: The loss cannot use this kind of tuples, or got neither labels nor tuples.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(self._dtype(embeddings))  # [N, D]
            indices: tuple[Tensor, ...] | None
            if tuples is not None:
                indices = self._explicit(tuples)
            elif labels is None:
                raise ConfigError(f"loss {self.name!r} got neither labels nor tuples")
            else:
                indices = None if self.miner is None else self.miner(embeddings, labels)
            loss: Tensor = self.criterion(embeddings, labels, _never_one(indices))
            return loss

    def _dtype(self, embeddings: Tensor) -> torch.dtype:
        # The criterion would change its own parameters' type to the embeddings', under the
        # optimizer's feet.
        for parameter in self.criterion.parameters():
            return parameter.dtype
        return torch.float32 if embeddings.dtype in _HALF else embeddings.dtype

    def _explicit(self, tuples: Pairs | Triplets) -> tuple[Tensor, ...]:
        """Return tuples as pytorch-metric-learning wants them."""
        if self.unit == "class":
            raise ConfigError(
                f"loss {self.name!r} cannot use explicit pairs or triplets: it compares embeddings "
                "with learnt class vectors, so it needs labels",
                hint="use 'triplet' or 'supcon' for triplets, 'contrastive' or "
                "'multi-similarity' for pairs",
            )
        if isinstance(tuples, Triplets):
            if self.as_triplets:
                return tuples.anchor, tuples.positive, tuples.negative
            return (
                *_distinct(tuples.anchor, tuples.positive),
                *_distinct(tuples.anchor, tuples.negative),
            )
        if self.unit == "triplet":
            raise ConfigError(
                f"loss {self.name!r} cannot use explicit pairs: it compares a positive with the "
                "negatives of the same anchor, and pairs that stand alone have none in common",
                hint="give it triplets, or use 'contrastive' or 'multi-similarity'",
            )
        # A pair has no anchor: each end takes that part, as in pairs found by label.
        first = torch.cat([tuples.first, tuples.second])
        second = torch.cat([tuples.second, tuples.first])
        same = tuples.same.bool().repeat(2)
        return first[same], second[same], first[~same], second[~same]


def _distinct(anchor: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return each pair once; triplets that share an anchor repeat its pairs."""
    pairs = torch.unique(torch.stack([anchor, other]), dim=1)
    return pairs[0], pairs[1]


def _never_one(indices: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    """Return ``indices`` with a lone pair said twice.

    pytorch-metric-learning takes one pair of each kind for none at all and returns zero. Each of
    the losses here averages over positive pairs or ignores repetition, so the value is right.
    """
    if indices is None or len(indices) != 4 or any(len(index) > 1 for index in indices):
        return indices
    anchor_p, positive, anchor_n, negative = indices
    if len(anchor_p):
        return anchor_p.repeat(2), positive.repeat(2), anchor_n, negative
    return anchor_p, positive, anchor_n.repeat(2), negative.repeat(2)


class ArcFace(losses.ArcFaceLoss):  # type: ignore[misc]
    """ArcFace whose gradient stays finite where an embedding lies exactly on its class vector."""

    def get_angles(self, cosine: Tensor) -> Any:
        """Return the angles in radians.

        The arc cosine's slope is infinite at the very ends, where torch's clamp passes gradients
        on up to version 2.13.
        """
        return super().get_angles(cosine.clamp(-1 + 1e-6, 1 - 1e-6))


def distance(name: Literal["euclidean", "squared-euclidean", "cosine"]) -> nn.Module:
    """Return the distance of that name; embeddings are seen as they are, so margins mean it."""
    if name == "cosine":
        similarity: nn.Module = distances.CosineSimilarity()
        return similarity
    power = 2 if name == "squared-euclidean" else 1
    lp: nn.Module = distances.LpDistance(normalize_embeddings=False, p=2, power=power)
    return lp
