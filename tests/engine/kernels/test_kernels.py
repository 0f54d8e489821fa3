from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from siamkit.engine.kernels import (
    KERNELS,
    TOLERANCE,
    KernelError,
    available,
    batch_size,
    build_kernel,
    check,
    kernel_class,
    tolerance,
)
from siamkit.engine.kernels import build as building

HERE = available("cpu")
EVERY = [
    pytest.param(
        name,
        marks=[
            *([pytest.mark.slow] if name == "inductor" else []),
            *([pytest.mark.skip(reason=HERE[name])] if HERE[name] else []),
        ],
    )
    for name in KERNELS
]


@pytest.fixture(autouse=True)
def compiler_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


@pytest.mark.parametrize("name", EVERY)
def test_a_kernel_computes_what_the_network_computes(
    small: nn.Module, images: Tensor, name: str
) -> None:
    kernel = build_kernel(name, small, images)
    assert kernel.name == name and kernel.batch_size == len(images)
    assert check(kernel, small, images.repeat(2, 1, 1, 1)[:9]) < 1e-5
    output = kernel(images)
    assert output.dtype == torch.float32 and not output.requires_grad
    nn.Linear(7, 1)(output[..., :7].float()).sum().backward()  # usable where gradients are taken


@pytest.mark.parametrize("name", EVERY)
def test_a_row_has_one_result_whatever_comes_along(
    small: nn.Module, images: Tensor, name: str
) -> None:
    kernel = build_kernel(name, small, images)
    whole = kernel(images)
    for rows in range(1, len(images)):
        assert torch.equal(kernel(images[:rows]), whole[:rows])
    others = torch.cat([images[:1], 100 * torch.rand_like(images[1:])])
    assert torch.equal(kernel(others)[0], whole[0])


@pytest.mark.parametrize("name", EVERY)
def test_the_live_network_is_left_as_it_was(small: nn.Module, images: Tensor, name: str) -> None:
    before = {key: (value.data_ptr(), value.clone()) for key, value in small.state_dict().items()}
    layout = [p.stride() for p in small.parameters()]
    learns = [p.requires_grad for p in small.parameters()]
    modes = [module.training for module in small.modules()]
    assert True in learns and True in modes[1:]

    build_kernel(name, small, images)(images)

    after = small.state_dict()
    assert list(after) == list(before)
    for key, (place, value) in before.items():
        assert after[key].data_ptr() == place and torch.equal(after[key], value)
    assert [p.stride() for p in small.parameters()] == layout
    assert [p.requires_grad for p in small.parameters()] == learns
    assert [module.training for module in small.modules()] == modes
    assert not any(module._forward_hooks for module in small.modules())
    assert all(p.grad is None for p in small.parameters())
    copy.deepcopy(small)


@pytest.mark.parametrize("name", EVERY)
def test_building_says_nothing(
    small: nn.Module, images: Tensor, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # A hit in the compiler's cache would say nothing either.
    with torch.compiler.config.patch(force_disable_caches=True):
        build_kernel(name, small, images)(images)
    assert capfd.readouterr() == ("", "")


# Each kind of block of each family, but not all repetitions of it.
WHOLE: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet50": (64, {"layers": (2, 2, 1, 1)}),
    "convnext_atto": (64, {"depths": (1, 1, 2, 1)}),
    "mobilenetv3_small_100": (64, {}),
    "vit_tiny_patch16_224": (224, {"depth": 2}),
    "deit_tiny_distilled_patch16_224": (224, {"depth": 2}),
    "swin_tiny_patch4_window7_224": (224, {"depths": (2, 2), "num_heads": (3, 6)}),
    "densenet121": (64, {"block_config": (2, 2, 2, 2)}),
    "fastvit_t8": (64, {"layers": (1, 1, 2, 1)}),
    "mobilevit_xxs": (64, {}),
}


@pytest.mark.slow
@pytest.mark.skipif(HERE["onnxruntime"] is not None, reason=str(HERE["onnxruntime"]))
@pytest.mark.parametrize("model", WHOLE)
def test_onnx_runtime_agrees_on_whole_backbones(cut: Callable[..., nn.Module], model: str) -> None:
    size, depth = WHOLE[model]
    torch.manual_seed(0)
    prefix = cut(timm.create_model(model, pretrained=False, num_classes=0, **depth))
    images = torch.rand(2, 3, size, size) * 2 - 1
    assert check(build_kernel("onnxruntime", prefix, images), prefix, images) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(HERE["inductor"] is not None, reason=str(HERE["inductor"]))
def test_two_compiled_prefixes_live_side_by_side(
    cut: Callable[..., nn.Module], images: Tensor
) -> None:
    prefixes = [cut("test_resnet", layer) for layer in ("layer1", "layer2")]
    kernels = [build_kernel("inductor", prefix, images) for prefix in prefixes]
    for kernel, prefix in itertools.chain(zip(kernels, prefixes, strict=True)):
        assert check(kernel, prefix, images) < 1e-5


@pytest.mark.parametrize("rows", [0, 7])
def test_a_batch_that_does_not_fit_is_refused(small: nn.Module, images: Tensor, rows: int) -> None:
    kernel = build_kernel("eager", small, images)
    with pytest.raises(ValueError, match=f"1 to 6 images got a batch of {rows}"):
        kernel(torch.rand(rows, 3, 32, 32))


@pytest.mark.parametrize("name", [name for name in KERNELS[1:] if HERE[name] is None])
def test_a_prefix_that_fails_is_a_kernel_error_with_the_reason(images: Tensor, name: str) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("out of luck\nand a page more")

    with pytest.raises(KernelError, match="RuntimeError: out of luck") as caught:
        build_kernel(name, Broken(), images)
    assert "a page more" not in str(caught.value)


def test_control_flow_on_values_cannot_be_captured_but_runs_eagerly(images: Tensor) -> None:
    class Picky(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) if images.mean() > 0 else -images.flatten(1)

    build_kernel("eager", Picky(), images)
    with pytest.raises(KernelError, match=r"'folded'.*cannot be captured"):
        build_kernel("folded", Picky(), images)


@pytest.mark.parametrize(
    "reduce", [lambda images: images.sum(0), lambda images: images.mean((1, 2, 3))]
)
def test_a_prefix_without_a_row_for_each_image_is_refused(
    images: Tensor, reduce: Callable[[Tensor], Tensor]
) -> None:
    class Reduced(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return reduce(images)

    with pytest.raises(KernelError, match="one output per image"):
        build_kernel("eager", Reduced(), images)


def test_an_unknown_kernel_is_told_with_those_there_are(small: nn.Module, images: Tensor) -> None:
    with pytest.raises(KernelError, match="'openvino', allowed: eager, folded"):
        build_kernel("openvino", small, images)


def test_a_model_that_onnx_cannot_hold_is_refused(
    small: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    if HERE["onnxruntime"]:
        pytest.skip(HERE["onnxruntime"])
    monkeypatch.setattr(building.onnxruntime, "_LARGEST_MODEL", 100)
    with pytest.raises(KernelError, match="GiB"):
        build_kernel("onnxruntime", small, images)


def test_a_missing_package_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        building.onnxruntime, "find_spec", lambda name: None if name == "onnx" else object()
    )
    reason = available("cpu")["onnxruntime"]
    assert reason is not None and reason.startswith("onnx not installed: pip install")


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in str(available("cpu")["inductor"])


def test_onnx_runtime_is_for_cpus() -> None:
    reasons = available("cuda")
    assert "CPU only" in str(reasons["onnxruntime"])
    assert reasons["eager"] is None and reasons["folded"] is None


def test_numerics_are_named_by_device_and_precision() -> None:
    assert kernel_class("cpu", "bf16") == kernel_class("cpu") == "cpu-fp32"
    assert kernel_class("cuda:1", "bf16") == "cuda-bf16"
    assert kernel_class("cuda", "fp16") == "cuda-fp16"


def test_tf32_is_a_class_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "highest")
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    try:
        conv.fp32_precision = "ieee"
        assert kernel_class("cuda") == "cuda-fp32"
        conv.fp32_precision = "tf32"
        assert kernel_class("cuda") == "cuda-tf32"
    finally:
        conv.fp32_precision = before


def test_every_class_has_a_tolerance() -> None:
    for device, precision in itertools.product(("cpu", "cuda", "mps"), ("fp32", "bf16", "fp16")):
        assert tolerance(kernel_class(device, precision)) in TOLERANCE.values()


def test_a_gpu_is_given_larger_batches() -> None:
    assert batch_size("cpu") == 8 and batch_size("cuda") == 64
