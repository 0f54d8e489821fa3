"""Networks saved to folders: what siamkit and timm load from the folders, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import siamkit
from siamkit import plugins
from siamkit.config import yaml_text
from siamkit.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteError,
    PluginError,
    ResourceError,
)
from siamkit.inference.embedder import Embedder
from siamkit.interfaces import Preprocessing
from siamkit.model.backbone import WrappedBackbone
from siamkit.model.heads import Head, as_head
from siamkit.model.pretrained.folder import config_text, read_folder
from siamkit.registry import Entry

SIZE = 32


def timm_net(name: str = "timm:test_resnet", **options: object) -> siamkit.SiameseNet:
    torch.manual_seed(0)
    net = siamkit.create_model(
        name, pretrained=False, image_size=SIZE, **{"head": {"name": "mlp", "dim": 8}, **options}
    )
    for norm in net.modules():  # statistics of a trained network
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.1, 0.1)
    return net


@pytest.fixture(scope="module")
def net() -> siamkit.SiameseNet:
    return timm_net()


@pytest.fixture(scope="module")
def saved(net, tmp_path_factory) -> Path:
    return net.save_pretrained(tmp_path_factory.mktemp("models") / "a model")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def images(channels: int = 3, size: int = SIZE) -> Tensor:
    return torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(1))


class Tiny(nn.Module):
    """A module that is not registered. Its output depends on ``power``, which is not a tensor."""

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)).mean((2, 3)) ** self.power


# --- what comes back -----------------------------------------------------------------------------


def test_a_network_comes_back_whole(net, saved):
    back = siamkit.from_pretrained(saved)
    assert torch.equal(back.embed(images()), net.embed(images()))
    assert back.backbone.preprocessing == net.backbone.preprocessing
    assert not back.training
    assert [s.name for s in back.stages()] == [s.name for s in net.stages()]
    assert Embedder(back).fingerprint == Embedder(timm_net()).fingerprint
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "siamkit.safetensors",
    ]  # fmt: skip


def test_saving_leaves_the_network_as_it_was(tmp_path):
    net = timm_net().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.save_pretrained(tmp_path / "m")
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:test_resnet", {"in_chans": 1}),
        ("timm:test_vit", {}),
        ("timm:test_efficientnet", {"head": "bnneck", "drop_path_rate": 0.1}),
        ("timm:test_convnext", {"head": "identity"}),
    ],
)
def test_plain_timm_loads_the_backbone(name, options, tmp_path):
    net = timm_net(name, **options)
    folder = net.save_pretrained(tmp_path / "m")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    channels = options.get("in_chans", 3)
    with torch.no_grad():
        features = model(images(channels))
    assert torch.equal(features, net.features(images(channels)))
    config = timm.data.resolve_model_data_config(model)
    wanted = net.backbone.preprocessing
    assert config["input_size"] == (channels, *wanted.size)
    assert (tuple(config["mean"]), tuple(config["std"])) == (wanted.mean, wanted.std)
    assert (config["interpolation"], config["crop_pct"]) == (wanted.interpolation, wanted.crop_pct)
    part = read_folder(folder).saved.backbone
    rate = {name: options[name] for name in ("drop_path_rate",) if name in options}
    assert (part.kind, part.name, part.options) == ("timm", name, rate)
    back = siamkit.from_pretrained(folder)
    assert torch.equal(back.embed(images(channels)), net.embed(images(channels)))
    assert back.backbone.model.__class__ is net.backbone.model.__class__
    drops = [m.drop_prob for m in back.modules() if m.__class__.__name__ == "DropPath"]
    assert bool(drops and max(drops)) == ("drop_path_rate" in options)


def test_a_classifier_that_is_used_is_kept(tmp_path):
    torch.manual_seed(0)
    module = timm.create_model("test_resnet", num_classes=7).eval()
    wrapped = WrappedBackbone(module, Preprocessing(size=(SIZE, SIZE)))
    net = siamkit.SiameseNet(wrapped, Head(7)).eval()
    back = siamkit.from_pretrained(net.save_pretrained(tmp_path / "m"))
    assert torch.equal(back.embed(images()), net.embed(images()))


def test_weights_of_half_precision_keep_their_type(tmp_path):
    net = timm_net().bfloat16()
    back = siamkit.from_pretrained(net.save_pretrained(tmp_path / "m"))
    assert {p.dtype for p in back.parameters()} == {torch.bfloat16}
    assert torch.equal(back.embed(images()), net.embed(images()))


def test_tied_weights_are_saved(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    module[1].weight = module[0].weight
    backbone = WrappedBackbone(module, Preprocessing(size=(SIZE, SIZE)))
    net = siamkit.SiameseNet(backbone, Head(3)).eval()
    back = siamkit.from_pretrained(net.save_pretrained(tmp_path / "m"), backbone=module)
    assert back.backbone.model[0].weight is back.backbone.model[1].weight
    assert torch.equal(back.embed(images()), net.embed(images()))


def test_a_loaded_network_is_saved_again(saved, tmp_path, net):
    back = siamkit.from_pretrained(siamkit.from_pretrained(saved).save_pretrained(tmp_path / "m"))
    assert torch.equal(back.embed(images()), net.embed(images()))


# --- plugins and objects -------------------------------------------------------------------------


def object_net(power: float = 2.0) -> siamkit.SiameseNet:
    torch.manual_seed(0)
    backbone = WrappedBackbone(Tiny(power), Preprocessing(size=(SIZE, SIZE)))
    head = as_head(nn.Linear(6, 4), 6, "head")
    return siamkit.SiameseNet(backbone, head).eval()


def test_objects_are_given_again(tmp_path):
    net = object_net()
    folder = net.save_pretrained(tmp_path / "m")
    assert "architecture" not in json.loads((folder / "config.json").read_text())
    module, head = Tiny(2.0), nn.Linear(6, 4)
    before = module.conv.weight.clone()
    back = siamkit.from_pretrained(folder, backbone=module, head=head)
    assert torch.equal(back.embed(images()), net.embed(images()))
    assert torch.equal(module.conv.weight, before), "the caller's module keeps its weights"
    with pytest.raises(ConfigError, match=r"backbone was a Python object .*Tiny.*backbone=\.\.\."):
        siamkit.from_pretrained(folder, head=head)
    with pytest.raises(ConfigError, match=r"head was a Python object.*head=\.\.\."):
        siamkit.from_pretrained(folder, backbone=module)
    with pytest.raises(ConfigError, match="backbone: is of a wrong type"):
        siamkit.from_pretrained(folder, backbone="resnet50", head=head)


def test_an_object_that_computes_something_else_is_refused(tmp_path):
    folder = object_net(power=2.0).save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"the embeddings differ from the saved ones by"):
        siamkit.from_pretrained(folder, backbone=Tiny(power=1.0), head=nn.Linear(6, 4))
    with pytest.raises(CheckpointError, match=r"do not fit the module \(1 left over: 0\.bias"):
        siamkit.from_pretrained(folder, backbone=Tiny(2.0), head=nn.Linear(6, 4, bias=False))


@pytest.fixture
def with_plugin(monkeypatch):
    registry = plugins.get().backbones
    entry = Entry("tiny-p", lambda *_: Tiny(3.0), distribution="siamkit-tiny")
    monkeypatch.setitem(registry.entries, "tiny-p", entry)


def test_a_plugins_backbone_needs_the_plugin(with_plugin, tmp_path, monkeypatch):
    net = siamkit.create_model("tiny-p", head={"name": "mlp", "dim": 8}, image_size=SIZE)
    folder = net.save_pretrained(tmp_path / "m")
    back = siamkit.from_pretrained(folder)
    assert torch.equal(back.embed(images()), net.embed(images()))
    assert "pip install siamkit-tiny" in (folder / "README.md").read_text()
    monkeypatch.delitem(plugins.get().backbones.entries, "tiny-p")
    with pytest.raises(CheckpointError, match=r"'tiny-p' of siamkit-tiny.*pip install siam"):
        siamkit.from_pretrained(folder)


def test_a_head_that_was_put_in_later_is_no_plugins(tmp_path):
    net = timm_net()
    net.head = as_head(nn.Sequential(nn.Linear(96, 5), nn.Tanh()), 96, "head")
    folder = net.save_pretrained(tmp_path / "m")
    assert read_folder(folder).saved.head.kind == "object"


def test_a_network_whose_output_is_not_in_its_tensors_is_refused(tmp_path):
    class Counting(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            self.power += 0.5
            return super().forward(x)

    backbone = WrappedBackbone(Counting(), Preprocessing(size=(SIZE, SIZE)))
    with pytest.raises(PluginError, match=r"a copy of the backbone .* returns another output"):
        siamkit.SiameseNet(backbone, Head(6)).save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_network_is_refused(tmp_path):
    net = timm_net()
    with torch.no_grad():
        net.head[0].weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        net.save_pretrained(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "siamkit.safetensors"])
def test_a_changed_file_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name}: the file is damaged"):
        siamkit.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: the file is missing"):
        siamkit.from_pretrained(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["siamkit"]["preprocessing"].update(crop_pct=0.5),
        lambda c: c["siamkit"].update(normalize=False),
        lambda c: c["siamkit"].pop("seal"),
        lambda c: c["siamkit"]["files"].clear(),
        lambda c: c["pretrained_cfg"].update(mean=[0, 0, 0]),
        lambda c: c.update(architecture="test_resnet2"),
        lambda c: c.update(siamkit=[]),
    ],
)
def test_an_edited_config_is_refused(folder, edit):
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json: the file is damaged"):
        siamkit.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "\x00"])
def test_a_config_that_is_no_json_object(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: the file is damaged"):
        siamkit.from_pretrained(folder)


def test_a_sealed_config_of_nonsense_is_refused(folder):
    opened = read_folder(folder)
    wrong = opened.saved.model_copy(update={"embedding_dim": -1})
    (folder / "config.json").write_text(config_text(wrong, opened.timm))
    with pytest.raises(CheckpointError, match=r"siamkit\.embedding_dim: .*greater than or equal"):
        siamkit.from_pretrained(folder)
    newer = opened.saved.model_copy(update={"format": 3})
    (folder / "config.json").write_text(config_text(newer, opened.timm))
    with pytest.raises(
        CheckpointError, match="unknown format of a saved network, got 3, allowed: 2"
    ):
        siamkit.from_pretrained(folder)


def test_a_config_holds_no_number_that_json_lacks(folder):
    opened = read_folder(folder)
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            config_text(opened.saved, {**opened.timm, "x": number})


def test_what_is_no_folder_of_ours(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        siamkit.from_pretrained(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        siamkit.from_pretrained(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(ConfigError, match=r"is a run, not a saved network.*siamkit\.load_model\("):
        siamkit.from_pretrained(tmp_path / "run")
    timm.models.save_for_hf(timm.create_model("test_resnet"), str(tmp_path / "timm"))
    with pytest.raises(ConfigError, match=r"no section 'siamkit'.*backbone='timm:local-dir:"):
        siamkit.from_pretrained(tmp_path / "timm")


# --- where it is written -------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(net, folder, tmp_path):
    with pytest.raises(ConfigError, match=r"already holds a saved network.*force=True"):
        net.save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds more than a saved network: notes\.txt"):
        net.save_pretrained(folder, force=True)
    (folder / "notes.txt").unlink()
    (folder / ".git").mkdir()
    timm_net(head="identity").save_pretrained(folder, force=True)
    assert siamkit.from_pretrained(folder).embedding_dim == 96
    assert (folder / ".git").is_dir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "photo.jpg").write_text("mine")
    for force in (False, True):
        with pytest.raises(ConfigError, match="already exists and is not a saved network"):
            net.save_pretrained(other, force=force)
        with pytest.raises(ConfigError, match="is a file, not a folder"):
            net.save_pretrained(other / "photo.jpg", force=force)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "other"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("not even JSON", "is not replaced: .*; remove it yourself"),
        ('{"hidden_size": 768}', "already exists and is not a saved network"),
        ('{"siamkit": {"format": 2}}', "is not replaced: .*; remove it yourself"),
        (None, "is not replaced: the file is damaged or was edited; remove it yourself"),
    ],
)
def test_a_folder_of_another_program_is_never_replaced(net, folder, config, message):
    """Its files have the same names: those of the hub."""
    old = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config or old.replace("normalize", "normalise"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for force in (False, True):
        with pytest.raises(ConfigError, match=message):
            net.save_pretrained(folder, force=force)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_failure_leaves_what_was_there(net, folder, tmp_path, monkeypatch):
    from siamkit.model.pretrained import save

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save, "save_tensors", full)
    with pytest.raises(ResourceError, match="No space left"):
        net.save_pretrained(folder, force=True)
    assert siamkit.from_pretrained(folder).embedding_dim == 8
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_an_empty_folder_and_the_home_directory(net, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    assert net.save_pretrained("~/empty") == tmp_path / "empty"
    assert siamkit.from_pretrained("~/empty").embedding_dim == 8


# --- the card ------------------------------------------------------------------------------------


def test_the_card_of_a_network(net, tmp_path):
    text = (net.save_pretrained(tmp_path / "m", license="mit") / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    values = yaml_text.load(front)
    assert values["license"] == "mit"
    assert values["library_name"] == "timm" and "siamkit" in values["tags"]
    assert values["pipeline_tag"] == "image-feature-extraction"
    assert read_folder(tmp_path / "m").saved.fingerprint in body
    assert "## Figures" not in body and "| started from | random |" in body


def test_base_weights_and_their_licence(net, tmp_path):
    from siamkit.model.pretrained.save import save_net

    words = "pretrained: timm/resnet50.a1_in1k"
    text = (save_net(net, tmp_path / "m", weights=words) / "README.md").read_text()
    front = yaml_text.load(text.split("---\n", 2)[1])
    assert front["base_model"] == "timm/resnet50.a1_in1k" and front["license"] == "unknown"
    assert "| licence of the base weights | apache-2.0 |" in text


def test_the_file_of_the_head_holds_what_is_tested(saved):
    tensors = load_file(saved / "siamkit.safetensors")
    assert tensors["check"].shape == (2, 8)
    assert {name.partition(".")[0] for name in tensors} == {"head", "check"}


def test_a_file_swapped_with_its_hash_is_still_noticed(folder):
    """Anybody can make a seal, so the last check is that the network computes the same."""
    from siamkit.files import sha256_of

    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["conv1.0.weight"] = tensors["conv1.0.weight"].flip(0).contiguous()
    save_file(tensors, path)
    opened = json.loads((folder / "config.json").read_text())
    section = {k: v for k, v in opened.pop("siamkit").items() if k != "seal"}
    section["files"]["model.safetensors"] = sha256_of(path)
    from siamkit.model.pretrained.folder import Saved

    (folder / "config.json").write_text(config_text(Saved.model_validate(section), opened))
    with pytest.raises(CheckpointError, match="the embeddings differ"):
        siamkit.from_pretrained(folder)


def test_the_first_sentence_of_a_card_says_whether_embeddings_are_normalised(tmp_path):
    for normalize in (True, False):
        made = timm_net(head={"name": "mlp", "dim": 8, "normalize": normalize})
        text = (made.save_pretrained(tmp_path / str(normalize)) / "README.md").read_text()
        assert "an embedding of 8 numbers" in text
        assert (", L2-normalised." in text) == normalize


def test_a_part_of_a_card_is_a_heading_with_paragraphs_and_perhaps_a_table():
    from siamkit.model.pretrained.card import CardSection

    assert str(CardSection("A", ["one", "two"], ["x"])) == "## A\n\none\n\ntwo"
    table = CardSection("A", header=["x", "y"], rows=[["1", "2"], ["3", "4"]])
    assert str(table) == "## A\n\n| x | y |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
