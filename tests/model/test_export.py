"""Exporters and compilers capture the one-input forward with a batch of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from siamkit import plugins
from siamkit.freezing import FreezeController
from siamkit.interfaces import FreezePlan, Preprocessing
from siamkit.model.backbone import WrappedBackbone
from siamkit.model.siamese import SiameseNet

BATCHES = (1, 2, 7)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.norm = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.LayerNorm(8)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"tokens": self.norm(self.bn(self.conv(images)).flatten(2).transpose(1, 2))}


class Map(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def frozen(module: nn.Module, select: str | None, head: str) -> SiameseNet:
    backbone = WrappedBackbone(module, Preprocessing(size=(16, 16)), select=select)
    entry = plugins.get().heads.get(head)
    net = SiameseNet(backbone, entry.build(entry.options(), backbone.embedding_dim))
    FreezeController(net, net.stages()).apply(FreezePlan.of(net.stages(), []))
    return net.eval()


@pytest.fixture(params=[("tokens", "bnneck"), ("map", "mlp"), ("map", "residual")], ids=str)
def net(request: pytest.FixtureRequest) -> SiameseNet:
    kind, head = request.param
    if kind == "tokens":
        return frozen(Tokens(), "tokens", head)
    return frozen(Map(), None, head)


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 16, 16)


def batch() -> dict[int, object]:
    return {0: torch.export.Dim("batch")}


@pytest.mark.parametrize("strict", [True, False])
def test_torch_export_keeps_the_batch_dynamic(net: SiameseNet, strict: bool) -> None:
    program = torch.export.export(
        net, (images(3),), dynamic_shapes={"images": batch()}, strict=strict
    )
    for count in BATCHES:
        torch.testing.assert_close(program.module()(images_ := images(count)), net(images_))


def test_torch_compile_does_not_compile_each_batch_anew(net: SiameseNet) -> None:
    counts: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> torch.fx.GraphModule:
        counts.append(1)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(net, backend=backend, dynamic=True, fullgraph=True)
    for count in (1, 2, 3):
        compiled(images(count))
    before = len(counts)
    for count in (*BATCHES, 9, 12, 5):
        torch.testing.assert_close(compiled(images_ := images(count)), net(images_))
    assert len(counts) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_keeps_the_batch_dynamic(net: SiameseNet, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(
        net, (images(3),), dynamo=True, dynamic_shapes=(batch(),), verbose=False
    )
    program.save(tmp_path / "net.onnx")
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    (name,) = [value.name for value in session.get_inputs()]
    for count in BATCHES:
        given = images(count)
        (got,) = session.run(None, {name: given.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), net(given), atol=1e-5, rtol=1e-4)
