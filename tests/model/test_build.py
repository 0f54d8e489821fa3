import hashlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from siamkit.errors import CheckpointError, ConfigError, PluginError
from siamkit.interfaces import Backbone, BackboneContext
from siamkit.model.build import build_backbone
from siamkit.registry import Entry, NoOptions


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Recorder:
    """A plugin's build that records the contexts that it is called with."""

    def __init__(self):
        self.contexts = []

    def __call__(self, options, context):
        self.contexts.append(context)
        return net()


def build(entry, **arguments):
    context = BackboneContext(entry.name, image_size=16)
    return build_backbone(entry, NoOptions(), context, **arguments)


@pytest.mark.parametrize(
    ("has", "asked", "told", "weights"),
    [
        (True, None, True, "pretrained: net (acme)"),
        (True, True, True, "pretrained: net (acme)"),
        (True, False, False, "random"),
        (False, None, False, "random (net has no pretrained weights)"),
        (False, False, False, "random (net has no pretrained weights)"),
    ],
)
def test_pretrained_means(has, asked, told, weights):
    recorder = Recorder()
    built = build(Entry("net", recorder, pretrained=has, distribution="acme"), pretrained=asked)
    assert isinstance(built.backbone, Backbone)
    assert built.weights == weights
    assert [c.pretrained for c in recorder.contexts] == [told]
    assert recorder.contexts[0].image_size == 16


def test_weights_that_do_not_exist_cannot_be_demanded():
    recorder = Recorder()
    with pytest.raises(ConfigError, match=r"'net' has no pretrained weights.*'weights': FILE"):
        build(Entry("net", recorder), pretrained=True)
    assert recorder.contexts == []


@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("has", [True, False])
def test_a_file_replaces_pretrained_weights(tmp_path, asked, has):
    path, state, recorder = tmp_path / "w.safetensors", net().state_dict(), Recorder()
    save_file(state, path)
    built = build(Entry("net", recorder, pretrained=has), weights=path, pretrained=asked)
    assert torch.equal(built.backbone.model[0].weight, state["0.weight"])
    assert not recorder.contexts[0].pretrained
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert built.weights == f"file: w.safetensors (sha256 {digest})"


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="no such weights file"):
        build(Entry("net", Recorder()), weights=tmp_path / "w.pth")


def test_a_plugin_that_fails_is_named_with_its_distribution():
    def broken(options, context):
        raise ValueError("oops")

    with pytest.raises(PluginError, match="'net' of acme failed to build: ValueError: oops"):
        build(Entry("net", broken, distribution="acme"))


def test_a_plugin_cannot_end_its_host():
    def leaving(options, context):
        raise SystemExit(3)

    with pytest.raises(PluginError, match="'net' of acme failed to build: SystemExit: 3"):
        build(Entry("net", leaving, distribution="acme"))


def test_a_plugins_own_siamkit_error_passes_through():
    error = CheckpointError("no weights here")

    def broken(options, context):
        raise error

    with pytest.raises(CheckpointError) as caught:
        build(Entry("net", broken))
    assert caught.value is error


def test_only_siamkits_own_entries_are_attributed_to_timm():
    def timm_like(options, context):
        module = net()
        module.pretrained_cfg = {
            "architecture": "resnet50", "tag": "a1_in1k", "input_size": (3, 16, 16),
        }  # fmt: skip
        return module

    assert build(Entry("net", timm_like, pretrained=True)).weights == (
        "pretrained: timm/resnet50.a1_in1k"
    )
    other = build(Entry("net", timm_like, pretrained=True, distribution="acme"))
    assert other.weights == "pretrained: net (acme)"
