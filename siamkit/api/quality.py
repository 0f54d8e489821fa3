"""How good a network is, and where to put its threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from siamkit.api.entries import load_config
from siamkit.api.models import load
from siamkit.config import Layer, RunConfig
from siamkit.data.check import check
from siamkit.data.opening import load_data, unseen_images
from siamkit.errors import CheckpointError
from siamkit.evaluation.calibration import Calibration
from siamkit.evaluation.summary import summarize
from siamkit.inference.embedder import Embedder
from siamkit.runs import checkpoint
from siamkit.runs.calibration import best_checkpoint, calibrate_run
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut


def evaluate(
    run_dir: str | Path,
    data: str | Path | None = None,
    *,
    root: str | Path | None = None,
    which: Literal["best", "last"] = "best",
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Return what ``siamkit evaluate RUN --json`` prints.

    Args:
        run_dir: The run.
        data: Data as for training, of which the test or else the validation split is taken if
            there are splits; None for the run's own test or else validation images.
        root: The folder that a table's paths are relative to; None for the table's own.
        which: The best epoch's network, or the last saved.
        seed: Of the draws of pairs, folds, resamples and episodes.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Returns:
        ``retrieval``, ``verification``, ``triplets`` and ``few_shot`` metrics beside what chance
        gives, and ``notices``; see :func:`siamkit.evaluation.summary.summarize`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    embedder = load(run_dir, which, device=device)
    config = load_config(RunDir.open(Path(run_dir)).read_config())
    if data is None:
        path = config.data.path
        splits = load_data(config.data, config.train.seed)
        images = splits.test or splits.val
        part = "the run's test images" if splits.test else "the run's validation images"
    else:
        path = str(data)
        images, part = unseen_images(path, None if root is None else Path(root), config.data)
    embeddings = embedder.embed(images.samples)
    return {
        "run_dir": str(run_dir),
        "which": which,
        "data": {"path": path, "part": part},
        **summarize(embeddings, images, threshold=_threshold(embedder), seed=seed),
    }


def _threshold(embedder: Embedder) -> float | None:
    """Return the threshold that was fitted for the embedder's network, if there is one."""
    try:
        return embedder.calibration.threshold
    except CheckpointError:
        return None


def check_data(
    data: str | Path, *, root: str | Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return what ``siamkit data check DATA --json`` prints.

    Args:
        data: A folder, a table, LFW's pairs, or ``sample``.
        root: The folder that a table's paths are relative to; None for the table's own.
        seed: Seed of what is held out.

    Raises:
        DataError: It cannot be told what the data is: no such file, bad rows.
    """
    config = load_config({"data": {"path": str(data), "root": root and str(root)}})
    return check(config.data, seed)


def calibrate(
    run_dir: str | Path,
    data: str | Path | None = None,
    *,
    root: str | Path | None = None,
    target: Literal["eer", "far", "accuracy"] | None = None,
    far: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Calibration:
    """Fit the threshold of a run again, without training, and keep it with the run.

    Args:
        run_dir: The run.
        data: As for :func:`evaluate`; None for the run's own validation images.
        root: As for :func:`evaluate`.
        target: ``eer``, as many false accepts as false rejects; ``far``, a rate of false accepts;
            ``accuracy``, the best one on as many same pairs as different; None for ``far`` where a
            rate is given, else what the run's config says.
        far: That rate, in (0, 1).
        seed: Of the draw of pairs, where there are too many for all.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``; where images are embedded.

    Raises:
        ConfigError: The target and the rate don't go together.
        CheckpointError: There is no such run, or it is damaged.
        DataError: The images don't allow it; an earlier threshold then stays.
    """
    run = RunDir.open(Path(run_dir))
    config = load_config(run.read_config(), where=str(run.config))
    wanted = config.calibration
    if target is not None or far is not None:
        given = {"calibration": {"target": target, "far": far}}
        wanted = load_config(Layer(given, lambda key: key.split(".")[-1])).calibration
    held_out = _held_out(run, config, data, root, device)
    path = config.data.path if data is None else str(data)
    return calibrate_run(run, held_out, wanted, path, seed=seed)


def _held_out(
    run: RunDir,
    config: RunConfig,
    data: str | Path | None,
    root: str | Path | None,
    device: str,
) -> HeldOut:
    """Return images that the run didn't train on, embedded by its best epoch's network."""
    epoch: int = checkpoint.load(run.checkpoints / best_checkpoint(run)).state["best_epoch"]
    if data is None:
        kept = HeldOut.load(run, "val")
        if kept is not None and kept.epoch == epoch:
            return kept
        images, part = load_data(config.data, config.train.seed).val, "val"
    else:
        images, part = unseen_images(str(data), None if root is None else Path(root), config.data)
    embeddings = load(run.path, device=device).embed(images.samples)
    return HeldOut(part, images, embeddings, epoch)
