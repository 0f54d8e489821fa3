import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from siamkit_efficientnet_lite import SIZES, build, weights
from siamkit_efficientnet_lite.weights import convert, packaged

import siamkit
from siamkit import BackboneContext, plugins
from siamkit.model.build import build_backbone
from siamkit.registry import NoOptions

VARIANTS = sorted(SIZES)


def context(**changes):
    return BackboneContext("efficientnet-lite0", **changes)


def images(variant, count=2, channels=3, size=None):
    size = size or SIZES[variant]
    return torch.randn(
        count, channels, size, size, generator=torch.Generator().manual_seed(variant)
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_the_original_package_bit_for_bit(variant):
    original_package = pytest.importorskip("efficientnet_lite_pytorch")
    original = original_package.EfficientNet.from_name(f"efficientnet-lite{variant}")
    original.load_state_dict(packaged(variant))
    ours = timm.create_model(f"tf_efficientnet_lite{variant}", pretrained=False)
    ours.load_state_dict(convert(packaged(variant), ours), strict=True)
    batch = images(variant)
    with torch.no_grad():
        assert torch.equal(ours.eval()(batch), original.eval()(batch))


def test_features_are_what_the_classifier_sees():
    backbone = build(0, NoOptions(), context()).eval()
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    whole.load_state_dict(convert(packaged(0), whole))
    batch = images(0, size=64)
    with torch.no_grad():
        features = backbone(batch)
        assert features.shape == (2, 1280)
        assert torch.equal(whole.classifier(features), whole(batch))


@pytest.mark.parametrize("variant", VARIANTS)
def test_preprocessing_is_the_one_of_training(variant):
    preprocessing = build(variant, NoOptions(), context(pretrained=False)).preprocessing
    assert preprocessing.mean == preprocessing.std == (0.5, 0.5, 0.5)
    assert preprocessing.size == (SIZES[variant], SIZES[variant])


def test_one_channel_sees_a_grey_image_as_the_colour_network_does():
    colour = build(0, NoOptions(), context()).eval()
    grey = build(0, NoOptions(), context(in_chans=1)).eval()
    batch = images(0, channels=1, size=64)
    with torch.no_grad():
        expected = colour(batch.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey(batch), expected, rtol=1e-4, atol=1e-4)


def test_four_channels_build():
    model = build(0, NoOptions(), context(in_chans=4)).eval()
    assert model(images(0, channels=4, size=64)).shape == (2, 1280)


def test_without_pretrained_the_weights_are_not_the_packaged_ones():
    one, other = (build(0, NoOptions(), context(pretrained=p)) for p in (False, True))
    assert not torch.equal(one.conv_stem.weight, other.conv_stem.weight)


def test_a_foreign_key_is_refused():
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    with pytest.raises(KeyError, match="_other"):
        convert({"_other.weight": torch.zeros(1)}, model)


def test_a_missing_key_is_refused(monkeypatch):
    state = packaged(0)
    del state["_blocks.3._bn2.running_var"]
    monkeypatch.setattr(weights, "packaged", lambda variant: state)
    with pytest.raises(RuntimeError, match=r"blocks\.2\.0\.bn3\.running_var"):
        build(0, NoOptions(), context())


def test_registered_names_and_provenance():
    registry = plugins.get().backbones
    assert {f"efficientnet-lite{v}" for v in VARIANTS} <= set(registry.names())
    entry = registry.get("efficientnet-lite0")
    built = build_backbone(entry, NoOptions(), context())
    assert entry.pretrained
    assert built.weights == "pretrained: efficientnet-lite0 (siamkit-efficientnet-lite)"
    assert built.backbone.stages()[0].name == "stem"


def test_registering_does_not_import_torch():
    code = "import sys, siamkit_efficientnet_lite; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_licence_is_shipped():
    assert "Apache License" in (Path(__file__).parents[1] / "LICENSE").read_text()


def test_stages_are_those_of_one_resolution_each():
    net = siamkit.create_model("efficientnet-lite0", pretrained=False, image_size=64)
    names = [stage.name for stage in net.backbone.stages()]
    assert names == ["stem", "blocks.1", "blocks.2", "blocks.3-4", "blocks.5-6"]
    sizes: dict[str, tuple[int, ...]] = {}
    for stage in net.backbone.stages():
        last = next(m for m in reversed(stage.modules) if "blocks" in m)
        module = net.backbone.get_submodule(last)
        module.register_forward_hook(
            lambda m, i, o, name=stage.name: sizes.update({name: tuple(o.shape[-2:])})
        )
    net.embed(torch.zeros(1, 3, 64, 64))
    assert [size[0] for size in sizes.values()] == [32, 16, 8, 4, 2]
