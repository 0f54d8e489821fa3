"""The model card of a saved network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from siamkit.config import yaml_text
from siamkit.model.pretrained.card import base_license, card, for_repo
from siamkit.model.pretrained.folder import Saved

IMAGES = {
    "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "size": (32, 48),
    "interpolation": "bilinear", "crop_pct": 1.0, "fit": "crop", "value_range": None,
}  # fmt: skip
VALUES: dict[str, Any] = {
    "format": 2, "versions": {"siamkit": "1.2", "torch": "2.9"},
    "backbone": {"kind": "timm", "name": "timm:test_resnet"},
    "head": {"kind": "plugin", "name": "mlp", "distribution": "siamkit"},
    "normalize": True, "embedding_dim": 8, "image_size": None, "preprocessing": IMAGES,
    "weights": None, "fingerprint": 64 * "a", "calibration": None, "files": {},
}  # fmt: skip


def saved(**changes: Any) -> Saved:
    return Saved.model_validate({**VALUES, **changes})


def text(architecture: str | None = None, license: str | None = None, **changes: Any) -> str:
    return card("mine", saved(**changes), architecture, license=license)


def use(**changes: Any) -> str:
    return text(**changes).partition("## Use\n\n")[2].partition("\n\n## ")[0]


PLAIN = (
    '```python\nimport siamkit\nembedder = siamkit.Embedder.from_pretrained("mine")\n'
    'print(embedder.embed(["a.jpg"]).shape, embedder.similarity("a.jpg", "b.jpg"))\n```'
)


def test_a_network_of_known_parts_needs_only_its_name() -> None:
    assert use() == PLAIN


def test_a_network_with_a_threshold_is_shown_verifying() -> None:
    assert 'print(embedder.verify("a.jpg", "b.jpg").same)' in use(calibration={})


@pytest.mark.parametrize(
    ("parts", "given"),
    [(["head"], ", head=YOUR_HEAD"), (["backbone"], ", backbone=YOUR_BACKBONE"),
     (["backbone", "head"], ", backbone=YOUR_BACKBONE, head=YOUR_HEAD")],
)  # fmt: skip
def test_objects_are_to_be_passed(parts: list[str], given: str) -> None:
    shown = use(**{part: {"kind": "object", "name": "my.Net"} for part in parts})
    first, *others = shown.split("\n\n")
    assert first == PLAIN.replace('"mine")', f'"mine"{given})')
    assert others == [
        f"{part.capitalize()} `my.Net` is a Python object: pass an object of the same class."
        for part in parts
    ]


def test_the_plugins_of_others_are_to_be_installed() -> None:
    backbone = {"kind": "plugin", "name": "b", "distribution": "siamkit-b"}
    head = {"kind": "plugin", "name": "h", "distribution": "siamkit-a"}
    assert use(backbone=backbone, head=head).split("\n\n")[1:] == [
        "Needs the plugin: `pip install siamkit-a`.", "Needs the plugin: `pip install siamkit-b`.",
    ]  # fmt: skip
    assert "Needs" not in use(head={"kind": "plugin", "name": "h"})
    assert "Needs" not in use(head={"kind": "object", "name": "h", "distribution": "siamkit-a"})


def test_plain_timm_loads_what_it_can() -> None:
    shown = use(architecture="test_resnet")
    assert 'timm.create_model("local-dir:mine", pretrained=True, num_classes=0)' in shown
    front = yaml_text.load(text(architecture="test_resnet").split("---\n", 2)[1])
    assert front["library_name"] == "timm"
    assert yaml_text.load(text().split("---\n", 2)[1])["library_name"] == "siamkit"


def test_the_model_is_described_in_a_table() -> None:
    rows = text(license="mit", pruning={}, int8={}).partition("## Model\n\n")[2].splitlines()
    assert rows[:8] == [
        "|  |  |", "| --- | --- |", "| backbone | `timm:test_resnet` |", "| head | `mlp` |",
        "| embedding | 8 numbers |", "| images | 3 channels, 32 x 48 pixels |",
        "| started from | not recorded |", "| licence | mit |",
    ]  # fmt: skip
    assert [row.split(" | ")[0] for row in rows[8:]] == [
        "| pruned", "| int8", "| versions", "| fingerprint",
    ]  # fmt: skip
    assert "| versions | siamkit 1.2, torch 2.9 |" in rows
    bare = text()
    assert "| licence | not stated |" in bare and "pruned" not in bare and "int8" not in bare


@pytest.mark.parametrize(
    ("weights", "base", "license"),
    [
        (None, None, None),
        ("random", None, None),
        ("file: x.pth", None, None),
        ("pretrained: timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k", "apache-2.0"),
        ("pretrained: timm/of_another_version", "timm/of_another_version", None),
        ("pretrained: hf-hub:someone/net@abc", "someone/net", None),
    ],
)
def test_the_weights_that_training_started_from_keep_their_licence(
    weights: str | None, base: str | None, license: str | None
) -> None:
    made = text(weights=weights)
    assert yaml_text.load(made.split("---\n", 2)[1]).get("base_model") == base
    assert base_license(saved(weights=weights)) == license
    assert ("licence of the base weights" in made) is (license is not None)


def test_a_card_on_the_hub_names_the_repository() -> None:
    there = for_repo(text(architecture="test_resnet"), "mine", "me/net")
    assert 'from_pretrained("hf-hub:me/net")' in there and "\n# net\n" in there
    assert "mine" not in there


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("preprocessing", "std"), (0.25, 0.0, 0.25)),
        (("preprocessing", "std"), ()),
        (("preprocessing", "mean"), ()),
        (("preprocessing", "size"), (0, 32)),
        (("preprocessing", "size"), (32, 0)),
        (("preprocessing", "crop_pct"), 0.0),
        (("preprocessing", "value_range"), 0),
        (("preprocessing", "value_range"), 17),
        (("preprocessing", "fit"), "stretch"),
        (("embedding_dim",), 0),
        (("image_size",), 0),
        (("fingerprint",), 63 * "a"),
        (("fingerprint",), 65 * "a"),
        (("files",), {"x": "b"}),
        (("format",), 1),
        (("extra",), 1),
        (("head", "kind"), "pickle"),
        (("preprocessing", "mean"), (float("nan"),)),
    ],
)
def test_values_beyond_their_bounds_are_refused(place: tuple[str, ...], value: Any) -> None:
    values = copy.deepcopy(VALUES)
    *outer, last = place
    inner = values
    for key in outer:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(ValidationError):
        Saved.model_validate(values)


def test_values_at_their_bounds_are_accepted() -> None:
    images = {**IMAGES, "std": (1e-9,), "mean": (0.0,), "size": (1, 1), "crop_pct": 1e-9}
    for levels in (1, 16, (0.0, 1.0)):
        made = saved(preprocessing={**images, "value_range": levels}, embedding_dim=1, image_size=1)
        assert made.preprocessing.preprocessing().size == (1, 1)
