"""Embeddings in files, and searching them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from siamkit.api.models import load_embedder
from siamkit.data.inputs import files_of
from siamkit.errors import CheckpointError, ConfigError
from siamkit.inference.embedder import BATCH_SIZE
from siamkit.inference.embedding_files import embed_to_file
from siamkit.inference.filling import OnProgress
from siamkit.inference.gallery import build as building
from siamkit.inference.gallery.index import Index
from siamkit.spelling import argument

_RECALL_QUERIES = 100  # of an approximate search, checked against exact search


def embed(
    run_dir: str | Path,
    images: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    which: Literal["best", "last"] = "best",
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    workers: int | None = None,
    force: bool = False,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Do what ``siamkit embed`` does, and return what it prints with ``--json``.

    Args:
        run_dir: The run.
        images: A folder, a file, or files.
        output: ``.npy`` (with the paths in a ``.csv`` beside it) or ``.parquet``.
        which: The best epoch's network, or the last saved.
        batch_size: Images that are loaded together.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        workers: Processes that load images; None for as many as this machine has use for.
        force: Replace what is there, and drop unfinished work that does not fit.
        progress: Called with how many images are done, and how many there are.

    Returns:
        See :func:`siamkit.inference.embedding_files.embed_to_file`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    embedder = load_embedder(run_dir, which, device=device, workers=workers)
    return embed_to_file(
        embedder, images, Path(output), batch_size=batch_size, force=force, progress=progress
    )


def build_index(
    run_dir: str | Path,
    gallery: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    which: Literal["best", "last"] = "best",
    kind: str = "exact",
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    workers: int | None = None,
    force: bool = False,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Do what ``siamkit index`` does, and return what it prints with ``--json``.

    Args:
        run_dir: The run.
        gallery: A folder, a file, or files; the label of an image is its folder in the gallery.
        output: The folder of the index.
        which: The best epoch's network, or the last saved.
        kind: ``exact``, ``faiss`` (approximate), or ``auto``: ``faiss`` for a large gallery.
        batch_size: Images that are loaded together.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        workers: Processes that load images; None for as many as this machine has use for.
        force: Replace an index that is there, and drop unfinished work that does not fit.
        progress: Called with how many images are done, and how many there are.

    Returns:
        See :func:`siamkit.inference.gallery.build.build_index`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    embedder = load_embedder(run_dir, which, device=device, workers=workers)
    return building.build_index(
        embedder, gallery, Path(output), run=Path(run_dir), which=which, kind=kind,
        batch_size=batch_size, force=force, progress=progress,
    )  # fmt: skip


def load_index(path: str | Path, *, verify: bool = True) -> Index:
    """Open an index that :func:`build_index` or ``siamkit index`` built.

    Args:
        path: Its folder.
        verify: Check every byte of it, which takes about a second for a million embeddings;
            otherwise the sizes of its files alone.

    Raises:
        CheckpointError: It is none, or is damaged; the message names the file.
    """
    return Index(path, verify=verify)


def search(
    index: str | Path,
    queries: str | Path | Sequence[str | Path],
    k: int = 10,
    *,
    run_dir: str | Path | None = None,
    exact: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Return what ``siamkit search --json`` prints.

    To search more than once, keep the index and the embedder:
    ``siamkit.load_embedder(run).search(images, siamkit.load_index(path))``.

    Args:
        index: The folder of an index.
        queries: A folder, a file, or files.
        k: How many for each query.
        run_dir: The run that built the index, where it is no longer in its place.
        exact: Search all of the index even if it is approximate.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Returns:
        ``index``, ``kind``, ``images`` (in the index), ``k``, ``recall@10`` (on up to 100 of the
        queries, of an approximate search), and ``queries``: for each its ``path`` and
        ``neighbours``: ``rank``, ``score``, ``label``, ``path``.

    Raises:
        CheckpointError: The index is damaged, or its run is gone or has another network now.
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    if k < 1:
        raise ConfigError("must be positive", where="k", got=k)
    opened = load_index(index)
    run = Path(run_dir or opened.meta.run)
    if not run.exists():
        raise CheckpointError(
            "the run that built the index is not there",
            where=str(run),
            hint=f"pass its new place as {argument('run_dir', flag='--run')}",
        )
    embedder = load_embedder(run, opened.meta.which, device=device)
    opened.require_model(embedder.fingerprint)
    paths = files_of(queries)
    embeddings = embedder.embed(paths)
    nearest = opened.search(embeddings, k, exact=exact)
    approximate = opened.meta.kind != "exact" and not exact
    return {
        "index": str(index),
        "kind": opened.meta.kind if approximate else "exact",
        "images": len(opened),
        "k": k,
        "recall@10": opened.recall(embeddings[:_RECALL_QUERIES]) if approximate else None,
        "queries": [
            {"path": str(path), "neighbours": neighbours}
            for path, neighbours in zip(paths, nearest.rows(), strict=True)
        ],
    }
