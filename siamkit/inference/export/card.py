"""The card of an export: its ``README.md``, with what a user of the network must know."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from siamkit.config import yaml_text
from siamkit.data.digest import digest
from siamkit.inference.export.capture import INPUT, OUTPUT
from siamkit.inference.export.formats import FORMATS
from siamkit.inference.export.measuring import REFITTED
from siamkit.inference.export.subject import Converted, Row, Subject
from siamkit.interfaces import Preprocessing
from siamkit.model.machine import Machine
from siamkit.model.pretrained.card import CardSection
from siamkit.version import VERSION
from siamkit.words import plural

METRICS = {
    "recall@1": "recall@1",
    "map@r": "MAP@R",
    "auc": "AUC",
    "eer": "EER",
    "far": "false accepts",
    REFITTED: "at its own threshold",
}
"""The columns of the quality table, by metric."""


def quality_section(made: Converted, subject: Subject, machine: Machine) -> CardSection:
    """Return the quality table as a section of a card."""
    images = subject.val.images
    shown = [name for name in METRICS if any(name in row.metrics for row in made.rows)]
    rows = [(*_cells(row, shown),) for row in made.rows]
    threshold = "" if subject.threshold is None else f" ({subject.threshold:.4f})"
    chosen = "The best epoch was chosen by them"
    if subject.calibration and subject.calibration.provenance.digest == digest(images):
        chosen += ", and the threshold was fitted on them"
    lines = [
        f"Measured on the run's validation data: {images}. {chosen}, so the metrics are slightly "
        "optimistic for other images.",
        f"False accepts: the share of different pairs at or above the stored threshold{threshold}.",
        f"Speed: on {machine.cpu}, with {plural(machine.threads, 'thread')}. It includes neither "
        "decoding nor preparing images.",
        *made.notices,
    ]
    header = ("network", *(METRICS[name] for name in shown), "size", "one image", "batches of 32")
    return CardSection("Quality", lines, header, rows)


def _cells(row: Row, shown: Sequence[str]) -> list[str]:
    metrics = [row.metrics.get(name) for name in shown]
    return [
        f"{row.kind} {row.precision}",
        *("" if value is None else f"{value:.4f}" for value in metrics),
        f"{row.bytes / 1e6:.2f} MB",
        f"{row.latency * 1e3:.2f} ms",
        f"{row.throughput:.0f} images/s",
    ]


def graph_card(
    name: str,
    made: Converted,
    subject: Subject,
    fingerprint: str,
    sections: Sequence[CardSection],
    license: str | None,
) -> str:
    """Return the card of an export that runs without torch.

    Args:
        name: The name of the folder.
        made: The exported network.
        subject: The network and the images.
        fingerprint: The fingerprint of the run's network.
        sections: The sections on the quality and on the run.
        license: The licence of the weights, as the hub spells it; None if it is not stated.
    """
    front = {
        "library_name": made.kind,
        "tags": ["siamkit", "image-embeddings", "metric-learning", "image-feature-extraction"],
        "pipeline_tag": "image-feature-extraction",
        "license": license or "unknown",
    }
    normalized = ", L2-normalised" if made.normalized else ""
    intro = (
        f"Turns an image into an embedding of {made.width} numbers{normalized}. Images of the same "
        f"class have a high cosine similarity. Exported to {made.kind} in {made.precision} by "
        f"siamkit {VERSION}. It needs no PyTorch."
    )
    parts = [
        f"---\n{yaml_text.dump(front).strip()}\n---",
        f"# {name}",
        intro,
        str(_use(name, made)),
        *map(str, sections),
        str(_network(made, subject.net.preprocessing, fingerprint)),
    ]
    return "\n\n".join(parts) + "\n"


def _use(name: str, made: Converted) -> CardSection:
    verb = "verify" if made.threshold.calibration is not None else "embed"
    images = "one.jpg other.jpg" if verb == "verify" else "photos -o photos.npy"
    extra = "" if made.kind == "onnx" else f"[{made.kind}]"
    command = f"{verb} {shlex.quote(name)} {images}"
    lines = [
        f"```console\n$ pip install 'siamkit-runtime{extra}'\n$ siamkit-runtime {command}\n```",
        f"`siamkit {command}` does the same where siamkit is installed.",
    ]
    return CardSection("Use", lines)


def _network(made: Converted, images: Preprocessing, fingerprint: str) -> CardSection:
    height, width = images.size
    rows = [
        ("file", f"`{FORMATS[made.kind].model}`"),
        (f"input `{INPUT}`", f"float32, any number x {images.channels} x {height} x {width}"),
        (f"output `{OUTPUT}`", f"float32, the same number x {made.width}"),
        ("resized", f"to {width} x {height} pixels, {images.fit}, {images.interpolation}"),
        ("mean, for values in [0, 1]", ", ".join(f"{value:g}" for value in images.mean)),
        ("standard deviation", ", ".join(f"{value:g}" for value in images.std)),
    ]
    if made.layers is not None:
        rows.append(("layers in float32", f"{len(made.floats)} of {made.layers}"))
    if made.cosine is not None:
        rows.append(("least cosine similarity to torch", f"{made.cosine:.7f}"))
    rows.append(("fingerprint of the run's network", f"`{fingerprint}`"))
    return CardSection("Model", header=("", ""), rows=rows)
