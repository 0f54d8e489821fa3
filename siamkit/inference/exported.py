"""Exported models that run without torch: how they are recognised and opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from siamkit.checks import require_unused
from siamkit.errors import ConfigError
from siamkit.inference.gallery.searching import run_of
from siamkit.portable.gallery import Gallery
from siamkit.portable.manifest import is_export, read_manifest
from siamkit.portable.model import ExportedModel
from siamkit.portable.sessions import KERNELS
from siamkit.spelling import argument

_BESIDE = "an exported model, which has one network and decodes images in threads"


def runs_here(path: Any) -> bool:
    """Return whether a path is an exported model that runs without torch.

    Raises:
        CheckpointError: The path is an exported model whose manifest cannot be used.
    """
    return is_export(path) and read_manifest(Path(path)).kind in KERNELS


def searches(index: Path, run_dir: str | Path | None) -> bool:
    """Return whether an index is searched by an exported model that runs without torch.

    Args:
        index: The folder of the index.
        run_dir: The run or the exported model that searches; None for the one of the index.

    Raises:
        CheckpointError: The folder is no index, or nothing is left that could search.
    """
    if run_dir is not None:
        return runs_here(run_dir)
    return runs_here(run_of(Gallery(index, verify=False), None))


def load_embedder(
    run_dir: str | Path,
    which: Literal["best", "last"] = "best",
    *,
    device: str = "auto",
    workers: int | None = None,
) -> ExportedModel:
    """Return an exported model.

    Args:
        run_dir: The folder of the model.
        which: ``best``; the folder holds no other network.
        device: ``auto`` or ``cpu``.
        workers: None.

    Raises:
        ConfigError: An argument does not suit an exported model, or a package is missing.
        CheckpointError: A file of the folder is damaged, or of another version or export.
    """
    unused = {
        argument("which", flag="--last"): None if which == "best" else which,
        argument("workers"): workers,
    }
    require_unused(unused, _BESIDE)
    if device not in ("auto", "cpu"):
        raise ConfigError(
            "an exported model runs on the CPU",
            where=argument("device"),
            got=device,
            allowed="auto, cpu",
        )
    return ExportedModel(run_dir)
