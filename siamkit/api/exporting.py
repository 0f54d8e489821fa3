"""Exports a run's network to a folder of its own, for ONNX Runtime, OpenVINO, torch or timm."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from siamkit.api.cards import CardFacts, sections_of
from siamkit.api.models import RUN, model_of, open_run
from siamkit.api.pretrained import facts_of
from siamkit.api.results import ExportResult
from siamkit.checks import optional_text, whole_number
from siamkit.config import SAMPLE, decisive
from siamkit.config.base import expanded
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet
from siamkit.data.load import load_data
from siamkit.errors import DataError
from siamkit.files import path_of, require_unicode, write_atomic
from siamkit.inference.export.card import graph_card, quality_section
from siamkit.inference.export.folder import require_free, require_readable, write_export
from siamkit.inference.export.formats import INT8, format_of
from siamkit.inference.export.graphs import export_graph
from siamkit.inference.export.images import PreparedImages
from siamkit.inference.export.saved import Saving, export_saved, write_card
from siamkit.inference.export.subject import Converted, Subject
from siamkit.json_files import digest_of
from siamkit.model.machine import this_machine
from siamkit.model.pretrained.folder import new_folder
from siamkit.model.pretrained.identity import fingerprint_of
from siamkit.model.settings import usual_settings
from siamkit.portable.manifest import CARD, Manifest, Origin
from siamkit.portable.sessions import KERNELS
from siamkit.runs.open import OpenRun
from siamkit.spelling import command, setting

_PARTS = ("train", "val", "test")


@usual_settings()
def export(
    run_dir: str | Path,
    output: str | Path,
    *,
    format: Literal["onnx", "openvino", "torch", "timm"] = "onnx",
    quantize: Literal["int8"] | None = None,
    license: str | None = None,
    force: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    backbone: nn.Module | None = None,
    head: nn.Module | None = None,
) -> ExportResult:
    """Export the network of a run's best epoch to a folder, and measure the exported network.

    The folder holds the network, a manifest (``export.json``) with the preprocessing, the
    threshold, the quality table and the SHA-256 of each file, and a card to read. The exported
    network is compared with the run's network in torch, at batch sizes 1, 2 and 7 on images of the
    run. If their outputs differ, nothing is written. The run stays as it is.

    Args:
        run_dir: The run's directory. Its data must still be where the run found it.
        output: A folder that does not exist yet, or is empty.
        format: ``onnx``: for ONNX Runtime. ``openvino``: for OpenVINO. ``torch``: tensors and a
            config, for siamkit. ``timm``: the same, and plain timm loads the backbone too.
        quantize: ``int8``: weights and activations in 8 bits, calibrated on training images. Layers
            that cost quality stay in float32. Only for ``onnx`` and ``openvino``.
        license: The licence of the weights, for the card, spelled as on the hub, such as
            ``apache-2.0``.
        force: Whether to replace an exported model that is in the folder.
        seed: Seed of the choice of calibration images.
        progress: Called with a text for each step of the work.
        backbone: The module that the run was started with, if its backbone is an object.
        head: The module that the run was started with, if its head is an object.

    Returns:
        The output of ``siamkit export RUN -o DIR --json``, by attribute or by key.

    Raises:
        ConfigError: An argument is wrong, a package is missing, the output folder is not empty and
            may not be replaced (``force``), the network cannot be exported, or int8
            costs too much quality.
        CheckpointError: There is no such run, it has no best epoch yet, it is damaged, or the
            output of the exported network differs from that of the run's network.
        DataError: The run's images are gone or cannot be decoded.
        ResourceError: The disk is full or not writable.
    """
    start = time.perf_counter()
    wanted = format_of(format, quantize)
    target = expanded(path_of(output, "output", "a new folder"))
    require_free(target, force)
    if not wanted.packages:  # torch and timm keep files of tensors
        require_unicode(target.absolute())
    seed, license = whole_number(seed, "seed", least=0), optional_text(license, "license")
    objects = {"backbone": backbone, "head": head}
    run = open_run(path_of(run_dir, "run_dir", RUN), **objects)
    facts, subject = _subject(run, seed, progress or (lambda _: None))
    saving = Saving(license, facts.weights, sections_of(facts), objects)
    with new_folder(target) as folder:
        if wanted.packages:
            made = export_graph(subject, wanted, folder, int8=quantize == INT8)
        else:
            made = export_saved(subject, wanted.name, folder, saving)
        manifest = _completed(folder, run, subject, made, facts, license)
        require_free(target, force)  # the export took minutes, and the folder may be in use now
    return ExportResult(
        {
            "run_dir": str(run_dir),
            "output": str(target),
            **_results(made, manifest, subject),
            "notices": list(_notices(made, run)),
            "seconds": time.perf_counter() - start,
        }
    )


def _completed(
    folder: Path,
    run: OpenRun,
    subject: Subject,
    made: Converted,
    facts: CardFacts,
    license: str | None,
) -> Manifest:
    """Write the card and the manifest of an exported network, and check the complete folder."""
    machine, origin = this_machine(), _origin(run, subject)
    if made.threshold.refitted:
        facts = replace(facts, calibration=made.threshold.calibration)
    sections = [quality_section(made, subject, machine), *sections_of(facts)]
    if made.kind in KERNELS:
        text = graph_card(folder.name, made, subject, origin.fingerprint, sections, license)
        write_atomic(folder / CARD, text)
    else:
        write_card(folder, sections, license)
    manifest = write_export(folder, made, subject, machine, origin)
    require_readable(folder, manifest, subject, made)
    return manifest


def _results(made: Converted, manifest: Manifest, subject: Subject) -> dict[str, Any]:
    """Return the values of ``siamkit export --json`` that describe an exported network."""
    calibration, images = made.threshold.calibration, subject.val.images
    return {
        "format": made.kind,
        "precision": made.precision,
        "model": made.model,
        "bytes": sum(seal.bytes for seal in manifest.files.values()),
        "fingerprint": manifest.fingerprint,
        "threshold": None if calibration is None else calibration.threshold,
        "refitted": made.threshold.refitted,
        "cosine": made.cosine,
        "quality": [asdict(row) for row in made.rows],
        "images": len(images),
        "classes": len(images.classes),
        "layers": made.layers,
        "float_layers": list(made.floats),
        "machine": asdict(this_machine()),
    }


def _subject(run: OpenRun, seed: int, say: Callable[[str], None]) -> tuple[CardFacts, Subject]:
    """Return the facts for the card, the network of a run's best epoch, and the run's images."""
    net = model_of(run).float()
    facts = facts_of(run)
    train, val = _images(run)
    images, most = net.preprocessing, run.config.data.max_pixels
    of_train, of_val = (PreparedImages(part, images, most) for part in (train, val))
    return facts, Subject(net, facts.calibration, of_train, of_val, seed=seed, say=say)


def _images(run: OpenRun) -> tuple[ImageSet, ImageSet]:
    """Return the training and the validation images of a run, which must not have changed."""
    config = run.config
    try:
        splits = load_data(config.data, config.train.seed)
    except DataError as error:
        if Path(config.data.path).exists() or config.data.path == SAMPLE:
            raise
        raise DataError(
            f"{error.what}; an export is calibrated and measured on the run's images",
            where=error.where,
            hint=f"if the data was moved, {setting('data.path', 'PATH')} in "
            f"{command('train --resume', run.path)} sets its new path",
        ) from None
    for name, images in (("train", splits.train), ("val", splits.val)):
        run.require_images(name, images)
    return splits.train, splits.val


def _origin(run: OpenRun, subject: Subject) -> Origin:
    digests = {part: run.digest_of(part) for part in _PARTS}
    nothing = digest(ImageSet((), ()))
    return Origin(
        run=run.path.absolute().name,
        which="best",
        checkpoint=run.best.name,
        epoch=run.best_epoch + 1,
        fingerprint=fingerprint_of(subject.net),
        config=digest_of(decisive(run.config)),
        data={part: value for part, value in digests.items() if value not in (None, nothing)},
    )


def _notices(made: Converted, run: OpenRun) -> Mapping[str, None]:
    notices = dict.fromkeys(made.notices)
    if made.threshold.calibration is None and made.kind != "timm":
        notices["the run has no threshold, so the exported model cannot verify pairs; "
                f"{command('calibrate', run.path)} fits one; then export again"] = None  # fmt: skip
    return notices
