"""The int8 prefix: quantizes the part of a network that is frozen during the whole run.

What is frozen is a fixed function, and the rest is trained on its output. So the function may as
well be one that the CPU computes several times as fast, if its output still tells the classes
apart: the rest adapts to it, and the same function is used afterwards.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
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
from siamkit.inference.quantizing.search import TOLERANCE, choose
from siamkit.interfaces import FreezePlan, Phase
from siamkit.model.names import submodule
from siamkit.model.quantized import ROWS, Quantized, in_rows, passed
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import evaluating
from siamkit.portable.sessions import onnx_network
from siamkit.spelling import setting
from siamkit.training.build import Setup
from siamkit.training.loading import VAL, LoadedSet
from siamkit.training.validation import evaluator_of

INT8 = "int8"
CALIBRATION_IMAGES = 64
"""The views of training images that the ranges of activations are measured on."""

Features = NDArray[np.float32]
"""One vector per image, ``[N, C]``."""

_JUDGED = 256  # validation images that the quality is measured on
_DIFFERENT = 0.02
"""The mean distance, 1 - cosine, of centred features that counts as much as :data:`TOLERANCE`."""

_MOST = 2 * TOLERANCE
"""The loss of quality from which int8 is refused."""

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
    boundaries, net = _boundaries(setup), setup.net
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
    # All boundaries before the deepest one usually fail for the same reason.
    raise _refused("; ".join(dict.fromkeys(reasons)) if len(reasons) < 3 else f"{reasons[0]}; ...")


def forecast_of_int8(setup: Setup) -> str:
    """Return what a new run would quantize, or why it would be refused, without quantizing.

    The phases' plans are applied to the network in doing so.
    """
    try:
        deepest = _boundaries(setup)[0]
    except ConfigError as error:
        return f"training would be refused: {error}"
    return (
        f"training would compute the backbone up to {_title(deepest)} in int8, if its quality "
        "stays, and less of it if its modules up to there do not simply follow each other; the "
        "figures here are those of float32"
    )


def _boundaries(setup: Setup) -> list[Boundary]:
    """Return the ends of the part that no phase trains, the deepest one first.

    Raises:
        ConfigError: There is none, or int8 is not possible.
    """
    _require_possible(setup)
    net, stages = setup.net, setup.schedule.stages
    plan = _union(setup.schedule.phases())
    FreezeController(net, stages).apply(plan)
    boundaries = [b for b in find_boundaries(net, stages, plan) if _BACKBONE in b.module]
    if not boundaries:
        raise _refused("no part at the start of the backbone stays frozen during the whole run")
    return boundaries


def _require_possible(setup: Setup) -> None:
    if setup.device.type != "cpu":
        raise _refused(f"it runs on a CPU only, and this run is on {setup.device.type}")
    if reason := missing(setup.device):
        raise _refused(reason)
    if setup.schedule.policy.metric_driven:
        raise _refused(
            f"the policy {setup.config.freeze.name!r} decides by metrics what trains, so it is not "
            "known what stays frozen"
        )
    if setup.config.engine.cut == "off":
        raise _refused("engine.cut is off")
    if setup.net.reader is not None:
        raise _refused("the head reads several stages, and an int8 part has one output")


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
    few = calibration[: 2 * ROWS]
    _require_chain(net, cut, few)
    example = calibration[torch.arange(ROWS) % len(calibration)]
    with evaluating(net):
        source = KernelSource(cut.prefix, example, "fp32")
        model = exported(source.graph, example)
    with TemporaryDirectory() as folder, evaluating(net):
        place = Path(folder)
        (place / "float.onnx").write_bytes(model)
        quantizer = OnnxQuantizer(place / "float.onnx", calibration.numpy(), place, ROWS)
        judge = _Judge(setup, sets[VAL])
        before = judge.features(cut.prefix)
        wanted = pooled(cut.prefix(few))

        @lru_cache(maxsize=2)  # quantizing takes seconds, and the last network is often the choice
        def graph_of(floats: frozenset[str]) -> bytes:
            quantizer.write(floats, place / "int8.onnx")
            return (place / "int8.onnx").read_bytes()

        def run_of(floats: Collection[str]) -> Callable[[Tensor], Tensor]:
            network = onnx_network(graph_of(frozenset(floats)), torch.get_num_threads())
            return partial(in_rows, network.run)

        @cache
        def features(floats: frozenset[str]) -> Features:
            return judge.features(run_of(floats))

        chosen = choose(
            quantizer.layers,
            lambda floats: judge.loss(before, features(frozenset(floats))),
            lambda floats: distance(wanted, pooled(run_of(floats)(few))),
            weightless=quantizer.weightless,
            seconds=_SECONDS,
        )
        floats = frozenset(chosen.floats)
        if chosen.loss > _MOST:
            raise _refused(
                f"the quality of the features falls by {chosen.loss:.3f} with "
                f"{len(floats)} of {chosen.layers} layers in float32"
            )
        graph, after = graph_of(floats), features(floats)
        shape = tuple(run_of(floats)(few).shape[1:])
    record = Quantized(
        boundary.module.removeprefix(_BACKBONE),
        _before(boundary),
        shape,
        len(graph),
        hashlib.sha256(graph).hexdigest(),
        {
            "stage": _title(boundary),
            "calibrated_on": len(calibration),
            "layers": chosen.layers,
            "floats": list(chosen.floats),
            "cosine": 1 - distance(before, after),
            "metric": judge.name,
            "float32": judge.metric(before),
            "int8": judge.metric(after),
        },
    )
    record.apply(backbone, "engine.prefix", graph)
    return record


def _before(boundary: Boundary) -> tuple[str, ...]:
    """Return the backbone's modules that run before the boundary's module, not inside it."""
    inside = boundary.module + "."
    return tuple(
        name.removeprefix(_BACKBONE)
        for name in boundary.modules
        if name != boundary.module and not name.startswith(inside)
    )


def _require_chain(net: SiameseNet, cut: Cut, images: Tensor) -> None:
    """Check that the network gives the same if its modules before the boundary pass images on.

    Raises:
        ConfigError: It does not: operations between the modules need their outputs.
    """
    with evaluating(net):
        activations = cut.prefix(images)
        expected = cut.suffix(activations)
    modules = {name: submodule(net, f"{_BACKBONE}{name}") for name in _before(cut.boundary)}
    target = submodule(net, cut.boundary.module)
    own = {module: module.__dict__.get("forward") for module in (*modules.values(), target)}
    why = "its modules up to there do not simply follow each other"
    try:
        for module in modules.values():
            module.__dict__["forward"] = passed
        target.__dict__["forward"] = partial(_answer, images, activations)
        with evaluating(net):
            same = relative_difference(net(images), expected) <= _SAME
    except Exception:  # the network's own code, on images where it expects activations
        same = False
    finally:
        for module, forward in own.items():
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward
    if not same:
        raise ConfigError(why)


def _answer(images: Tensor, activations: Tensor, received: Tensor, *_: Any, **__: Any) -> Tensor:
    """Return the activations if a module received the images as they are.

    Raises:
        ValueError: An operation between the modules has changed them.
    """
    if received.shape != images.shape or not torch.equal(received, images):
        raise ValueError
    return activations


class _Judge:
    """Measures what a prefix is worth: its pooled output on validation images."""

    def __init__(self, setup: Setup, part: LoadedSet) -> None:
        count = min(_JUDGED, len(part))
        self._images = torch.stack([part.example(index, 0) for index in range(count)])
        # Metrics are defined for the whole set only: with fewer images, the distance decides.
        self._evaluator = evaluator_of(setup, part.images) if count == len(part) else None
        self.name = setup.schedule.monitor

    def features(self, prefix: Callable[[Tensor], Tensor]) -> Features:
        """Return the pooled output ``[N, C]`` of a prefix for the images."""
        with torch.no_grad():
            return np.concatenate([pooled(prefix(part)) for part in self._images.split(ROWS)])

    def metric(self, features: Features) -> float | None:
        """Return the monitored metric of features; None if there are too many images for it."""
        if self._evaluator is None:
            return None
        return self._evaluator.score(features)[self.name]

    def loss(self, before: Features, after: Features) -> float:
        """Return the loss of quality: the fall of the metric, or the distance of the features."""
        if not np.isfinite(after).all():
            return 1.0
        apart = distance(before, after) / _DIFFERENT * TOLERANCE
        one, other = self.metric(before), self.metric(after)
        return apart if one is None or other is None else max(one - other, apart)


def pooled(activations: Tensor) -> Features:
    """Return one vector ``[N, C]`` per image."""
    flat = activations.flatten(2).mean(2) if activations.ndim > 2 else activations
    vectors: Features = flat.float().numpy()
    return vectors


def distance(one: Features, other: Features) -> float:
    """Return the mean of 1 - cosine over rows, after the mean row of ``one`` is subtracted."""
    centre = one.mean(0, dtype=np.float64)
    a, b = one - centre, other - centre
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(1 - ((a * b).sum(1) / np.maximum(lengths, 1e-24)).mean())


def _title(boundary: Boundary) -> str:
    """Return the end of the part in words: its last stage, or all stages."""
    return "its last stage" if boundary.module == f"{_BACKBONE}model" else boundary.name


def _notice(record: Quantized, seconds: float) -> str:
    return f"{described(record)}. Quantizing took {seconds:.0f} s. " + (
        "Training, evaluation and use of this run compute it this way"
    )


def described(record: Quantized) -> str:
    """Return what a record's part is and what it costs, as a sentence without a full stop."""
    about = record.about
    metric = ""
    if about["float32"] is not None:
        metric = (
            f", {about['metric']} of its output {about['float32']:.3f} -> {about['int8']:.3f} on "
            "the validation images"
        )
    count = len(about["floats"])
    floats = f", {count} of {about['layers']} layers in float32" if count else ""
    return (
        f"the backbone up to {about['stage']} is computed in int8{floats}: calibrated on "
        f"{about['calibrated_on']} training views; mean centred cosine to float32 "
        f"{about['cosine']:.3f}{metric}"
    )
