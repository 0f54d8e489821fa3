"""The builder of an index: embeds the gallery, writes all files, and moves them into place."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from siamkit.files import replacing, require_free_folder
from siamkit.inference.gallery import approximate as ann
from siamkit.inference.gallery.kinds import WORTH, choose_kind
from siamkit.json_files import write_sealed
from siamkit.portable.embedding import BATCH_SIZE, Embeds
from siamkit.portable.filling import HINT, OnProgress, fill, working
from siamkit.portable.gallery import (
    CELLS,
    EMBEDDINGS,
    FORMAT,
    ITEMS,
    META,
    OFFSETS,
    Meta,
    own_entries,
)
from siamkit.portable.inputs import some_files_of
from siamkit.portable.judging import judge_files
from siamkit.portable.manifest import seal_of
from siamkit.version import VERSION


def build_index(
    embedder: Embeds,
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
    """Build the index of a gallery.

    If a call is interrupted, the finished part is kept, and the same call continues from there.

    Args:
        embedder: The embedder.
        gallery: A folder, a file, or several files. The label of an image is the path of its
            subfolder in the gallery. Images outside subfolders, and images passed as files, have no
            label.
        output: The folder of the index.
        run: The run that the embedder was loaded from. ``siamkit search`` loads the network there.
        which: The checkpoint that the embedder was loaded from.
        kind: The kind of search: ``exact``; ``faiss`` for approximate search; or ``auto`` for
            ``faiss`` if the gallery is large.
        batch_size: The number of images per forward pass.
        force: Whether to replace an existing index. This also discards the finished part of an
            interrupted call that used another network or other images.
        progress: Called with the number of finished images and the number of all images.

    Returns:
        ``index``, ``images``, ``labels`` (the number of different labels), ``dim``, ``kind``,
        ``recall@10`` (of an approximate index, on a sample), ``resumed_at`` (the number of images
        that earlier calls finished), ``seconds``, ``build_seconds`` (of the approximate index),
        ``kernel``, ``notices``.

    Raises:
        ConfigError: There is no such kind, a package is missing, or the output exists.
        CheckpointError: An interrupted call used another network or other images.
        DataError: There are no images, or one is missing or cannot be decoded. The finished part is
            kept.
        Interrupted: Ctrl-C was pressed. The finished part is kept.
        ResourceError: The disk is full, or another process builds the same index.
    """
    choose_kind(kind, WORTH, 1)  # a missing package is an error now, not at the end
    require_free_folder(output, "an index", own_entries, force)
    started = time.perf_counter()
    root, paths = _listed(gallery)
    notices = judge_files(paths, embedder)
    with working(output) as folder:
        rows, before = fill(
            folder, embedder, paths, normalize=True, batch_size=batch_size, anew=force,
            progress=progress,
        )  # fmt: skip
        chosen, lacks = choose_kind(kind, len(paths), embedder.embedding_dim)
        with replacing(output, HINT) as new:
            new.mkdir()
            _share(rows, new / EMBEDDINGS)
            labels = _write_items(new, root, paths)
            cells, recall, building = _approximate(new, chosen)
            meta = Meta(
                format=FORMAT, siamkit=VERSION, kind=chosen, run=str(run.absolute()),
                which=which, model=embedder.fingerprint, dim=embedder.embedding_dim,
                count=len(paths), root=str(root or ""), cells=cells, recall=recall,
                files={path.name: seal_of(path) for path in sorted(new.iterdir())},
            )  # fmt: skip
            write_sealed(new / META, asdict(meta))
            # The work may have taken hours, and the folder may be in use now.
            require_free_folder(output, "an index", own_entries, force)
        shutil.rmtree(folder)
    return {
        "index": str(output),
        "images": len(paths),
        "labels": labels,
        "dim": embedder.embedding_dim,
        "kind": chosen,
        "recall@10": recall,
        "resumed_at": before,
        "seconds": time.perf_counter() - started,
        "build_seconds": building,
        "kernel": embedder.kernel_name,
        "notices": [*notices, *([lacks] if lacks else [])],
    }


def _listed(gallery: str | Path | Sequence[str | Path]) -> tuple[Path | None, list[Path]]:
    """Return the folder that stored paths are relative to (None for a list), and the images."""
    paths = some_files_of(gallery)
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
            # In ASCII, invalid Unicode in a name survives as an escape sequence.
            file.write(json.dumps(item).encode("ascii") + b"\n")
            offsets[number + 1] = file.tell()
            labels.add(item["label"])
    np.save(folder / OFFSETS, offsets, allow_pickle=False)
    return len(labels - {None})


def _approximate(folder: Path, kind: str) -> tuple[int | None, float | None, float | None]:
    """Build the approximate index if ``kind`` needs one.

    Returns:
        The number of cells to search, the recall, and the seconds it took; all None for ``exact``.
    """
    if kind == "exact":
        return None, None, None
    started = time.perf_counter()
    embeddings = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
    looked, recall = ann.build(embeddings, folder / CELLS)
    return looked, recall, time.perf_counter() - started


def _share(rows: Path, target: Path) -> None:
    """Give the file ``rows`` a second name ``target``, so that a crash loses neither.

    The file is copied where the file system has no hard links.
    """
    try:
        os.link(rows, target)
    except OSError:  # some file systems have no hard links
        shutil.copyfile(rows, target)
