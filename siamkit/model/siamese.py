"""The Siamese network: one backbone, one head, one set of weights for every input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from siamkit.interfaces import HEAD, Backbone, Stage
from siamkit.model.grouping import norm_parameters
from siamkit.model.heads import Head
from siamkit.model.trace import evaluating


class SiameseNet(nn.Module):
    """Images to embeddings. Both sides of a pair go through the same weights.

    Args:
        backbone: Images ``[N, C, H, W]`` to features ``[N, D]``.
        head: Features ``[N, D]`` to embeddings ``[N, E]``; states its width as ``embedding_dim``.
        normalize: L2-normalise the embeddings.
    """

    def __init__(self, backbone: Backbone, head: Head, *, normalize: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.normalize = normalize

    @property
    def embedding_dim(self) -> int:
        """The width E of the embeddings."""
        return self.head.embedding_dim

    def forward_single(self, images: Tensor) -> Tensor:
        """Return the embeddings ``[N, E]`` of ``images [N, C, H, W]``."""
        return self.project(self.backbone(images))

    def project(self, features: Tensor) -> Tensor:
        """Return the embeddings ``[N, E]`` of the backbone's ``features [N, D]``."""
        embeddings: Tensor = self.head(features)  # [N, E]
        if not self.normalize:
            return embeddings
        # In float32 under autocast too: bfloat16 lengths are off by two thousandths.
        return F.normalize(embeddings.float(), dim=-1)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of both sides of N pairs, each ``[N, E]``.

        Both sides go through as one batch, so that a norm layer in training mode sees the
        statistics of both.
        """
        if a.shape[1:] != b.shape[1:]:
            return self.forward_single(a), self.forward_single(b)
        both = self.forward_single(torch.cat([a, b]))
        return both[: len(a)], both[len(a) :]

    def embed(self, images: Tensor) -> Tensor:
        """Return the embeddings ``[N, E]`` for inference: in eval mode, without gradients."""
        with evaluating(self):
            return self.forward_single(images)

    def features(self, images: Tensor) -> Tensor:
        """Return the backbone's features ``[N, D]`` for inference, as :meth:`embed` does."""
        with evaluating(self):
            features: Tensor = self.backbone(images)
            return features

    def stages(self, granularity: Literal["stage", "block"] = "stage") -> tuple[Stage, ...]:
        """Return what a freeze policy sees: the backbone's stages, then the head's, if any.

        Names are those of :meth:`named_parameters` and :meth:`named_modules`.
        """
        stages: Sequence[Stage] = self.backbone.stages(granularity)
        parameters = tuple(f"{HEAD}.{name}" for name, _ in self.head.named_parameters())
        prefixed = tuple(stage.prefixed("backbone.") for stage in stages)
        if not parameters:
            return prefixed
        norms = frozenset(f"{HEAD}.{name}" for name in norm_parameters(self.head))
        return (*prefixed, Stage(HEAD, parameters, (HEAD,), HEAD, norms))


class WholeNetwork(nn.Module):
    """A network from images to embeddings, as kernels are built from.

    Args:
        net: The network, in eval mode.
    """

    def __init__(self, net: SiameseNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings ``[N, E]`` of ``images [N, C, H, W]``."""
        return self.net.forward_single(images)
