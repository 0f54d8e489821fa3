"""Backbones from folders: those of timm's own making, and those of siamkit's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import siamkit
from siamkit import api
from siamkit.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=10).eval()


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def save(model, folder: Path, **options) -> Path:
    timm.models.save_for_hf(model, str(folder), **{"safe_serialization": True, **options})
    return folder


def create(folder: object, **options):
    return siamkit.create_model(
        f"timm:local-dir:{folder}", head="identity", **{"image_size": 32, **options}
    )


def features(model, images):
    with torch.no_grad():
        return timm.layers.SelectAdaptivePool2d(flatten=True)(model.forward_features(images))


@pytest.mark.parametrize("where", ["absolute", "relative", "home", "pickled"])
def test_a_folder_of_timms(model, place, where):
    at = {"home": place / "home" / "my model"}.get(where, place / "my model")
    save(model, at, safe_serialization=where != "pickled")
    name = {"absolute": str(at), "home": "~/my model"}.get(where, "my model")
    net = create(name)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.features(images), features(model, images))
    # Independent of where it is read next.
    assert net.origin.backbone.name == f"timm:local-dir:{at}"
    assert net.origin.weights == "pretrained: local-dir:my model"


def test_a_folder_of_siamkits(place):
    torch.manual_seed(0)
    first = siamkit.create_model("timm:test_vit", pretrained=False, image_size=32)
    first.save_pretrained(place / "m")
    net = create("m", image_size=None)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(net.features(images), first.features(images))
    assert net.backbone.preprocessing == first.backbone.preprocessing
    assert create("m", image_size=64).features(torch.randn(2, 3, 64, 64)).shape == (2, 64)
    (place / "m" / "siamkit.safetensors").unlink()  # the head's: not needed here
    create("m")
    data = bytearray((place / "m" / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (place / "m" / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: the file is damaged"):
        create("m")


def test_a_run_starts_from_a_folder_and_is_loaded_again(model, place, run_values, capsys):
    from siamkit.cli.app import main

    save(model, place / "base dir")
    data = run_values()["data"]["path"]
    arguments = ["train", data, "--backbone", "timm:local-dir:base dir", "--image-size", "32",
                 "--epochs", "1", "--batch-size", "8", "--set", "train.images_per_class=2",
                 "--set", "data.workers=0", "--run-dir", "r", "--no-report"]  # fmt: skip
    main(arguments)
    assert "pretrained: local-dir:base dir" in capsys.readouterr().err
    assert siamkit.load_model("r").backbone.embedding_dim == 96
    siamkit.save_pretrained("r", "shared")
    text = (place / "shared" / "config.json").read_text()
    text += (place / "shared" / "README.md").read_text()
    assert str(place) not in text and data not in text, "no path of this machine leaves it"
    (place / "base dir" / "config.json").unlink()
    siamkit.from_pretrained("shared")


def test_folders_that_are_none(place, model):
    with pytest.raises(ConfigError, match="no such folder"):
        create("nowhere")
    (place / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        create("file")
    (place / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"has no config\.json.*save_for_hf"):
        create("empty")
    with pytest.raises(ConfigError, match=r"names no folder, allowed: timm:local-dir:FOLDER"):
        create("")


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ("{", CheckpointError, "the file is damaged"),
        ("{}", ConfigError, "names no architecture"),
        ('{"architecture": "test_resnett"}', ConfigError, "did you mean 'test_resnet'"),
        ('{"architecture": "test_resnet", "pretrained_cfg": 3}', CheckpointError, "damaged"),
        (
            '{"architecture": "test_resnet", "model_args": {"wings": 2}}',
            ConfigError,
            "cannot build",
        ),
    ],
)
def test_configs_that_are_none(place, model, config, error, message):
    save(model, place / "m")
    (place / "m" / "config.json").write_text(config)
    with pytest.raises(error, match=message):
        create("m")


def test_weights_that_do_not_fit(place, model):
    save(model, place / "m")
    path = place / "m" / "model.safetensors"
    tensors = load_file(path)
    dropped = {k: v for k, v in tensors.items() if k != "layer4.0.conv1.weight"}
    save_file(dropped, path)
    # timm only logs that, and leaves the layer random.
    with pytest.raises(CheckpointError, match=r"lacks 1 of the model's .*layer4\.0\.conv1\.weight"):
        create("m")
    save_file({**tensors, "layer4.0.conv1.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(CheckpointError, match="timm cannot load this weights file"):
        create("m")
    save_file({**tensors, "conv1.0.weight": tensors["conv1.0.weight"] * torch.nan}, path)
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        create("m")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        create("m")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"has no weights file, allowed: model\.safetensors"):
        create("m")
    create("m", pretrained=False)


def test_code_in_a_weights_file_never_runs(place, model):
    import pickle

    class Evil:
        def __reduce__(self):
            return Path.touch, (place / "ran",)

    save(model, place / "m")
    (place / "m" / "model.safetensors").unlink()
    torch.save({"conv1.0.weight": Evil()}, place / "m" / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(CheckpointError):
        create("m")
    assert not (place / "ran").exists()


def test_channels_that_cannot_be_adapted(place):
    save(timm.create_model("test_resnet", in_chans=4), place / "m")
    assert create("m", in_chans=4).backbone.preprocessing.channels == 4
    assert create("m", in_chans=1).backbone.preprocessing.channels == 1
    with pytest.raises(ConfigError, match=r"images of 4 channels.*got 2.*'in_chans': 4"):
        create("m", in_chans=2)


def test_an_old_config_of_one_level(place, model):
    save(model, place / "m")
    config = json.loads((place / "m" / "config.json").read_text())
    flat = {"architecture": config["architecture"], "num_features": 96, **config["pretrained_cfg"]}
    (place / "m" / "config.json").write_text(json.dumps(flat))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(create("m").features(images), features(model, images))


def test_the_hub_offline():
    with pytest.raises(CheckpointError, match=r"HF_HUB_OFFLINE is set, and .*'weights': FILE"):
        siamkit.create_model("timm:hf-hub:someone/model")
    with pytest.raises(ConfigError, match=r"not the name of a model on the hub.*got 'a/b/c'"):
        siamkit.create_model("timm:hf-hub:a/b/c")


def test_a_config_with_a_folder_is_read_the_same_from_anywhere(place):
    config = api.load_config({"backbone": "timm:local-dir:a/../b c"})
    assert config.backbone.name == f"timm:local-dir:{place / 'b c'}"
    assert api.load_config(config.to_values()).backbone.name == config.backbone.name
