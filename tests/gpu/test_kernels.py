"""The kernels on a GPU compute what the plain network computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from siamkit.engine.difference import relative_difference
from siamkit.engine.kernels import (
    available,
    batch_size,
    build_kernel,
    check,
    choose,
    kernel_class,
    run,
    tolerance,
)
from siamkit.freezing.proof import fingerprints

NETS = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")
NAMES = ("eager", "folded", "inductor")
PRECISIONS = ("fp32", "bf16", "fp16")


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield


@pytest.fixture
def net_of(device: torch.device) -> Callable[[str], nn.Module]:
    """A function that returns a network in eval mode, with statistics as after a training."""

    def make(name: str) -> nn.Module:
        torch.manual_seed(0)
        net = timm.create_model(name, pretrained=False, num_classes=0).eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
        return net.to(device)

    return make


@pytest.fixture
def images_of(device: torch.device) -> Callable[[nn.Module, int], Tensor]:
    def make(net: nn.Module, count: int) -> Tensor:
        size = timm.data.resolve_model_data_config(net)["input_size"]
        generator = torch.Generator().manual_seed(1)
        return torch.randn(count, *size, generator=generator).to(device)

    return make


def buildable(device: torch.device, name: str) -> None:
    if reason := available(device)[name]:
        pytest.skip(reason)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", NETS)
@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_agrees_with_the_plain_network(
    device: torch.device,
    net_of: Any,
    images_of: Any,
    name: str,
    model: str,
    precision: str,
) -> None:
    buildable(device, name)
    net = net_of(model)
    images = images_of(net, 9)
    kernel = build_kernel(name, net, images[:8], precision)  # type: ignore[arg-type]
    assert check(kernel, net, images) <= tolerance(kernel_class(device, precision))  # type: ignore[arg-type]
    output = run(kernel, images)
    assert output.dtype == torch.float32 and output.device.type == device.type
    assert not output.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_the_other_images_of_its_batch(
    device: torch.device, net_of: Any, images_of: Any, name: str
) -> None:
    buildable(device, name)
    net = net_of("test_resnet")
    images = images_of(net, 8)
    kernel = build_kernel(name, net, images)
    together = kernel(images)
    assert torch.equal(kernel(images), together), "the same batch gives the same bits"
    assert torch.equal(kernel(images[:3]), together[:3])


def test_no_kernel_changes_the_network(device: torch.device, net_of: Any, images_of: Any) -> None:
    net = net_of("test_resnet")
    names = [name for name, _ in (*net.named_parameters(), *net.named_buffers())]
    before = fingerprints(net, names)
    images = images_of(net, 8)
    for name in NAMES:
        if available(device)[name] is None:
            build_kernel(name, net, images, "bf16")
    assert fingerprints(net, names) == before


def test_half_precision_is_used_on_a_gpu_only(
    device: torch.device, net_of: Any, images_of: Any
) -> None:
    net = net_of("test_resnet")
    images = images_of(net, 8)
    exact, half = (run(build_kernel("eager", net, images, p), images) for p in ("fp32", "bf16"))
    apart = relative_difference(half, exact)
    assert (0 < apart < 0.05) if device.type == "cuda" else apart == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_chosen_kernel_is_exact_enough(
    device: torch.device, net_of: Any, images_of: Any, precision: str
) -> None:
    net = net_of("test_resnet")
    images = images_of(net, 8)
    choice = choose(net, images, 100_000, precision=precision)  # type: ignore[arg-type]
    assert choice.kernel.batch_size == batch_size(device)
    if device.type == "cuda":
        assert "on a CPU only" in choice.rejected.get("onnxruntime", "") or (
            choice.kernel.name == "eager"
        )
    found = run(choice.kernel, images)
    with torch.no_grad():
        apart = relative_difference(found, net(images))
    assert apart <= tolerance(kernel_class(device, precision))  # type: ignore[arg-type]


def test_tf32_has_its_own_class_of_kernels(cuda: torch.device) -> None:
    assert kernel_class(cuda) == "cuda-fp32"
    torch.backends.cudnn.allow_tf32 = True
    assert kernel_class(cuda) == "cuda-tf32"
