"""The evaluator: computes the metrics of image sets during training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamkit.batches import BatchSource
from siamkit.data.images import ImageSet
from siamkit.errors import NonFiniteError
from siamkit.evaluation.pairs import known_pairs, scores
from siamkit.evaluation.retrieval import retrieval_of
from siamkit.evaluation.verification import verification
from siamkit.training.build import Setup
from siamkit.training.step import advice, autocast

PROBE_IMAGES = 512

Embeddings = NDArray[np.float32]

MOST = 64
"""The most images in a forward pass."""


class Evaluator:
    """Embeds one image set and scores it, any number of times.

    Args:
        images: The image set.
        device: The device to compute on.
        precision: The type that autocast computes in: ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(
        self,
        images: ImageSet,
        device: torch.device,
        precision: str = "fp32",
    ) -> None:
        self.device, self.precision = device, precision
        self.images = images

    def embed(
        self, source: BatchSource, forward: Callable[[Tensor], Tensor], batch_size: int = MOST
    ) -> Embeddings:
        """Return the embeddings ``[N, E]`` of all images, in the set's order.

        Args:
            source: The images, or their activations.
            forward: Embeds a batch of ``source``; must be in eval mode.
            batch_size: The most images in a forward pass.

        Raises:
            NonFiniteError: An embedding holds NaN or infinity.
        """
        parts: list[Tensor] = []
        order = list(range(len(self.images)))
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for batch in source.batches(batches):
            moved = batch.to(self.device, non_blocking=True)
            with torch.no_grad(), autocast(self.device, self.precision):
                parts.append(forward(moved.inputs).float().cpu())
        # The workers end with each evaluation: they would only wait during training.
        source.close()
        embeddings: Embeddings = torch.cat(parts).numpy()
        if not np.isfinite(embeddings).all():
            raise NonFiniteError(
                "the network's embeddings are NaN or infinite",
                hint=f"the last checkpoint is intact; {advice(self.precision)}, or check the "
                "weights file",
            )
        return embeddings

    def metrics(self, source: BatchSource, forward: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Embed the images and return the metrics of the embeddings; see :meth:`score`."""
        return self.score(self.embed(source, forward))

    def score(self, embeddings: Embeddings) -> dict[str, float]:
        """Return the metrics of embeddings from :meth:`embed`.

        For labelled images, the metrics are recall@1 and MAP@R: each image is searched among all
        others, unless the data gives roles (query, gallery). For known pairs or triplets, the
        metrics are AUC and EER.
        """
        images = self.images
        if images.tuples is not None:
            pairs = known_pairs(images.tuples)
            verified = verification(scores(embeddings, pairs), pairs.same, fars=())
            return {"auc": verified.auc, "eer": verified.eer}
        ranked = retrieval_of(embeddings, images, ks=(1,))
        return {"recall@1": ranked.recall[1], "map@r": ranked.map_at_r}


def probe(train: ImageSet, val: ImageSet, seed: int) -> ImageSet:
    """Return a part of the training set, in size like the validation set, to measure metrics on.

    Recall depends on the number of classes and images to choose from, so training and validation
    metrics are comparable only on sets of equal size. The part has as many classes as ``val`` (or
    all of them) with as many images per class, or as many known pairs or triplets. Classes with one
    image, which has nothing to find, come last. It has at most :data:`PROBE_IMAGES` images, to
    limit the cost, and at least two classes if there are two.
    """
    if train.tuples is not None and val.tuples is not None:
        return _tuple_probe(train, min(len(val.tuples), PROBE_IMAGES // train.tuples.width), seed)
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(train.labels):
        by_class.setdefault(label, []).append(index)
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(sorted(by_class)).tolist()
    order = sorted(drawn, key=lambda label: len(by_class[label]) < 2)[: max(len(val.classes), 2)]
    # In a single class, all images that are found would be right.
    per_class = min(max(2, round(len(val) / max(len(val.classes), 1))), PROBE_IMAGES // 2)
    chosen: list[int] = []
    for label in order:
        members = by_class[label]
        if len(chosen) + min(len(members), per_class) > PROBE_IMAGES:
            break
        chosen += sorted(int(i) for i in rng.permutation(members)[:per_class])
    return ImageSet(tuple(train.samples[i] for i in chosen), train.classes)


def _tuple_probe(train: ImageSet, count: int, seed: int) -> ImageSet:
    """Return a random part of the known pairs or triplets; both kinds of pairs keep their share."""
    assert train.tuples is not None
    same = train.tuples.same or (True,) * len(train.tuples)
    order = np.random.default_rng(seed).permutation(len(same))
    kinds = [[int(i) for i in order if same[i] is kind] for kind in (True, False)]
    share = min(count / len(same), 1.0)
    return train.with_tuples(
        sorted(i for kind in kinds for i in kind[: max(1, round(share * len(kind)))])
    )


def evaluator_of(setup: Setup, images: ImageSet) -> Evaluator:
    """Return an evaluator of ``images`` with the run's settings."""
    return Evaluator(images, setup.device, setup.config.train.precision)
