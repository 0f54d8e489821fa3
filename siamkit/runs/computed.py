"""The check of a run's network: the run keeps its embeddings of two images that siamkit makes up.

A network consists of tensors, which a checkpoint holds, and of code, which it does not. If the code
of a plugin changes, or if it draws a part of the network at random, the tensors fit and the network
computes something else. The embeddings show that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from siamkit.errors import CheckpointError
from siamkit.files import is_there, reading, writing
from siamkit.json_files import read_sealed, write_sealed
from siamkit.runs.directory import RunDir
from siamkit.spelling import command

Rows = Sequence[Sequence[float]]


def file(run: RunDir) -> Path:
    """Return the file of the embeddings."""
    return run.embeddings / "check.json"


def save_computed(run: RunDir, network: str, embeddings: Rows) -> None:
    """Write the embeddings ``[2, E]`` of these images, replacing earlier ones.

    Args:
        run: The run.
        network: The hash of the network; see :attr:`.SavedCheckpoint.network`.
        embeddings: Its embeddings of these images.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    path = file(run)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    write_sealed(path, {"network": network, "embeddings": embeddings})


def computed_by(run: RunDir, network: str) -> Rows | None:
    """Return the embeddings ``[2, E]`` that a network of a run computed; None if they are unknown.

    Args:
        run: The run.
        network: The hash of the network.

    Raises:
        CheckpointError: The file cannot be read, or is damaged.
    """
    path, hint = file(run), f"remove it, and {command('train --resume', run.path)} writes it again"
    with reading(path, hint):
        if not is_there(path):
            return None
    values = read_sealed(path, hint)
    if values.get("network") != network:
        return None
    rows = values.get("embeddings")
    if not isinstance(rows, list):
        raise CheckpointError("the file is damaged", where=str(path), hint=hint)
    return rows
