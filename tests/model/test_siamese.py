from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from siamkit import api
from siamkit.model.siamese import SiameseNet, plugins_of


@pytest.fixture(scope="module")
def net() -> SiameseNet:
    return api.create_model("timm:resnet10t", pretrained=False, head={"name": "mlp", "dim": 8})


def test_both_sides_of_a_pair_share_the_weights(net: SiameseNet) -> None:
    net.eval()
    a, b = torch.randn(3, 3, 32, 32), torch.randn(3, 3, 32, 32)
    ea, eb = net(a, b)
    torch.testing.assert_close(ea, net(a))
    torch.testing.assert_close(eb, net(b))
    swapped = net(b, a)
    torch.testing.assert_close(swapped[0], eb)


def test_sides_of_different_sizes_are_embedded_apart(net: SiameseNet) -> None:
    ea, eb = net(torch.randn(2, 3, 32, 32), torch.randn(3, 3, 64, 64))
    assert ea.shape == (2, 8) and eb.shape == (3, 8)


def test_embeddings_have_unit_length_unless_told_otherwise(net: SiameseNet) -> None:
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(net.embed(images).norm(dim=1), torch.ones(4))
    bare = SiameseNet(net.backbone, net.head)
    torch.testing.assert_close(bare.embed(images).norm(dim=1), torch.ones(4))
    raw = SiameseNet(net.backbone, net.head, normalize=False)
    assert not torch.allclose(raw.embed(images).norm(dim=1), torch.ones(4))


def test_unit_length_holds_in_mixed_precision(net: SiameseNet) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = net.embed(torch.randn(8, 3, 32, 32))
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(8), atol=1e-6, rtol=0)


def test_embed_has_no_gradient_and_puts_every_mode_back(net: SiameseNet) -> None:
    net.train()
    net.backbone.model.layer1.eval()
    before = [module.training for module in net.modules()]
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    assert not net.embed(torch.randn(2, 3, 32, 32)).requires_grad
    assert [module.training for module in net.modules()] == before
    assert all(torch.equal(b, buffers[name]) for name, b in net.named_buffers())


def test_stages_cover_every_parameter_and_end_with_the_head(net: SiameseNet) -> None:
    stages = net.stages()
    names = [name for stage in stages for name in stage.parameters]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    assert [s.name for s in stages] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert set(stages[-1].parameters) == {f"head.{n}" for n, _ in net.head.named_parameters()}


def test_a_head_without_parameters_is_no_stage() -> None:
    bare = api.create_model("timm:resnet10t", pretrained=False, head="identity")
    assert [s.name for s in bare.stages()][-1] == "layer4"
    assert bare.embedding_dim == bare.backbone.embedding_dim


def test_a_heads_norms_are_known() -> None:
    stages = api.create_model("timm:resnet10t", pretrained=False, head="bnneck").stages()
    assert stages[-1].norms == {n for n in stages[-1].parameters if n.endswith("weight")}


@pytest.mark.parametrize("stages", [1, 3])
def test_the_backbone_trains_on_its_own_features_if_the_head_is_computed(stages: int) -> None:
    head = {"name": "multistage", "dim": 8, "stages": stages}
    net = api.create_model("timm:resnet10t", pretrained=False, head=head)
    images = torch.randn(3, 3, 32, 32)
    expected = net.embed(images)
    net.head.hold_computed()
    assert [stage.name for stage in net.stages()] == [s.name for s in net.backbone.stages()]
    assert (net.embedding_dim, net.training_dim) == (8, net.backbone.embedding_dim)
    torch.testing.assert_close(net.embed(images), expected)
    net.train()
    for module in net.backbone.modules():
        module.eval()  # the same statistics
    embeddings = net(images)
    torch.testing.assert_close(embeddings, F.normalize(net.features(images)))
    assert embeddings.requires_grad


def test_a_network_can_return_what_its_head_reads() -> None:
    head = {"name": "multistage", "dim": 8, "stages": 3}
    net = api.create_model("timm:resnet10t", pretrained=False, head=head).eval()
    images = torch.randn(3, 3, 32, 32)
    with net.reading():
        read = net(images)
    assert torch.equal(read, net.extractor(images)) and read.shape[1] > net.backbone.embedding_dim
    assert net(images).shape == (3, 8)


def test_parts_are_named_by_the_entries_that_the_network_was_built_from(net: SiameseNet) -> None:
    assert net.origin is not None
    named = plugins_of(net)
    assert list(named) == ["backbone 'timm:resnet10t' of siamkit", "head 'mlp' of siamkit"]
    assert list(named.values()) == [net.backbone, net.head]
    assert plugins_of(SiameseNet(net.backbone, net.head)) == {}
