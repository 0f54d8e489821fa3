"""The folder of an export: published in one step, with its manifest."""

from __future__ import annotations

from pathlib import Path

import torch

from siamkit.errors import ConfigError
from siamkit.files import require_free_folder
from siamkit.inference.export.checking import BATCHES, require_same, require_steady
from siamkit.inference.export.runners import torch_runner
from siamkit.inference.export.subject import Converted, Subject
from siamkit.model.machine import Machine
from siamkit.portable.manifest import (
    MANIFEST,
    Images,
    Manifest,
    Measured,
    Origin,
    Quality,
    Tensors,
    is_export,
    read_files,
    read_manifest,
    seal_of,
    write_manifest,
)
from siamkit.portable.sessions import KERNELS, open_session
from siamkit.runs.directory import run_around
from siamkit.spelling import argument
from siamkit.version import VERSION


def require_free(path: Path, force: bool) -> None:
    """Check that a network may be exported to a path without the loss of other files.

    See :func:`siamkit.files.require_free_folder`. In addition, the path must not lie in a run,
    whose directory holds nothing else.

    Raises:
        ConfigError: Something else is at the path.
        CheckpointError: The path cannot be read.
    """
    if run := run_around(path):
        raise ConfigError(
            f"lies in the run {run}", where=str(path), hint=f"choose another {argument('output')}"
        )
    require_free_folder(path, "an exported model", _own, force)


def _own(path: Path) -> set[str] | None:
    """Return the names of the entries of an exported folder; None for other folders."""
    if not is_export(path):
        return None
    return {MANIFEST, *(name.partition("/")[0] for name in read_manifest(path).files)}


def write_export(
    folder: Path, made: Converted, subject: Subject, machine: Machine, origin: Origin
) -> Manifest:
    """Write the manifest of a folder whose other files are complete, and return the manifest.

    Args:
        folder: The folder.
        made: The exported network.
        subject: The network and the images that it was measured on.
        machine: The machine that measured the speed.
        origin: The run that the network is from.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    val = subject.val
    preprocessing, max_pixels = val.preprocessing, val.max_pixels
    manifest = Manifest(
        siamkit=VERSION,
        kind=made.kind,
        precision=made.precision,
        model=made.model,
        files={path.relative_to(folder).as_posix(): seal_of(path) for path in files},
        images=Images.of(preprocessing, max_pixels),
        tensors=Tensors(
            made.input,
            (preprocessing.channels, *preprocessing.size),
            made.output,
            made.width,
            made.normalized,
        ),
        calibration=made.threshold.calibration,
        origin=origin,
        quality=tuple(Quality(**vars(row)) for row in made.rows),
        measured=Measured(
            "val", len(val.images), len(val.images.classes), machine.cpu, machine.threads
        ),
        notices=made.notices,
    )
    write_manifest(folder, manifest)
    return manifest


def require_readable(folder: Path, manifest: Manifest, subject: Subject, made: Converted) -> None:
    """Check that a complete folder works for its readers, with the code that reads exports.

    Args:
        folder: The folder, with its manifest.
        manifest: The manifest.
        subject: The network and the images.
        made: The exported network.

    Raises:
        CheckpointError: The folder cannot be read, or computes something else than the network.
    """
    if made.kind not in KERNELS:  # loaded by siamkit and timm, and compared before
        return
    files = read_files(folder, read_manifest(folder))
    session = open_session(manifest, files, str(folder), torch.get_num_threads())
    check = require_same if made.precision == "float32" else require_steady
    images = subject.val.cycled(max(BATCHES))
    check(session, torch_runner(subject.net), images, f"{made.kind} {made.precision}")
