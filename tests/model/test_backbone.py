import pytest
import timm
import torch
from torch import nn

from siamkit.errors import ConfigError, PluginError
from siamkit.interfaces import Backbone, BackboneContext, Preprocessing
from siamkit.model.backbone import WrappedBackbone, as_backbone, preprocessing_of


class Gives(nn.Module):
    """Returns the result of ``make`` for the output ``[N, 6, H, W]`` of a convolution."""

    def __init__(self, make, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, 2, 1)
        self.make = make

    def forward(self, x):
        return self.make(self.conv(x))


def context(**changes):
    return BackboneContext("x", **{"image_size": 32, **changes})


def pooled(x):
    return x.mean((2, 3))


def test_features_maps_and_tokens_become_one_vector_an_image():
    images = torch.randn(2, 3, 32, 32)
    for make in (pooled, lambda x: x, lambda x: x.flatten(2).transpose(1, 2)):
        module = Gives(make)
        backbone = as_backbone(module, context())
        assert backbone.embedding_dim == 6
        torch.testing.assert_close(backbone(images), pooled(module.conv(images)))


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda x: (pooled(x), pooled(x)), "tuple"),
        (lambda x: {"features": x}, "dict"),
        (lambda x: x.sum(), r"shape \[\] for 1 image"),
        (lambda x: x.flatten(), r"shape \[1536\] for 1 image"),
        (lambda x: pooled(x).repeat(2, 1), r"shape \[2, 6\] for 1 image"),
    ],
)
def test_anything_else_is_an_error_that_says_what_to_return(make, got):
    with pytest.raises(PluginError, match=got) as caught:
        as_backbone(Gives(make), context())
    assert "[N, D]" in str(caught.value)


def test_a_forward_that_fails_names_the_size_that_was_asked_for():
    module = Gives(lambda x: nn.functional.conv2d(x, torch.zeros(1, 6, 99, 99)))
    with pytest.raises(ConfigError, match=r"data\.image_size: .*'x' failed .*\[1, 3, 32, 32\]"):
        as_backbone(module, context())
    with pytest.raises(ConfigError, match=r"data\.in_chans: .*\[1, 4, 224, 224\].*with 3 channels"):
        as_backbone(Gives(pooled), context(image_size=None, in_chans=4))


def test_what_is_no_module_is_refused_and_a_backbone_is_left_alone():
    with pytest.raises(PluginError, match=r"must return a torch\.nn\.Module, got 'str'"):
        as_backbone("resnet50", context())
    backbone = as_backbone(Gives(pooled), context())
    assert isinstance(backbone, Backbone)
    assert as_backbone(backbone, context(in_chans=1)) is backbone


def test_stages_carry_the_prefix_and_are_discovered_once():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(Gives(pooled, 4), nn.Flatten()))
    backbone = as_backbone(module, context())
    stages = backbone.stages()
    assert stages is backbone.stages()
    assert sorted(p for s in stages for p in s.parameters) == sorted(
        name for name, _ in backbone.named_parameters()
    )
    for stage in stages:
        assert all(backbone.get_submodule(name) for name in (*stage.modules, stage.output))


def test_a_single_layer_is_its_own_module():
    (stage,) = as_backbone(nn.Conv2d(3, 4, 3), context()).stages()
    assert stage.modules == ("model",)
    assert stage.output == "model"
    assert stage.parameters == ("model.weight", "model.bias")


def test_block_granularity():
    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    blocks = as_backbone(model, context()).stages("block")
    assert [b.name for b in blocks][:3] == ["stem", "layer1.0", "layer1.1"]
    assert len(blocks) == 9
    assert blocks[1].output == "model.layer1.0"


def test_building_and_probing_leave_modes_and_statistics_alone():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    module[1].eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    backbone = as_backbone(module, context())
    backbone.stages()
    assert [m.training for m in module] == [True, False, True]
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


# --- the width, where num_features lies, and heads that timm keeps -------------------------------


@pytest.mark.parametrize(
    ("name", "width", "options"),
    [
        ("mobilenetv3_small_050", 1024, {}),
        ("mobilenetv4_conv_small", 1280, {}),
        ("deit_tiny_distilled_patch16_224", 192, {"img_size": 32}),
        pytest.param("vgg11", 4096, {}, marks=pytest.mark.slow),
    ],
)
def test_width_of_awkward_models_in_both_modes(name, width, options):
    model = timm.create_model(name, pretrained=False, num_classes=0, **options)
    backbone = as_backbone(model, context())
    assert backbone.embedding_dim == width
    for mode in (True, False):
        assert backbone.train(mode)(torch.zeros(2, 3, 32, 32)).shape == (2, width)


# --- preprocessing -------------------------------------------------------------------------------


def test_preprocessing_comes_from_timms_data_config():
    model = timm.create_model("resnet50", pretrained=False, num_classes=0)
    assert preprocessing_of(model, context(image_size=None)) == Preprocessing(
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        size=(224, 224),
        interpolation="bicubic",
        crop_pct=0.95,
    )


def test_a_modules_own_preprocessing_wins():
    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    model.preprocessing = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, size=(240, 240))
    found = preprocessing_of(model, context(image_size=96))
    assert (found.mean, found.std, found.size) == ((0.5,) * 3, (0.25,) * 3, (96, 96))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("preprocessing", {"mean": [0.5] * 3}, "a siamkit.Preprocessing"),
        ("layout", ["N", "C", "H", "W"], "a text such as 'NCHW'"),
        ("select", (0,), "a key, an index or a function"),
    ],
)
def test_an_attribute_that_would_be_ignored_is_refused(name, value, allowed):
    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    setattr(model, name, value)
    with pytest.raises(PluginError) as caught:
        as_backbone(model, context())
    assert str(caught.value).startswith(f"ResNet: the attribute {name} has the wrong type, got ")
    assert caught.value.allowed == allowed


@pytest.mark.parametrize("name", ["preprocessing", "layout", "select"])
def test_a_module_with_such_a_name_is_a_part_of_the_network(name):
    model = timm.create_model("resnet18", pretrained=False, num_classes=0)
    setattr(model, name, nn.Linear(2, 2))
    assert as_backbone(model, context()).embedding_dim == 512


def test_without_either_it_is_imagenets():
    assert preprocessing_of(Gives(pooled), context(image_size=None)) == Preprocessing()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_statistics_fit_the_channels(channels):
    found = preprocessing_of(Gives(pooled), context(in_chans=channels))
    assert found.channels == len(found.std) == channels
    if channels >= 3:
        assert found.mean[:3] == Preprocessing().mean
    if channels != 3:
        assert found.mean[-1] == pytest.approx(0.449)
        assert found.std[-1] == pytest.approx(0.226)


def test_a_wrapped_backbone_on_another_device_and_type():
    module = Gives(pooled).double()
    backbone = WrappedBackbone(module, preprocessing_of(module, context()))
    assert backbone(torch.zeros(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64
    assert len(backbone.stages()) == 1


class NeedsPlainImages(nn.Module):
    def forward(self, images):
        return images.view(len(images), -1)[:, :8]  # fails for images in channels_last


def test_a_module_that_needs_plain_images_gets_them_in_any_layout():
    module = NeedsPlainImages()
    backbone = WrappedBackbone(module, preprocessing_of(module, context()))
    images = torch.rand(2, 3, 32, 32)
    assert not backbone.channels_last
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(backbone(last), backbone(images))
