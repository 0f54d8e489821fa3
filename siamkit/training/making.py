"""Makes the int8 graph of a part of a network, and its record."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from siamkit.engine.cutting import Cut
from siamkit.engine.difference import relative_difference
from siamkit.engine.kernels.build import KernelSource
from siamkit.engine.kernels.onnxruntime import exported
from siamkit.errors import ConfigError, ResourceError
from siamkit.files import writing
from siamkit.inference.quantizing.onnx import OnnxQuantizer
from siamkit.inference.quantizing.search import TOLERANCE, choose
from siamkit.model.quantized import ROWS, Quantized, in_rows
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import evaluating
from siamkit.portable.sessions import needs_exact_sums, onnx_network
from siamkit.training.chain import BACKBONE, before, require_chain
from siamkit.training.judging import Features, Judge, Judged, Part, distance, pooled
from siamkit.training.made_graphs import MadeGraph
from siamkit.training.speeds import Speeds, confirmed
from siamkit.words import data_size

_MOST = 2 * TOLERANCE
"""The loss of quality from which int8 is refused."""

_SAME = 1e-3  # of the largest output: ONNX Runtime in float32 against the network
_FEW = 2  # images to compare the two on
_FULL = "free some space there, or set TMPDIR to another folder"


def made_graph(
    net: SiameseNet,
    cut: Cut,
    calibration: Tensor,
    judge: Judge,
    stage: str,
    rejected: Sequence[str],
) -> MadeGraph:
    """Quantize a part of a network, which stays as it is.

    Args:
        net: The network.
        cut: The network, cut after the part.
        calibration: ``[N, C, H, W]``, the views of training images to calibrate on.
        judge: Measures the loss of quality.
        stage: The part's last stage, for the record; an empty text for the whole backbone.
        rejected: The reasons why the part does not reach further, for the record.

    Raises:
        ConfigError: The part cannot be quantized, or its quality falls.
        ResourceError: The folder for temporary files has too little space.
        Exception: The exporter, ONNX or ONNX Runtime failed.
    """
    if not cut.frontier.is_plain:
        raise ConfigError("several tensors cross the boundary")
    require_chain(net, cut, calibration[:_FEW])
    example = calibration[torch.arange(ROWS) % len(calibration)]
    with evaluating(net):
        source = KernelSource(cut.prefix, example, "fp32")
        model = exported(source.graph, example)
        plain = part_of(model)
        _require_same(cut, plain, calibration[:_FEW])
    with _temporary(3 * len(model)) as place:
        (place / "float.onnx").write_bytes(model)
        quantizer = OnnxQuantizer(
            place / "float.onnx", calibration.numpy(), place, ROWS,
            bits=8, threads=torch.get_num_threads(),
        )  # fmt: skip
    reference = judge.output(plain)
    wanted = pooled(plain(example))

    @lru_cache(maxsize=2)  # quantizing takes seconds, and the last network is often the choice
    def graph_of(floats: frozenset[str]) -> bytes:
        return quantizer.graph(floats)

    def int8(floats: Collection[str]) -> Part:
        return part_of(graph_of(frozenset(floats)))

    judged: dict[frozenset[str], Judged] = {}

    def loss(floats: Collection[str]) -> float:
        key = frozenset(floats)
        judged[key] = judge.output(int8(key))
        return judge.loss(reference.features, judged[key].features)

    chosen = choose(
        quantizer.layers,
        loss,
        lambda floats: _error(wanted, pooled(int8(floats)(example))),
        weightless=quantizer.weightless,
    )
    floats = frozenset(chosen.floats)
    if chosen.loss > _MOST:
        raise ConfigError(
            f"the quality of the features falls by {chosen.loss:.3f} with "
            f"{len(floats)} of {chosen.layers} layers in float32"
        )
    graph, after = graph_of(floats), judged[floats]
    record = Quantized(
        cut.boundary.module.removeprefix(BACKBONE),
        before(cut.boundary),
        tuple(example.shape[1:]),
        tuple(int8(floats)(example).shape[1:]),
        len(graph),
        hashlib.sha256(graph).hexdigest(),
        {
            "stage": stage,
            "calibrated_on": len(calibration),
            "judged_on": len(judge),
            "layers": chosen.layers,
            "floats": list(chosen.floats),
            "cosine": 1 - distance(reference.features, after.features),
            "metric": judge.monitor,
            "float32": judge.metric(reference.features),
            "int8": judge.metric(after.features),
            "rejected": list(rejected),
        },
    )
    first = Speeds(reference.seconds, after.seconds)
    speeds = confirmed(first, partial(plain, example), partial(int8(floats), example))
    return MadeGraph(record, graph, speeds)


def part_of(graph: bytes) -> Part:
    """Return the function that a graph computes."""
    network = onnx_network(graph, torch.get_num_threads(), exact=needs_exact_sums())
    return partial(in_rows, network.run)


def _require_same(cut: Cut, plain: Part, images: Tensor) -> None:
    """Check that ONNX Runtime computes what the network does, before it is the reference."""
    apart = relative_difference(plain(images), cut.prefix(images))
    if not apart <= _SAME:
        raise ConfigError(f"ONNX Runtime computes another output, by {apart:.1g} of the largest")


def _error(wanted: Features, got: Features) -> float:
    return distance(wanted, got) if np.isfinite(got).all() else 2.0


@contextmanager
def _temporary(needed: int) -> Iterator[Path]:
    """Yield a folder for temporary files.

    Args:
        needed: The bytes that the files will take.

    Raises:
        ResourceError: There is too little space, or the system refuses to write there.
    """
    root = Path(tempfile.gettempdir())
    with writing(root, _FULL):
        free = shutil.disk_usage(root).free
        if free < needed:
            raise ResourceError(
                f"quantizing needs {data_size(needed)} for temporary files",
                where=str(root), got=f"{data_size(free)} free", hint=_FULL,
            )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
