"""Embedders, as those see them who write embeddings to files: with torch or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from .calibration import Calibration
from .judging import Prepares

BATCH_SIZE = 64
"""The default number of images per forward pass."""


class Part(Protocol):
    """The embeddings of one batch of image files."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The N files."""

    @property
    def embeddings(self) -> Any:
        """The embeddings ``[N, E]`` of the files, float32: an array, or a tensor on the CPU."""


class Embeds(Prepares, Protocol):
    """A trained network that embeds image files, such as :class:`siamkit.Embedder`."""

    @property
    def embedding_dim(self) -> int:
        """The width E of the embeddings."""

    @property
    def fingerprint(self) -> str:
        """A SHA-256 that says whose embeddings can be compared."""

    @property
    def calibration(self) -> Calibration:
        """The threshold, and the map from scores to probabilities.

        Raises:
            CheckpointError: There is none.
        """

    @property
    def numerics(self) -> str:
        """The kind of computation. Embeddings of one kind are equal up to rounding."""

    @property
    def kernel_name(self) -> str | None:
        """The name of what runs the network; None before the first image."""

    def stream(self, images: Sequence[Path], *, batch_size: int = BATCH_SIZE) -> Iterator[Part]:
        """Yield the embeddings of image files, batch by batch, in bounded memory."""
