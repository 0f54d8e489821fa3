"""Networks of several architectures, converted and run by both runtimes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from siamkit import api
from siamkit.errors import CheckpointError, ConfigError
from siamkit.inference.export import graphs
from siamkit.inference.export.capture import reason
from siamkit.inference.export.checking import COSINE, cosines
from siamkit.inference.export.formats import FORMATS
from siamkit.inference.export.graphs import export_graph
from siamkit.inference.export.measuring import REFITTED
from siamkit.inference.export.runners import torch_runner
from siamkit.inference.export.thresholds import Threshold
from siamkit.inference.quantizing.deciding import calibration_images
from siamkit.inference.quantizing.search import Choice

NAMES = [
    "timm:test_resnet",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "timm:resnet18", "timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224",
            "timm:convnext_atto", "timm:mobilenetv3_small_050",
        )
    ),
]  # fmt: skip
FORMATS_TO_RUN = ["onnx", pytest.param("openvino", marks=pytest.mark.slow)]


def network(name, **options):
    torch.manual_seed(0)
    return api.create_model(name, pretrained=False, image_size=32, **options).eval()


def with_biases(net):
    """Give the norms biases, as training does: folded into convolutions, they are the biases."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.1)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", FORMATS_TO_RUN)
def test_an_exported_network_computes_what_torch_computes(format, name, subject_of, tmp_path):
    subject = subject_of(network(name))
    made = export_graph(subject, FORMATS[format], tmp_path, int8=False)
    assert made.cosine >= COSINE
    assert [(row.kind, row.precision) for row in made.rows] == [
        ("torch", "float32"), (format, "float32"),
    ]  # fmt: skip
    torch_row, row = made.rows
    for metric, value in torch_row.metrics.items():
        assert row.metrics[metric] == pytest.approx(value, abs=1e-3) if value else True
    assert row.bytes < 1.1 * torch_row.bytes + 500_000, "weights are stored once"
    assert {path.name for path in tmp_path.iterdir()} == (
        {"model.onnx"} if format == "onnx" else {"model.xml", "model.bin"}
    )
    assert made.width == subject.net.embedding_dim and made.normalized


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", FORMATS_TO_RUN)
def test_int8_is_smaller_and_close_to_float32(format, name, subject_of, tmp_path):
    subject = subject_of(with_biases(network(name)))
    backend, spec = graphs._BACKENDS[format], FORMATS[format]
    images = subject.val.cycled(32)
    plain, int8 = tmp_path / spec.model, tmp_path / "int8" / spec.model
    int8.parent.mkdir()
    runner, _ = graphs._written(subject, spec, backend, images, plain)
    quantizer = backend.quantizer(plain, calibration_images(subject), tmp_path)
    assert quantizer.layers and set(quantizer.weightless) < set(quantizer.layers)
    assert quantizer.weightless, "additions, at least"
    assert len(set(quantizer.layers)) == len(quantizer.layers)
    quantizer.write(quantizer.weightless, int8)
    assert cosines(backend.run(int8)(images), runner(images)).min() > 0.95
    if plain.stat().st_size > 10_000_000:
        assert backend.size(int8) < backend.size(plain) / 3
    # All layers in float32: nothing is lost.
    same = quantizer.quantized(quantizer.layers)
    assert cosines(same(images), runner(images)).min() > 0.9999
    assert np.array_equal(quantizer.quantized(())(images), quantizer.quantized(())(images))


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS_TO_RUN)
def test_the_same_network_and_images_give_the_same_files(format, subject_of, tmp_path):
    subject = subject_of(with_biases(network("timm:test_resnet")))
    backend, spec = graphs._BACKENDS[format], FORMATS[format]
    images = subject.val.cycled(32)

    def files(name: str, seen: int) -> dict[str, bytes]:
        folder = tmp_path / name
        (folder / "int8").mkdir(parents=True)  # and a folder of its own for temporary files
        graphs._written(subject, spec, backend, images, folder / spec.model)
        quantizer = backend.quantizer(folder / spec.model, images[:seen], folder)
        quantizer.write(quantizer.weightless, folder / "int8" / spec.model)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("model*")
        }

    first, again, other = files("a", 8), files("b", 8), files("c", 2)
    assert first == again and len(first) == (2 if format == "onnx" else 4)
    changed = {name for name in first if first[name] != other[name]}
    assert changed and all(name.startswith("int8/") for name in changed)


@pytest.mark.slow
def test_embeddings_that_are_not_normalised_keep_their_length(subject_of, tmp_path):
    net = network("timm:test_resnet")
    net.normalize = False
    made = export_graph(subject_of(net), FORMATS["onnx"], tmp_path, int8=False)
    assert not made.normalized and made.cosine >= COSINE


@pytest.mark.slow
def test_the_file_holds_no_paths_of_this_machine(subject_of, tmp_path):
    export_graph(subject_of(network("timm:test_resnet")), FORMATS["onnx"], tmp_path, int8=False)
    content = (tmp_path / "model.onnx").read_bytes()
    assert b"site-packages" not in content and b".py" not in content


def test_temporary_files_lie_in_the_new_folder(subject_of, tmp_path, monkeypatch):
    """So they are swept with it after a kill."""
    seen = []

    def int8(*given):
        seen.append(given[-1])
        assert given[-1].parent == tmp_path and given[-1].is_dir()

    monkeypatch.setattr(graphs, "_int8", int8)
    export_graph(subject_of(network("timm:test_resnet")), FORMATS["onnx"], tmp_path, int8=True)
    assert seen and not list(tmp_path.iterdir())


class Branching(nn.Module):
    """A network whose path depends on the content of the images."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 8)

    def forward(self, images):
        pooled = self.layer(images.mean((2, 3)))
        return pooled * 2 if bool(images.sum() > 0) else pooled


@pytest.mark.parametrize(
    ("format", "int8", "what"),
    [
        ("onnx", True, "cannot be quantized again"),
        ("openvino", True, "cannot be quantized again"),
        ("openvino", False, "cannot be exported to openvino"),
    ],
)
def test_an_int8_part_is_kept_in_onnx_only(format, int8, what, tmp_path):
    part = SimpleNamespace(net=SimpleNamespace(quantized=SimpleNamespace(part="layer1")))
    with pytest.raises(ConfigError, match=f"{what}, because a part of it is computed in int8"):
        export_graph(part, FORMATS[format], tmp_path, int8=int8)


def test_a_network_in_float32_and_an_int8_part_in_onnx_are_not_refused(tmp_path, monkeypatch):
    images = SimpleNamespace(cycled=lambda count: count)
    monkeypatch.setattr(graphs, "_float32", lambda *given: ("float32", *given[3:]))
    monkeypatch.setattr(graphs, "_int8", lambda *given: ("int8", *given[3:5]))
    for part, format, int8 in (
        (None, "onnx", False), (None, "onnx", True), (None, "openvino", False),
        (None, "openvino", True), (SimpleNamespace(part="layer1"), "onnx", False),
    ):  # fmt: skip
        subject = SimpleNamespace(net=SimpleNamespace(quantized=part), val=images)
        model = tmp_path / FORMATS[format].model
        expected = ("int8" if int8 else "float32", 32, model)
        assert export_graph(subject, FORMATS[format], tmp_path, int8=int8) == expected


def test_a_network_that_cannot_be_captured_is_refused_with_the_reason(subject_of, tmp_path):
    net = api.create_model(Branching(), head="identity", image_size=32)
    with pytest.raises(
        ConfigError, match="cannot be exported: torch cannot record it as a graph: "
    ) as e:
        export_graph(subject_of(net), FORMATS["onnx"], tmp_path, int8=False)
    assert "format='torch' works with every network" in str(e.value)
    assert len(str(e.value)) < 700 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["converted to onnx", "quantized"])
@pytest.mark.parametrize(
    ("raised", "error", "told"),
    [
        (RuntimeError("no such op"), ConfigError, "cannot be exported: its graph cannot be {}: "
         "RuntimeError: no such op"),
        (CheckpointError("is damaged"), CheckpointError, "^is damaged"),
    ],
)  # fmt: skip
def test_what_a_library_raises_is_told_and_an_error_of_siamkit_stays(
    tmp_path, monkeypatch, step, raised, error, told
):
    def fail(*_):
        raise raised

    net = SimpleNamespace(quantized=None, origin=None)
    subject = SimpleNamespace(net=net, say=lambda text: None)
    monkeypatch.setattr(graphs, "capture", lambda *_: None)
    if step == "quantized":
        monkeypatch.setattr(graphs, "_written", lambda *_: (None, 1.0))
        monkeypatch.setattr(graphs, "calibration_images", lambda _: None)
    backend = graphs._Backend(fail, fail, fail)
    images, model = np.zeros((32, 3, 8, 8), np.float32), tmp_path / "model.onnx"
    with pytest.raises(error, match=told.format(step)):
        graphs._int8(subject, FORMATS["onnx"], backend, images, model, tmp_path)


@pytest.mark.slow
def test_a_converted_network_that_differs_is_refused(subject_of, tmp_path, monkeypatch):
    subject = subject_of(network("timm:test_resnet"))
    right = graphs._BACKENDS["onnx"]

    def damaged(program, path):
        weight = next(iter(subject.net.backbone.parameters()))
        with torch.no_grad():
            weight.add_(0.5)  # the graph shares its tensors with the network
        right.write(program, path)
        with torch.no_grad():
            weight.sub_(0.5)

    wrong = graphs._Backend(damaged, right.run, right.quantizer)
    monkeypatch.setattr(graphs, "_BACKENDS", {"onnx": wrong})
    with pytest.raises(CheckpointError, match="computes other embeddings than torch"):
        export_graph(subject, FORMATS["onnx"], tmp_path, int8=False)


def test_the_runner_of_torch_leaves_no_gradients():
    net = network("timm:test_resnet")
    net.train()
    run = torch_runner(net)
    assert run(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, net.embedding_dim)
    assert not net.training


@pytest.mark.slow
def test_a_threshold_that_was_fitted_again_is_measured_on_the_int8_network(
    subject_of, tmp_path, monkeypatch
):
    fitted = SimpleNamespace(threshold=0.25)
    monkeypatch.setattr(graphs, "for_int8", lambda *_: Threshold(fitted, refitted=True))
    monkeypatch.setattr(graphs, "choice_of", lambda *_: Choice((), 0.0, 9))
    monkeypatch.setattr(graphs, "require_quality", lambda *_: None)
    made = export_graph(
        subject_of(with_biases(network("timm:test_resnet"))), FORMATS["onnx"], tmp_path, int8=True
    )
    kinds = [(row.kind, row.precision, REFITTED in row.metrics) for row in made.rows]
    assert kinds == [
        ("torch", "float32", False), ("onnx", "float32", False), ("onnx", "int8", True),
    ]  # fmt: skip
    assert made.layers == 9 and made.floats == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "ValueError"), ("--- \n 123", "ValueError"), ("short", "ValueError: short"),
        ("=====\n  the first  \nthe second", "ValueError: the first"),
    ],
)  # fmt: skip
def test_the_reason_of_a_library_is_its_first_line_with_words(text, told):
    assert reason(ValueError(text)) == told


def test_a_long_reason_is_cut():
    whole = reason(ValueError("x" * 100))
    assert whole == f"ValueError: {'x' * 100}"
    cut = reason(ValueError("x" * 10_000))
    assert cut.endswith("x...") and len(cut) < 1000
    length = len(cut) - len("ValueError: ...")
    assert reason(ValueError("x" * length)) == f"ValueError: {'x' * length}"
