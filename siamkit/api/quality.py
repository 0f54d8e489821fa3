"""Evaluates networks, fits the threshold of a run, and checks data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from siamkit.api.entries import load_config
from siamkit.api.models import embedder_of, load_embedder, open_run
from siamkit.api.results import DataResult, EvaluationResult
from siamkit.checks import require_unused, whole_number
from siamkit.config import DataConfig, Layer, calibration_config
from siamkit.data.check import check
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet, Sample, image_set_of
from siamkit.data.inputs import is_file, samples_of
from siamkit.data.leaks import no_progress
from siamkit.data.memory import Item, content_of, items_of, label_text
from siamkit.data.opening import load_data, unseen_images
from siamkit.data.overlap import Image
from siamkit.errors import CheckpointError, ConfigError, DataError
from siamkit.evaluation.summary import summarize
from siamkit.files import path_of
from siamkit.inference import exported
from siamkit.inference.embedder import Embedder
from siamkit.portable.calibration import Calibration
from siamkit.portable.cosine import vectors_of
from siamkit.portable.decode import decode
from siamkit.portable.folders import listed
from siamkit.portable.judging import judge_pictures, judge_samples
from siamkit.portable.looking import Facts, look
from siamkit.portable.manifest import is_export
from siamkit.portable.model import ExportedModel
from siamkit.runs.calibration import calibrate_run
from siamkit.runs.held_out import HeldOut
from siamkit.runs.open import OpenRun
from siamkit.runs.seen import chosen_texts, notices_on, seen_by, unknown_texts
from siamkit.spelling import argument, command, setting
from siamkit.words import plural

_AT_ONCE = 256  # images per call of an exported model


def evaluate(
    run: str | Path | Embedder | ExportedModel | None = None,
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
        run: A run's directory, an embedder, or an exported model or its folder; None if
            ``embeddings`` are given. Only a run has data of its own.
        data: Data as for :func:`siamkit.fit`. The test split is used, else the validation split,
            else everything. None: the run's own test images, else its validation images.
        root: The folder that the paths of a table in ``data`` are relative to; None: the table's
            folder.
        which: ``best``: the network of the best epoch; ``last``: that of the latest checkpoint.
        seed: Seed of the random pairs, folds, resamples and episodes.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        embeddings: Embeddings ``[N, E]`` of any network, normalised or not; a tensor or an array.
        labels: The N labels of ``embeddings``, names or numbers.
        **objects: The objects that the run was started with: ``backbone``, ``head``.

    Returns:
        The output of ``siamkit evaluate RUN --json``, by attribute or by key; see
        :func:`siamkit.evaluation.summary.summarize`.

    Raises:
        SiamkitError: See :mod:`siamkit.errors` for which.
    """
    seed = whole_number(seed, "seed", least=0)
    of_a_run = {
        **objects,
        "which": None if which == "best" else which,
        "device": None if device == "auto" else device,
    }
    if embeddings is not None:
        others = (run, data, *objects.values())
        if labels is None or any(other is not None for other in others):
            raise ConfigError(
                "need labels, and cannot be combined with a run, data or objects",
                where="embeddings",
                hint="siamkit.evaluate(embeddings=E, labels=y)",
            )
        require_unused({**of_a_run, "root": root}, "embeddings, which need no network and no files")
        summary = summarize(*_labelled(embeddings, labels), seed=seed)
        about = {"path": "embeddings", "part": "all"}
        return EvaluationResult({"run_dir": None, "which": None, "data": about, **summary})
    if run is None:
        raise ConfigError("is missing: pass a run, or embeddings and labels", where="run")
    require_unused({"labels": labels}, "a run or an embedder, whose data has its labels")
    folder = _root(root, data)
    opened: OpenRun | None = None
    embedder: Embedder | ExportedModel
    if isinstance(run, Embedder | ExportedModel):
        require_unused(of_a_run, "an embedder, which has its network on its device")
        embedder = run
    elif is_export(run):
        portable = exported.runs_here(run)
        require_unused(objects if portable else {}, "an exported model, which needs no objects")
        loading: Any = exported.load_embedder if portable else load_embedder
        embedder = loading(run, which, device=device, **objects)
    else:
        opened = _opened(run, objects)
        embedder = embedder_of(opened, which, device=device)
    result = _evaluated(opened, embedder, data, folder, which, seed)
    place = str(run) if isinstance(run, str | os.PathLike) else None
    return EvaluationResult({"run_dir": place, **result})


def _opened(run: Any, objects: Mapping[str, Any]) -> OpenRun:
    if isinstance(run, nn.Module):
        raise ConfigError(
            "is a network",
            where="run",
            got=type(run),
            allowed="a run's directory, or a siamkit.Embedder",
            hint="write siamkit.evaluate(siamkit.Embedder(NET), DATA) for a siamkit.SiameseNet, or "
            "siamkit.evaluate(embeddings=E, labels=y) for any network",
        )
    path_of(run, "run", "a run's directory, or an Embedder")
    return open_run(run, **objects)


def _evaluated(
    run: OpenRun | None,
    embedder: Embedder | ExportedModel,
    data: Any,
    folder: Path | None,
    which: Literal["best", "last"],
    seed: int,
) -> dict[str, Any]:
    """Return the metrics of an embedder on images, and how its run used these images before."""
    notices: list[str] = []
    images, inputs, about = _images(run, embedder, data, folder, notices)
    calibration = _calibration(embedder, notices)
    embeddings = _embeddings(embedder, inputs)
    entries = [_entry(image, number) for number, image in enumerate(inputs)]
    seen = seen_by(run, images, which, calibration, entries)
    notices += notices_on(seen)
    threshold = None if calibration is None else calibration.threshold
    summary = summarize(embeddings, images, threshold=threshold, seed=seed)
    return {
        "which": None if run is None else which,
        "data": {**about, "chose": seen.chose, "trained_on": seen.trained.number},
        **summary,
        "notices": [*notices, *summary["notices"]],
    }


def _images(
    run: OpenRun | None,
    embedder: Embedder | ExportedModel,
    data: Any,
    folder: Path | None,
    notices: list[str],
) -> tuple[ImageSet, Sequence[Any], dict[str, str]]:
    """Return the image set to evaluate on, the embedder's input for each image, and its origin."""
    if data is None:
        if run is None:
            raise ConfigError(
                "is missing: an embedder or an exported model has no data of its own", where="data"
            )
        splits = load_data(run.config.data, run.config.train.seed)
        images = splits.test or splits.val
        run.require_images("test" if splits.test else "val", images)
        notices += _judged(images.samples, splits.facts, embedder)
        part = "the run's test images" if splits.test else "the run's validation images"
        return images, images.samples, {"path": run.config.data.path, "part": part}
    if isinstance(data, str | os.PathLike):
        path, config = str(path_of(data, "data")), None if run is None else run.config.data
        found = unseen_images(path, folder, config, embedder.decoding)
        notices += [*found.notices, *_judged(found.images.samples, found.facts, embedder)]
        return found.images, found.images.samples, {"path": path, "part": found.part}
    items = items_of(data, notices, training=False)
    split = next(s for s in ("test", "val", "train", None) if any(i.split == s for i in items))
    chosen = [item for item in items if item.split == split]
    images = image_set_of([item.label for item in chosen])
    query, gallery = _flags(i.query for i in chosen), _flags(i.gallery for i in chosen)
    images = replace(images, query=query, gallery=gallery)
    inputs = [_input(item) for item in chosen]
    files = samples_of([image for image in inputs if is_file(image)])
    looks = look([file.path for file in files], embedder.decoding)
    notices += _judged(files, {found.path: found for found in looks}, embedder)
    notices += judge_pictures([image for image in inputs if not is_file(image)], embedder)
    return images, inputs, {"path": "images", "part": split or "all"}


def _judged(
    samples: Iterable[Sample], facts: Mapping[Path, Facts], embedder: Embedder | ExportedModel
) -> list[str]:
    """Return notices about what an embedder's preparation loses of images."""
    files = [(sample.path, sample.box) for sample in samples]
    return judge_samples(files, facts, embedder.preprocessing, embedder.decoding)


def _embeddings(embedder: Embedder | ExportedModel, inputs: Sequence[Any]) -> NDArray[Any]:
    if isinstance(embedder, Embedder):
        return embedder.embed(inputs).numpy()
    parts = [
        embedder.embed([_whole(image, embedder) for image in some])
        for some in (inputs[at : at + _AT_ONCE] for at in range(0, len(inputs), _AT_ONCE))
    ]
    return np.concatenate(parts)


def _whole(image: Any, embedder: ExportedModel) -> Any:
    """Return an image as an exported model takes it: a file, or the decoded part in a box."""
    if not isinstance(image, Sample):
        return image
    return image.path if image.box is None else decode(image.path, embedder.decoding, image.box)


def _flags(flags: Iterable[bool | None]) -> tuple[bool, ...] | None:
    """Return whether each image has a role (query or gallery); None if the data sets no roles."""
    known = tuple(flags)
    return None if all(flag is None for flag in known) else tuple(map(bool, known))


def _input(item: Item) -> Any:
    """Return an image as the embedder takes it."""
    if item.box is None:
        return Path(item.image) if item.in_file else item.image
    return Sample(Path(item.image), 0, str(item.image), item.box)


def _entry(image: Any, number: int) -> Image:
    """Return what identifies an image: its file, or, for an image in memory, its content."""
    if isinstance(image, Sample):
        return image
    return Sample(image, 0, str(image)) if isinstance(image, Path) else content_of(image, number)


def _labelled(embeddings: Any, labels: Any) -> tuple[NDArray[Any], ImageSet]:
    try:
        vectors = vectors_of(embeddings)
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
            "must be one vector per label",
            where="embeddings",
            got=f"shape {list(vectors.shape)} and {len(names)} labels",
            allowed="[N, E] and N labels",
        )
    if not vectors.size:
        raise DataError("must not be empty", where="embeddings", got=f"shape {list(vectors.shape)}")
    if not np.isfinite(vectors).all():
        raise DataError("contain NaN or infinity", where="embeddings")
    known = [name for name in names if name is not None]
    if len(known) < len(names):
        place = names.index(None)
        raise DataError("a label must be a name or a number", where=f"labels item {place}",
                        got=str(given[place]))  # fmt: skip
    return vectors, image_set_of(known)


def _root(root: Any, data: Any) -> Path | None:
    """Return the folder that a table's paths are relative to. Only a table may have one."""
    if not isinstance(data, str | os.PathLike):
        beside = "the run's own data" if data is None else "images that are given in Python"
        require_unused({argument("root"): root}, beside)
    return None if root is None else path_of(root, "root", "a folder")


def _calibration(embedder: Embedder | ExportedModel, notices: list[str]) -> Calibration | None:
    """Return the calibration of the embedder's network; None, with a notice, if it is unusable."""
    try:
        return embedder.calibration
    except CheckpointError as error:
        notices.append(f"no error rates at a threshold: {error}")
        return None


def check_data(
    data: str | Path | Mapping[str, Any],
    *,
    root: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    strict: bool | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> DataResult:
    """Check data for problems: bad rows, unreadable images, leaks, label conflicts.

    Args:
        data: A folder, a table, LFW's pairs, or ``sample``. Or the section ``data`` of a
            configuration, such as ``{"path": "scans", "range": [0, 1]}``.
        root: The folder that a table's paths are relative to; None: the table's folder.
        path_column: The column of a table with the images' paths; None: ``path``.
        label_column: The column of a table with the images' classes; None: ``label``.
        strict: Whether an image or a group in two splits is a problem; None: as ``data`` says, by
            default no.
        seed: Seed of the choice of held-out classes.
        progress: Called with the name of a step, the number of finished images, and the number of
            all images.

    Raises:
        ConfigError: An argument is wrong, or ``data`` is in memory, which only
            :func:`siamkit.fit` checks.
        DataError: The data cannot be read: there is no such file, or a row is wrong.
    """
    section = dict(data) if isinstance(data, Mapping) else {}
    path = section.get("path") if isinstance(data, Mapping) else data
    folder = _root(root, path)
    given = {
        "path": str(path_of(path, "data", "a folder or a table of images")),
        "root": None if folder is None else str(folder),
        "path_column": path_column,
        "label_column": label_column,
        "strict": strict,
    }
    values = section | {key: value for key, value in given.items() if value is not None}
    config = load_config(Layer({"data": values}, setting))
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

    ``provenance.notices`` of the result describes limits of the images: for example, that they also
    chose the best epoch.

    Args:
        run_dir: The run's directory.
        data: Images that the run did not train on, as a path for :func:`evaluate`; None: the run's
            own validation images.
        root: As for :func:`evaluate`.
        target: ``eer``: equal rates of false accepts and false rejects. ``far``: a given false
            accept rate. ``accuracy``: the best accuracy, with same and different pairs weighted
            equally. None: ``far`` if a rate is given, else the target of the run's config.
        far: The false accept rate, in (0, 1).
        seed: Seed of the sample of pairs, if there are too many to use all.
        device: The device to embed on: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises:
        ConfigError: An argument is wrong, such as a rate for a target that takes none.
        CheckpointError: There is no such run, or it is damaged.
        DataError: The run trained on some of the images, or they do not allow a threshold; an
            earlier threshold is kept.
    """
    seed = whole_number(seed, "seed", least=0)
    folder = _root(root, data)
    run = open_run(run_dir)
    wanted = run.config.calibration
    if target is not None or far is not None:
        wanted = calibration_config(target, far)
    if data is None:
        held_out, path = _own(run, device), run.config.data.path
        return calibrate_run(run.dir, run.best, held_out, wanted, path, seed=seed)
    path = DataConfig(path=str(path_of(data, "data"))).path
    embedder = embedder_of(run, device=device)
    found = unseen_images(path, folder, run.config.data, embedder.decoding)
    notices = [*found.notices, *_judged(found.images.samples, found.facts, embedder)]
    notices += _require_not_trained_on(run, found.images, path)
    held_out = _embedded(run, embedder, found.part, found.images)
    return calibrate_run(run.dir, run.best, held_out, wanted, path, notices=notices, seed=seed)


def _require_not_trained_on(run: OpenRun, images: ImageSet, path: str) -> list[str]:
    """Check that a run did not train on images; return notices for a threshold fitted on them.

    Raises:
        DataError: The run trained on some of the images.
    """
    seen = seen_by(run, images, "best", None)
    if trained := seen.trained.found:
        names = listed([images.samples[place].key for place in trained])
        raise DataError(
            f"the run trained on {len(trained)} of the {plural(len(images), 'image')}, so a "
            f"threshold that is fitted on them does not suit other images:{names}",
            where=path,
            hint="use images that the run did not train on; "
            f"{command('calibrate', run.path)} uses its own validation images",
        )
    chosen = [
        f"{text}, so the rates are optimistic for other images" for text in chosen_texts(seen)
    ]
    return [*chosen, *unknown_texts(seen)]


def _own(run: OpenRun, device: str) -> HeldOut:
    """Return a run's validation images, embedded by the network of its best epoch."""
    kept = run.held_out("val")
    if kept is not None:
        return kept
    images = load_data(run.config.data, run.config.train.seed).val
    run.require_images("val", images)
    return _embedded(run, embedder_of(run, device=device), "val", images)


def _embedded(run: OpenRun, embedder: Embedder, part: str, images: ImageSet) -> HeldOut:
    embeddings = embedder.embed(images.samples).numpy()
    epoch, network = run.best.state["best_epoch"], run.best.network
    preprocessing = embedder.net.preprocessing
    return HeldOut(part, images, embeddings, epoch, network, preprocessing, digest(images))
