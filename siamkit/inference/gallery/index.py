"""An index: the embeddings of a gallery in a folder, and what is most similar to others.

::

    INDEX/
      meta.json        what made it, and the size and SHA-256 of every other file
      embeddings.npy   float32 [N, E], L2-normalised; mapped into memory, not read
      items.jsonl      {"path": ..., "label": ...}, a line for each
      offsets.npy      int64 [N + 1]: where each of these lines begins
      cells.faiss      the approximate index, if it has one
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from siamkit.errors import CheckpointError
from siamkit.evaluation.nearest import exact_search
from siamkit.files import sha256_of
from siamkit.inference.gallery import approximate as ann
from siamkit.showing import TextRepr
from siamkit.spelling import command

FORMAT = 1
META, EMBEDDINGS, ITEMS = "meta.json", "embeddings.npy", "items.jsonl"
OFFSETS, CELLS = "offsets.npy", "cells.faiss"


class FileSeal(BaseModel):
    """What a file of an index must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Meta(BaseModel):
    """What an index says about itself.

    Attributes:
        format: Of the index.
        siamkit: The version that wrote it.
        kind: ``exact`` or ``faiss``.
        run: The run whose network made the embeddings.
        which: ``best`` or ``last``.
        model: That network's :attr:`siamkit.Embedder.fingerprint`.
        dim: Width of the embeddings.
        count: How many there are.
        root: What the paths are relative to.
        cells: Of an approximate index: how many cells a query looks into.
        recall: Of an approximate index: its recall@10 on a sample of the gallery.
        files: The other files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    siamkit: str
    kind: Literal["exact", "faiss"]
    run: str
    which: Literal["best", "last"]
    model: str
    dim: int
    count: int
    root: str
    cells: int | None = None
    recall: float | None = None
    files: dict[str, FileSeal]


@dataclass(frozen=True)
class Neighbours:
    """What was found for each of Q queries, the most similar first.

    Attributes:
        scores: ``[Q, k]``, cosine similarities.
        indices: ``[Q, k]``, places in the index; -1 where an approximate index found fewer.
        paths: The images, a list for each query.
        labels: Their labels: the class folder within the gallery, or None where it has none.
    """

    scores: Tensor
    indices: Tensor
    paths: list[list[Path]]
    labels: list[list[str | None]]

    def rows(self) -> list[list[dict[str, Any]]]:
        """Return for each query its ``rank``, ``score``, ``label`` and ``path``, as JSON values."""
        return [
            [
                {"rank": rank, "score": score, "label": label, "path": str(path)}
                for rank, (score, label, path) in enumerate(
                    zip(scores, labels, paths, strict=False), start=1
                )
            ]
            for scores, labels, paths in zip(
                self.scores.tolist(), self.labels, self.paths, strict=True
            )
        ]


class Index(TextRepr):
    """The embeddings of a gallery. :func:`siamkit.load_index` opens one.

    Args:
        path: Its folder.
        verify: Check every byte against the SHA-256 in ``meta.json``: about a second for a million
            embeddings. Otherwise sizes alone are checked.

    Raises:
        CheckpointError: It is none, or is damaged; the message names the file.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        _check(self.path, self.meta, verify)
        self.embeddings: np.ndarray[Any, Any] = _mapped(self.path / EMBEDDINGS)
        self._offsets = _mapped(self.path / OFFSETS)
        shapes = (self.embeddings.shape, self._offsets.shape)
        if shapes != ((self.meta.count, self.meta.dim), (self.meta.count + 1,)):
            raise CheckpointError(
                "does not fit the files beside it", where=str(self.path / META), hint=_hint()
            )

    def __len__(self) -> int:
        return self.meta.count

    def __repr__(self) -> str:
        """Say how many images it holds, and how it searches."""
        how = "exactly" if self._approximate is None else "by an approximate index"
        return f"Index: {len(self)} images x {self.meta.dim}, searched {how}, in {self.path}"

    @property
    def embedding_dim(self) -> int:
        """The width E of the embeddings."""
        return self.meta.dim

    def item(self, index: int) -> tuple[Path, str | None]:
        """Return the path and the label of the image at a place."""
        start, end = self._offsets[index : index + 2].tolist()
        with (self.path / ITEMS).open("rb") as file:
            file.seek(start)
            entry = json.loads(file.read(end - start))
        return Path(self.meta.root, entry["path"]), entry["label"]

    def require_model(self, fingerprint: str) -> None:
        """Check that a network is the one that made the embeddings.

        Raises:
            CheckpointError: It is another.
        """
        if fingerprint != self.meta.model:
            raise CheckpointError(
                "was built with another network than this one",
                where=str(self.path),
                hint=f"{_hint()}, or use the run as it was then",
            )

    def search(
        self, embeddings: Tensor | np.ndarray[Any, Any], k: int = 10, *, exact: bool = False
    ) -> Neighbours:
        """Return the k images most similar to each query.

        Args:
            embeddings: ``[Q, E]``, a tensor or an array, by the network that built the index; need
                not be normalised.
            k: How many; as many as there are where the index holds fewer.
            exact: Search all of it even if there is an approximate index.

        Raises:
            ConfigError: The index is approximate and faiss is missing.
            DataError: The width does not fit, or k is not positive.
            NonFiniteError: An embedding holds NaN or infinity.
        """
        queries = F.normalize(torch.as_tensor(embeddings).detach().float().cpu(), dim=1)
        approximate = None if exact else self._approximate
        if approximate is None:
            scores, indices = exact_search(queries, self.embeddings, k)
        else:
            self._require_usable(queries, k)
            indices = approximate(queries, min(k, len(self)))
            scores, indices = ann.rescored(queries, self.embeddings, indices)
        entries = [[self.item(i) for i in row if i >= 0] for row in indices.tolist()]
        return Neighbours(
            scores,
            indices,
            [[path for path, _ in row] for row in entries],
            [[label for _, label in row] for row in entries],
        )

    def recall(self, embeddings: Tensor | np.ndarray[Any, Any], k: int = 10) -> float:
        """Return the share of the k most similar of each query that :meth:`search` finds."""
        queries = F.normalize(torch.as_tensor(embeddings).detach().float().cpu(), dim=1)
        best = exact_search(queries, self.embeddings, k)[1]
        if self._approximate is None:
            return 1.0
        return ann.overlap(self._approximate(queries, best.shape[1]), best)

    def _require_usable(self, queries: Tensor, k: int) -> None:
        exact_search(queries, self.embeddings[:1], k)  # it raises what is wrong with them

    @cached_property
    def _approximate(self) -> ann.Search | None:
        if self.meta.kind == "exact":
            return None
        return ann.opened(self.path / CELLS, self.meta.cells or 1)


def seal(path: Path) -> FileSeal:
    """Return the size and digest of a file."""
    return FileSeal(bytes=path.stat().st_size, sha256=sha256_of(path))


def is_index(path: Path) -> bool:
    """Tell whether a folder is an index, if perhaps a damaged one."""
    if not path.is_dir():
        return False
    names = {file.name for file in path.iterdir()}
    return {META, OFFSETS} <= names <= {META, EMBEDDINGS, ITEMS, OFFSETS, CELLS}


def _hint() -> str:
    return f"build it again with {command('index')}"


def _read_meta(path: Path) -> Meta:
    file = path / META
    if not file.is_file():
        raise CheckpointError(
            "is not an index: it has no meta.json",
            where=str(path),
            hint=f"{command('index')} builds one",
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(values, dict) and values.get("format") not in (FORMAT, None):
            raise CheckpointError(
                "unknown index format", where=str(file), got=values["format"], allowed=str(FORMAT)
            )
        meta = Meta.model_validate(values)
    except (OSError, ValueError, ValidationError):
        raise CheckpointError("the file is damaged", where=str(file), hint=_hint()) from None
    needed = {EMBEDDINGS, ITEMS, OFFSETS} | ({CELLS} if meta.kind == "faiss" else set())
    if set(meta.files) != needed:
        raise CheckpointError("the file is damaged", where=str(file), hint=_hint())
    return meta


def _check(path: Path, meta: Meta, verify: bool) -> None:
    for name, expected in meta.files.items():
        file = path / name
        whole = file.is_file() and file.stat().st_size == expected.bytes
        if not whole or (verify and seal(file) != expected):
            raise CheckpointError(
                "the file is missing or damaged", where=str(file), hint=_hint()
            )  # fmt: skip


def _mapped(path: Path) -> np.ndarray[Any, Any]:
    try:
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        raise CheckpointError("the file is damaged", where=str(path), hint=_hint()) from None
    return array
