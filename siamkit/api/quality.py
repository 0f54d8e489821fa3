"""The evaluation of a network, its threshold, and checks of data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from siamkit.api.checks import whole_number
from siamkit.api.entries import load_config
from siamkit.api.models import embedder_of, load_embedder, open_run
from siamkit.api.results import DataResult, EvaluationResult
from siamkit.api.seen import chosen_by, notices_on, trained_on
from siamkit.config import calibration_config
from siamkit.data.check import check
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet, Sample, image_set_of
from siamkit.data.leaks import no_progress
from siamkit.data.memory import Item, items_of, label_text
from siamkit.data.opening import load_data, unseen_images
from siamkit.errors import CheckpointError, ConfigError, DataError
from siamkit.evaluation.calibration import Calibration
from siamkit.evaluation.summary import summarize
from siamkit.files import path_of
from siamkit.inference.embedder import Embedder
from siamkit.inference.pair_lists import PairVerdicts, read_pairs, require_new
from siamkit.inference.pair_lists import verify_pairs as pairs_verified
from siamkit.runs.calibration import calibrate_run
from siamkit.runs.held_out import HeldOut
from siamkit.runs.open import OpenRun


def evaluate(
    run: str | Path | Embedder | None = None,
    data: Any = None,
    *,
    root: str | Path | None = None,
    which: Literal["best", "last"] = "best",
    seed: int = 0,
    device: str = "auto",
    embeddings: Any = None,
    labels: Iterable[Any] | None = None,
    **objects: Any,
) -> EvaluationResult:
    """Measure retrieval, verification and few-shot learning, with chance levels and intervals.

    Args:
        run: A run's directory, or an embedder; None with ``embeddings``.
        data: Data as for :func:`siamkit.fit`. The test split is used, else the validation split,
            else everything. None: the run's own test images, else its validation images.
        root: The folder that a table's paths are relative to; None: the table's folder.
        which: The network of the best epoch, or the last saved one.
        seed: Seed of the random pairs, folds, resamples and episodes.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        embeddings: Embeddings ``[N, E]`` of any network, normalised or not; a tensor or an array.
        labels: Their N labels, names or numbers.
        **objects: The objects that the run was started with: ``backbone``, ``head``.

    Returns:
        The output of ``siamkit evaluate RUN --json``, by attribute or by key; see
        :func:`siamkit.evaluation.summary.summarize`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    seed = whole_number(seed, "seed")
    if embeddings is not None:
        if run is not None or data is not None or labels is None:
            raise ConfigError(
                "need labels, and neither a run nor data",
                where="embeddings",
                hint="siamkit.evaluate(embeddings=E, labels=y)",
            )
        summary = summarize(*_labelled(embeddings, labels), seed=seed)
        about = {"path": "embeddings", "part": "all"}
        return EvaluationResult({"run_dir": None, "which": None, "data": about, **summary})
    if run is None:
        raise ConfigError("is missing: pass a run, or embeddings and labels", where="run")
    opened: OpenRun | None = None
    if isinstance(run, Embedder):
        if given := [name for name, value in objects.items() if value is not None]:
            what = "cannot be used with an embedder, which has its network"
            raise ConfigError(what, where=", ".join(given), hint="leave them out")
        embedder = run
    elif isinstance(run, nn.Module):
        raise ConfigError(
            "is a network",
            where="run",
            got=type(run),
            allowed="a run's directory, or a siamkit.Embedder",
            hint="write siamkit.evaluate(siamkit.Embedder(NET), DATA) for a siamkit.SiameseNet, or "
            "siamkit.evaluate(embeddings=E, labels=y) for any network",
        )
    else:
        path_of(run, "run", "a run's directory, or an Embedder")
        opened = open_run(run, **objects)
        embedder = embedder_of(opened, which, device=device)
    notices: list[str] = []
    images, samples, about = _images(opened, data, root, notices)
    threshold = _threshold(embedder, notices)
    chose = chosen_by(images, opened, which, embedder)
    by_path = isinstance(data, str | os.PathLike)
    trained = trained_on(images, opened) if opened is not None and by_path else 0
    notices += notices_on(chose, trained, len(images))
    summary = summarize(embedder.embed(samples), images, threshold=threshold, seed=seed)
    return EvaluationResult(
        {
            "run_dir": None if opened is None else str(run),
            "which": None if opened is None else which,
            "data": {**about, "chose": list(chose), "trained_on": trained},
            **summary,
            "notices": [*notices, *summary["notices"]],
        }
    )


def _images(
    run: OpenRun | None, data: Any, root: str | Path | None, notices: list[str]
) -> tuple[ImageSet, Any, dict[str, str]]:
    """Return the images to evaluate on, their inputs for the embedder, and their origin."""
    if data is None:
        if run is None:
            raise ConfigError("is missing: an embedder needs data", where="data")
        splits = load_data(run.config.data, run.config.train.seed)
        images = splits.test or splits.val
        run.require_images("test" if splits.test else "val", images)
        part = "the run's test images" if splits.test else "the run's validation images"
        return images, images.samples, {"path": run.config.data.path, "part": part}
    if isinstance(data, str | os.PathLike):
        path, config = str(path_of(data, "data")), None if run is None else run.config.data
        images, part = unseen_images(path, _root(root), config)
        return images, images.samples, {"path": path, "part": part}
    items = items_of(data, notices, training=False)
    split = next(s for s in ("test", "val", "train", None) if any(i.split == s for i in items))
    chosen = [item for item in items if item.split == split]
    images = image_set_of([item.label for item in chosen])
    query, gallery = _flags(i.query for i in chosen), _flags(i.gallery for i in chosen)
    images = replace(images, query=query, gallery=gallery)
    return images, [_input(i) for i in chosen], {"path": "images", "part": split or "all"}


def _flags(flags: Iterable[bool | None]) -> tuple[bool, ...] | None:
    """Return the roles of images; None if no image has one."""
    known = tuple(flags)
    return None if all(flag is None for flag in known) else tuple(map(bool, known))


def _input(item: Item) -> Any:
    """Return an image as the embedder takes it."""
    if item.box is None:
        return Path(item.image) if item.in_file else item.image
    return Sample(Path(item.image), 0, str(item.image), item.box)


def _labelled(embeddings: Any, labels: Any) -> tuple[Tensor, ImageSet]:
    try:
        vectors = torch.as_tensor(embeddings).detach().float().cpu()
        given = list(labels)
        names = [label_text(label) for label in given]
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cannot be read: {error}",
            where="embeddings and labels",
            allowed="numbers [N, E] and N labels",
        ) from None
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise DataError(
            "the numbers of embeddings and labels differ",
            where="embeddings",
            got=f"shape {list(vectors.shape)} and {len(names)} labels",
            allowed="[N, E] and N labels",
        )
    if not vectors.numel():
        raise DataError("there are none", where="embeddings", got=f"shape {list(vectors.shape)}")
    if not torch.isfinite(vectors).all():
        raise DataError("contain NaN or infinity", where="embeddings")
    known = [name for name in names if name is not None]
    if len(known) < len(names):
        place = names.index(None)
        raise DataError("a label must be a name or a number", where=f"labels item {place}",
                        got=str(given[place]))  # fmt: skip
    return vectors, image_set_of(known)


def _root(root: Any) -> Path | None:
    return None if root is None else path_of(root, "root", "a folder")


def _threshold(embedder: Embedder, notices: list[str]) -> float | None:
    """Return the threshold that was fitted for the embedder's network; a notice says why not."""
    try:
        return embedder.calibration.threshold
    except CheckpointError as error:
        notices.append(f"no error rates at a threshold: {error}")
        return None


def verify_pairs(
    run_dir: str | Path,
    pairs: str | Path,
    *,
    output: str | Path | None = None,
    device: str = "auto",
) -> PairVerdicts:
    """Verify each pair of a list, like ``siamkit verify RUN --pairs FILE``.

    Args:
        run_dir: The run; its network of the best epoch and its threshold decide.
        pairs: A table with the columns ``a``, ``b`` and optionally ``same``; paths are relative to
            its folder.
        output: A new CSV file for the verdicts; None writes no file.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ConfigError: ``output`` exists, or its folder doesn't.
        CheckpointError: There is no run, or its network has no threshold.
        DataError: Some rows are unusable; the message lists them, and no image is embedded.
    """
    path = path_of(pairs, "pairs", "a table of pairs")
    target = None if output is None else path_of(output, "output", "a new CSV file")
    if target is not None:
        require_new(target)
    embedder = load_embedder(run_dir, device=device)
    table = read_pairs(path, embedder.decoding)
    verdicts = pairs_verified(embedder, table, path)
    if target is not None:
        verdicts.save(target)
    return verdicts


def check_data(
    data: str | Path,
    *,
    root: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> DataResult:
    """Check data for problems: bad rows, unreadable images, leaks, label conflicts.

    Args:
        data: A folder, a table, LFW's pairs, or ``sample``.
        root: The folder that a table's paths are relative to; None: the table's folder.
        path_column: The column of a table with the images' paths; None: ``path``.
        label_column: The column of a table with the images' classes; None: ``label``.
        seed: Seed of the choice of held-out classes.
        progress: Called with the name of a step, and the numbers of finished and of all images.

    Raises:
        ConfigError: An argument is no path; :func:`siamkit.fit` checks other data when it starts.
        DataError: The data cannot be read: no such file, bad rows.
    """
    path, folder = path_of(data, "data", "a folder or a table of images"), _root(root)
    values = {
        "path": str(path), "root": folder and str(folder), "path_column": path_column,
        "label_column": label_column,
    }  # fmt: skip
    config = load_config({"data": values})
    report = check(config.data, whole_number(seed, "seed"), progress or no_progress)
    return DataResult(report)


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
    """Fit the threshold of a run again, without training, and store it with the run.

    Args:
        run_dir: The run.
        data: As for :func:`evaluate`; None: the run's own validation images.
        root: As for :func:`evaluate`.
        target: ``eer``: equal rates of false accepts and false rejects. ``far``: a given false
            accept rate. ``accuracy``: the best accuracy, with same and different pairs weighted
            equally. None: ``far`` if a rate is given, else the target of the run's config.
        far: The false accept rate, in (0, 1).
        seed: Seed of the sample of pairs, if there are too many to use all.
        device: The device to embed on: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ConfigError: The target does not take a rate, or needs one.
        CheckpointError: There is no such run, or it is damaged.
        DataError: The images do not allow it; an earlier threshold is kept.
    """
    seed = whole_number(seed, "seed")
    run = open_run(run_dir)
    wanted = run.config.calibration
    if target is not None or far is not None:
        wanted = calibration_config(target, far)
    held_out = _held_out(run, data, root, device)
    path = run.config.data.path if data is None else str(path_of(data, "data"))
    return calibrate_run(run.dir, run.best, held_out, wanted, path, seed=seed)


def _held_out(
    run: OpenRun, data: str | Path | None, root: str | Path | None, device: str
) -> HeldOut:
    """Return images that the run did not train on, embedded by the network of its best epoch."""
    config = run.config
    if data is None:
        kept = run.held_out("val")
        if kept is not None:
            return kept
        images, part = load_data(config.data, config.train.seed).val, "val"
        run.require_images("val", images)
    else:
        images, part = unseen_images(str(path_of(data, "data")), _root(root), config.data)
    embedder = embedder_of(run, device=device)
    embeddings = embedder.embed(images.samples)
    epoch, network = run.best.state["best_epoch"], run.best.network
    preprocessing = embedder.net.preprocessing
    return HeldOut(part, images, embeddings, epoch, network, preprocessing, digest(images))
