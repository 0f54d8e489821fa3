"""The Siamese network: one backbone, one head, one set of weights for every input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor, nn

from siamkit.interfaces import HEAD, Backbone, Preprocessing, Stage
from siamkit.model.grouping import norm_parameters
from siamkit.model.heads import Head
from siamkit.model.origin import Origin
from siamkit.model.pruning import Pruning
from siamkit.model.quantized import Quantized
from siamkit.model.reading import StageReader
from siamkit.model.trace import autocasting, dtype_of, evaluating
from siamkit.model.unit import unit
from siamkit.registry import whose
from siamkit.showing import TextRepr


class SiameseNet(TextRepr, nn.Module):
    """A network that maps images to embeddings. Both images of a pair use the same weights.

    Args:
        backbone: Maps images ``[N, C, H, W]`` to features ``[N, D]``.
        head: Maps features ``[N, D]`` to embeddings ``[N, E]``, with the attribute
            ``embedding_dim`` for E. If its attribute ``reads`` is not None, it gets the
            pooled outputs of these modules of the backbone beside the features.
        normalize: Whether to L2-normalise the embeddings.
        preprocessing: How images must be prepared for the network; None for the backbone's own.

    Attributes:
        preprocessing: How images must be prepared: the backbone's preprocessing, with the fit and
            the value range that suit the training data.
        origin: The names and options that the network was built from; None if it was built from
            Python objects alone.
        pruning: The record of the channels that the backbone lacks; None if it is whole.
        quantized: The record of the backbone's part that is computed in int8; None without one.
        reader: Runs the backbone for a head that reads several stages; None for other heads.

    If the head is computed instead of trained (:attr:`.Head.computed`), the embeddings in training
    mode are the backbone's own features.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        *,
        normalize: bool = True,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.reader = None if head.reads is None else StageReader(backbone, head.reads)
        self.normalize = normalize
        self.preprocessing = preprocessing or backbone.preprocessing
        self.origin: Origin | None = None
        self.pruning: Pruning | None = None
        self.quantized: Quantized | None = None
        self._reading = self._comparing = False

    def __repr__(self) -> str:
        """Return a summary of the network; ``print(net.backbone)`` shows its modules."""
        backbone, images = self.backbone, self.preprocessing
        inner = getattr(backbone, "model", backbone)
        count = sum(p.numel() for p in self.parameters())
        trains = sum(p.numel() for p in self.parameters() if p.requires_grad)
        length = "L2-normalised" if self.normalize else "not normalised"
        names = ", ".join(stage.name for stage in self.stages())
        return (
            f"SiameseNet: {type(inner).__name__} -> {backbone.embedding_dim} features -> "
            f"{self.embedding_dim}-dimensional embeddings, {length}\n"
            f"  images of {images.size[0]} x {images.size[1]} px, {images.channels} channels\n"
            f"  {count / 1e6:.2f} M parameters, {trains / 1e6:.2f} M of them train\n"
            f"  stages: {names}"
        )

    @property
    def embedding_dim(self) -> int:
        """The width E of the embeddings."""
        return self.head.embedding_dim

    @property
    def training_dim(self) -> int:
        """The width of the embeddings in training mode."""
        return self.backbone.embedding_dim if self.head.computed else self.embedding_dim

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let the network return what its head reads ``[N, D]``, float32, instead of embeddings."""
        self._reading = True
        try:
            yield
        finally:
            self._reading = False

    @contextmanager
    def comparing(self) -> Iterator[None]:
        """Let the network return what a training step compares, in eval mode too.

        With a computed head, these are the backbone's own features ``[N, training_dim]``.
        """
        self._comparing = True
        try:
            yield
        finally:
            self._comparing = False

    @property
    def extractor(self) -> nn.Module:
        """The module that maps images to what the head reads: the backbone, or the reader."""
        return self.backbone if self.reader is None else self.reader

    def own_features(self, read: Tensor) -> Tensor:
        """Return the backbone's features ``[N, D]`` in what the head reads."""
        return read if self.reader is None else self.reader.own(read)

    def project(self, features: Tensor) -> Tensor:
        """Return the embeddings ``[N, E]`` of what the head reads ``[N, D]``."""
        if self._reading:
            return features.float()
        dtype = dtype_of(self.head)
        if dtype is not None and not autocasting(features):
            features = features.to(dtype)
        aside = (self.training or self._comparing) and self.head.computed
        embeddings: Tensor = self.own_features(features) if aside else self.head(features)  # [N, E]
        if not self.normalize:
            return embeddings
        # In float32 even under autocast: lengths computed in bfloat16 are off by up to 0.2 %.
        return unit(embeddings.float())

    @overload
    def forward(self, images: Tensor) -> Tensor: ...

    @overload
    def forward(self, images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]: ...

    def forward(
        self, images: Tensor, others: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the embeddings ``[N, E]`` of images, or those of both images of pairs.

        If the first and the second images have the same shape, all of them form one batch, so that
        the statistics of norm layers in training mode come from both.

        Args:
            images: ``[N, C, H, W]``, the images, or the first images of N pairs.
            others: ``[N, C, H, W]``, the second images of the pairs; None to embed ``images`` only.

        Returns:
            The embeddings ``[N, E]``. For pairs, two such tensors: one of ``images``, one of
            ``others``.
        """
        if others is None:
            return self.project(self.extractor(images))
        if images.shape[1:] != others.shape[1:]:
            return self(images), self(others)
        both = self(torch.cat([images, others]))
        count = images.shape[0]  # in a captured forward, len() would be the example's length
        return both[:count], both[count:]

    def embed(self, images: Tensor) -> Tensor:
        """Return the embeddings ``[N, E]`` of images, in eval mode and without gradients."""
        with evaluating(self):
            embeddings: Tensor = self(images)
            return embeddings

    def features(self, images: Tensor) -> Tensor:
        """Return the backbone's features ``[N, D]`` of images, in eval mode, without gradients."""
        with evaluating(self):
            features: Tensor = self.backbone(images)
            return features

    def stages(self, granularity: Literal["stage", "block"] = "stage") -> tuple[Stage, ...]:
        """Return the stages for a freeze policy: those of the backbone, then the head's, if any.

        Stages name parameters and modules as :meth:`named_parameters` and :meth:`named_modules` do.
        A head without parameters is no stage.
        """
        stages: Sequence[Stage] = self.backbone.stages(granularity)
        parameters = tuple(f"{HEAD}.{name}" for name, _ in self.head.named_parameters())
        prefixed = tuple(stage.prefixed("backbone.") for stage in stages)
        if self.reader is not None:
            prefixed = self.reader.stages(prefixed)
        if not parameters:
            return prefixed
        norms = frozenset(f"{HEAD}.{name}" for name in norm_parameters(self.head))
        return (*prefixed, Stage(HEAD, parameters, (HEAD,), HEAD, norms))

    def save_pretrained(
        self, folder: str | Path, *, license: str | None = None, force: bool = False
    ) -> Path:
        """Save the network to a folder for :func:`siamkit.from_pretrained`, and return the folder.

        If the backbone is a timm model, plain timm can load it too, as ``local-dir:FOLDER``.
        :func:`siamkit.save_pretrained` saves the network of a run, with the run's threshold and
        metrics.

        Args:
            folder: A folder that does not exist yet, or is empty.
            license: The licence of the weights, as the hub spells it, for the model card.
            force: Whether to replace a saved network in the folder.

        Raises:
            ConfigError: The folder is not empty.
            NonFiniteError: An embedding of the network is NaN or infinite.
            PluginError: A copy of the network returns another output.
            ResourceError: The disk is full or not writable.
        """
        from siamkit.model.pretrained.save import save_net  # it builds networks

        return save_net(self, folder, license=license, force=force)


def plugins_of(net: SiameseNet) -> dict[str, nn.Module]:
    """Return the backbone and the head by the names of their plugins in messages.

    Such a name is ``head 'mlp' of siamkit``. The result is empty if the network was not built from
    registered names.
    """
    if net.origin is None:
        return {}
    parts = {"backbone": (net.backbone, net.origin.backbone), "head": (net.head, net.origin.head)}
    return {whose(kind, of.name, of.distribution): part for kind, (part, of) in parts.items()}
