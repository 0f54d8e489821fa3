"""The builder of an index: embeds the gallery, writes the files, and publishes them at once."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siamkit.data.inputs import files_of
from siamkit.errors import ConfigError
from siamkit.files import replacing
from siamkit.inference.embedder import BATCH_SIZE, Embedder
from siamkit.inference.filling import HINT, OnProgress, fill, working
from siamkit.inference.gallery import approximate as ann
from siamkit.inference.gallery.index import (
    CELLS,
    EMBEDDINGS,
    FORMAT,
    ITEMS,
    META,
    OFFSETS,
    Meta,
    is_index,
    seal,
)
from siamkit.json_files import write_sealed
from siamkit.spelling import argument
from siamkit.version import VERSION


def build_index(
    embedder: Embedder,
    gallery: str | Path | Sequence[str | Path],
    output: Path,
    *,
    run: Path,
    which: Literal["best", "last"] = "best",
    kind: str = "exact",
    batch_size: int = BATCH_SIZE,
    force: bool = False,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Build the index of a gallery; after an interruption, the same call continues the work.

    Args:
        embedder: The embedder.
        gallery: A folder, a file, or files. The label of an image is its subfolder in the gallery;
            an image outside any subfolder, or passed as a file, has no label.
        output: The folder of the index.
        run: The embedder's run, for ``siamkit search``.
        which: The checkpoint of the run.
        kind: ``exact``, ``faiss``, or ``auto``: ``faiss`` for a large gallery.
        batch_size: Images per forward pass.
        force: Replace an existing index, and discard unfinished work of another run or folder.
        progress: Called with the number of finished images and the total.

    Returns:
        ``index``, ``images``, ``labels`` (their number), ``dim``, ``kind``, ``recall@10`` (of an
        approximate index, on a sample), ``notice``, ``resumed_at``, ``seconds``, ``build_seconds``
        (of the approximate index), ``kernel``.

    Raises:
        ConfigError: No such kind, a package is missing, or the output exists.
        CheckpointError: There is unfinished work of another network or of other images.
        DataError: An image is missing or cannot be decoded; the finished part is kept.
        Interrupted: Ctrl-C; the finished part is kept.
        ResourceError: The disk is full, or another process builds the same index.
    """
    ann.choose_kind(kind, ann.WORTH, 1)  # a missing package is an error now, not at the end
    _require_free(output, force)
    started = time.perf_counter()
    root, paths = _listed(gallery)
    with working(output) as folder:
        rows, before = fill(
            folder, embedder, paths, normalize=True, batch_size=batch_size, anew=force,
            progress=progress,
        )  # fmt: skip
        chosen, notice = ann.choose_kind(kind, len(paths), embedder.embedding_dim)
        with replacing(output, HINT) as new:
            new.mkdir()
            _share(rows, new / EMBEDDINGS)
            labels = _write_items(new, root, paths)
            cells, recall, building = _approximate(new, chosen)
            meta = Meta(
                format=FORMAT, siamkit=VERSION, kind=chosen, run=str(run.absolute()),
                which=which, model=embedder.fingerprint, dim=embedder.embedding_dim,
                count=len(paths), root=str(root or ""), cells=cells, recall=recall,
                files={path.name: seal(path) for path in sorted(new.iterdir())},
            )  # fmt: skip
            write_sealed(new / META, meta.model_dump(mode="json"))
        shutil.rmtree(folder)
    choice = embedder.choice
    return {
        "index": str(output),
        "images": len(paths),
        "labels": labels,
        "dim": embedder.embedding_dim,
        "kind": chosen,
        "recall@10": recall,
        "notice": notice,
        "resumed_at": before,
        "seconds": time.perf_counter() - started,
        "build_seconds": building,
        "kernel": None if choice is None else choice.kernel.name,
    }


def _require_free(output: Path, force: bool) -> None:
    """Refuse an output that would overwrite something."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not output.is_dir() or not is_index(output):
        raise ConfigError(
            "already exists and is not an index", where=str(output), hint="choose another place"
        )
    if not force:
        raise ConfigError(
            "the index already exists",
            where=str(output),
            hint=f"choose another place, or replace it with {argument('force', True)}",
        )


def _listed(gallery: str | Path | Sequence[str | Path]) -> tuple[Path | None, list[Path]]:
    """Return the folder that paths are relative to, or None for single files, and the images."""
    paths = [path.absolute() for path in files_of(gallery)]
    if not isinstance(gallery, str | Path):
        return None, paths
    given = Path(gallery)
    return (given.resolve() if given.is_dir() else given.absolute().parent), paths


def _items(root: Path | None, paths: Sequence[Path]) -> Iterator[dict[str, str | None]]:
    for path in paths:
        key = path if root is None else path.relative_to(root)
        label = "." if root is None else key.parent.as_posix()
        yield {"path": key.as_posix(), "label": None if label == "." else label}


def _write_items(folder: Path, root: Path | None, paths: Sequence[Path]) -> int:
    """Write the paths and labels, and return the number of different labels."""
    offsets = np.zeros(len(paths) + 1, dtype=np.int64)
    labels = set()
    with (folder / ITEMS).open("wb") as file:
        for number, item in enumerate(_items(root, paths)):
            # ASCII, so that invalid Unicode in a name survives as an escape.
            file.write(json.dumps(item).encode("ascii") + b"\n")
            offsets[number + 1] = file.tell()
            labels.add(item["label"])
    np.save(folder / OFFSETS, offsets, allow_pickle=False)
    return len(labels - {None})


def _approximate(folder: Path, kind: str) -> tuple[int | None, float | None, float | None]:
    """Build the approximate index, if any; return the cells to search, the recall, the seconds."""
    if kind == "exact":
        return None, None, None
    started = time.perf_counter()
    embeddings = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
    looked, recall = ann.build(embeddings, folder / CELLS)
    return looked, recall, time.perf_counter() - started


def _share(rows: Path, target: Path) -> None:
    """Give a file a second name, so that a crash before the end loses nothing."""
    try:
        os.link(rows, target)
    except OSError:  # some file systems have no hard links
        shutil.copyfile(rows, target)
