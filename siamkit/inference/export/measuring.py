"""Measuring: the quality table of an export, on the run's validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from siamkit.inference.export.images import embedded
from siamkit.inference.export.quality import metrics_of
from siamkit.inference.export.runners import Array, Runner
from siamkit.inference.export.subject import Row, Subject
from siamkit.inference.export.timing import paces
from siamkit.portable.manifest import Kind, Precision

Key = tuple[Kind, Precision]
"""A format and a precision."""

TORCH: Key = ("torch", "float32")
REFITTED = "far_refitted"
"""The metric of an int8 network: the false accept rate at its own threshold."""


@dataclass(frozen=True)
class Measured:
    """The measurements of several forms of a network.

    Attributes:
        rows: The quality table.
        embeddings: The embeddings ``[N, E]`` of the validation images by each form.
    """

    rows: tuple[Row, ...]
    embeddings: Mapping[Key, Array]


def measured(
    subject: Subject,
    runners: Mapping[Key, Runner],
    sizes: Mapping[Key, int],
    images: Array,
    *,
    unrelated: tuple[Key, ...] = (),
) -> Measured:
    """Measure the quality and the speed of several forms of a network, with one pass over images.

    Args:
        subject: The network and the images.
        runners: The forms.
        sizes: The size of each form, in bytes.
        images: ``[32, C, H, W]``, prepared images to measure the speed with.
        unrelated: Forms that give other embeddings than the network, to which its threshold says
            nothing.
    """
    subject.say(f"measures the quality on {len(subject.val)} validation images")
    names: dict[str, Key] = {" ".join(key): key for key in runners}
    found = embedded({n: runners[key] for n, key in names.items()}, subject.val.batches())
    embeddings = {key: found[name] for name, key in names.items()}
    subject.say("measures the speed")
    pace = paces({name: runners[key] for name, key in names.items()}, images)
    rows = tuple(
        Row(
            *key,
            metrics_of(
                embeddings[key],
                subject.val.images,
                None if key in unrelated else subject.threshold,
            ),
            sizes[key],
            pace[name].latency,
            pace[name].throughput,
        )
        for name, key in names.items()
    )
    return Measured(rows, embeddings)


def refitted(row: Row, embeddings: Array, subject: Subject, threshold: float | None) -> Row:
    """Return a row with the false accept rate at another threshold, if there is one."""
    if threshold is None:
        return row
    far = metrics_of(embeddings, subject.val.images, threshold)["far"]
    return replace(row, metrics={**row.metrics, REFITTED: far})


def size_of(net: nn.Module) -> int:
    """Return the bytes of a network's tensors."""
    return sum(tensor.nbytes for tensor in net.state_dict().values())


def bytes_of(*paths: Path) -> int:
    """Return the bytes of files."""
    return sum(path.stat().st_size for path in paths)
