"""Modules with any output, type of weights or number of channels give features or clear errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from siamkit import plugins
from siamkit.data.views import EvalView
from siamkit.errors import ConfigError, PluginError
from siamkit.interfaces import BackboneContext, Preprocessing
from siamkit.model.backbone import WrappedBackbone, as_backbone
from siamkit.model.siamese import SiameseNet

SMALL = Preprocessing(size=(32, 32))


class Gives(nn.Module):
    """Returns the result of ``make`` for a feature map ``[N, 6, H / 2, W / 2]``."""

    def __init__(self, make: Any, **attributes: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, 2, 1)
        self.make = make
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, images: Tensor) -> Any:
        return self.make(self.conv(images))


def same(x: Tensor) -> Tensor:
    return x


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def sequence(x: Tensor) -> Tensor:
    return x.flatten(2)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def tokens_first(x: Tensor) -> Tensor:
    return x.flatten(2).permute(2, 0, 1)


# --- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 96])
@pytest.mark.parametrize(
    ("make", "layout"), [(same, "NCHW"), (last, "NHWC"), (sequence, "NCL"), (tokens, "NLC")]
)
def test_each_layout_gives_the_channels_whatever_the_image_size(
    make: Any, layout: str, size: int
) -> None:
    module = Gives(make)
    backbone = WrappedBackbone(module, Preprocessing(size=(size, size)))
    assert (backbone.layout, backbone.embedding_dim) == (layout, 6)
    for other in (32, 64):
        images = torch.randn(3, 3, other, other)
        torch.testing.assert_close(backbone(images), module.conv(images).mean((2, 3)))


@pytest.mark.parametrize("way", ["argument", "attribute"])
def test_a_layout_that_is_stated_is_taken(way: str) -> None:
    stated = {"layout": "LNC"}
    module = Gives(tokens_first, **(stated if way == "attribute" else {}))
    backbone = WrappedBackbone(module, SMALL, **(stated if way == "argument" else {}))
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(backbone(images), module.conv(images).mean((2, 3)))


@pytest.mark.parametrize("way", ["argument", "attribute"])
def test_a_part_that_is_selected_is_taken(way: str) -> None:
    stated = {"select": "map", "layout": "NHWC"}
    module = Gives(
        lambda x: {"map": last(x), "n": 1}, **(stated if way == "attribute" else {})
    )  # fmt: skip
    backbone = WrappedBackbone(module, SMALL, **(stated if way == "argument" else {}))
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(backbone(images), module.conv(images).mean((2, 3)))


def test_an_argument_goes_before_the_attribute() -> None:
    module = Gives(lambda x: (x, x.mean((2, 3))[:, :2]), select=0)
    assert WrappedBackbone(module, SMALL).embedding_dim == 6
    assert WrappedBackbone(module, SMALL, select=1).embedding_dim == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x.flatten(1), r"depends on the image size, got '1536 at 32 px, 6144 at 64 px'"),
        (lambda x: x.unflatten(1, (2, 3)).flatten(3), r"not clear which axis.*\[1, 2, 3, 256\]"),
        (lambda x: x[:, :, :4, :1].flatten(2), r"not clear.*\[1, 6, 4\] at 32 px, \[1, 6, 4\] at"),
        (lambda x: x[:, :, None], r"not clear.*\[1, 6, 1, 16, 16\] at 32 px"),
        (tokens_first, r"shape \[256, 1, 6\] for 1 image"),
        (lambda x: x.mean((2, 3)) > 0, "must be a dense tensor of floating-point numbers.*bool"),
        (lambda x: x > 0, r"floating-point numbers, not empty, got 'shape \[1, 6, 16, 16\],"),
        (lambda x: x.mean((2, 3))[:, :0], "must be a dense tensor of floating-point numbers"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_ways_to_say_it(make: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        as_backbone(Gives(make), BackboneContext("x", image_size=32))
    assert "floating-point numbers" in message or "layout=" in str(caught.value)


def test_a_layout_that_makes_the_width_depend_on_the_size_is_refused() -> None:
    with pytest.raises(PluginError, match=r"width .* depends on the image size, got '16 at 32 px"):
        WrappedBackbone(Gives(last), SMALL, layout="NCHW")


class FixedSize(nn.Module):
    """A transformer with position embeddings, so for one image size, and with a norm at the end."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 8, 8)
        self.positions = nn.Parameter(torch.randn(1, 16, 16))
        self.norm = norm

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(tokens(self.conv(images)) + self.positions)


def test_a_norm_at_the_end_shows_the_channels_of_a_module_of_one_size() -> None:
    assert WrappedBackbone(FixedSize(nn.LayerNorm(16)), SMALL).layout == "NLC"
    with pytest.raises(PluginError, match=r"not clear.*'\[1, 16, 16\] at 32 px'"):
        WrappedBackbone(FixedSize(nn.Identity()), SMALL)
    assert WrappedBackbone(FixedSize(nn.Identity()), SMALL, layout="NLC").embedding_dim == 16


class Oblong(nn.Module):
    """For one image size; its grid is as high as there are channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)
        self.positions = nn.Parameter(torch.randn(1, 4, 4, 8))

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images) + self.positions


def test_a_square_part_of_an_oblong_grid_shows_no_channels() -> None:
    images = Preprocessing(size=(32, 64))
    with pytest.raises(PluginError, match=r"not clear.*got '\[1, 4, 4, 8\] at 32x64 px'"):
        WrappedBackbone(Oblong(), images)
    assert WrappedBackbone(Oblong(), images, layout="NCHW").embedding_dim == 4


def test_an_output_that_changes_its_width_later_is_an_error_not_other_features() -> None:
    module = Gives(lambda x: x.mean((2, 3)))
    backbone = WrappedBackbone(module, SMALL)
    module.make = lambda x: x.mean((2, 3))[:, :4]
    with pytest.raises(PluginError, match=r"\[2, 4\].*\[2, 6\] for 2 images of 32 px"):
        backbone(torch.zeros(2, 3, 32, 32))
    module.make = lambda x: x.mean((2, 3)).reshape(1, -1)
    with pytest.raises(PluginError, match=r"\[1, 12\]"):
        backbone(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_cr_tiny_ns_224"])
@pytest.mark.slow
def test_timms_channels_last_models(name: str) -> None:
    model = timm.create_model(name, pretrained=False, num_classes=0)
    assert as_backbone(model, BackboneContext(name)).layout == "NC"
    if name.startswith("swin_"):
        model.forward = model.forward_features  # [N, H, W, C], at one size only
        backbone = as_backbone(model, BackboneContext(name))
        assert (backbone.layout, backbone.embedding_dim) == ("NHWC", 768)


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (same, [64, 32]),  # the other size shows which axes are positions
        (lambda x: x.mean((2, 3)), [64, 32]),  # its width is no number of positions
        (lambda x: x[:, :, :4, :4].contiguous(), [64, 32, 128]),  # the shape does not change
    ],
)
def test_the_probe_runs_as_few_sizes_as_it_needs(make: Any, sizes: list[int]) -> None:
    seen: list[int] = []

    def noted(x: Tensor) -> Tensor:
        seen.append(2 * x.shape[-1])
        return make(x)

    layout = "NC" if sizes == [64, 32] and make is not same else "NCHW"
    WrappedBackbone(Gives(noted), Preprocessing(size=(64, 64)), layout=layout)
    assert seen == sizes


def test_the_probe_leaves_modes_statistics_and_hooks_alone() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    module[1].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    WrappedBackbone(module, SMALL)
    assert [m.training for m in module] == [True, False, True]
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


# --- transformers --------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_encoder_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    model = transformers.ViTModel(config).eval()
    with pytest.raises(PluginError, match=r"'last_hidden_state' \(\[1, 17, 16\]\)"):
        WrappedBackbone(model, SMALL)
    images = torch.randn(2, 3, 32, 32)
    backbone = WrappedBackbone(model, SMALL, select="last_hidden_state")
    assert backbone.layout == "NLC"
    torch.testing.assert_close(backbone(images), model(images)[0].mean(1))
    pooled = WrappedBackbone(model, SMALL, select="pooler_output")
    torch.testing.assert_close(pooled(images), model(images).pooler_output)


# --- types, channels, pixel values ---------------------------------------------------------------


def net_of(module: nn.Module) -> SiameseNet:
    backbone = WrappedBackbone(module, SMALL)
    entry = plugins.get().heads.get("linear")
    return SiameseNet(backbone, entry.build(entry.options(dim=4), backbone.embedding_dim))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_take_float_images_and_train(dtype: torch.dtype) -> None:
    net = net_of(Gives(same).to(dtype))
    images = torch.randn(2, 3, 32, 32)
    features = net.backbone(images)
    assert features.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    net(images)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in net.parameters())


def test_a_whole_network_of_another_type() -> None:
    net = net_of(Gives(same)).bfloat16()
    assert net(torch.randn(2, 3, 32, 32)).isfinite().all()


def test_autocast_still_chooses_the_types() -> None:
    net = net_of(Gives(same))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net.backbone(torch.randn(2, 3, 32, 32)).dtype == torch.bfloat16


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_images_of_other_channels(channels: int) -> None:
    module = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU())
    context = BackboneContext("x", in_chans=channels, image_size=32)
    assert as_backbone(module, context).preprocessing.channels == channels
    other = dataclasses.replace(context, in_chans=3)
    with pytest.raises(ConfigError, match=rf"data\.in_chans: .*with {channels} channels?, got 3"):
        as_backbone(module, other)


class Bytes(nn.Module):
    def __init__(self, *, strict: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.strict = strict
        self.seen: list[Tensor] = []
        self.preprocessing = Preprocessing((0.0,) * 3, (1 / 255,) * 3, (8, 8), crop_pct=1.0)

    def forward(self, images: Tensor) -> Tensor:
        if self.strict and images.dtype != torch.uint8:
            raise TypeError("give me bytes")
        self.seen.append(images)
        return self.conv(images.float() / 255).mean((2, 3))


def test_a_module_that_wants_pixel_values_gets_them_by_its_preprocessing() -> None:
    module = Bytes(strict=False)
    backbone = as_backbone(module, BackboneContext("x"))
    image = Image.new("RGB", (8, 8), (255, 128, 0))
    backbone(EvalView(backbone.preprocessing)(image)[None])
    assert module.seen[-1][0, :, 4, 4].round().tolist() == [255, 128, 0]


def test_a_module_that_wants_bytes_is_told_how() -> None:
    with pytest.raises(PluginError, match=r"bytes. It accepts images of type uint8.*1 / 255"):
        as_backbone(Bytes(strict=True), BackboneContext("x"))


# --- modules that run compiled -------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", ["script", "trace", "freeze", "inside"])
def test_torchscript_runs_live_as_one_stage(how: str) -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    module: Any = {
        "script": torch.jit.script,
        "trace": lambda m: torch.jit.trace(m, torch.zeros(1, 3, 32, 32)),
        "freeze": lambda m: torch.jit.freeze(torch.jit.script(m)),
        "inside": lambda m: nn.Sequential(torch.jit.script(m), nn.Conv2d(4, 6, 1)),
    }[how](plain)
    net = net_of(module)
    images = torch.randn(2, 3, 32, 32)
    expected = plain(images).mean((2, 3))
    if how != "inside":
        torch.testing.assert_close(net.eval().backbone(images), expected)
    stages = net.stages()
    assert [(s.name, s.output) for s in stages[:-1]] == {
        "script": [("stem", None)],
        "trace": [("stem", None)],
        "freeze": [],
        "inside": [("0", None), ("1", "backbone.model.1")],
    }[how]
    names = [name for stage in stages for name in stage.parameters]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
def test_wrappers_around_a_backbone_come_off(wrap: Any) -> None:
    module = Gives(same)
    backbone = WrappedBackbone(wrap(module), SMALL)
    assert backbone.model is module
    assert [s.name for s in backbone.stages()] == ["conv"]
