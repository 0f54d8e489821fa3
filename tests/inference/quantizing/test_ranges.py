from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import relu, relu6

from siamkit.engine.kernels.build import KernelSource
from siamkit.engine.kernels.onnxruntime import exported, missing
from siamkit.errors import ConfigError
from siamkit.inference.quantizing.onnx import OnnxQuantizer
from siamkit.portable.sessions import needs_exact_sums, onnx_network

pytestmark = pytest.mark.skipif(
    missing(torch.device("cpu")) is not None, reason="needs ONNX Runtime"
)
BATCH = 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4)
        self.last = nn.Conv2d(4, 5, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        middle = relu6(self.second(relu(self.first(images))))
        return self.last(middle).mean((2, 3))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval().requires_grad_(False)


def quantizer(net: nn.Module, images: torch.Tensor, place: Path, **how: Any) -> OnnxQuantizer:
    example = images[:BATCH]
    (place / "float.onnx").write_bytes(exported(KernelSource(net, example, "fp32").graph, example))
    return OnnxQuantizer(place / "float.onnx", images.numpy(), place, BATCH, **how)


def test_the_ranges_are_those_of_the_networks_activations(net: Net, tmp_path: Path) -> None:
    images = torch.randn(6, 3, 8, 8)  # no multiple of the batch
    ranges = quantizer(net, images, tmp_path).ranges
    first = net.first(images)
    found = sorted(ranges.values())
    for values in (images, relu(first), relu6(net.second(relu(first)))):
        expected = (float(values.min()), float(values.max()))
        assert any(pair == pytest.approx(expected, abs=1e-5) for pair in found), expected
    spans = [pair for pair in found if pair[0] == 0 < pair[1] and pair[1] != 6]
    assert len(spans) == 4, "what only ReLU or a clip reads has the range after it"


class Shared(nn.Module):
    """The first layer's output is read by ReLU, and by an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = self.first(images)
        return self.last(relu(values) + values).mean((2, 3))


def test_what_others_read_beside_relu_has_its_own_range(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Shared().eval().requires_grad_(False)
    images = torch.randn(4, 3, 8, 8)
    found = quantizer(net, images, tmp_path).ranges.values()
    values = net.first(images)
    for one in (values, relu(values)):
        expected = (float(one.min()), float(one.max()))
        assert any(pair == pytest.approx(expected, abs=1e-5) for pair in found), expected


def test_layers_keep_their_names_and_nameless_ones_get_names_of_their_own(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    nodes = [
        make.make_node("Conv", ["images", "w"], ["a"], "mine"),
        make.make_node("Conv", ["a", "w"], ["b"]),
        make.make_node("Conv", ["b", "w"], ["c"], "Conv_1"),
        make.make_node("Conv", ["c", "w"], ["d"]),
        make.make_node("Add", ["d", "c"], ["e"]),
    ]
    graph = make.make_graph(
        nodes, "net",
        [make.make_tensor_value_info("images", kind, ["N", 3, 8, 8])],
        [make.make_tensor_value_info("e", kind, ["N", 3, 8, 8])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "float.onnx").write_bytes(model.SerializeToString())
    images = np.ones((4, 3, 8, 8), np.float32)
    made = OnnxQuantizer(tmp_path / "float.onnx", images, tmp_path, 4)
    assert sorted(made.layers) == ["Add_4", "Conv_1", "Conv_2", "Conv_3", "mine"]
    assert set(made.weightless) == {"Add_4"}


def test_weights_are_not_measured(net: Net, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    found = quantizer(net, torch.randn(4, 3, 8, 8), tmp_path).ranges
    graph = onnx.load(tmp_path / "optimised.onnx").graph
    constants = {tensor.name for tensor in graph.initializer}
    assert constants and not constants & found.keys()


def test_an_activation_that_is_not_finite_is_an_error(net: Net, tmp_path: Path) -> None:
    net.first.weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(ConfigError, match="an activation is NaN or infinite"):
        _ = quantizer(net, torch.randn(4, 3, 8, 8), tmp_path).ranges


def test_a_layer_in_float32_is_computed_in_float32_by_every_session(
    net: Net, tmp_path: Path
) -> None:
    """The weights of one channel are so large that one scale per tensor would lose all others."""
    net.second.weight[0] *= 1000
    images = torch.randn(8, 3, 8, 8)
    made = quantizer(net, images, tmp_path, bits=8)
    batch = images[:BATCH].numpy()
    wanted = net(images[:BATCH]).numpy()
    output = onnx_network(made.graph({made.layers[1]}), 1).run(batch)
    apart = np.abs(output - wanted).mean() / np.abs(wanted).mean()
    assert apart < 0.02


def test_weights_of_eight_bits_are_nearer_to_float32_than_of_seven(
    net: Net, tmp_path: Path
) -> None:
    images = torch.randn(8, 3, 16, 16)
    batch, wanted = images[:BATCH].numpy(), net(images[:BATCH]).numpy()
    errors = []
    for bits in (7, 8):
        graph = quantizer(net, images, tmp_path, bits=bits).graph(())
        network = onnx_network(graph, 1, exact=needs_exact_sums())
        errors.append(np.abs(network.run(batch) - wanted).mean())
    assert errors[1] < errors[0]


def test_exact_sums_change_nothing_but_sums_that_overflow(net: Net, tmp_path: Path) -> None:
    images = torch.randn(8, 3, 16, 16)
    graph = quantizer(net, images, tmp_path, bits=8).graph(())
    batch, wanted = images[:BATCH].numpy(), net(images[:BATCH]).numpy()
    plain, exact = (onnx_network(graph, 1, exact=exact).run(batch) for exact in (False, True))
    if needs_exact_sums():  # a CPU without VNNI
        assert np.abs(exact - wanted).mean() < np.abs(plain - wanted).mean()
    else:
        np.testing.assert_allclose(plain, exact, atol=1e-6)
