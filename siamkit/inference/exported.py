"""Exported models as embedders: the functions behind the command line, without torch.

They have the names and the arguments of the functions in :mod:`siamkit.api`, whose import takes
seconds because it brings torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from siamkit.checks import require_unused, whole_number
from siamkit.errors import ConfigError
from siamkit.files import path_of
from siamkit.inference import pair_lists
from siamkit.inference.embedding_files import embed_to_file
from siamkit.inference.filling import OnProgress
from siamkit.inference.gallery import build as building
from siamkit.inference.gallery.searching import run_of, search_index
from siamkit.inference.pair_lists import PairVerdicts
from siamkit.portable.embedding import BATCH_SIZE
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
    """Embed images into a file; see :func:`siamkit.api.embed`."""
    target = path_of(output, "output", "a new file")
    size = whole_number(batch_size, "batch_size", least=1)
    embedder = load_embedder(run_dir, which, device=device, workers=workers)
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
    """Build an index; see :func:`siamkit.build_index`. The kind ``faiss`` imports torch."""
    target = path_of(output, "output", "a folder")
    size = whole_number(batch_size, "batch_size", least=1)
    embedder = load_embedder(run_dir, which, device=device, workers=workers)
    return building.build_index(
        embedder, gallery, target, run=Path(run_dir), which=which, kind=kind,
        batch_size=size, force=force, progress=progress,
    )  # fmt: skip


def search(
    index: str | Path,
    queries: str | Path | Sequence[str | Path],
    k: int = 10,
    *,
    run_dir: str | Path | None = None,
    exact: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Search an index; see :func:`siamkit.api.search`. The search is exact for every index."""
    k = whole_number(k, "k", least=1)
    opened = Gallery(path_of(index, "index", "an index"))
    embedder = load_embedder(run_of(opened, run_dir), device=device)
    return {"index": str(index), **search_index(opened, embedder, queries, k, exact=True)}


def verify_pairs(
    run_dir: str | Path,
    pairs: str | Path,
    *,
    output: str | Path | None = None,
    device: str = "auto",
) -> PairVerdicts:
    """Verify each pair of a list; see :func:`siamkit.verify_pairs`."""
    return pair_lists.verify_list(lambda: load_embedder(run_dir, device=device), pairs, output)
