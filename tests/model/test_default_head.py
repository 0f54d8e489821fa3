"""The default head: a closed form where the stages can be read, and a residual elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import siamkit
from siamkit.api.entries import load_config, registries
from siamkit.errors import ConfigError
from siamkit.interfaces import Backbone
from siamkit.model.default_head import default_head, fallback_text


def backbone(module: Any) -> Backbone:
    return siamkit.create_model(module, head="identity", pretrained=False, image_size=32).backbone


def chosen(module: Any, **sections: Any) -> dict[str, Any]:
    config = load_config(sections)
    return default_head(config, registries()["head"], backbone(module)).head.model_dump()


RESNET = "timm:test_resnet"


def test_the_head_is_a_closed_form_over_the_last_stages_with_all_its_options():
    head = chosen(RESNET)
    assert head == {
        "name": "multistage", "normalize": True, "trained": True, "stages": 4, "dim": 256,
        "method": "wccn",
    }  # fmt: skip


def test_whether_embeddings_are_normalised_stays():
    assert chosen(RESNET, head={"normalize": False})["normalize"] is False
    int8 = chosen(RESNET, head={"normalize": False}, engine={"prefix": "int8"})
    assert int8["normalize"] is False


def test_embeddings_are_not_wider_than_what_is_read(short: nn.Module):
    assert chosen(short)["dim"] == 4 + 6


def test_a_short_backbone_is_read_from_its_first_stage(short: nn.Module):
    model = backbone(short)
    head = chosen(short)
    assert (head["name"], head["stages"]) == ("multistage", len(model.stages()))
    assert head["stages"] < 4


def test_the_reason_of_another_head_is_given(short: nn.Module, unreadable: nn.Module):
    def why(module: Any, **sections: Any) -> str | None:
        return default_head(load_config(sections), registries()["head"], backbone(module)).why

    assert why(short) is None
    assert "'model.pair' cannot be pooled" in (why(unreadable) or "")
    assert "int8" in (why(RESNET, engine={"prefix": "int8"}) or "")
    assert "recomputed" in (why(RESNET, train={"grad_checkpointing": True}) or "")
    assert why(RESNET, engine={"prefix": "int8"}, train={"epochs": 0}) is None


def test_the_notice_names_both_heads_and_the_reason():
    assert fallback_text(None) == ()
    assert fallback_text("of that") == (
        "the head is 'residual' instead of the default 'multistage': of that",
    )


def test_a_backbone_whose_stages_cannot_be_read_gets_a_residual(unreadable: nn.Module):
    expected = {"name": "residual", "normalize": True, "trained": True, "hidden": 512}
    assert chosen(unreadable) == expected


class Mean(nn.Module):
    """A backbone without parameters: the mean colour of an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


def test_a_backbone_without_parameters_gets_a_residual() -> None:
    assert chosen(Mean())["name"] == "residual"
    with pytest.raises(ConfigError, match="backbone: the backbone has no parameters, and so no"):
        chosen(Mean(), train={"epochs": 0})
    with pytest.raises(ConfigError, match="no stages that a head could read"):
        siamkit.create_model(Mean(), head={"name": "multistage", "stages": 1}, pretrained=False)


def test_a_run_without_epochs_says_why_the_stages_cannot_be_read(unreadable: nn.Module):
    with pytest.raises(ConfigError, match=r"'model.pair' cannot be pooled"):
        chosen(unreadable, train={"epochs": 0})


def test_an_int8_prefix_has_one_output_so_the_head_is_a_residual():
    assert chosen(RESNET, engine={"prefix": "int8"})["name"] == "residual"
    # Without epochs, nothing but a closed form is possible; the run then says what is not.
    assert chosen(RESNET, engine={"prefix": "int8"}, train={"epochs": 0})["name"] == "multistage"


def test_stages_that_are_recomputed_may_not_run_so_the_head_is_a_residual():
    assert chosen(RESNET, train={"grad_checkpointing": True})["name"] == "residual"


def test_a_network_is_built_with_the_default_head():
    net = siamkit.create_model(RESNET, head="auto", pretrained=False, image_size=32)
    assert net.reader is not None and net.embedding_dim == 256
    assert net.origin is not None and net.origin.head.name == "multistage"
