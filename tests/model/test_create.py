"""The network of a config: which weights are loaded, and how images are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from siamkit import plugins
from siamkit.config import RunConfig
from siamkit.interfaces import Preprocessing
from siamkit.model import create
from siamkit.model.create import create_net, prepared
from siamkit.registry import KINDS, Registry

FILE = Path("weights.safetensors").absolute()


def registries() -> dict[str, Registry]:
    loaded = plugins.get().registries
    return {kind.section: loaded[plural] for plural, kind in KINDS.items()}


class Asked(Exception):
    """Carries what the builder of backbones was asked for."""


def asked(which: Any, **backbone: Any) -> tuple[Path | None, bool | None]:
    def build(entry: Any, options: Any, context: Any, **loaded: Any) -> Any:
        raise Asked(loaded)

    values = {"backbone": {"name": "timm:test_resnet", **backbone}}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Asked) as caught:
        patch.setattr(create, "build_backbone", build)
        create_net(RunConfig.model_validate(values), registries(), weights=which)
    (loaded,) = caught.value.args
    return loaded["weights"], loaded["pretrained"]


@pytest.mark.parametrize("pretrained", [True, False, None])
def test_only_the_weights_that_are_needed_are_loaded(pretrained: bool | None) -> None:
    for weights, expected in (
        ("all", (FILE, pretrained)),
        ("file", (FILE, False)),
        ("none", (None, False)),
    ):
        assert asked(weights, weights=str(FILE), pretrained=pretrained) == expected
    assert asked("all", pretrained=pretrained) == (None, pretrained)


def test_the_origin_of_weights_that_will_be_replaced_is_not_known() -> None:
    values = {"backbone": {"name": "timm:test_resnet", "pretrained": False}}
    origins = {}
    for weights in ("all", "file", "none"):
        made = create_net(RunConfig.model_validate(values), registries(), weights=weights)
        assert made.net.origin is not None and made.net.origin.backbone.name == "timm:test_resnet"
        assert made.net.pruning is None and made.net.quantized is None
        origins[weights] = made.net.origin.weights
    assert origins == {"all": "random", "file": None, "none": None}


@pytest.mark.parametrize(("fit", "expected"), [("auto", "pad"), ("squash", "squash")])
def test_the_fit_of_a_config_replaces_the_backbones(fit: str, expected: str) -> None:
    config = RunConfig.model_validate({"data": {"fit": fit}})
    assert prepared(Preprocessing(fit="pad"), config.data).fit == expected
