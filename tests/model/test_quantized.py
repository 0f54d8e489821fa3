from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from siamkit.errors import CheckpointError, ConfigError
from siamkit.model import quantized
from siamkit.model.quantized import Quantized, require_float

GRAPH = b"a graph"
RECORD = Quantized(
    "body",
    ("stem",),
    (3, 5, 5),
    (4,),
    len(GRAPH),
    hashlib.sha256(GRAPH).hexdigest(),
    {"stage": "body"},
)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.tail = nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.tail(self.body(self.stem(images)))


class Session:
    """Computes the mean of each channel, and the row that an image has in its batch."""

    def run(self, images: Any) -> Any:
        assert len(images) == quantized.ROWS
        means = torch.from_numpy(images).mean((2, 3))
        return torch.cat([means, means[:, :1]], 1).numpy()


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> None:
    quantized._network.cache_clear()
    monkeypatch.setattr(quantized, "onnx_network", lambda content, threads, exact: Session())


def test_a_record_is_written_and_read(tmp_path: Path) -> None:
    RECORD.save(tmp_path / "int8.json")
    assert Quantized.load(tmp_path / "int8.json") == RECORD
    assert replace(RECORD, size=8).digest != RECORD.digest


def test_a_record_of_another_version_is_refused() -> None:
    assert RECORD.to_json()["format"] == 2
    with pytest.raises(CheckpointError, match=r"quantization record, got 3, allowed: 2"):
        Quantized.from_json({**RECORD.to_json(), "format": 3}, "int8.json")


@pytest.mark.parametrize("change", [{"format": 1}, {"size": None}, {"skipped": 3}])
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"^int8\.json: "):
        Quantized.from_json({**RECORD.to_json(), **change}, "int8.json")


@pytest.mark.parametrize("count", [0, 1, 8, 11])
def test_the_graph_gives_the_modules_output_whatever_the_number_of_images(count: int) -> None:
    net = Small()
    RECORD.apply(net, "here", GRAPH)
    images = torch.rand(count, 3, 5, 5)
    means = images.mean((2, 3))
    expected = net.tail(torch.cat([means, means[:, :1]], 1))
    torch.testing.assert_close(net(images), expected)


@pytest.mark.parametrize(
    ("images", "change", "said"),
    [
        (
            torch.rand(2, 3, 6, 5),
            lambda net: net,
            r"one size, got \[2, 3, 6, 5\], allowed: \[N, 3, 5, 5",
        ),
        (torch.rand(2, 3, 5, 5).requires_grad_(), lambda net: net, "has no gradient of its images"),
        (torch.rand(2, 3, 5, 5), lambda net: net.half(), "float32 only, got 'float16'"),
        (torch.rand(2, 3, 5, 5), lambda net: net.bfloat16(), "float32 only, got 'bfloat16'"),
        (torch.rand(2, 3, 5, 5).half(), lambda net: net, "float32 only, got 'float16'"),
        (torch.rand(2, 3, 5, 5).half(), lambda net: net.bfloat16(), "only, got 'bfloat16', allow"),
    ],
)
def test_what_the_graph_cannot_compute_is_refused(images: Any, change: Any, said: str) -> None:
    net = Small()
    net.body = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten())
    RECORD.apply(net, "here", GRAPH)
    with pytest.raises(ConfigError, match=f"^images: the part .* in int8 .*{said}"):
        change(net)(images)


@pytest.mark.parametrize("exact", [True, False])
def test_a_cpu_that_needs_exact_sums_computes_them(
    monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    asked = []

    def network(content: bytes, threads: int, exact: bool) -> Session:
        asked.append((content, exact))
        return Session()

    monkeypatch.setattr(quantized, "onnx_network", network)
    monkeypatch.setattr(quantized, "needs_exact_sums", lambda: exact)
    net = Small()
    RECORD.apply(net, "here", GRAPH)
    net(torch.rand(1, 3, 5, 5))
    assert asked == [(GRAPH, exact)]


def test_images_that_need_a_gradient_are_computed_where_none_is_kept() -> None:
    net = Small()
    RECORD.apply(net, "here", GRAPH)
    with torch.no_grad():
        assert net(torch.rand(2, 3, 5, 5).requires_grad_()).shape == (2, 2)


def test_a_backbone_gives_its_graph() -> None:
    net = Small()
    RECORD.apply(net, "here", GRAPH)
    assert RECORD.content(net) == GRAPH


def test_the_part_is_named_in_words() -> None:
    assert RECORD.part == "the backbone up to body"
    assert replace(RECORD, about={"stage": ""}).part == "the whole backbone"


def test_a_state_that_is_loaded_brings_the_graph() -> None:
    first, second = Small(), Small()
    RECORD.apply(first, "here", GRAPH)
    RECORD.apply(second, "here")
    second.load_state_dict(first.state_dict())
    images = torch.rand(2, 3, 5, 5)
    assert torch.equal(first(images), second(images))


def test_another_graph_than_the_recorded_one_is_refused() -> None:
    net = Small()
    RECORD.apply(net, "here", GRAPH.upper())
    with pytest.raises(CheckpointError, match=r"not the one that the run's int8\.json names"):
        net(torch.rand(1, 3, 5, 5))


def test_a_record_of_another_network_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"here: .*without a module 'body'"):
        RECORD.apply(nn.Sequential(nn.Linear(2, 2)).requires_grad_(False), "here")


def test_a_network_tells_whether_the_record_is_applied() -> None:
    net = Small()
    assert not RECORD.is_applied(net)
    RECORD.apply(net, "here", GRAPH)
    assert RECORD.is_applied(net)


def test_a_policy_that_trains_the_part_is_refused() -> None:
    RECORD.require_frozen(["backbone.tail.weight", "backbone.stem2.weight"], "backbone.")
    with pytest.raises(ConfigError, match=r"engine\.prefix: .*'backbone\.stem\.weight'"):
        RECORD.require_frozen(["backbone.stem.weight"], "backbone.")


def test_only_a_network_with_the_part_is_refused() -> None:
    require_float(None, "cannot", "hint")
    with pytest.raises(
        ConfigError, match=r"cannot, because .*the backbone up to body in int8.*; hint"
    ):
        require_float(RECORD, "cannot", "hint")


def test_torch_knows_the_operations_shape_without_running_it() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    net = Small()
    RECORD.apply(net, "here", GRAPH)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        images = mode.from_tensor(torch.rand(3, 3, 5, 5))
        assert net(images).shape == (3, 2)


def test_a_graph_without_the_package_that_runs_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(*_: Any, **__: Any) -> Any:
        raise ImportError("onnxruntime")

    monkeypatch.setattr(quantized, "onnx_network", absent)
    with pytest.raises(ConfigError, match="needs the package onnxruntime"):
        quantized._network(quantized._Graph(RECORD.graph, 1, torch.frombuffer(
            bytearray(GRAPH), dtype=torch.uint8)))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, ": calibrated on 16 training views; on 32 validation images, mean centred cosine to "
         "float32 0.988, recall@1 of its output 0.800 -> 0.790"),
        ({"float32": None}, ": calibrated on 16 training views; on 32 validation images, mean "
         "centred cosine to float32 0.988"),
        ({"floats": ["a"], "rejected": ["b: no", "c: no"], "float32": None},
         ", 1 of 9 layers in float32: calibrated on 16 training views; on 32 validation images, "
         "mean centred cosine to float32 0.988. It does not reach further: b: no; c: no"),
    ],
)  # fmt: skip
def test_what_an_int8_part_is_and_costs_is_one_sentence(change: dict[str, Any], told: str) -> None:
    about = {
        "stage": "body", "calibrated_on": 16, "judged_on": 32, "layers": 9, "floats": [],
        "cosine": 0.9876, "metric": "recall@1", "float32": 0.8, "int8": 0.79, "rejected": [],
    }  # fmt: skip
    record = replace(RECORD, about={**about, **change})
    assert record.sentence == f"the backbone up to body is computed in int8{told}"
