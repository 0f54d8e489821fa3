import os
import pickle
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from siamkit.errors import CheckpointError
from siamkit.interfaces import BackboneContext
from siamkit.model.backbone import as_backbone
from siamkit.model.weights import load_backbone_weights, load_net_tensors


def network(name="test_resnet", **options):
    return timm.create_model(name, pretrained=False, **options)


def backbone(name="test_resnet", in_chans=3, size=32, **options):
    model = network(name, num_classes=0, in_chans=in_chans, **options)
    return as_backbone(model, BackboneContext(name, in_chans=in_chans, image_size=size))


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(7)
    return network()


@pytest.fixture
def file(tmp_path, source):
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    return path


def assert_loaded(target, source):
    expected = source.state_dict()
    found = target.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def snapshot(target):
    return {key: value.clone() for key, value in target.state_dict().items()}


def assert_unchanged(target, before):
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_safetensors_with_the_classifier(file, source):
    target = backbone()
    load_backbone_weights(target, file)
    assert_loaded(target, source)


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"module._orig_mod.model.{key}": value for key, value in state.items()},
        lambda state: (
            {f"backbone.model.{k}": v for k, v in state.items() if k[:3] != "fc."}
            | {"head.0.weight": torch.zeros(2, 2)}
        ),
    ],
)
def test_pth_in_the_usual_wrappings(tmp_path, source, wrap):
    path = tmp_path / "weights.pth"
    torch.save(wrap(source.state_dict()), path)
    target = backbone()
    load_backbone_weights(target, path)
    assert_loaded(target, source)


def test_a_checkpoint_s_model_is_read_with_what_was_frozen_in_it(tmp_path, source):
    state = {f"backbone.model.{k}": v for k, v in source.state_dict().items() if k[:3] != "fc."}
    frozen = [key for key in state if ".layer1." in key]
    save_file({key: state.pop(key) for key in frozen}, tmp_path / "frozen.safetensors")
    save_file(state, tmp_path / "model.safetensors")
    target = backbone()
    load_backbone_weights(target, tmp_path / "model.safetensors")
    assert_loaded(target, source)


def test_counters_may_be_left_out(tmp_path, source):
    path = tmp_path / "weights.safetensors"
    state = source.state_dict()
    save_file({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    target = backbone()
    load_backbone_weights(target, path)
    assert torch.equal(target.model.conv1[0].weight, source.conv1[0].weight)


@pytest.mark.parametrize(
    ("name", "size"), [("levit_128s", 224), ("caformer_s18", 64), ("vgg11", 64)]
)
@pytest.mark.slow
def test_classifiers_of_several_layers_are_left_out(tmp_path, name, size):
    path = tmp_path / "weights.safetensors"
    whole = network(name)
    save_file(whole.state_dict(), path)
    target = backbone(name, size=size)
    load_backbone_weights(target, path)
    assert_loaded(target, whole)


def test_buffers_that_the_module_computes_are_left_out(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("mask", torch.ones(1), persistent=False)

        def forward(self, x):
            return self.conv(x) * self.mask

    target = as_backbone(Net(), BackboneContext("net", image_size=16))
    path = tmp_path / "weights.pth"
    torch.save({**Net().state_dict(), "mask": torch.zeros(1)}, path)
    load_backbone_weights(target, path)
    assert target.model.mask == 1


@pytest.mark.parametrize("channels", [1, 4])
def test_the_first_convolution_is_fitted_as_timm_does(file, source, channels):
    target = backbone(in_chans=channels)
    load_backbone_weights(target, file)
    expected = timm.models.adapt_input_conv(channels, source.conv1[0].weight.detach())
    assert torch.equal(target.model.conv1[0].weight, expected)
    assert torch.equal(target.model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


# --- what does not fit ---------------------------------------------------------------------------


def test_every_mismatch_is_listed_and_nothing_is_loaded(tmp_path, source):
    state = dict(source.state_dict())
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["bn1.weight"] = torch.zeros(65)
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    target = backbone()
    before = snapshot(target)
    with pytest.raises(CheckpointError) as caught:
        load_backbone_weights(target, path)
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        f"{path}: the weights do not fit this backbone: the file has 88 of its 90 tensors"
    )
    assert lines[1:] == [
        "  1 missing: layer1.0.conv1.weight",
        "  1 unexpected: layer9.weight",
        "  1 of another shape: bn1.weight [65] for [32]",
    ]
    assert_unchanged(target, before)
    assert caught.value.exit_code == 4


def test_another_architecture_is_refused_with_capped_lists(file):
    target = backbone("mobilenetv3_small_050")
    before = snapshot(target)
    with pytest.raises(CheckpointError, match=r"and \d+ more") as caught:
        load_backbone_weights(target, file)
    missing = next(line for line in str(caught.value).splitlines() if "missing" in line)
    assert missing.count(",") == 10
    assert_unchanged(target, before)


# --- files that are no weights -------------------------------------------------------------------


class Gadget:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, save, suffix):
    victim = tmp_path / "pwned"
    path = tmp_path / f"weights{suffix}"
    save({"state_dict": Gadget(victim)}, path)
    with pytest.raises(CheckpointError, match=r"refused, .*could run code"):
        load_backbone_weights(backbone(), path)
    assert not victim.exists()
    # The gadget is a real one: whoever unpickles the file does run it.
    with suppress(Exception):
        torch.load(path, weights_only=False)
    assert victim.exists()


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (lambda path: torch.save({"a": Gadget(path)}, path), "it holds "),
        (lambda path: torch.save(nn.Linear(2, 2), path), r"it holds torch\.nn\S*Linear\)"),
        (lambda path: torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path),
         "it is a TorchScript file"),
        (lambda path: path.write_bytes(pickle.dumps({"a": Gadget(path)})), "Unsupported operand"),
    ],
    ids=["gadget", "module", "TorchScript", "plain pickle"],
)  # fmt: skip
def test_nobody_is_advised_to_run_a_files_code(tmp_path, save, reason):
    path = tmp_path / "weights.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is replacing TorchScript
        save(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_backbone_weights(backbone(), path)
    for advice in ("weights_only", "safe_globals", "trusted", "torch.load"):
        assert advice not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(range(256)) * 8])
def test_a_damaged_file(tmp_path, suffix, content):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_backbone_weights(backbone(), path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_truncated_file(file, tmp_path, source):
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_backbone_weights(backbone(), file)
    path = tmp_path / "weights.pth"
    torch.save(source.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_backbone_weights(backbone(), path)


def test_missing_files_folders_and_unknown_suffixes(tmp_path):
    target = backbone()
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_backbone_weights(target, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="is a folder, not a weights file"):
        load_backbone_weights(target, tmp_path)
    (tmp_path / "weights.npz").touch()
    with pytest.raises(CheckpointError, match=r"got '\.npz', allowed: \.safetensors"):
        load_backbone_weights(target, tmp_path / "weights.npz")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, torch.zeros(3)])
def test_a_pth_without_a_state_dict(tmp_path: Path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="state dict"):
        load_backbone_weights(backbone(), path)


def test_the_tensors_of_a_run_are_those_of_its_network_and_its_loss():
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    load_net_tensors(net, {**other.state_dict(), "loss.proxies": torch.ones(1)}, "a checkpoint")
    assert torch.equal(net.weight, other.weight) and torch.equal(net.bias, other.bias)
    with pytest.raises(CheckpointError, match=r"1 left over: lost\.proxies.*register them in"):
        load_net_tensors(net, {**other.state_dict(), "lost.proxies": torch.ones(1)}, "a checkpoint")


def test_a_first_convolution_of_five_channels_is_not_made_from_three(file):
    with pytest.raises(CheckpointError, match=r"conv1\.0\.weight \[\d+, 3, 3, 3\] for \[\d+, 5,"):
        load_backbone_weights(backbone(in_chans=5), file)
