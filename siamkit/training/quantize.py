"""The int8 prefix: quantizes the part of a network that is frozen during the whole run.

What is frozen is a fixed function, and the rest is trained on its output. So the function may as
well be one that the CPU computes several times as fast, if its output still tells the classes
apart: the rest adapts to it, and the same function is used afterwards.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamkit.engine.boundary import Boundary, find_boundaries
from siamkit.engine.cutting import Cut, first_exact_cut
from siamkit.engine.difference import relative_difference
from siamkit.engine.kernels.build import KernelSource
from siamkit.engine.kernels.onnxruntime import exported, missing
from siamkit.engine.sources import TRAIN
from siamkit.errors import ConfigError, SiamkitError
from siamkit.freezing.controller import FreezeController
from siamkit.inference.quantizing.onnx import OnnxQuantizer
from siamkit.inference.quantizing.search import choose
from siamkit.interfaces import FreezePlan, Phase
from siamkit.model.quantized import ROWS, Quantized
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import evaluating
from siamkit.spelling import setting
from siamkit.training.build import Setup
from siamkit.training.loading import VAL, LoadedSet
from siamkit.training.validation import evaluator_of

INT8 = "int8"
CALIBRATION_IMAGES = 64
"""The views of training images that the ranges of activations are measured on."""

_JUDGED = 256  # validation images that the quality is measured on
_DIFFERENT = 0.02
"""The mean distance, 1 - cosine, of centred features that counts as a loss of 0.01 in recall."""

_BACKBONE = "backbone."
_SECONDS = 60.0  # for the search of layers that stay in float32
_SAME = 1e-4  # of the largest output: the patched network against the suffix


@dataclass(frozen=True)
class QuantizedPrefix:
    """The quantized part of a network.

    Attributes:
        record: The record, which has been applied to the network.
        notice: What the user should know about it.
    """

    record: Quantized
    notice: str


def quantize_prefix(setup: Setup, sets: Mapping[str, LoadedSet]) -> QuantizedPrefix:
    """Replace the part of a network that no phase trains by one in int8, in place.

    Args:
        setup: The parts of a new run.
        sets: Its image sets.

    Raises:
        ConfigError: Nothing stays frozen, the part cannot be quantized, or the quality would
            suffer; the message says why.
    """
    started = time.monotonic()
    _require_possible(setup)
    net = setup.net
    plan = _union(setup.schedule.phases())
    stages = setup.schedule.stages
    FreezeController(net, stages).apply(plan)
    boundaries = [b for b in find_boundaries(net, stages, plan) if _BACKBONE in b.module]
    if not boundaries:
        raise _refused("no part at the start of the backbone stays frozen during the whole run")
    calibration = _views(sets[TRAIN], CALIBRATION_IMAGES)
    reasons: list[str] = []
    for boundary in boundaries:
        cut, why = first_exact_cut(net, [boundary], calibration[:3])
        if cut is None:
            reasons += why
            continue
        try:
            record = _quantized(setup, sets, cut, boundary, calibration)
        except SiamkitError as error:
            reasons.append(f"{boundary.name}: {error}")
            continue
        seconds = time.monotonic() - started
        return QuantizedPrefix(record, _notice(record, seconds))
    raise _refused("; ".join(reasons))


def _require_possible(setup: Setup) -> None:
    if setup.device.type != "cpu":
        raise _refused(f"it runs on a CPU only, and this run is on {setup.device.type}")
    if reason := missing(setup.device):
        raise _refused(reason)
    if setup.config.engine.cut == "off":
        raise _refused("engine.cut is off")


def _refused(why: str) -> ConfigError:
    return ConfigError(
        f"an int8 prefix is not possible: {why}",
        where="engine.prefix",
        got=INT8,
        hint=f"use {setting('engine.prefix', 'auto')}, which computes in float32, or a policy that "
        "keeps the first stages frozen",
    )


def _union(phases: Iterable[Phase]) -> FreezePlan:
    """Return the plan that trains whatever one of the phases trains."""
    plans = [phase.plan for phase in phases]
    trainable = frozenset[str]().union(*(plan.trainable for plan in plans))
    norms = {plan.norm for plan in plans}
    norm = next(n for n in ("train", "affine", "frozen") if n in norms)
    return FreezePlan(trainable, norm=norm)


def _views(images: LoadedSet, count: int) -> Tensor:
    """Return views ``[count, C, H, W]`` of images that are spread over a set.

    If there are fewer images, they come again, in other views.
    """
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int).tolist()
    return torch.stack(
        [images.example(places[n % len(places)], n // len(places)) for n in range(count)]
    )


def _quantized(
    setup: Setup,
    sets: Mapping[str, LoadedSet],
    cut: Cut,
    boundary: Boundary,
    calibration: Tensor,
) -> Quantized:
    """Quantize a prefix, apply the record, and return it."""
    net, backbone = setup.net, setup.net.backbone
    if not cut.frontier.is_plain:
        raise _refused("several tensors cross the boundary")
    backbone.stages()  # discovered now, while all modules still run
    example = calibration[torch.arange(ROWS) % len(calibration)]
    with evaluating(net):
        source = KernelSource(cut.prefix, example, "fp32")
        model = exported(source.graph, example)
    judged = [sets[VAL].example(i, 0) for i in range(min(_JUDGED, len(sets[VAL])))]
    images = torch.stack(judged)
    with TemporaryDirectory() as folder, evaluating(net):
        place = Path(folder)
        (place / "float.onnx").write_bytes(model)
        quantizer = OnnxQuantizer(place / "float.onnx", calibration.numpy(), place, ROWS)
        judge = _Judge(setup, sets[VAL], cut, images)
        before = judge.activations(cut.prefix)

        def activations(floats: Collection[str]) -> Tensor:
            return judge.activations(_in_rows(quantizer.quantized(floats)))

        def loss(floats: Collection[str]) -> float:
            return judge.loss(before, activations(floats))

        def error(floats: Collection[str]) -> float:
            few = calibration[: 2 * ROWS]
            run = _in_rows(quantizer.quantized(floats))
            return _distance(judge.pooled(cut.prefix(few)), judge.pooled(run(few)))

        chosen = choose(
            quantizer.layers, loss, error, weightless=quantizer.weightless, seconds=_SECONDS
        )
        if chosen.loss > 2 * 0.01:
            raise _refused(
                f"the quality of the features falls by {chosen.loss:.3f} with "
                f"{len(chosen.floats)} of {chosen.layers} layers in float32"
            )
        quantizer.write(chosen.floats, place / "int8.onnx")
        graph = (place / "int8.onnx").read_bytes()
        after = activations(chosen.floats)
        before_metric, after_metric = judge.metric(before), judge.metric(after)
    record = Quantized(
        boundary.module.removeprefix(_BACKBONE),
        _before(boundary),
        tuple(after.shape[1:]),
        len(graph),
        hashlib.sha256(graph).hexdigest(),
        {
            "stage": _title(boundary),
            "calibrated_on": len(calibration),
            "layers": chosen.layers,
            "floats": list(chosen.floats),
            "cosine": 1 - _distance(judge.pooled(before), judge.pooled(after)),
            "metric": judge.name,
            "float32": before_metric,
            "int8": after_metric,
        },
    )
    _apply(net, record, graph, cut, images[:ROWS], after[:ROWS])
    return record


def _before(boundary: Boundary) -> tuple[str, ...]:
    """Return the backbone's modules that run before the boundary's module, not inside it."""
    inside = boundary.module + "."
    return tuple(
        name.removeprefix(_BACKBONE)
        for name in boundary.modules
        if name != boundary.module and not name.startswith(inside)
    )


def _apply(
    net: SiameseNet, record: Quantized, graph: bytes, cut: Cut, images: Tensor, activations: Tensor
) -> None:
    """Apply a record, and check that the network is then the suffix on the graph's output."""
    with evaluating(net):
        expected = cut.suffix(activations)
    record.apply(net.backbone, "engine.prefix", graph)
    why = "its modules before that part do not simply follow each other"
    try:
        with evaluating(net):
            if relative_difference(net(images), expected) <= _SAME:
                return
    except Exception as error:  # the network's own code, on images where it expects activations
        why += f" ({type(error).__name__}: {str(error).partition(chr(10))[0][:120]})"
    record.remove(net.backbone)
    raise ConfigError(f"the network cannot run behind an int8 part: {why}")


def _in_rows(run: Any) -> Any:
    """Return a function of any number of images, for a runner of :data:`ROWS` images."""

    def rows(images: Tensor) -> Tensor:
        parts = []
        for part in images.split(ROWS):
            padded = torch.cat([part, part[:1].expand(ROWS - len(part), *part.shape[1:])])
            parts.append(torch.from_numpy(run(padded.numpy()))[: len(part)])
        return torch.cat(parts)

    return rows


class _Judge:
    """Measures what a prefix is worth: the backbone's features on validation images."""

    def __init__(self, setup: Setup, part: LoadedSet, cut: Cut, images: Tensor) -> None:
        self._cut, self._images = cut, images
        self._evaluator = evaluator_of(setup, part.images)
        self._whole = len(images) == len(part)
        self.name = setup.schedule.monitor

    def activations(self, prefix: Any) -> Tensor:
        """Return a prefix's output for the images."""
        with torch.no_grad():
            parts = [prefix(part).float() for part in self._images.split(ROWS)]
        return torch.cat(parts)

    def pooled(self, activations: Tensor) -> NDArray[np.float64]:
        """Return one vector per image."""
        flat = activations.flatten(2).mean(2) if activations.ndim > 2 else activations
        return flat.double().numpy()

    def metric(self, activations: Tensor) -> float:
        """Return the metric of the activations, with one vector per image."""
        if not self._whole:
            return 0.0
        return self._evaluator.score(self.pooled(activations).astype(np.float32))[self.name]

    def loss(self, before: Tensor, after: Tensor) -> float:
        """Return the loss of quality: by the metric, or by the distance of the features."""
        if not after.isfinite().all():
            return 1.0
        apart = _distance(self.pooled(before), self.pooled(after)) / _DIFFERENT * 0.01
        return max(self.metric(before) - self.metric(after), apart)


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the mean of 1 - cosine over rows, after the mean row of ``one`` is subtracted."""
    a, b = one - one.mean(0), other - one.mean(0)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(1 - ((a * b).sum(1) / np.maximum(lengths, 1e-24)).mean())


def _title(boundary: Boundary) -> str:
    """Return the end of the part in words: its last stage, or all stages."""
    return "its last stage" if boundary.module == f"{_BACKBONE}model" else boundary.name


def _notice(record: Quantized, seconds: float) -> str:
    about = record.about
    count = len(about["floats"])
    floats = f", {count} of {about['layers']} layers in float32" if count else ""
    return (
        f"the backbone up to {about['stage']} is computed in int8{floats}: calibrated on "
        f"{about['calibrated_on']} training views in {seconds:.0f} s; mean centred cosine to "
        f"float32 {about['cosine']:.3f}, {about['metric']} of its output {about['float32']:.3f} -> "
        f"{about['int8']:.3f} on the validation images. Training, evaluation and use of this run "
        "compute it this way"
    )
