"""Checkpoints: directories of safetensors and JSON, published in one step.

A checkpoint is written to a temporary folder with a manifest that holds the SHA-256 of every other
file. It is flushed to the disk and renamed into place. Only then ``LATEST`` (and ``BEST``) point to
it, and older checkpoints are removed. A kill at any moment leaves the previous checkpoint in force.

Frozen tensors do not change from one checkpoint to the next. So their file is written twice per
phase, and later checkpoints share it by a hard link.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from siamkit.errors import CheckpointError
from siamkit.files import fsync, full_disk_is_ours, sha256_of, write_atomic, write_json

FORMAT = 1
LATEST, BEST = "LATEST", "BEST"
_MANIFEST = "manifest.json"
_MODEL, _FROZEN, _OPTIMIZER = "model.safetensors", "frozen.safetensors", "optimizer.safetensors"
_STATE = "state.json"
_FILES = {_MODEL, _FROZEN, _OPTIMIZER, _STATE}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        model: The network's state, and the loss's state under ``loss.*``.
        optimizer: The optimizer's state; see ``training.optimizer.state_tensors``.
        state: Progress and metrics, as JSON values.
        frozen: The fingerprint of every frozen tensor.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]
    frozen: Mapping[str, str]


def publish(root: Path, name: str, checkpoint: Checkpoint, *, best: bool, keep: int = 2) -> Path:
    """Write a checkpoint under ``root`` and make it the latest.

    Args:
        root: The folder of all checkpoints.
        name: The name of the checkpoint's folder; names sort by age.
        checkpoint: The content to write.
        best: Whether to make it the best one too.
        keep: The number of newest checkpoints to keep; the best one is always kept.

    Raises:
        ResourceError: The disk is full or not writable; earlier checkpoints are intact.
    """
    target = root / name
    temporary = root / f".tmp-{name}"
    with full_disk_is_ours(root):
        root.mkdir(parents=True, exist_ok=True)
        for orphan in root.glob(".tmp-*"):
            shutil.rmtree(orphan)
        temporary.mkdir()
        try:
            _write(temporary, checkpoint, _twin(root, name, checkpoint))
            if target.exists():
                # A crash before LATEST moved left this folder.
                shutil.rmtree(target)
            temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        fsync(root)
    # BEST first: after a crash in between, the run resumes from LATEST and writes BEST again.
    for pointer in (BEST, LATEST) if best else (LATEST,):
        write_atomic(root / pointer, name + "\n")
    _prune(root, keep)
    return target


def _write(folder: Path, checkpoint: Checkpoint, twin: Path | None) -> None:
    model = {n: t for n, t in checkpoint.model.items() if n not in checkpoint.frozen}
    _save(model, folder / _MODEL)
    _save(checkpoint.optimizer, folder / _OPTIMIZER)
    write_json(folder / _STATE, checkpoint.state)
    digests = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    linked = twin and _linked(twin, folder)
    if not linked:
        frozen = {n: t for n, t in checkpoint.model.items() if n in checkpoint.frozen}
        _save(frozen, folder / _FROZEN)
    digests[_FROZEN] = linked or sha256_of(folder / _FROZEN)
    manifest = {"format": FORMAT, "files": digests, "frozen": dict(checkpoint.frozen)}
    write_json(folder / _MANIFEST, manifest)
    for path in folder.iterdir():
        fsync(path)
    fsync(folder)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    try:
        save_file(plain, path)
    except SafetensorError as error:  # the errno of a full disk is in its text only
        raise _as_os_error(error) from None


def _twin(root: Path, name: str, checkpoint: Checkpoint) -> Path | None:
    """Return a checkpoint with the same frozen tensors, to share its file; None without one.

    It is never the latest one, so that damage to one file leaves an intact checkpoint.
    """
    latest = pointed_to(root, LATEST)
    for folder in _newest_first(root):
        if folder.name in (name, latest):
            continue
        with suppress(CheckpointError):
            if _read_json(folder / _MANIFEST).get("frozen") == dict(checkpoint.frozen):
                return folder
    return None


def _linked(twin: Path, folder: Path) -> str | None:
    """Link the twin's file of frozen tensors; return its SHA-256, or None if that is impossible."""
    with suppress(CheckpointError, KeyError, OSError):  # some file systems have no hard links
        digest: str = _read_json(twin / _MANIFEST)["files"][_FROZEN]
        os.link(twin / _FROZEN, folder / _FROZEN)
        return digest
    return None


def _as_os_error(error: Exception) -> Exception:
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), str(error)) if number else error


def _prune(root: Path, keep: int) -> None:
    pointed = {pointed_to(root, LATEST), pointed_to(root, BEST)}
    for path in _newest_first(root)[keep:]:
        if path.name not in pointed:
            shutil.rmtree(path, ignore_errors=True)


def _newest_first(root: Path) -> list[Path]:
    folders = (p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return sorted(folders, key=lambda p: p.name, reverse=True)


def pointed_to(root: Path, pointer: str) -> str | None:
    """Return the name that ``LATEST`` or ``BEST`` holds, or None."""
    try:
        return (root / pointer).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def candidates(root: Path) -> Iterator[Path]:
    """Yield the checkpoints to resume from: the latest, then older ones."""
    latest = pointed_to(root, LATEST)
    folders = _newest_first(root) if root.is_dir() else []
    if not folders:
        raise CheckpointError(
            "has no checkpoint to resume from",
            where=str(root),
            hint="the run was stopped before its first save; start it again",
        )
    # A folder newer than LATEST was left by a crash before the pointer moved.
    known = latest in {path.name for path in folders}
    yield from (path for path in folders if not known or path.name <= str(latest))


def latest_intact(root: Path) -> tuple[Checkpoint, str | None]:
    """Return the newest intact checkpoint, and a notice if newer ones are damaged.

    Raises:
        CheckpointError: There is no intact checkpoint.
    """
    damage: CheckpointError | None = None
    for folder in candidates(root):
        try:
            saved = load(folder)
        except CheckpointError as error:
            damage = damage or error
            continue
        return saved, f"{damage}; going back to {folder.name}" if damage else None
    assert damage is not None
    raise damage


def load(folder: Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint and check the hash of every file.

    Raises:
        CheckpointError: A file is missing, damaged, or of another format; the message names it.
    """
    manifest = _read_json(folder / _MANIFEST)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            "unknown checkpoint format", where=str(folder), got=manifest.get("format"),
            allowed=str(FORMAT),
        )  # fmt: skip
    files, frozen = manifest.get("files"), manifest.get("frozen")
    if not isinstance(files, dict) or set(files) != _FILES or not isinstance(frozen, dict):
        raise CheckpointError("the file is damaged", where=str(folder / _MANIFEST))
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != digest:
            raise CheckpointError("the file is missing or damaged", where=str(path))
    return Checkpoint(
        model={
            **load_file(folder / _FROZEN, device=device),
            **load_file(folder / _MODEL, device=device),
        },
        optimizer=load_file(folder / _OPTIMIZER, device=device),
        state=_read_json(folder / _STATE),
        frozen=frozen,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError("the file is missing or damaged", where=str(path)) from None
    if not isinstance(value, dict):
        raise CheckpointError("the file is damaged", where=str(path))
    return value
