"""Fits the threshold of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from siamkit.api.images import judged, root_of
from siamkit.api.models import embedder_of, open_run
from siamkit.checks import whole_number
from siamkit.config import DataConfig, calibration_config
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet
from siamkit.data.load import load_data, unseen_images
from siamkit.errors import DataError
from siamkit.files import path_of
from siamkit.inference.embedder import Embedder
from siamkit.model.settings import usual_settings
from siamkit.portable.calibration import Calibration
from siamkit.portable.folders import listed
from siamkit.runs.calibration import calibrate_run
from siamkit.runs.held_out import HeldOut
from siamkit.runs.known_classes import known_classes
from siamkit.runs.open import OpenRun
from siamkit.runs.seen import chosen_texts, seen_by, unknown_texts
from siamkit.spelling import command
from siamkit.words import plural


@usual_settings()
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
    folder = root_of(root, data)
    run = open_run(run_dir)
    wanted = run.config.calibration
    if target is not None or far is not None:
        wanted = calibration_config(target, far)
    if data is None:
        held_out, path = _own(run, device), run.config.data.path
        known = known_classes(run, held_out.images)
        return calibrate_run(run.dir, run.best, held_out, wanted, path, notices=known, seed=seed)
    path = DataConfig(path=str(path_of(data, "data"))).path
    embedder = embedder_of(run, device=device)
    found = unseen_images(path, folder, run.config.data, embedder.decoding)
    notices = [*found.notices, *judged(found.images.samples, found.facts, embedder)]
    notices += _require_not_trained_on(run, found.images, path)
    notices += known_classes(run, found.images)
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
    epoch, network = run.best_epoch, run.best.network
    preprocessing = embedder.net.preprocessing
    return HeldOut(part, images, embeddings, epoch, network, preprocessing, digest(images))
