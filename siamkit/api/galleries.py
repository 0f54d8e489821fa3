"""Embedding files, indexes, search and lists of pairs, with a run or an exported model.

Torch is imported only for a run, and for a model that was exported for torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from siamkit.checks import whole_number
from siamkit.files import path_of
from siamkit.inference import exported
from siamkit.inference.gallery import build as building
from siamkit.inference.gallery.searching import run_of, search_index
from siamkit.portable.embedding import BATCH_SIZE
from siamkit.portable.embedding_files import embed_to_file
from siamkit.portable.filling import OnProgress
from siamkit.portable.gallery import Gallery
from siamkit.portable.pair_lists import PairVerdicts, verify_list

if TYPE_CHECKING:
    from siamkit.inference.gallery.index import Index


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
    """Embed images into a file, like ``siamkit embed``, and return its ``--json`` output.

    Args:
        run_dir: The run's directory, or a folder that :func:`siamkit.export` wrote.
        images: A folder of images, an image file, or a sequence of image files.
        output: The file: ``.npy`` (with the paths in a ``.csv`` beside it) or ``.parquet``.
        which: ``best``: the network of the best epoch; ``last``: the last saved one.
        batch_size: Images per forward pass.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Processes that decode images; None: chosen by the number of cores and images.
        force: Replace existing output. Also discard the partial output of an interrupted command
            that used another run or other images.
        progress: Called with the number of finished images and the total.

    Returns:
        See :func:`siamkit.portable.embedding_files.embed_to_file`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    target = path_of(output, "output", "a new file")
    size = whole_number(batch_size, "batch_size", least=1)
    embedder = any_embedder(run_dir, which, device=device, workers=workers)
    return embed_to_file(embedder, images, target, batch_size=size, force=force, progress=progress)


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
    """Build an index, like ``siamkit index``, and return its ``--json`` output.

    Args:
        run_dir: The run's directory, or a folder that :func:`siamkit.export` wrote.
        gallery: A folder of images, an image file, or a sequence of image files. The label of an
            image is the name of its subfolder.
        output: The folder of the index.
        which: ``best``: the network of the best epoch; ``last``: the last saved one.
        kind: ``exact``, ``faiss`` (approximate), or ``auto``: ``faiss`` for a large gallery.
        batch_size: Images per forward pass.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        workers: Processes that decode images; None: chosen by the number of cores and images.
        force: Replace an existing index. Also discard the unfinished work of an interrupted command
            that used another run or other images.
        progress: Called with the number of finished images and the total.

    Returns:
        See :func:`siamkit.inference.gallery.build.build_index`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    target = path_of(output, "output", "a folder")
    size = whole_number(batch_size, "batch_size", least=1)
    embedder = any_embedder(run_dir, which, device=device, workers=workers)
    return building.build_index(
        embedder, gallery, target, run=Path(run_dir), which=which, kind=kind,
        batch_size=size, force=force, progress=progress,
    )  # fmt: skip


def any_embedder(
    run_dir: str | Path,
    which: Literal["best", "last"] = "best",
    *,
    device: str = "auto",
    workers: int | None = None,
) -> Any:
    """Return the embedder of a run, or an exported model, which needs no torch.

    Args:
        run_dir: The run's directory, or a folder that :func:`siamkit.export` wrote.
        which: As for :func:`siamkit.load_embedder`.
        device: As for :func:`siamkit.load_embedder`.
        workers: As for :func:`siamkit.load_embedder`.

    Returns:
        A :class:`siamkit.Embedder` or a :class:`siamkit.ExportedModel`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    if exported.runs_here(run_dir):
        return exported.load_embedder(run_dir, which, device=device, workers=workers)
    from siamkit.api.models import load_embedder  # imports torch

    return load_embedder(run_dir, which, device=device, workers=workers)


def load_index(path: str | Path, *, verify: bool = True) -> Index:
    """Open an index that :func:`build_index` or ``siamkit index`` built.

    Args:
        path: The folder of the index.
        verify: True: check every byte, which takes about a second per million embeddings. False:
            check only the sizes of the index's files.

    Raises:
        CheckpointError: The folder is no index, or a file is damaged; the message names the file.
    """
    from siamkit.inference.gallery.index import Index  # imports torch

    return Index(path_of(path, "path", "an index"), verify=verify)


def search(
    index: str | Path,
    queries: str | Path | Sequence[str | Path],
    k: int = 10,
    *,
    run_dir: str | Path | None = None,
    exact: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Search an index, and return the output of ``siamkit search --json``.

    For several searches, keep the index and the embedder:
    ``siamkit.load_embedder(run).search(images, siamkit.load_index(path))``.

    Args:
        index: The folder of an index.
        queries: A folder of images, an image file, or a sequence of image files.
        k: Results per query.
        run_dir: The run or the exported model that built the index, if it was moved since.
        exact: Compare with every image, even if the index is approximate. An exported model that
            runs without torch always does.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Returns:
        ``index``, ``kind``, ``images`` (in the index), ``k``, ``recall@10`` (of an approximate
        search, on up to 100 queries), ``notices`` (about the queries' shapes and depths), and
        ``queries``. Each query has a ``path`` and ``neighbours`` with ``rank``, ``score``,
        ``label`` and ``path``.

    Raises:
        CheckpointError: The index is damaged, or its run is missing or has another network now.
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    k = whole_number(k, "k", least=1)
    path = path_of(index, "index", "an index")
    without_torch = exported.searches(path, run_dir)
    opened = Gallery(path) if without_torch else load_index(path)
    which = "best" if without_torch else opened.meta.which  # an export has one network
    embedder = any_embedder(run_of(opened, run_dir), which, device=device)
    only = exact or without_torch or opened.meta.kind == "exact"
    return {"index": str(index), **search_index(opened, embedder, queries, k, exact=only)}


def verify_pairs(
    run_dir: str | Path,
    pairs: str | Path,
    *,
    output: str | Path | None = None,
    device: str = "auto",
) -> PairVerdicts:
    """Verify each pair of a list, like ``siamkit verify RUN --pairs FILE``.

    Args:
        run_dir: The run's directory. The network of its best epoch and its threshold decide.
        pairs: A table with the columns ``a``, ``b`` and optionally ``same``; paths are relative to
            the table's folder.
        output: A new CSV file for the verdicts; None writes no file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ConfigError: ``output`` exists, or its folder doesn't.
        CheckpointError: There is no run, or its network has no threshold.
        DataError: Some rows are unusable; the message lists them, and no image is embedded.
    """
    return verify_list(lambda: any_embedder(run_dir, device=device), pairs, output)
