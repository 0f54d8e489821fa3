"""The int8 prefix: quantizes the part of a network that is frozen during the whole run.

What is frozen is a fixed function, and the rest is trained on its output. So the function may as
well be one that the CPU computes several times as fast, if its output still tells the classes
apart: the rest adapts to it, and the same function is used afterwards.
"""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from siamkit.data.loader import ViewDataset
from siamkit.data.rowkeys import RowKeys
from siamkit.data.splits import Splits
from siamkit.engine.boundary import Boundary, find_boundaries
from siamkit.engine.cache.layout import default_root
from siamkit.engine.cutting import first_exact_cut
from siamkit.engine.identity import code_of
from siamkit.engine.kernels.onnxruntime import missing
from siamkit.engine.planner import AUTO_VIEWS
from siamkit.engine.sources import TRAIN
from siamkit.errors import ConfigError, SiamkitError, is_out_of_memory
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import FreezePlan, NormMode, Phase
from siamkit.model.machine import this_machine
from siamkit.model.quantized import ROWS, Quantized
from siamkit.model.trace import evaluating
from siamkit.spelling import setting
from siamkit.training.build import Setup
from siamkit.training.chain import BACKBONE
from siamkit.training.judging import Judge, judged_images, sample_of
from siamkit.training.loading import VAL, LoadedSet, load_sets
from siamkit.training.made_graphs import MadeGraph, MadeGraphs
from siamkit.training.making import made_graph, part_of
from siamkit.training.speeds import Speeds, in_ms, paid
from siamkit.training.validation import evaluator_of
from siamkit.version import VERSION

INT8 = "int8"
CALIBRATION_IMAGES = 16
"""The views of training images that the ranges of activations are measured on. With 64, the
features are no nearer to those of float32."""

_CLOSE = 0.005
"""The mean difference of a graph from its network, of the mean output, varies by less than this
with the number of threads. It is about 0.02 to 0.2."""

_LIBRARIES = ("torch", "timm", "onnx", "onnxruntime")  # a graph depends on their versions


@dataclass(frozen=True)
class QuantizedPrefix:
    """The quantized part of a network.

    Attributes:
        record: The record.
        graph: The graph.
        notice: What the user should know about it.
    """

    record: Quantized
    graph: bytes
    notice: str

    def apply(self, setup: Setup) -> None:
        """Replace this part of a network, which was built from the same config, in place."""
        backbone = setup.net.backbone
        backbone.stages()  # discovered now, while all modules still run
        self.record.apply(backbone, "engine.prefix", self.graph)
        setup.net.quantized = self.record


def quantized(setup: Setup, splits: Splits) -> QuantizedPrefix:
    """Load the image sets of a new run, and quantize its network; see :func:`quantize_prefix`."""
    sets = load_sets(setup, splits)
    try:
        return quantize_prefix(setup, sets)
    finally:
        for part in sets.values():
            part.source.close()


def quantize_prefix(setup: Setup, sets: Mapping[str, LoadedSet]) -> QuantizedPrefix:
    """Replace the part of a network that no phase trains by one in int8, in place.

    The same part and images give the same graph, which is read from the cache's folder if an
    earlier run has made it.

    Args:
        setup: The parts of a new run.
        sets: Its image sets.

    Raises:
        ConfigError: Nothing stays frozen, the part cannot be quantized, is not faster, or its
            quality would suffer; the message says why.
        ResourceError: The folder for temporary files has too little space.
    """
    started = time.monotonic()
    boundaries, controller = _boundaries(setup)
    train, val = sets[TRAIN], sets[VAL]
    views = _calibration(train, CALIBRATION_IMAGES)
    computed = _computed(setup, sets)
    part = sample_of(val.images, judged_images(computed), setup.config.train.seed)
    judge = Judge(val.dataset.of(part), setup.schedule.monitor, evaluator_of(setup, part).score)
    memory = _memory(setup, controller, boundaries, (train.dataset, views), judge)
    made = None if memory is None else memory.read()
    first = _stacked(train.dataset, views[:1])
    # The code of a network may change in ways that the facts do not show. The graph of the same
    # network on the same image is as far from it as it was when it was made.
    if made is not None and not abs(_apart(setup, made, first) - made.apart) <= _CLOSE:
        made = None  # also if a difference is NaN
    known = made is not None
    if made is None:
        made = _made(setup, boundaries, _stacked(train.dataset, views), judge)
        if memory is not None and math.isfinite(apart := _apart(setup, made, first)):
            memory.write(replace(made, apart=apart))
    _require_faster(made.speeds)
    seconds = None if known else time.monotonic() - started
    notice = f"{made.record.sentence}. {paid(made.speeds, computed, seconds)}"
    result = QuantizedPrefix(made.record, made.graph, notice)
    result.apply(setup)
    return result


def _apart(setup: Setup, made: MadeGraph, image: Tensor) -> float:
    """Return the mean difference of a graph from the network, relative to the network's output.

    Args:
        setup: The parts of the run, with the network in float32.
        made: The graph.
        image: ``[1, C, H, W]``.

    Returns:
        The difference; infinite if the network has no such part.
    """
    outputs: list[Tensor] = []
    with evaluating(setup.net):
        target = dict(setup.net.backbone.named_modules()).get(made.record.module)
        if target is None:
            return math.inf
        hook = target.register_forward_hook(lambda *call: outputs.append(call[2]))
        try:
            setup.net.backbone(image)
        finally:
            hook.remove()
        got = part_of(made.graph)(image)
    if not outputs or outputs[0].shape != got.shape:
        return math.inf
    return float((outputs[0] - got).abs().mean() / outputs[0].abs().mean())


def _made(
    setup: Setup, boundaries: Sequence[Boundary], calibration: Tensor, judge: Judge
) -> MadeGraph:
    """Quantize the deepest part that can be quantized.

    Raises:
        ConfigError: No part can; the message says why.
    """
    reasons: list[str] = []
    for boundary in boundaries:
        cut, why = first_exact_cut(setup.net, [boundary], calibration[:3])
        if cut is None:
            reasons += why
            continue
        try:
            return made_graph(setup.net, cut, calibration, judge, _title(boundary), reasons)
        except Exception as error:  # the types are those of ONNX and ONNX Runtime, too
            ours = isinstance(error, SiamkitError) and not isinstance(error, ConfigError)
            if ours or is_out_of_memory(error):  # such as an image that cannot be read
                raise
            reasons.append(f"{boundary.name}: {_brief(error)}")
    # All boundaries before the deepest one usually fail for the same reason.
    raise _refused("; ".join(dict.fromkeys(reasons)) if len(reasons) < 3 else f"{reasons[0]}; ...")


def _brief(error: Exception) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    first = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def forecast_of_int8(setup: Setup) -> str:
    """Return what a new run would quantize, or why it would be refused, without quantizing.

    The phases' plans are applied to the network in doing so.
    """
    try:
        (deepest, *_), _ = _boundaries(setup)
    except ConfigError as error:
        return f"training would be refused: {error}"
    part = f"the backbone up to {title}" if (title := _title(deepest)) else "the whole backbone"
    return (
        f"training would compute {part} in int8, if it is faster and its quality "
        "stays, and less of it if its modules up to there do not simply follow each other; the "
        "figures here are those of float32"
    )


def _boundaries(setup: Setup) -> tuple[list[Boundary], FreezeController]:
    """Return the ends of the part that no phase trains, the deepest one first.

    Raises:
        ConfigError: There is none, or int8 is not possible.
    """
    _require_possible(setup)
    net, stages = setup.net, setup.schedule.stages
    plan = _union(setup.schedule.phases())
    controller = FreezeController(net, stages, alone=True)
    controller.apply(plan)
    boundaries = [b for b in find_boundaries(net, stages, plan) if BACKBONE in b.module]
    if not boundaries:
        raise _refused("no part at the start of the backbone stays frozen during the whole run")
    return boundaries, controller


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


def _require_faster(speeds: Speeds) -> None:
    """Check that int8 is faster than float32 on this machine.

    Raises:
        ConfigError: It is not.
    """
    if speeds.int8 >= speeds.float32:
        raise _refused(
            f"it would not be faster on this CPU: {in_ms(speeds.int8)} per image instead of "
            f"{in_ms(speeds.float32)} in float32"
        )


def _refused(why: str) -> ConfigError:
    return ConfigError(
        f"an int8 prefix is not possible: {why}",
        where="engine.prefix",
        got=INT8,
        hint=f"use {setting('engine.prefix', 'auto')}, which computes in float32, or a policy that "
        "keeps the first stages frozen",
    )


def _union(phases: Iterable[Phase]) -> FreezePlan:
    """Return the plan that trains whatever one of the phases trains; without phases, nothing."""
    plans = [phase.plan for phase in phases]
    trainable = frozenset[str]().union(*(plan.trainable for plan in plans))
    norms = {plan.norm for plan in plans}
    order: tuple[NormMode, ...] = ("train", "affine", "frozen")
    norm = next((n for n in order if n in norms), order[-1])
    return FreezePlan(trainable, norm=norm)


def _calibration(images: LoadedSet, count: int) -> list[tuple[int, int]]:
    """Return the views (index of the image, number of the view) to calibrate on.

    The images are spread over the set. If there are fewer, they come again, in other views.
    """
    places = np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int).tolist()
    return [(places[n % len(places)], n // len(places)) for n in range(count)]


def _stacked(dataset: ViewDataset, views: Sequence[tuple[int, int]]) -> Tensor:
    return torch.stack([dataset[key] for key in views])


def _computed(setup: Setup, sets: Mapping[str, LoadedSet]) -> int:
    """Return the number of images that the run computes by the part: each image and view once."""
    config = setup.config
    views = 1
    if config.data.augment.is_random and config.train.epochs:
        views = min(config.data.views or AUTO_VIEWS, config.train.epochs)
    return len(sets[TRAIN]) * views + len(sets[VAL])


def _memory(
    setup: Setup,
    controller: FreezeController,
    boundaries: Sequence[Boundary],
    calibration: tuple[ViewDataset, Sequence[tuple[int, int]]],
    judge: Judge,
) -> MadeGraphs | None:
    """Return where the graph of this part and these images is kept, if anything may be."""
    engine, backbone = setup.config.engine, setup.net.backbone
    if engine.cache == "off":
        return None
    dataset, views = calibration
    used = sorted({index for index, _ in views})
    keys = RowKeys(dataset.of(dataset.images.subset(used)))
    facts = {
        "siamkit": VERSION,
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "machine": asdict(this_machine()),
        "backbone": [setup.config.backbone.name, repr(backbone)],
        "code": code_of(setup.net, [BACKBONE.rstrip(".")]),
        "frozen": dict(controller.fingerprints),
        "boundaries": [boundary.module for boundary in boundaries],
        "image": list(dataset[views[0]].shape),
        "calibration": [keys(used.index(index), view).hex() for index, view in views],
        "judged": [key.hex() for key in RowKeys(judge.dataset).of(0)],
        "labels": [judge.monitor, judge.dataset.images.labels],
        "rows": ROWS,
    }
    return MadeGraphs(engine.cache_dir or default_root(), facts)


def _title(boundary: Boundary) -> str:
    """Return the name of the part's last stage; an empty text for the whole backbone."""
    return "" if boundary.module == f"{BACKBONE}model" else boundary.name
