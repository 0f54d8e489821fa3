"""Evaluates embeddings, exported models and the networks of runs.

Torch is imported only for the network of a run, and for a model that was exported for torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from siamkit.api.embedding import exported_embeddings
from siamkit.api.images import images_of, root_of
from siamkit.api.results import EvaluationResult
from siamkit.checks import require_unused, whole_number
from siamkit.data.alike_names import alike_notices
from siamkit.data.images import ImageSet, image_set_of
from siamkit.data.memory import label_text
from siamkit.errors import CheckpointError, ConfigError, DataError
from siamkit.evaluation.summary import summarize
from siamkit.inference import exported
from siamkit.model.settings import usual_settings
from siamkit.portable.arrays import array_of
from siamkit.portable.calibration import Calibration
from siamkit.portable.cosine import vectors_of
from siamkit.portable.model import ExportedModel
from siamkit.runs.known_classes import known_classes
from siamkit.runs.seen import notices_on, seen_by

if TYPE_CHECKING:
    from siamkit.inference.embedder import Embedder
    from siamkit.runs.open import OpenRun


@usual_settings()
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
        vectors, images = _labelled(embeddings, labels)
        summary = summarize(vectors, images, seed=seed)
        summary["notices"] = [*alike_notices("class", images.classes), *summary["notices"]]
        about = {"path": "embeddings", "part": "all"}
        return EvaluationResult({"run_dir": None, "which": None, "data": about, **summary})
    if run is None:
        raise ConfigError("is missing: pass a run, or embeddings and labels", where="run")
    require_unused({"labels": labels}, "a run or an embedder, whose data has its labels")
    folder = root_of(root, data)
    opened: OpenRun | None = None
    embedder: Any
    if isinstance(run, ExportedModel):
        require_unused(of_a_run, "an exported model, which has its network on its device")
        embedder = run
    elif exported.runs_here(run):
        require_unused(objects, "an exported model, which needs no objects")
        embedder = exported.load_embedder(cast("Path", run), which, device=device)
    else:
        from siamkit.api.models import trained  # imports torch

        opened, embedder = trained(run, which, device=device, **objects)
    result = _evaluated(opened, embedder, data, folder, which, seed)
    place = str(run) if isinstance(run, str | os.PathLike) else None
    return EvaluationResult({"run_dir": place, **result})


def _evaluated(
    run: OpenRun | None,
    embedder: Any,
    data: Any,
    folder: Path | None,
    which: Literal["best", "last"],
    seed: int,
) -> dict[str, Any]:
    """Return the metrics of an embedder on images, and how its run used these images before."""
    given = images_of(run, embedder, data, folder)
    notices = list(given.notices)
    calibration = _calibration(embedder, notices)
    embeddings = _embeddings(embedder, given.inputs)
    seen = seen_by(run, given.images, which, calibration, given.entries)
    notices += [*notices_on(seen), *known_classes(run, given.images)]
    threshold = None if calibration is None else calibration.threshold
    summary = summarize(embeddings, given.images, threshold=threshold, seed=seed)
    return {
        "which": None if run is None else which,
        "data": {**given.about, "chose": seen.chose, "trained_on": seen.trained.number},
        **summary,
        "notices": [*notices, *summary["notices"]],
    }


def _embeddings(embedder: Embedder | ExportedModel, inputs: Sequence[Any]) -> NDArray[Any]:
    if not isinstance(embedder, ExportedModel):
        return array_of(embedder.embed(inputs))
    return np.concatenate(list(exported_embeddings(embedder, inputs)))


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


def _calibration(embedder: Embedder | ExportedModel, notices: list[str]) -> Calibration | None:
    """Return the calibration of the embedder's network; None, with a notice, if it is unusable."""
    try:
        return embedder.calibration
    except CheckpointError as error:
        notices.append(f"no error rates at a threshold: {error}")
        return None
