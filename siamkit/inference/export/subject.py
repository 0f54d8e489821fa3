"""The subject of an export: a run's network, its threshold, and the images to measure it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from siamkit.inference.export.capture import INPUT, OUTPUT
from siamkit.inference.export.images import PreparedImages
from siamkit.inference.export.quality import Metrics
from siamkit.inference.export.thresholds import Threshold
from siamkit.model.siamese import SiameseNet
from siamkit.portable.calibration import Calibration
from siamkit.portable.manifest import Kind, Precision

Say = Callable[[str], None]
"""Tells the user what is done at the moment."""


@dataclass(frozen=True)
class Subject:
    """The network to export, and the images to measure it on.

    Attributes:
        net: The network, on the CPU and in eval mode.
        calibration: The threshold of the network; None if the run has none.
        train: The training images, to calibrate int8 on.
        val: The validation images, to measure the quality on.
        seed: The seed of the choice of images.
        say: Tells the user what is done at the moment.
    """

    net: SiameseNet
    calibration: Calibration | None
    train: PreparedImages
    val: PreparedImages
    seed: int = 0
    say: Say = lambda _: None

    @property
    def threshold(self) -> float | None:
        """The stored threshold."""
        return None if self.calibration is None else self.calibration.threshold


@dataclass(frozen=True)
class Row:
    """A row of the quality table.

    Attributes:
        kind: The format; ``torch`` is the run's own network.
        precision: ``float32`` or ``int8``.
        metrics: The metrics of the validation images; see :func:`.quality.metrics_of`.
        bytes: The size of the network.
        latency: Seconds for a batch of one image.
        throughput: Images per second in batches of 32.
    """

    kind: Kind
    precision: Precision
    metrics: Metrics
    bytes: int
    latency: float
    throughput: float


@dataclass(frozen=True)
class Converted:
    """An exported network, of which nothing is published yet.

    Attributes:
        kind: The format.
        precision: ``float32`` or ``int8``.
        model: The name of the network's main file.
        width: The width of the embeddings.
        normalized: Whether the embeddings are L2-normalised.
        rows: The quality table.
        cosine: The least cosine similarity to torch; None for int8.
        threshold: The calibration of the exported network.
        floats: The layers of an int8 network that stay in float32.
        layers: The number of layers that could be quantized; None for float32.
        notices: What a user of the network should know.
        input: The name of the network's input.
        output: The name of the network's output.
    """

    kind: Kind
    precision: Precision
    model: str
    width: int
    normalized: bool
    rows: tuple[Row, ...]
    cosine: float | None
    threshold: Threshold
    floats: tuple[str, ...] = ()
    layers: int | None = None
    notices: tuple[str, ...] = ()
    input: str = INPUT
    output: str = OUTPUT
