import socket
import subprocess
import sys

import pytest
import timm
import torch
from huggingface_hub import constants
from pydantic import ValidationError

from siamkit import hub
from siamkit.builtins.backbones import TimmOptions, create_timm
from siamkit.errors import CheckpointError, ConfigError
from siamkit.interfaces import BackboneContext
from siamkit.model.build import build_backbone
from siamkit.plugins import get


def create(name, *, options=None, **context):
    context = BackboneContext(f"timm:{name}", **{"pretrained": False, **context})
    return create_timm(name, options or TimmOptions(), context)


@pytest.fixture
def offline(monkeypatch):
    """No host is reachable, and nobody said so."""

    def refuse(*_, **__):
        raise OSError(113, "No route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(hub, "getproxies", dict)


def test_registered_names():
    registry = get().backbones
    for name in ("resnet50", "timm:"):
        entry = registry.get(name)
        assert entry.pretrained
        assert entry.distribution == "siamkit"
        assert entry.summary
    assert registry.get("timm:convnext_atto.d2_in1k").name == "timm:"


def test_resnet50_has_no_classifier():
    entry = get().backbones.get("resnet50")
    context = BackboneContext("resnet50", image_size=32)
    backbone = build_backbone(entry, TimmOptions(), context, pretrained=False).backbone
    assert sum(p.numel() for p in backbone.parameters()) == 23508032
    assert backbone.embedding_dim == 2048


def test_channels_size_and_drop_path_reach_timm():
    model = create("resnet18", in_chans=1, options=TimmOptions(drop_path_rate=0.2))
    assert model.conv1.in_channels == 1
    assert model.layer4[1].drop_path.drop_prob == pytest.approx(0.2)
    assert create("vit_tiny_patch16_224", image_size=32).pos_embed.shape[1] == 1 + 4
    assert create("vit_tiny_patch16_224").pos_embed.shape[1] == 1 + 196
    assert create("resnet18", image_size=32)(torch.zeros(1, 3, 48, 48)).shape == (1, 512)


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_drop_path_has_bounds(value):
    with pytest.raises(ValidationError):
        TimmOptions(drop_path_rate=value)


def test_an_option_that_the_architecture_lacks():
    with pytest.raises(ConfigError, match=r"'vgg11' cannot be built with .*drop_path_rate=0\.1"):
        create("vgg11", options=TimmOptions(drop_path_rate=0.1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnex_atto", r"did you mean 'timm:convnext_atto'\? 'siamkit list backbones --timm"),
        ("", r"unknown timm model 'timm:'; 'siamkit list"),
        ("convnext_atto.in22k", "no pretrained tag 'in22k', allowed: timm:convnext_atto.d2_in1k"),
    ],
)
def test_unknown_models_and_tags(name, message):
    with pytest.raises(ConfigError, match=message):
        create(name)


@pytest.mark.parametrize("name", ["resnet18", "legacy_seresnet18"])
def test_without_a_hub_the_error_is_quick_and_names_the_ways_out(offline, name):
    with pytest.raises(CheckpointError) as caught:
        create(name, pretrained=True)
    message = str(caught.value)
    for way in ("'weights': FILE", "'pretrained': False", "siamkit-efficientnet-lite"):
        assert way in message
    assert name in message
    assert constants.HF_HUB_OFFLINE is False
    assert socket.getdefaulttimeout() is None


def test_the_reason_is_told(offline):
    with pytest.raises(CheckpointError, match=r"huggingface\.co is unreachable \(No route"):
        create("resnet18", pretrained=True)


def test_offline_by_the_users_own_wish(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set, and the files are not"):
        create("resnet18", pretrained=True)
    assert constants.HF_HUB_OFFLINE is True


def test_without_a_hub_the_local_cache_still_serves(offline, monkeypatch):
    torch.manual_seed(1)
    cached = timm.create_model("resnet18", pretrained=False).state_dict()
    seen = []

    def from_cache(*_, **__):
        seen.append(constants.is_offline_mode())
        return dict(cached)

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", from_cache)
    model = create("resnet18", pretrained=True, in_chans=1)
    assert seen == [True]
    assert torch.equal(model.layer1[0].conv1.weight, cached["layer1.0.conv1.weight"])
    expected = timm.models.adapt_input_conv(1, cached["conv1.weight"])
    assert torch.equal(model.conv1.weight, expected)


def test_a_proxy_is_not_second_guessed(offline, monkeypatch):
    assert hub.out_of_reach("https://huggingface.co")
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy:3128"})
    assert hub.out_of_reach("https://huggingface.co") is None


def test_reachable_hosts_are_asked():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert hub.out_of_reach(f"http://127.0.0.1:{port}") is None
    assert hub.out_of_reach(f"http://127.0.0.1:{port}")


def test_a_model_without_pretrained_weights_is_no_silent_random_network():
    with pytest.raises(
        CheckpointError, match=r"no pretrained weights for 'coatnet_0_224'.*'pretrained': False"
    ):
        create("coatnet_0_224", pretrained=True)


def test_names_are_listed_without_torch_or_timm():
    code = (
        "import importlib.util as u, sys\n"
        "spec = u.find_spec('siamkit')\n"
        "path = spec.submodule_search_locations[0] + '/builtins/backbones.py'\n"
        "spec = u.spec_from_file_location('b', path)\n"
        "m = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(m)\n"
        "m.siamkit_register_backbones(lambda *a, **k: None)\n"
        "sys.exit(bool({'torch', 'timm', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
