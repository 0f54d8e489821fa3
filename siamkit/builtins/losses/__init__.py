"""The built-in losses: typed options around pytorch-metric-learning.

A *distance* is ``euclidean`` or ``squared-euclidean`` between the embeddings as they are, or
``cosine``: one minus the cosine similarity, in [0, 2]. A margin is always in units of the distance
that its option names. ``mean`` below leaves out the terms that are zero already, where it says so.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from siamkit.hookspecs import Register, hookimpl
from siamkit.interfaces import Loss, LossContext, Options

# Below this, exp(-2 / temperature) leaves float32 and the hardest positives lose their gradient.
_COLDEST = 0.025


class TripletOptions(Options):
    """Options of ``triplet``."""

    margin: float = Field(
        0.2,
        gt=0,
        description="How much farther than the positive a negative must be, in units of distance.",
    )
    distance: Literal["euclidean", "squared-euclidean", "cosine"] = Field(
        "euclidean", description="Between embeddings as they are; cosine is 1 - cosine similarity."
    )
    mining: Literal["all", "hard", "semihard"] = Field(
        "semihard",
        description="all: every triplet of the batch; hard: each anchor's farthest positive and "
        "nearest negative; semihard: negatives beyond the positive, but within the margin.",
    )
    swap: bool = Field(
        False, description="Measure the negative from the positive where that is nearer."
    )
    smooth: bool = Field(False, description="softplus in place of the hinge.")


class ContrastiveOptions(Options):
    """Options of ``contrastive``."""

    pos_margin: float = Field(
        0.0, ge=0, description="Positives nearer than this cost nothing; in units of distance."
    )
    neg_margin: float = Field(
        1.0, gt=0, description="Negatives farther than this cost nothing; in units of distance."
    )
    distance: Literal["euclidean", "cosine"] = Field(
        "euclidean", description="Between embeddings as they are; cosine is 1 - cosine similarity."
    )

    @model_validator(mode="after")
    def _ordered(self) -> ContrastiveOptions:
        if self.pos_margin >= self.neg_margin:
            raise ValueError("pos_margin must be less than neg_margin")
        return self


class MultiSimilarityOptions(Options):
    """Options of ``multi-similarity``."""

    alpha: float = Field(2.0, gt=0, description="Sharpness for positive pairs.")
    beta: float = Field(50.0, gt=0, description="Sharpness for negative pairs.")
    base: float = Field(
        0.5, ge=-1, le=1, description="Where pairs begin to cost; in units of cosine similarity."
    )
    epsilon: float | None = Field(
        0.1,
        ge=0,
        le=2,
        description="Mine pairs that are harder than the anchor's hardest of the other kind, or "
        "easier by less than this, in units of cosine similarity; null takes all pairs.",
    )


class SupConOptions(Options):
    """Options of ``supcon``."""

    temperature: float = Field(
        0.1, ge=_COLDEST, description="Divides cosine similarities; smaller looks at harder pairs."
    )


class NTXentOptions(Options):
    """Options of ``ntxent``."""

    temperature: float = Field(
        0.07, ge=_COLDEST, description="Divides cosine similarities; smaller looks at harder pairs."
    )


class CircleOptions(Options):
    """Options of ``circle``."""

    margin: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="Relaxation m: positives should exceed 1 - m and negatives stay below m; in "
        "units of cosine similarity.",
    )
    scale: float = Field(80.0, gt=0, description="Sharpness (gamma).")


class ProxyAnchorOptions(Options):
    """Options of ``proxy-anchor``."""

    margin: float = Field(0.1, ge=0, lt=1, description="In units of cosine similarity.")
    alpha: float = Field(32.0, gt=0, description="Sharpness.")


class ArcFaceOptions(Options):
    """Options of ``arcface``."""

    margin: float = Field(28.6, ge=0, lt=90, description="Angle added to the target's, in degrees.")
    scale: float = Field(64.0, gt=0, description="Multiplies cosine similarities before softmax.")


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
    return MetricLoss("triplet", criterion, "triplet", miner=miner, as_triplets=True)


def build_contrastive(options: ContrastiveOptions, context: LossContext) -> Loss:
    """Contrastive loss; mean over non-zero pairs of each kind (Hadsell et al. 2006, unsquared)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss, distance

    margins = options.pos_margin, options.neg_margin
    if options.distance == "cosine":
        # The criterion works on similarities there; the options speak of distances.
        margins = 1 - margins[0], 1 - margins[1]
    criterion = losses.ContrastiveLoss(*margins, distance=distance(options.distance))
    return MetricLoss("contrastive", criterion, "pair")


def build_multi_similarity(options: MultiSimilarityOptions, context: LossContext) -> Loss:
    """Multi-similarity loss with its miner; mean over the batch (Wang et al. 2019)."""
    from pytorch_metric_learning import losses, miners

    from siamkit.builtins.losses.metric import MetricLoss

    criterion = losses.MultiSimilarityLoss(options.alpha, options.beta, options.base)
    mine = options.epsilon is not None
    miner = miners.MultiSimilarityMiner(epsilon=options.epsilon) if mine else None
    return MetricLoss("multi-similarity", criterion, "pair", miner=miner)


def build_supcon(options: SupConOptions, context: LossContext) -> Loss:
    """Supervised contrastive loss; mean over anchors with a positive (Khosla et al. 2020)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss

    return MetricLoss("supcon", losses.SupConLoss(options.temperature), "triplet")


def build_ntxent(options: NTXentOptions, context: LossContext) -> Loss:
    """Normalised temperature-scaled cross entropy; mean over positive pairs (Sohn 2016)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss

    return MetricLoss("ntxent", losses.NTXentLoss(options.temperature), "triplet")


def build_circle(options: CircleOptions, context: LossContext) -> Loss:
    """Circle loss; mean over anchors with a positive and a negative (Sun et al. 2020)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss

    return MetricLoss("circle", losses.CircleLoss(options.margin, options.scale), "triplet")


def build_proxy_anchor(options: ProxyAnchorOptions, context: LossContext) -> Loss:
    """Proxy-anchor loss, with one learnt proxy a class (Kim et al. 2020)."""
    from pytorch_metric_learning import losses

    from siamkit.builtins.losses.metric import MetricLoss

    criterion = losses.ProxyAnchorLoss(
        context.num_classes, context.embedding_dim, margin=options.margin, alpha=options.alpha
    )
    return MetricLoss("proxy-anchor", criterion, "class")


def build_arcface(options: ArcFaceOptions, context: LossContext) -> Loss:
    """Additive angular margin softmax, with one learnt vector a class (Deng et al. 2019)."""
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
