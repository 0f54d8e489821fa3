"""The built-in losses: typed options around pytorch-metric-learning.

A *distance* is ``euclidean`` or ``squared-euclidean``, between embeddings that are not normalised
further, or ``cosine``: one minus the cosine similarity, in [0, 2]. A margin is always in units of
the distance that its option names. The docstrings say which losses average over non-zero terms
only.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from siamkit.hookspecs import Register, hookimpl
from siamkit.interfaces import Loss, LossContext, Options

# Below this, exp(-2 / temperature) underflows in float32, and the hardest positives get no
# gradient.
_COLDEST = 0.025


def _memory() -> Any:
    """Return the option ``memory`` of losses that can compare with earlier batches."""
    return Field(
        None,
        ge=2,
        description="Size of the cross-batch memory (Wang et al. 2020): each batch is compared "
        "with this number of the latest embeddings, the batch's own included. They are constants, "
        "without a gradient. Must be larger than the batch size. null: compare within the batch "
        "only.",
    )


class TripletOptions(Options):
    """Options of ``triplet``."""

    margin: float = Field(
        0.2,
        gt=0,
        description="Required gap between the distances to the negative and to the positive, in "
        "units of distance.",
    )
    distance: Literal["euclidean", "squared-euclidean", "cosine"] = Field(
        "euclidean", description="Distance between embeddings; cosine is 1 - cosine similarity."
    )
    mining: Literal["all", "hard", "semihard"] = Field(
        "semihard",
        description="Triplets to use. all: every triplet of the batch. hard: the farthest positive "
        "and the nearest negative of each anchor. semihard: negatives farther than the positive, "
        "but within the margin.",
    )
    swap: bool = Field(
        False,
        description="Use the positive's distance to the negative if it is smaller than the "
        "anchor's.",
    )
    smooth: bool = Field(False, description="Use softplus instead of the hinge.")
    memory: int | None = _memory()

    @field_validator("memory")
    @classmethod
    def _no_swap(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("swap"):
            # The criterion has the distances of the batch to the memory only.
            raise ValueError("cannot be combined with swap")
        return value


class ContrastiveOptions(Options):
    """Options of ``contrastive``."""

    pos_margin: float = Field(
        0.0, ge=0, description="Positive pairs nearer than this have no loss, in units of distance."
    )
    neg_margin: float = Field(
        1.0,
        gt=0,
        description="Negative pairs farther than this have no loss, in units of distance.",
    )
    distance: Literal["euclidean", "cosine"] = Field(
        "euclidean", description="Distance between embeddings; cosine is 1 - cosine similarity."
    )
    memory: int | None = _memory()

    @model_validator(mode="after")
    def _ordered(self) -> ContrastiveOptions:
        if self.pos_margin >= self.neg_margin:
            raise ValueError("pos_margin must be less than neg_margin")
        return self


class MultiSimilarityOptions(Options):
    """Options of ``multi-similarity``."""

    alpha: float = Field(2.0, gt=0, description="Sharpness of the weighting of positive pairs.")
    beta: float = Field(50.0, gt=0, description="Sharpness of the weighting of negative pairs.")
    base: float = Field(
        0.5,
        ge=-1,
        le=1,
        description="Cosine similarity (lambda) that separates the two kinds of pairs: a positive "
        "pair well above it or a negative pair well below it has nearly no loss.",
    )
    epsilon: float | None = Field(
        0.1,
        ge=0,
        le=2,
        description="Mining margin, in units of cosine similarity. A pair is left out if it is "
        "easier than the anchor's hardest pair of the other kind by more than this margin. null: "
        "keep all pairs.",
    )
    memory: int | None = _memory()


class SupConOptions(Options):
    """Options of ``supcon``."""

    temperature: float = Field(
        0.1,
        ge=_COLDEST,
        description="Divisor of the cosine similarities; smaller values stress hard pairs.",
    )
    memory: int | None = _memory()


class NTXentOptions(Options):
    """Options of ``ntxent``."""

    temperature: float = Field(
        0.07,
        ge=_COLDEST,
        description="Divisor of the cosine similarities; smaller values stress hard pairs.",
    )
    memory: int | None = _memory()


class CircleOptions(Options):
    """Options of ``circle``."""

    margin: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="Relaxation m: the targets are a similarity above 1 - m for positive pairs and "
        "below m for negative pairs.",
    )
    scale: float = Field(80.0, gt=0, description="Sharpness (gamma).")
    memory: int | None = _memory()


class ProxyAnchorOptions(Options):
    """Options of ``proxy-anchor``."""

    margin: float = Field(0.1, ge=0, lt=1, description="Margin, in units of cosine similarity.")
    alpha: float = Field(32.0, gt=0, description="Sharpness of the weighting.")


class ArcFaceOptions(Options):
    """Options of ``arcface``."""

    margin: float = Field(
        28.6,
        ge=0,
        lt=90,
        description="Degrees added to the angle between an embedding and its class's vector.",
    )
    scale: float = Field(
        64.0, gt=0, description="Factor on the cosine similarities before softmax."
    )


def build_triplet(options: TripletOptions, context: LossContext) -> Loss:
    """Triplet margin loss with mining; mean over non-zero triplets (Schroff et al. 2015, FaceNet).

    ``hard`` is batch-hard mining (Hermans et al. 2017).
    """
    from pytorch_metric_learning import losses, miners

    from siamkit.builtins.losses.metric import MetricLoss, distance

    measure = distance(options.distance)
    miner = None
    if options.mining == "hard":
        miner = miners.BatchHardMiner(distance=measure)
    elif options.mining == "semihard":
        miner = miners.TripletMarginMiner(options.margin, "semihard", distance=measure)
    criterion = losses.TripletMarginLoss(
        margin=options.margin, swap=options.swap, smooth_loss=options.smooth, distance=measure
    )
    loss = MetricLoss("triplet", criterion, "triplet", miner=miner, as_triplets=True)
    return loss.with_memory(options.memory, context.embedding_dim)


def build_contrastive(options: ContrastiveOptions, context: LossContext) -> Loss:
    """Contrastive loss; mean over non-zero pairs of each kind (Hadsell et al. 2006, unsquared)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss, distance

    margins = options.pos_margin, options.neg_margin
    if options.distance == "cosine":
        # The criterion takes similarities here, while the options are distances.
        margins = 1 - margins[0], 1 - margins[1]
    criterion = losses.ContrastiveLoss(*margins, distance=distance(options.distance))
    loss = MetricLoss("contrastive", criterion, "pair")
    return loss.with_memory(options.memory, context.embedding_dim)


def build_multi_similarity(options: MultiSimilarityOptions, context: LossContext) -> Loss:
    """Multi-similarity loss with its miner; mean over the batch (Wang et al. 2019)."""
    from pytorch_metric_learning import losses, miners

    from siamkit.builtins.losses.metric import MetricLoss

    criterion = losses.MultiSimilarityLoss(options.alpha, options.beta, options.base)
    mine = options.epsilon is not None
    miner = miners.MultiSimilarityMiner(epsilon=options.epsilon) if mine else None
    loss = MetricLoss("multi-similarity", criterion, "pair", miner=miner)
    return loss.with_memory(options.memory, context.embedding_dim)


def build_supcon(options: SupConOptions, context: LossContext) -> Loss:
    """Supervised contrastive loss; mean over anchors with a positive (Khosla et al. 2020)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss

    loss = MetricLoss("supcon", losses.SupConLoss(options.temperature), "triplet")
    return loss.with_memory(options.memory, context.embedding_dim)


def build_ntxent(options: NTXentOptions, context: LossContext) -> Loss:
    """Normalised temperature-scaled cross entropy; mean over positive pairs (Sohn 2016)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss

    loss = MetricLoss("ntxent", losses.NTXentLoss(options.temperature), "triplet")
    return loss.with_memory(options.memory, context.embedding_dim)


def build_circle(options: CircleOptions, context: LossContext) -> Loss:
    """Circle loss; mean over anchors with a positive and a negative (Sun et al. 2020)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss

    loss = MetricLoss("circle", losses.CircleLoss(options.margin, options.scale), "triplet")
    return loss.with_memory(options.memory, context.embedding_dim)


def build_proxy_anchor(options: ProxyAnchorOptions, context: LossContext) -> Loss:
    """Proxy-anchor loss, with one learnt proxy per class (Kim et al. 2020)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss

    criterion = losses.ProxyAnchorLoss(
        context.num_classes, context.embedding_dim, margin=options.margin, alpha=options.alpha
    )
    return MetricLoss("proxy-anchor", criterion, "class")


def build_arcface(options: ArcFaceOptions, context: LossContext) -> Loss:
    """Additive angular margin softmax, with one learnt vector per class (Deng et al. 2019)."""
    from siamkit.builtins.losses.metric import ArcFace, MetricLoss

    criterion = ArcFace(
        context.num_classes, context.embedding_dim, margin=options.margin, scale=options.scale
    )
    return MetricLoss("arcface", criterion, "class")


@hookimpl
def siamkit_register_losses(register: Register) -> None:
    """Register the built-in losses."""
    register("triplet", build_triplet, options=TripletOptions)
    register("contrastive", build_contrastive, options=ContrastiveOptions)
    register("multi-similarity", build_multi_similarity, options=MultiSimilarityOptions)
    register("supcon", build_supcon, options=SupConOptions)
    register("ntxent", build_ntxent, options=NTXentOptions)
    register("circle", build_circle, options=CircleOptions)
    register("proxy-anchor", build_proxy_anchor, options=ProxyAnchorOptions)
    register("arcface", build_arcface, options=ArcFaceOptions)
