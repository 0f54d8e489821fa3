"""Embedding files: writes the embeddings of images to files that other programs can read.

Embeddings are a ``.npy`` file with the list of the images' paths in a ``.csv`` file beside it, or a
``.parquet`` file. At no time does a ``.npy`` file lie beside the list of other images.
"""

from __future__ import annotations

import csv
import importlib
import io
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, ConfigError, DataError
from ..files import fsync, open_regular, reading, require_unicode, writing
from ..spelling import argument
from .arrays import mapped
from .cosine import require_finite
from .csv_rows import RowWriter
from .embedding import BATCH_SIZE, Embeds
from .filling import HINT, OnProgress, fill, working, workplace
from .inputs import some_files_of
from .judging import judge_files

_ROWS_AT_ONCE = 16_384
_HEADER = "path"


def embed_to_file(
    embedder: Embeds,
    images: str | Path | Sequence[str | Path],
    output: Path,
    *,
    batch_size: int = BATCH_SIZE,
    force: bool = False,
    progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Write the embeddings of images to a file.

    If a call is interrupted, the finished part is kept, and the same call continues from there.

    Args:
        embedder: The embedder.
        images: A folder, a file, or several files, as for :meth:`siamkit.Embedder.embed`.
        output: The file to write. A name that ends in ``.npy`` gives a float32 array ``[N, E]``,
            and beside it a ``.csv`` with the column ``path``. A name that ends in ``.parquet``
            gives a table with the columns ``path`` and ``embedding`` (float32 lists of length E).
        batch_size: The number of images per forward pass.
        force: Whether to replace existing output. This also discards the finished part of an
            interrupted call that used another network or other images.
        progress: Called with the number of finished images and the number of all images.

    Returns:
        ``output``, ``paths`` (the ``.csv``, or None), ``images``, ``dim``, ``resumed_at`` (the
        number of images that earlier calls finished), ``seconds``, ``kernel``, ``notices`` (see
        :func:`.judge_files`).

    Raises:
        ConfigError: The name has another ending, a package is missing, or the file exists.
        CheckpointError: An interrupted call used another network or other images.
        DataError: There are no images, or one is missing or cannot be decoded. The finished part is
            kept.
        Interrupted: Ctrl-C was pressed. The finished part is kept.
        ResourceError: The disk is full, or another process writes the same file.
    """
    require_usable(output, force)
    sidecar = _list_of(output) if output.suffix == ".npy" else None
    started = time.perf_counter()
    paths = some_files_of(images)
    notices = judge_files(paths, embedder)
    with working(output) as folder:
        rows, before = fill(
            folder, embedder, paths, batch_size=batch_size, anew=force, progress=progress
        )
        if sidecar is None:
            new = _write_parquet(folder / "embeddings.parquet", rows, paths)
            require_usable(output, force)  # the work may have taken hours
            _publish(new, output)
        else:
            new = _checked(_write_list(folder / "paths.csv", paths), sidecar, force)
            require_usable(output, force)
            # Whenever this is interrupted, the old embeddings are gone before the new list comes,
            # and the new embeddings come last.
            _remove(output)
            _publish(new, sidecar)
            _publish(rows, output)
        shutil.rmtree(folder)
    return {
        "output": str(output),
        "paths": None if sidecar is None else str(sidecar),
        "images": len(paths),
        "dim": embedder.embedding_dim,
        "resumed_at": before,
        "seconds": time.perf_counter() - started,
        "kernel": embedder.kernel_name,
        "notices": notices,
    }


def require_usable(output: Path, force: bool) -> None:
    """Check that the output can be written, before anything is computed.

    Raises:
        ConfigError: The output cannot be written.
    """
    if output.suffix not in (".npy", ".parquet"):
        raise ConfigError("must end in .npy or .parquet", where=argument("output"), got=str(output))
    if output.suffix == ".parquet":
        try:
            importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise ConfigError(
                "writing .parquet needs the package pyarrow",
                where=str(output),
                hint="pip install pyarrow, or choose a name that ends in .npy",
            ) from None
        require_unicode(output.absolute(), "Parquet files")
    sidecar = _list_of(output) if output.suffix == ".npy" else None
    for path in filter(None, (output, sidecar)):
        if path.is_dir():
            raise ConfigError("is a folder", where=str(path), hint="choose another name")
    if force:
        if sidecar is not None and sidecar.exists() and not _is_list(sidecar):
            raise ConfigError(
                "is no list of images that siamkit wrote, so it is not overwritten",
                where=str(sidecar),
                hint="choose another name for the embeddings, or move the file",
            )
        return
    _require_free(output)
    # If work is unfinished, an earlier call may have written the list, whose content is compared
    # later.
    if sidecar is not None and not workplace(output).exists():
        _require_free(sidecar)


def read_embeddings(path: Path, width: int) -> tuple[Any, list[Path]]:
    """Return the embeddings ``[N, E]`` of a file, mapped into memory, and the images' paths.

    Args:
        path: The ``.npy`` file; the ``.csv`` file lies beside it.
        width: The width that the embeddings must have.

    Raises:
        CheckpointError: A file is missing or damaged.
        DataError: The embeddings have another width.
        NonFiniteError: An embedding is NaN or infinite.
    """
    hint = "embed the images again"
    names = _list_of(path)
    with reading(names, hint), open_regular(names) as file:
        text = file.read().decode("utf-8", errors="surrogateescape")
    # Not splitlines, which would split at more characters than newlines, and lose those in names.
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except csv.Error:  # such as a quote that never ends
        lines = []
    array = mapped(path, hint)
    if not lines or lines[0] != [_HEADER] or any(len(line) != 1 for line in lines):
        raise CheckpointError("is no list of images", where=str(names), hint=hint)
    if array.ndim != 2 or array.dtype != np.float32 or len(array) != len(lines) - 1:
        raise CheckpointError(
            "does not match the list of images beside it", where=str(path),
            got=f"{array.dtype} {list(array.shape)}, {len(lines) - 1} images", hint=hint,
        )  # fmt: skip
    if array.shape[1] != width:
        raise DataError(
            "the embeddings have another width than those of the model", where=str(path),
            got=array.shape[1], allowed=str(width), hint=hint,
        )  # fmt: skip
    paths = [Path(line[0]) for line in lines[1:]]
    require_finite(array, paths)
    return array, paths


def _list_of(output: Path) -> Path:
    return output.with_suffix(".csv")


def _is_list(path: Path) -> bool:
    """Return whether a file begins as the lists that are written beside embeddings."""
    header = f"{_HEADER}\n".encode()
    with reading(path), open_regular(path) as file:
        return file.read(len(header)) == header


def _require_free(path: Path) -> None:
    if path.exists():
        raise ConfigError(
            "the file already exists",
            where=str(path),
            hint=f"choose another name, or overwrite it with {argument('force', True)}",
        )


def _remove(path: Path) -> None:
    with writing(path, HINT):
        path.unlink(missing_ok=True)
        fsync(path.parent)


def _publish(path: Path, target: Path) -> None:
    """Move a complete file to its target, such that it survives a crash."""
    with writing(target, HINT):
        fsync(path)
        path.replace(target)
        fsync(target.parent)


def _checked(new: Path, old: Path, force: bool) -> Path:
    """Return ``new`` after checking that it may replace ``old``.

    Raises:
        ConfigError: ``old`` has other content, and ``force`` is not set.
    """
    if not force and old.exists() and old.read_bytes() != new.read_bytes():
        _require_free(old)
    return new


def _write_list(path: Path, images: Sequence[Path]) -> Path:
    # Names that are not UTF-8 are written as their original bytes.
    with (
        writing(path, HINT),
        path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = RowWriter(file)
        writer.writerow([_HEADER])
        writer.writerows([str(image)] for image in images)
    return path


def _write_parquet(path: Path, rows: Path, images: Sequence[Path]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    embeddings = np.load(rows, mmap_mode="r")  # [N, E]
    dim = embeddings.shape[1]
    schema = pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32(), dim))])
    with writing(path, HINT), pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(images), _ROWS_AT_ONCE):
            some = images[start : start + _ROWS_AT_ONCE]
            flat = pa.array(np.ravel(embeddings[start : start + len(some)]))
            columns = [
                pa.array([_as_text(image) for image in some], pa.string()),
                pa.FixedSizeListArray.from_arrays(flat, dim),
            ]
            writer.write_table(pa.table(columns, schema=schema))
    return path


def _as_text(path: Path) -> str:
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            "the name is not valid UTF-8, which Parquet cannot hold",
            where=text,
            hint="rename the file, or write .npy",
        ) from None
    return text
