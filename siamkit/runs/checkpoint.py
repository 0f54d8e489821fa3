"""Checkpoints: directories of safetensors and JSON, published in one step.

A checkpoint has a sealed manifest that holds the SHA-256 of every other file. It is written to a
temporary folder, flushed to the disk and renamed into place; then older checkpoints are removed. If
the process is killed at any moment, the previous checkpoint can still be used.

Names sort by age, so the newest folder is the latest checkpoint, and its state names the best one.
The files ``LATEST`` and ``BEST`` name the same two for people and other programs; reading a run
does not depend on them.

Frozen tensors do not change from one checkpoint to the next. So the file that holds them is written
twice per phase, and later checkpoints share it by hard links.

A slim run (:func:`slim`) has one checkpoint: the best epoch's network with the run's last state. It
has no optimizer's state, so it cannot be trained further.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamkit.errors import CheckpointError
from siamkit.files import (
    fsync,
    is_there,
    read_bytes,
    reading,
    replacing,
    sha256_of,
    sweep,
    write_atomic,
    writing,
)
from siamkit.json_files import digest_of, read_json, unsealed, write_json, write_sealed
from siamkit.spelling import command
from siamkit.tensor_files import load_tensors, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
LATEST, BEST = "LATEST", "BEST"
_MANIFEST = "manifest.json"
_MODEL, _FROZEN, _OPTIMIZER = "model.safetensors", "frozen.safetensors", "optimizer.safetensors"
_STATE = "state.json"
_FILES = {_MODEL, _FROZEN, _OPTIMIZER, _STATE}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint to write.

    Attributes:
        model: The network's state, and the loss's state under ``loss.*``.
        optimizer: The optimizer's state; see ``training.optimizer.state_tensors``. The tensors that
            a loss keeps in plain attributes are there too; see ``training.tensors.LossAttributes``.
        state: Progress and metrics, as JSON values.
        frozen: The fingerprint of every frozen tensor.
        proven: Whether the frozen tensors have just been compared with their fingerprints.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]
    frozen: Mapping[str, str]
    proven: bool = False


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint on the disk.

    Each access reads its tensors anew and does not keep them. So no disk space stays in use after
    a later checkpoint replaces this one.

    Attributes:
        folder: The checkpoint's folder.
        state: Progress and metrics, as JSON values.
        frozen: The fingerprint of every frozen tensor.
        files: The SHA-256 of each file.
    """

    folder: Path
    state: Mapping[str, Any]
    frozen: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def name(self) -> str:
        """The name of the checkpoint's folder."""
        return self.folder.name

    @property
    def is_slim(self) -> bool:
        """True if the checkpoint has no optimizer state, as :func:`slim` leaves it."""
        return _OPTIMIZER not in self.files

    @property
    def network(self) -> str:
        """A SHA-256 over the files of the network; equal networks of one epoch have the same."""
        return digest_of([self.files[_FROZEN], self.files[_MODEL]])

    @property
    def model(self) -> dict[str, Tensor]:
        """The network's state, and the loss's state under ``loss.*``; read at each access."""
        return {**load_tensors(self.folder / _FROZEN), **load_tensors(self.folder / _MODEL)}

    @property
    def optimizer(self) -> dict[str, Tensor]:
        """The optimizer's state; read at each access."""
        return load_tensors(self.folder / _OPTIMIZER)


# --- writing -------------------------------------------------------------------------------------


def publish(
    root: Path,
    name: str,
    checkpoint: Checkpoint,
    *,
    best: str | None,
    others: Iterable[str | None] = (),
    keep: int = 2,
) -> Path:
    """Write a checkpoint under ``root``, and remove those that are no longer needed.

    Args:
        root: The folder of all checkpoints.
        name: The name of the checkpoint's folder; names sort by age.
        checkpoint: The content to write.
        best: The name of the best checkpoint so far, which may be ``name``; None without one.
        others: Names of further checkpoints to keep.
        keep: The number of newest checkpoints to keep; the best one is always kept.

    Raises:
        ResourceError: The disk is full or not writable; earlier checkpoints are intact.
        FrozenDriftError: A frozen tensor changed, so an older file of them cannot stand for it.
    """
    target = root / name
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    with replacing(target) as folder:
        folder.mkdir()
        _write(folder, checkpoint, _twin(root, name, checkpoint))
    if best is not None and pointed_to(root, BEST) != best:
        write_atomic(root / BEST, best + "\n")
    write_atomic(root / LATEST, name + "\n")
    _prune(root, {name, best, *others}, keep)
    return target


def name_of(epoch: int, step: int) -> str:
    """Return the name of the checkpoint after some finished epochs and steps."""
    return f"epoch-{epoch:05d}-step-{step:08d}"


def slim(root: Path, best: SavedCheckpoint, state: Mapping[str, Any]) -> None:
    """Keep only the network of the best epoch, without the optimizer's state.

    The files of the network do not change, so what was computed with the network, such as the
    calibration, stays valid. A kill at any moment leaves the old checkpoints, or the slim one and
    perhaps some old ones; then the same call finishes the work.

    Args:
        root: The folder of all checkpoints.
        best: The checkpoint of the best epoch.
        state: The last state of the run, which the slim checkpoint gets.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    with replacing(best.folder) as folder:
        folder.mkdir()
        for name in (_MODEL, _FROZEN):
            _link_or_copy(best.folder / name, folder / name)
        _seal(folder, state, {n: best.files[n] for n in (_MODEL, _FROZEN)}, best.frozen)
    for pointer in (BEST, LATEST):
        write_atomic(root / pointer, best.name + "\n")
    for path in newest_first(root):
        if path.name != best.name:
            shutil.rmtree(path, ignore_errors=True)


def _link_or_copy(file: Path, new: Path) -> None:
    try:
        os.link(file, new)
    except OSError:  # some file systems have no hard links
        shutil.copyfile(file, new)


def _seal(
    folder: Path, state: Mapping[str, Any], digests: dict[str, str], frozen: Mapping[str, str]
) -> None:
    """Write the state of a checkpoint, and the manifest with the SHA-256 of each file."""
    write_json(folder / _STATE, state)
    digests[_STATE] = sha256_of(folder / _STATE)
    write_sealed(folder / _MANIFEST, {"format": FORMAT, "files": digests, "frozen": dict(frozen)})


def _write(folder: Path, checkpoint: Checkpoint, twin: Path | None) -> None:
    """Write the files of a checkpoint. Files of tensors are written and hashed in parallel.

    A linked file would hide that a frozen tensor changed, because a resumed run would read the
    unchanged one. So the tensors are compared with their fingerprints meanwhile.
    """
    from siamkit.freezing.proof import require_unchanged  # imports torch, which readers don't need

    # A frozen buffer that is not persistent has a fingerprint, but is in no file.
    held = {n: digest for n, digest in checkpoint.frozen.items() if n in checkpoint.model}
    tensors = {
        _MODEL: {n: t for n, t in checkpoint.model.items() if n not in checkpoint.frozen},
        _OPTIMIZER: checkpoint.optimizer,
    }
    linked = twin and _linked(twin, folder)
    if not linked:
        tensors[_FROZEN] = {name: checkpoint.model[name] for name in held}
    with ThreadPoolExecutor(len(tensors) + 1) as pool:
        if linked and not checkpoint.proven:
            when = f"checkpoint {folder.name}"
            proof = pool.submit(require_unchanged, checkpoint.model, held, when)
        else:
            proof = None
        digests = dict(pool.map(lambda name: (name, _saved(tensors[name], folder / name)), tensors))
    if proof is not None:
        proof.result()
    if linked:
        digests[_FROZEN] = linked
    _seal(folder, checkpoint.state, digests, checkpoint.frozen)


def _saved(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write a file of tensors to the disk, and return its SHA-256."""
    save_tensors(tensors, path)
    digest = sha256_of(path)
    fsync(path)
    return digest


def _twin(root: Path, name: str, checkpoint: Checkpoint) -> Path | None:
    """Return an older checkpoint whose file of frozen tensors can be shared; None if there is none.

    The newest older checkpoint is never returned. So one of the two newest checkpoints stays intact
    if a shared file is damaged.
    """
    older = [folder for folder in newest_first(root) if _age(folder.name) < _age(name)]
    for folder in older[1:]:
        with suppress(CheckpointError):
            if _manifest(folder)["frozen"] == dict(checkpoint.frozen):
                return folder
    return None


def _linked(twin: Path, folder: Path) -> str | None:
    """Hard-link the frozen tensors' file of ``twin`` into ``folder``, and return its SHA-256.

    Return None if that is impossible. A damaged file is not linked, because the new checkpoint
    would be damaged too.
    """
    with suppress(CheckpointError, OSError):  # some file systems have no hard links
        digest: str = _manifest(twin)["files"][_FROZEN]
        if _digest_of(_Written.of(twin / _FROZEN)) == digest:
            os.link(twin / _FROZEN, folder / _FROZEN)
            return digest
    return None


@dataclass(frozen=True)
class _Written:
    """A file as it was written. All hard links to it are equal, until it is written to again."""

    device: int
    inode: int
    size: int
    modified: int  # nanoseconds
    path: Path = field(compare=False)

    @classmethod
    def of(cls, path: Path) -> _Written:
        facts = path.stat(follow_symlinks=False)
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, path)


@lru_cache(maxsize=4)
def _digest_of(file: _Written) -> str:
    """Return the SHA-256 of a file that checkpoints share.

    The process reads the file once, and again if it was written to, because a file of a hundred
    megabytes takes longer than a short epoch.
    """
    return sha256_of(file.path)


def _prune(root: Path, needed: set[str | None], keep: int) -> None:
    best = pointed_to(root, BEST)
    if best is None and is_there(root / BEST):
        return  # BEST cannot be read, so any checkpoint may be the best one
    for path in newest_first(root)[keep:]:
        if path.name not in {*needed, best}:
            shutil.rmtree(path, ignore_errors=True)


def pointed_to(root: Path, pointer: str) -> str | None:
    """Return the name that ``LATEST`` or ``BEST`` holds; None if it cannot be read."""
    try:
        return read_bytes(root / pointer).decode().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


# --- reading -------------------------------------------------------------------------------------


def newest_first(root: Path) -> list[Path]:
    """Return the folders of all checkpoints, the newest first; none if there is no ``root``.

    A checkpoint is put back first if a process was killed while it replaced it.

    Raises:
        CheckpointError: The folder cannot be read.
    """
    with reading(root):
        if not is_there(root):
            return []
        sweep(root)
        folders = [p for p in root.iterdir() if p.name.startswith("epoch-") and p.is_dir()]
    return sorted(folders, key=lambda p: _age(p.name), reverse=True)


def start_again(run: Path) -> str:
    """Return the command that starts a run again which was stopped before its first checkpoint."""
    return command("train --resume auto", config=run / "config.yaml", run_dir=run)


def _age(name: str) -> tuple[list[int], str]:
    """Return the key that sorts checkpoints by age: the numbers in the name, compared by value."""
    return [int(number) for number in re.findall(r"\d+", name)], name


def latest_intact(root: Path, *, strict: bool = False) -> tuple[SavedCheckpoint, str | None]:
    """Return the newest intact checkpoint, and a notice if newer ones are damaged.

    Args:
        root: The folder of all checkpoints.
        strict: True: raise if a checkpoint is damaged. False: go back to the checkpoint before it.

    Raises:
        CheckpointError: There is no intact checkpoint, or, with ``strict``, a damaged one.
    """
    damage: list[CheckpointError] = []
    for folder in newest_first(root):
        try:
            saved = load(folder)
        except CheckpointError as error:
            if strict:
                raise
            damage.append(error)
            continue
        return saved, f"{damage[0]}; going back to {folder.name}" if damage else None
    if damage:
        raise damage[0]
    raise CheckpointError(
        "has no checkpoint to resume from",
        where=str(root),
        hint=f"the run was stopped before its first checkpoint; start it again with "
        f"{start_again(root.parent)}",
    )


def load(folder: Path) -> SavedCheckpoint:
    """Check the hash of every file of a checkpoint, and return it.

    A slim checkpoint has no optimizer's state, and is returned without it.

    Raises:
        CheckpointError: A file is missing, damaged, or of another format; the message names it.
    """
    return _checked(folder, _FILES)


def load_network(folder: Path) -> SavedCheckpoint:
    """Return a checkpoint after checking all but the optimizer's state, which only resuming needs.

    Raises:
        CheckpointError: A file is missing, damaged, or of another format; the message names it.
    """
    return _checked(folder, _FILES - {_OPTIMIZER})


def load_state(folder: Path) -> SavedCheckpoint:
    """Return a checkpoint after checking only its manifest and state, which is fast.

    Raises:
        CheckpointError: The manifest or the state is missing or damaged; the message names it.
    """
    return _checked(folder, {_STATE})


def _checked(folder: Path, names: set[str]) -> SavedCheckpoint:
    manifest = _manifest(folder)
    files: dict[str, str] = manifest["files"]
    for name in sorted(names & files.keys()):
        path = folder / name
        with reading(path):
            whole = sha256_of(path) == files[name]
        if not whole:
            raise CheckpointError("the file is damaged", where=str(path))
    return SavedCheckpoint(folder, read_json(folder / _STATE), manifest["frozen"], files)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    values = read_json(path)
    if isinstance(values, dict) and values.get("format") != FORMAT:
        raise CheckpointError(
            "unknown checkpoint format", where=str(path), got=values.get("format"),
            allowed=str(FORMAT),
        )  # fmt: skip
    manifest = unsealed(values, str(path))
    if set(manifest["files"]) not in (_FILES, _FILES - {_OPTIMIZER}):
        raise CheckpointError("the file is damaged", where=str(path))
    return manifest
