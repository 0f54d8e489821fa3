"""The search of ``siamkit search``: embeds the queries, and finds their neighbours in an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from siamkit.data.inputs import Paths
from siamkit.errors import CheckpointError
from siamkit.files import path_of
from siamkit.portable.embedding import Embeds
from siamkit.portable.gallery import Gallery
from siamkit.portable.inputs import files_of
from siamkit.portable.judging import judge_files
from siamkit.spelling import argument

_RECALL_QUERIES = 100  # queries of an approximate search that are compared with exact search


class _Searches(Embeds, Protocol):
    def embed(self, images: Any) -> Any:
        """Return the embeddings of image files."""


def run_of(opened: Gallery, run_dir: str | Path | None) -> Path:
    """Return the run or the exported model whose network searches an index.

    Args:
        opened: The index.
        run_dir: The place that the user gave; None for the place when the index was built.

    Raises:
        CheckpointError: There is nothing at that place.
    """
    place = "a run's directory, or an exported model"
    run = Path(opened.meta.run) if run_dir is None else path_of(run_dir, "run_dir", place)
    if not run.exists():
        raise CheckpointError(
            "the run that built the index is missing",
            where=str(run),
            hint=f"pass its new directory as {argument('run_dir', flag='--run')}",
        )
    return run


def search_index(
    opened: Gallery, embedder: _Searches, queries: Paths, k: int, *, exact: bool
) -> dict[str, Any]:
    """Return the output of ``siamkit search --json``, but for the index's path as the user gave it.

    Args:
        opened: The index: a :class:`siamkit.Index`, or a :class:`.Gallery`, whose search is exact.
        embedder: The network that built the index.
        queries: A folder, a file, or several files.
        k: Results per query.
        exact: Compare with every image, even if the index is approximate.

    Raises:
        CheckpointError: Another network built the index.
        SiamkitError: As for :meth:`siamkit.Embedder.embed`.
    """
    opened.require_model(embedder.fingerprint)
    paths = files_of(queries)
    embeddings = embedder.embed(paths)
    nearest = opened.search(embeddings, k, exact=exact)
    recall = None if exact else opened.recall(embeddings[:_RECALL_QUERIES])
    return {
        "kind": "exact" if recall is None else opened.meta.kind,
        "images": len(opened),
        "k": k,
        "recall@10": recall,
        "notices": judge_files(paths, embedder),
        "queries": [
            {"path": str(path), "neighbours": neighbours}
            for path, neighbours in zip(paths, nearest.rows(), strict=True)
        ],
    }
