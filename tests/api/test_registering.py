"""Names that a process registers itself, and the functions that take objects."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import siamkit
from siamkit import plugins
from siamkit.errors import ConfigError, DataError, PluginError
from siamkit.interfaces import FreezePlan
from siamkit.registry import KINDS


class Width(siamkit.Options):
    """Options of the head below."""

    width: int = 4


class Squeeze(nn.Module):
    """A head that is no ``Head``: its width is found by a forward."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, width)

    def forward(self, features: Tensor) -> Tensor:
        squeezed: Tensor = self.layer(features).tanh()
        return squeezed


@pytest.mark.slow
def test_a_registered_name_works_like_a_plugins(run_values: Callable[..., dict[str, Any]]) -> None:
    siamkit.register_head("squeeze", lambda o, n: Squeeze(n, o.width), options=Width)
    siamkit.register_optimizer("plain-sgd", lambda options, groups: torch.optim.SGD(groups))
    siamkit.register_scheduler("halving", lambda options: Halving(), summary="Halves.")
    assert "squeeze" in siamkit.list_heads() and "plain-sgd" in siamkit.list_optimizers()
    values = run_values(
        head={"name": "squeeze", "width": 7}, optimizer="plain-sgd", scheduler="halving"
    )
    result = siamkit.fit(values)
    net = siamkit.load_model(result.run_dir)
    assert net.embedding_dim == 7
    forget_it = plugins._registered_here
    forget_it.clear()
    plugins.get.cache_clear()
    with pytest.raises(PluginError, match=r"register_head\('squeeze', \.\.\.\)"):
        siamkit.load_model(result.run_dir)


class Halving(siamkit.Scheduler):
    """Half of the rate."""

    def lr_scale(self, progress: siamkit.Progress) -> float:
        return 0.5


def test_a_name_is_replaced_only_where_that_is_asked_and_never_a_plugins() -> None:
    siamkit.register_head("mine", lambda o, n: Squeeze(n, 3))
    with pytest.raises(PluginError, match=r"head 'mine' is registered already.*replace=True"):
        siamkit.register_head("mine", lambda o, n: Squeeze(n, 4))
    siamkit.register_head("mine", lambda o, n: Squeeze(n, 5), replace=True)
    assert (
        siamkit.create_model("timm:test_resnet", pretrained=False, head="mine").embedding_dim == 5
    )
    with pytest.raises(PluginError, match="head 'mlp' is registered by siamkit"):
        siamkit.register_head("mlp", lambda o, n: Squeeze(n, 3), replace=True)
    with pytest.raises(PluginError, match="this name cannot be registered"):
        siamkit.register_loss("Bad Name", lambda o, c: None)


def test_a_module_is_no_build_function() -> None:
    for register in (siamkit.register_backbone, siamkit.register_head, siamkit.register_loss):
        with pytest.raises(PluginError, match=r"build of 'mine' must be a function.*siamkit\.fit"):
            register("mine", nn.Linear(2, 2))
    assert "mine" not in siamkit.list_backbones()


def test_phases_and_policies_take_functions_and_stages() -> None:
    def last(stages: Any, progress: Any) -> FreezePlan:
        return FreezePlan.of(stages, [stages[-2].name] if progress.epoch else [])

    net = siamkit.create_model("timm:test_resnet", pretrained=False, head="mlp")
    found = siamkit.phases(net.stages(), last, epochs=3)
    assert [p.start_epoch for p in found] == [0, 1]
    text = repr(found)
    assert "epochs 2 to 3" in text and "frozen" in text and "<pre>" in found._repr_html_()
    named = siamkit.create_policy("stages", n=1)
    assert siamkit.create_policy(named) is named


def test_a_model_is_made_of_modules() -> None:
    backbone = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    net = siamkit.create_model(backbone, head=Squeeze(6, 2), image_size=32)
    assert net.embedding_dim == 2 and net.backbone.preprocessing.size == (32, 32)
    assert "6 features -> 2-dimensional embeddings" in repr(net)


def test_embeddings_of_any_network_are_evaluated() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 8))
    vectors = np.repeat(centres, 5, 0) + rng.normal(size=(30, 8)) * 0.01
    result = siamkit.evaluate(embeddings=vectors, labels=[f"c{i // 5}" for i in range(30)])
    assert result.retrieval is not None and result.retrieval["recall@1"] == 1.0
    assert "recall@1" in repr(result) and "<pre>" in result._repr_html_()
    with pytest.raises(DataError, match="embeddings: must be one vector per label"):
        siamkit.evaluate(embeddings=vectors, labels=[0])
    with pytest.raises(ConfigError, match="embeddings: need labels"):
        siamkit.evaluate("run", embeddings=vectors, labels=[0])


@pytest.mark.slow
def test_an_embedder_is_evaluated_on_pictures(
    run_values: Callable[..., dict[str, Any]], image_folder: Path
) -> None:
    result = siamkit.fit(run_values(train={"epochs": 1}))
    embedder = siamkit.load_embedder(result.run_dir)
    files = sorted(image_folder.glob("*/*.png"))
    items = [(Image.open(path), path.parent.name) for path in files]
    by_picture = siamkit.evaluate(embedder, items)
    by_folder = siamkit.evaluate(result.run_dir, image_folder)
    assert by_picture["retrieval"] == by_folder["retrieval"]
    assert "Embedder: " in repr(embedder) and "similarity of" in repr(embedder)


def test_an_embedder_takes_iterators_and_arrays(
    run_values: Callable[..., dict[str, Any]], image_folder: Path
) -> None:
    embedder = siamkit.load_embedder(siamkit.fit(run_values(train={"epochs": 1})).run_dir)
    files = sorted(image_folder.glob("class0/*.png"))
    expected = embedder.embed(files)
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in files]
    stacked = np.stack(arrays)
    forms = {
        "generator of paths": (path for path in files),
        "generator of pictures": (Image.open(path) for path in files),
        "arrays": arrays,
        "one array": stacked,
        "uint8 tensor": torch.from_numpy(stacked).permute(0, 3, 1, 2),
    }
    for name, form in forms.items():
        torch.testing.assert_close(embedder.embed(form), expected, msg=name)
    torch.testing.assert_close(embedder.embed(arrays[0]), expected[:1])
    streamed = [part.embeddings for part in embedder.stream(path for path in files)]
    torch.testing.assert_close(torch.cat(streamed), expected)
    for nothing in ("", 7, None):
        with pytest.raises(DataError):
            embedder.embed(nothing)


def test_each_function_registers_its_own_kind_and_says_what_build_gets() -> None:
    for kind, about in KINDS.items():
        name = f"register_{about.singular.replace(' ', '_')}"
        register = getattr(siamkit, name)
        register("mine", lambda *_: None)
        assert plugins.get().registries[kind].get("mine").summary == ""
        assert register.__name__ == register.__qualname__ == name
        arguments = f"build({', '.join(about.arguments)}"
        assert arguments in register.__doc__.replace(": int", "").replace(": LossContext", "")
        extra = {"pretrained"} if kind == "backbones" else set()
        given = set(signature(register).parameters)
        assert given == {"name", "build", "options", "summary", "replace", *extra}
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            register("mine", lambda *_: None, option=None)
