"""Embedding files: a ``.npy`` file with embeddings, and a ``.csv`` file with the images' paths.

The files have the form of those that ``siamkit embed`` writes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CheckpointError, ConfigError, DataError
from .files import open_regular, reading, replacing, writing
from .portable.cosine import require_finite
from .portable.folders import files_in
from .portable.model import ExportedModel
from .spelling import argument

_HINT = "free some space, or choose another place"
_HEADER = "path"


def list_of(output: Path) -> Path:
    """Return the path of the list of images that belongs to a file of embeddings."""
    return output.with_suffix(".csv")


def embed_to_file(
    model: ExportedModel, images: Path, output: Path, *, batch_size: int, force: bool
) -> tuple[int, Path]:
    """Write the embeddings of images; the files appear when all images are embedded.

    Args:
        model: The model.
        images: A folder, or a file.
        output: The ``.npy`` file: float32 ``[N, E]``.
        batch_size: The number of images per forward pass.
        force: Whether to replace existing files.

    Returns:
        The number of images, and the list of images.

    Raises:
        ConfigError: The name has another ending, or a file exists.
        DataError: An image is missing or cannot be decoded.
        ResourceError: The disk is full or not writable.
    """
    names = list_of(output)
    require_usable(output, force)
    paths = [path.absolute() for path in files_in(images)]
    with writing(output, _HINT):
        output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output, _HINT) as rows, replacing(names, _HINT) as listed:
        _write_list(listed, paths)
        shape = (len(paths), model.embedding_dim)
        # Not through a memory map, in which a full disk would kill the process.
        with rows.open("xb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )
            for part in model.stream(paths, batch_size=batch_size):
                file.write(np.ascontiguousarray(part.embeddings, "<f4").tobytes())
    return len(paths), names


def require_usable(output: Path, force: bool) -> None:
    """Check that the output can be written, before anything is computed.

    Raises:
        ConfigError: The output cannot be written.
    """
    if output.suffix != ".npy":
        raise ConfigError(
            "must end in .npy", where=argument("output"), got=str(output),
            hint="'siamkit embed' writes .parquet too",
        )  # fmt: skip
    for path in (output, list_of(output)):
        if path.is_dir():
            raise ConfigError("is a folder", where=str(path), hint="choose another name")
        if not path.exists():
            continue
        if not force:
            raise ConfigError(
                "the file already exists",
                where=str(path),
                hint=f"choose another name, or overwrite it with {argument('force', True)}",
            )
        if path.suffix == ".csv" and not _is_list(path):
            raise ConfigError(
                "is no list of images that siamkit wrote, so it is not overwritten",
                where=str(path),
                hint="choose another name for the embeddings, or move the file",
            )


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
    names = list_of(path)
    with reading(names, hint), open_regular(names) as file:
        text = file.read().decode("utf-8", errors="surrogateescape")
    # Not splitlines, which would split at more characters than newlines, and lose those in names.
    lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    with reading(path, hint):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError):
            raise CheckpointError("the file is damaged", where=str(path), hint=hint) from None
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


def _is_list(path: Path) -> bool:
    header = f"{_HEADER}\n".encode()
    with reading(path), open_regular(path) as file:
        return file.read(len(header)) == header


def _write_list(path: Path, images: Sequence[Path]) -> None:
    # Names that are not UTF-8 are written as their original bytes.
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_HEADER])
        writer.writerows([str(image)] for image in images)
