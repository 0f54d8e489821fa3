"""The gallery: a folder with the embeddings of images, and exact search in these embeddings.

::

    INDEX/
      meta.json        the origin of the index, and the size and SHA-256 of every other file
      embeddings.npy   float32 [N, E], L2-normalised; mapped into memory, not read
      items.jsonl      {"path": ..., "label": ...}, one line per image
      offsets.npy      int64 [N + 1]: where each line of items.jsonl starts, and the end
      cells.faiss      the approximate index, if there is one
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from ..checks import whole_number
from ..errors import CheckpointError, ConfigError
from ..files import is_there, open_regular, path_of, put_back, reading
from ..json_files import digest_of, parsed, read_json, unsealed
from ..spelling import command
from .arrays import mapped, mapped_bytes
from .cosine import directions, require_direction, require_finite
from .manifest import FileSeal, seal_of
from .nearest import nearest
from .records import Invalid, Within, record

Kind = Literal["exact", "faiss"]
"""The kind of search that an index was built for."""

FORMAT: Literal[2] = 2
META, EMBEDDINGS, ITEMS = "meta.json", "embeddings.npy", "items.jsonl"
OFFSETS, CELLS = "offsets.npy", "cells.faiss"
_ENTRIES = frozenset((META, EMBEDDINGS, ITEMS, OFFSETS, CELLS))


@dataclass(frozen=True)
class Meta:
    """The metadata of an index.

    Attributes:
        format: The format of the index.
        siamkit: The version of siamkit that wrote the index.
        kind: The kind of search: ``exact`` or ``faiss``.
        run: The run, or the exported model, whose network made the embeddings.
        which: The checkpoint whose network made the embeddings: ``best`` or ``last``.
        model: The :attr:`siamkit.Embedder.fingerprint` of the network.
        dim: The width of the embeddings.
        count: The number of embeddings.
        root: The folder that the paths are relative to.
        files: The size and digest of each other file.
        cells: The number of cells to search per query, for an approximate index.
        recall: The recall@10 on a sample of the gallery, for an approximate index.
    """

    format: Literal[2]
    siamkit: str
    kind: Kind
    run: str
    which: Literal["best", "last"]
    model: str
    dim: Annotated[int, Within(1)]
    count: Annotated[int, Within(0)]
    root: str
    files: Mapping[str, FileSeal]
    cells: Annotated[int, Within(1)] | None = None
    recall: Annotated[float, Within(0, 1)] | None = None


@dataclass(frozen=True)
class Neighbours:
    """The results of Q queries. The most similar image of each query comes first.

    Attributes:
        scores: ``[Q, k]``, cosine similarities in [-1, 1]; -inf for a missing result. A tensor from
            :meth:`siamkit.Index.search`, an array without torch.
        indices: ``[Q, k]``, positions in the index; -1 for a missing result. Only an approximate
            index can give fewer than k results.
        paths: The paths of the images, one list per query.
        labels: The labels of the images, one list per query. A label is a subfolder of the gallery,
            or None for an image outside subfolders.
    """

    scores: Any
    indices: Any
    paths: list[list[Path]]
    labels: list[list[str | None]]

    def rows(self) -> list[list[dict[str, Any]]]:
        """Return ``rank``, ``score``, ``label`` and ``path`` of each query's results, for JSON."""
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


class Searched(ABC):
    """Embeddings of images that can be searched.

    Attributes:
        embeddings: The embeddings ``[N, E]``, L2-normalised.
    """

    embeddings: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.embeddings)

    @abstractmethod
    def item(self, index: int) -> tuple[Path, str | None]:
        """Return the path and the label of the image at a position, which counts from 0."""

    def search(self, embeddings: Any, k: int = 10, *, exact: bool = True) -> Neighbours:
        """Return the k images most similar to each query, by exact search.

        Args:
            embeddings: ``[Q, E]``, an array from the network that built the index, normalised or
                not.
            k: The number of results per query; all images if the index has fewer.
            exact: Has no effect: without torch, the search is exact even if the index is
                approximate.

        Raises:
            ConfigError: k is not positive.
            DataError: The embeddings are no vectors of the width of the index, or one consists of
                zeros, so it is equally similar to all images.
            NonFiniteError: An embedding contains NaN or infinity.
        """
        k = whole_number(k, "k", least=1)
        return self.neighbours(*nearest(queries_of(embeddings), self.embeddings, k))

    def recall(self, embeddings: Any, k: int = 10) -> float:
        """Return the recall@k of :meth:`search`: 1, since the search is exact.

        Raises:
            SiamkitError: As for :meth:`search`.
        """
        k = whole_number(k, "k", least=1)
        nearest(queries_of(embeddings), self.embeddings, k)  # refuses what the search refuses
        return 1.0

    def neighbours(self, scores: Any, indices: Any) -> Neighbours:
        """Return results with the paths and labels of the images.

        Args:
            scores: ``[Q, k]``.
            indices: ``[Q, k]``; -1 for a missing result.
        """
        entries = [[self.item(i) for i in row if i >= 0] for row in indices.tolist()]
        return Neighbours(
            scores,
            indices,
            [[path for path, _ in row] for row in entries],
            [[label for _, label in row] for row in entries],
        )


def queries_of(embeddings: Any) -> Any:
    """Return the embeddings of queries as unit vectors, float32.

    Raises:
        DataError: They are no real numbers, or one of ``[Q, E]`` consists of zeros.
        NonFiniteError: One of ``[Q, E]`` holds NaN or infinity.
    """
    queries = directions(embeddings)
    if queries.ndim == 2:  # the search refuses other shapes
        names = [f"query {number}" for number in range(len(queries))]
        require_finite(queries, names)
        require_direction(queries, names)
    return queries


class ListedGallery(Searched):
    """Embeddings in memory, with the paths and labels of their images.

    Args:
        embeddings: The embeddings ``[N, E]``, normalised or not.
        items: The path and the label of each image.
    """

    def __init__(self, embeddings: Any, items: Sequence[tuple[Path, str | None]]) -> None:
        self.embeddings, self._items = directions(embeddings), items

    def item(self, index: int) -> tuple[Path, str | None]:
        """Return the path and the label of the image at a position, which counts from 0."""
        return self._items[index]


class Gallery(Searched):
    """The embeddings of a gallery, opened for search without torch.

    An opened gallery keeps its files: if the index is built again, it answers as before.

    Args:
        path: The folder of the index.
        verify: Whether to check every byte against the SHA-256 in ``meta.json``, which takes about
            a second per million embeddings. Otherwise, only the sizes of files are checked.

    Raises:
        CheckpointError: The folder is not an index, or a file is damaged. The message names it.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        self.path = path_of(path, "path", "an index")
        put_back(self.path)
        with reading(self.path, _hint()):
            self.meta = _read_meta(self.path)
            _check(self.path, self.meta, verify)
        self.embeddings = mapped(self.path / EMBEDDINGS, _hint())
        self._offsets = mapped(self.path / OFFSETS, _hint())
        self._items = mapped_bytes(self.path / ITEMS, _hint())
        self._require_same()  # or the files could be of two indexes
        arrays = [(a.dtype, a.shape) for a in (self.embeddings, self._offsets)]
        count, dim = self.meta.count, self.meta.dim
        if arrays != [(np.float32, (count, dim)), (np.int64, (count + 1,))]:
            raise CheckpointError(
                "does not match the other files of the index",
                where=str(self.path / META),
                hint=_hint(),
            )

    def __len__(self) -> int:
        return self.meta.count

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make a copy, which opens the same files again instead of copying arrays."""
        return _opened_again, (type(self), self.path.absolute(), digest_of(asdict(self.meta)))

    @property
    def embedding_dim(self) -> int:
        """The width E of the embeddings."""
        return self.meta.dim

    def item(self, index: int) -> tuple[Path, str | None]:
        """Return the path and the label of the image at a position, which counts from 0.

        Raises:
            ConfigError: There is no such position.
            CheckpointError: The file of the images is damaged.
        """
        index = whole_number(index, "index", least=0)
        if index >= len(self):
            raise ConfigError("there is no such image", where="index", got=index,
                              allowed=f"0 to {len(self) - 1}")  # fmt: skip
        start, end = self._offsets[index : index + 2].tolist()
        # Offsets can be wrong if only the sizes of files were checked.
        line = self._items[start:end] if 0 <= start <= end <= len(self._items) else b""
        try:
            path, label = _item(parsed(line))
        except ValueError:
            raise CheckpointError(
                "the file is damaged", where=str(self.path / ITEMS), hint=_hint()
            ) from None
        return Path(self.meta.root, path), label

    def require_model(self, fingerprint: str) -> None:
        """Check that the network with this fingerprint made the embeddings of the index.

        Raises:
            CheckpointError: Another network made the embeddings.
        """
        if fingerprint != self.meta.model:
            raise CheckpointError(
                "was built with another network",
                where=str(self.path),
                hint=f"{_hint()}, or use the run that built it",
            )

    def _require_same(self) -> None:
        """Check that the folder still holds the index that was opened.

        Raises:
            CheckpointError: The index was replaced or removed.
        """
        with reading(self.path, _hint()):
            if _read_meta(self.path) != self.meta:
                raise _replaced(self.path)


def _opened_again(kind: type[Gallery], path: Path, digest: str) -> Gallery:
    gallery = kind(path, verify=False)
    if digest_of(asdict(gallery.meta)) != digest:
        raise _replaced(path)
    return gallery


def _replaced(path: Path) -> CheckpointError:
    return CheckpointError("the index was replaced", where=str(path), hint="open it again")


def is_index(path: Path) -> bool:
    """Return whether a folder is an index, damaged or not: it has most of an index's files."""
    put_back(path)
    return path.is_dir() and len(_ENTRIES & {file.name for file in path.iterdir()}) >= 3


def own_entries(path: Path) -> frozenset[str] | None:
    """Return the names of the files that an index has; None if a folder is no index."""
    return _ENTRIES if is_index(path) else None


def _hint() -> str:
    return f"build the index again with {command('index')}"


def _read_meta(path: Path) -> Meta:
    file = path / META
    if not is_there(file):
        raise CheckpointError(
            "is not an index: it has no meta.json",
            where=str(path),
            hint=f"{command('index')} builds one",
        )
    values = read_json(file, _hint())
    if isinstance(values, dict) and values.get("format") not in (FORMAT, None):
        raise CheckpointError(
            "unknown index format", where=str(file), got=values["format"], allowed=str(FORMAT),
            hint=_hint(),
        )  # fmt: skip
    try:
        meta = record(Meta, unsealed(values, str(file), _hint()))
    except Invalid as error:
        raise CheckpointError(
            f"the file is damaged: {error}", where=str(file), hint=_hint()
        ) from None
    needed = {EMBEDDINGS, ITEMS, OFFSETS} | ({CELLS} if meta.kind == "faiss" else set())
    if set(meta.files) != needed:
        raise CheckpointError("the file is damaged", where=str(file), hint=_hint())
    return meta


def _check(path: Path, meta: Meta, verify: bool) -> None:
    for name, expected in meta.files.items():
        file = path / name
        with open_regular(file) as opened:
            whole = os.fstat(opened.fileno()).st_size == expected.bytes
        if not whole or (verify and seal_of(file) != expected):
            raise CheckpointError(
                "the file is damaged", where=str(file), hint=_hint()
            )  # fmt: skip


def _item(values: Any) -> tuple[str, str | None]:
    """Return the path and the label in a line of the items.

    Raises:
        ValueError: The line is damaged.
    """
    match values:
        case {"path": str(path), "label": str() | None as label}:
            return path, label
    raise ValueError("not an item of an index")
