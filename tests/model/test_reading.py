"""The stage reader: what it returns, and how the engine sees it."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import siamkit
from siamkit.engine import cut
from siamkit.errors import ConfigError
from siamkit.freezing.controller import FreezeController
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.names import submodule
from siamkit.model.reading import StageReader, _layout_without, outputs_of, stage_outputs
from siamkit.model.siamese import SiameseNet

HEAD = {"name": "multistage", "dim": 8}


def network(backbone: str = "timm:test_resnet", size: int = 32, **head: object) -> SiameseNet:
    torch.manual_seed(0)
    return siamkit.create_model(
        backbone, head={**HEAD, **head}, pretrained=False, image_size=size
    ).eval()


def images(count: int = 3, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> SiameseNet:
    return network(stages=3)


def test_the_parts_are_the_normalised_means_of_the_stages_outputs(net: SiameseNet):
    seen = {}
    for name in outputs_of(net.backbone, 3):
        submodule(net.backbone, name).register_forward_hook(
            lambda _m, _i, output, name=name: seen.update({name: output})
        )
    features = net.features(images())
    parts = [F.normalize(output.mean((2, 3))) for output in seen.values()]
    expected = torch.cat([*parts, F.normalize(features)], 1)
    assert len(seen) == 2
    torch.testing.assert_close(net.extractor(images()), expected)
    torch.testing.assert_close(net.own_features(expected), F.normalize(features))
    assert net.reader.width == expected.shape[1]


def test_one_stage_is_the_backbones_features_alone():
    net = network(stages=1)
    torch.testing.assert_close(net.extractor(images()), F.normalize(net.features(images())))


def test_other_heads_read_the_backbone_itself():
    net = siamkit.create_model("timm:test_resnet", head="linear", pretrained=False)
    assert net.reader is None and net.extractor is net.backbone


def test_the_reader_leaves_names_and_hooks_of_the_backbone_as_they_are(net: SiameseNet):
    plain = siamkit.create_model("timm:test_resnet", head="linear", pretrained=False)
    net(images())
    assert {n for n in net.state_dict() if not n.startswith("head")} == {
        n for n in plain.state_dict() if not n.startswith("head")
    }
    assert not any(m._forward_hooks for m in net.modules())


def test_a_stage_that_is_skipped_in_training_is_named():
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.last = nn.Conv2d(4, 5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.last(x if self.training else self.second(x)).mean((2, 3))

    net = siamkit.create_model(Skipping(), head={"name": "multistage", "stages": 2}, image_size=32)
    net.eval()(images())
    with pytest.raises(ConfigError, match=r"'model.second', which did not run.*residual"):
        net.train()(images())


def test_gradients_reach_every_stage(net: SiameseNet):
    net.train()
    net(images()).sum().backward()
    stages = outputs_of(net.backbone, 3)
    assert all(p.grad is not None for n in stages for p in submodule(net.backbone, n).parameters())


@pytest.mark.parametrize(
    "backbone", ["timm:test_vit", "timm:test_convnext", "timm:test_efficientnet"]
)
def test_other_architectures_can_be_read(backbone: str):
    net = network(backbone, size=160 if "vit" in backbone else 32, stages=2)
    embeddings = net(images(size=160 if "vit" in backbone else 32))
    assert embeddings.shape == (3, 8) and embeddings.isfinite().all()


def test_more_stages_than_there_are_is_an_error_that_says_how_many_there_are():
    with pytest.raises(ConfigError, match=r"head.stages: .*fewer stages.*got 60.*1 to 5"):
        network(stages=60)


class Stages(nn.Module):
    """A backbone with a stage for each output; None for an output that no module gives."""

    def __init__(self, *outputs: str | None):
        super().__init__()
        self.outputs = outputs

    def stages(self) -> tuple[Stage, ...]:
        return tuple(Stage(f"s{i}", (), output=output) for i, output in enumerate(self.outputs))


def test_stages_are_counted_from_the_last_which_is_not_read():
    backbone = Stages("a", "b", "c", "d")
    assert [outputs_of(backbone, n) for n in (1, 2, 4)] == [(), ("c",), ("a", "b", "c")]
    assert outputs_of(Stages("a", "b", None), 3) == ("a", "b")
    with pytest.raises(ConfigError, match=r"fewer stages, got 5, allowed: 1 to 4"):
        outputs_of(backbone, 5)


def test_the_last_stage_that_no_module_gives_is_named():
    backbone = Stages("a", None, None, "d", "e")
    assert outputs_of(backbone, 2) == ("d",)
    for stages in (3, 5):
        with pytest.raises(ConfigError, match=r"stage 's2' of this backbone has no module"):
            outputs_of(backbone, stages)


def test_an_output_that_is_no_tensor_is_an_error_that_names_it():
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.pair = nn.Conv2d(3, 4, 3), Pair()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pair(self.first(x))[0].mean((2, 3))

    backbone = siamkit.create_model(Odd(), head="identity", image_size=32).backbone
    with pytest.raises(ConfigError, match=r"'model.pair' cannot be pooled.*no tensor"):
        StageReader(backbone, ["model.pair"])


class Tokens(nn.Module):
    """A transformer's shape: patches of the image as tokens, which two layers map one by one."""

    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 6)
        self.fixed = fixed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fixed and x.shape[-1] != 32:
            raise ValueError("32 px only")
        return self.second(self.first(self.arranged(self.patches(x).flatten(2)))).mean(0)

    def arranged(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.permute(2, 0, 1)  # [L, N, C]


@pytest.mark.parametrize("fixed", [False, True])
def test_the_axis_of_the_images_is_found_where_tokens_come_first(fixed: bool):
    backbone = siamkit.create_model(Tokens(fixed), head="identity", image_size=32).backbone
    reader = StageReader(backbone, ["model.first"])
    assert reader.pools[0].layout == "LNC" and reader.width == 12
    batch = images(16)  # as many as tokens: pooled over the wrong axis, nothing would fail
    single = torch.cat([reader(image[None]) for image in batch])
    torch.testing.assert_close(reader(batch), single)


def test_windows_on_the_axis_of_the_images_are_refused():
    class Windows(Tokens):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            windows = self.patches(x).flatten(2).transpose(1, 2).reshape(len(x) * 4, -1, 8)
            return self.second(self.first(windows)).reshape(len(x), -1, 6).mean(1)

    backbone = siamkit.create_model(Windows(), head="identity", image_size=32).backbone
    with pytest.raises(ConfigError, match=r"'model.first' cannot be pooled.*shape \[4, 4, 6\]"):
        StageReader(backbone, ["model.first"])


def test_an_output_that_does_not_depend_on_the_images_is_refused():
    class Constant(Tokens):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            prompt = self.first(torch.ones(1, 8))
            return self.second(prompt) * x.mean((1, 2, 3))[:, None]

    backbone = siamkit.create_model(Constant(), head="identity", image_size=32).backbone
    with pytest.raises(ConfigError, match=r"'model.first' cannot be pooled.*shape \[1, 6\]"):
        StageReader(backbone, ["model.first"])


def test_the_last_output_of_a_module_that_runs_twice_is_read():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(self.first(x))).mean((2, 3))

    backbone = siamkit.create_model(Twice(), head="identity", image_size=32).backbone.eval()
    first = submodule(backbone, "model.first")
    read = StageReader(backbone, ["model.first"])(images())[:, :3]
    torch.testing.assert_close(read, F.normalize(first(first(images())).mean((2, 3))))


def test_copies_read_their_own_backbone(net: SiameseNet):
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in net.backbone.parameters():
            parameter.zero_()
    assert twin(images()).std() > 0
    assert not torch.allclose(net(images()), twin(images()))


def test_threads_do_not_mix_their_images(net: SiameseNet):
    batches = [images(2) * scale for scale in range(1, 9)]
    expected = [net.embed(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: net.embed(batches[at]), range(8)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def cut_after(net: SiameseNet, frozen: int):
    """Cut a network whose first stages are frozen."""
    stages = net.stages()
    names = [stage.name for stage in stages[:-1]]
    plan = FreezePlan.of(stages, names[frozen:])
    FreezeController(net, stages).apply(plan)
    result = cut(net, stages, plan, images())
    assert result.cut is not None, result.reasons
    return result


def test_a_frozen_backbone_is_cut_after_all_that_the_head_reads(net: SiameseNet):
    result = cut_after(net, len(net.stages()) - 1)
    assert result.cut.boundary.is_features and not result.reasons
    assert result.cut.prefix(images()).shape == (3, net.reader.width)


def test_only_the_pools_of_the_stages_below_a_cut_cross_it():
    net = network(stages=4)
    result = cut_after(net, 4)
    *below, _ = (port.call.module for port in result.cut.frontier.ports)
    assert below == ["reader.pools.0", "reader.pools.1"]
    assert not result.reasons


def test_a_saved_network_reads_the_same_modules(net: SiameseNet, tmp_path):
    net.save_pretrained(tmp_path / "net")
    loaded = siamkit.from_pretrained(tmp_path / "net")
    assert loaded.head.reads == net.head.reads
    torch.testing.assert_close(loaded.embed(images()), net.embed(images()))


@pytest.mark.parametrize(
    ("shape", "layout"), [((5, 4), "NLC"), ((4, 5), "NCL"), ((4, 4), None), ((5, 3), None)]
)
def test_at_one_image_size_the_channels_are_as_many_as_the_features(shape, layout):
    assert _layout_without(0, [(1, *shape), (2, *shape)], True, 4) == layout


def test_outputs_of_stages_come_in_the_asked_order_with_the_features_last():
    net, rows = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5)), torch.randn(6, 2)
    found = stage_outputs(net, ["1", "0"], rows)
    assert [list(one.shape) for one in found] == [[6, 4], [6, 3], [6, 5]]
    torch.testing.assert_close(found[0], net[:2](rows))
    assert not any(module._forward_hooks for module in net.modules())
