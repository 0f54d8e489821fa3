"""Checking data in Python, without and with a network that is asked about it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import siamkit
from siamkit.api import suspecting
from siamkit.api.suspecting import Witness, as_json, suspect
from siamkit.config import DataConfig
from siamkit.errors import ConfigError, DataError
from siamkit.portable.decode import Decoding


def test_without_a_model_nothing_is_suspected(image_folder: Path) -> None:
    found = siamkit.check_data(image_folder)
    assert (found["suspects"], found["output"]) == (None, None)
    assert found["files"] == 48 and found["problems"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "a.html"}, "output: cannot be used with a check without model; leave it out"),
        ({"device": "cpu"}, "device: cannot be used with a check without model"),
        ({"seed": 0.5}, "seed: must be a whole number, got 0.5"),
        ({"model": "m", "output": "a.txt"}, "unknown ending"),
        ({"model": 3}, "model: must be the path of a run's directory, or an exported model, got"),
        ({"strict": "no way"}, "strict"),
    ],
)
def test_what_cannot_be_used_is_refused(
    image_folder: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        siamkit.check_data(image_folder, **arguments)


def test_arguments_override_the_section_they_belong_to(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_images(dict.fromkeys("abcd", 2))
    rows = [f"{label}/{n}.png,{label}" for label in "abcd" for n in range(2)]
    (tmp_path / "table.csv").write_text("\n".join(["file,kind", *rows]) + "\n")
    table = {"path": tmp_path / "table.csv", "path_column": "none", "label_column": "kind"}
    found = siamkit.check_data(table, root=root, path_column="file")
    assert found["files"] == 8 and found["problems"] == []
    seen: list[tuple[Any, ...]] = []
    siamkit.check_data(table, root=root, path_column="file", progress=lambda *a: seen.append(a))
    assert seen and seen[-1][1:] == (8, 8)


@pytest.fixture
def asked(make_images: Callable[..., Path]) -> Callable[..., Any]:
    """Return what a network says that embeds each image as ``place`` tells."""

    def ask(
        counts: dict[str, int],
        place: Callable[[str], tuple[float, ...]],
        run: Any = None,
        unreadable: tuple[str, ...] = (),
    ) -> Any:
        root = make_images(counts)
        steps: list[tuple[str, int, int]] = []

        def embed(images: Any, progress: Any = None) -> Any:
            return np.ones((len(images), 2), np.float32)

        def rows(embedder: Any, samples: Any, progress: Any) -> Any:
            progress(len(samples), len(samples))
            return np.array([place(sample.key) for sample in samples], np.float32)

        embedder = SimpleNamespace(embed=embed, decoding=Decoding())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(suspecting, "embeddings_of", rows)
            patch.setattr(suspecting, "_limit", lambda *_: 0.9999)
            found = suspect(
                DataConfig(path=str(root)), Witness(embedder, run),
                [(root / name, None) for name in unreadable], lambda *step: steps.append(step),
            )  # fmt: skip
        return found, steps

    return ask


def by_folder(key: str) -> tuple[float, ...]:
    """Place an image of ``wrong/`` among those of ``a/``; each class is far from the others."""
    folder, name = key.split("/")
    number = 0.03 * int(name[0])
    return {"a": (1, number, 0), "b": (number, 1, 0), "c": (0, number, 1)}[folder]


def test_an_image_that_looks_like_another_class_is_suspected(asked: Any) -> None:
    def place(key: str) -> tuple[float, ...]:
        return (1, 0.031, 0) if key == "b/3.png" else by_folder(key)

    found, steps = asked({"a": 8, "b": 8, "c": 8}, place)
    assert steps == [("embed", 24, 24)]
    values = as_json(found, Path("runs/a"))
    assert (values["model"], values["images"], values["trained_on"]) == ("runs/a", 24, None)
    (label,) = values["labels"]["suspects"]
    assert (label["key"], label["class"], label["suggested"]) == ("b/3.png", "b", "a")
    assert label["margin"] > 0.5 and label["cleanlab"] in (None, True)
    assert values["labels"]["contradicted"] == pytest.approx(1 / 24)
    assert values["alike"] == values["divided"] == []
    assert found.nearest(0, 0, 2) == [
        (1, pytest.approx(1, abs=0.01)),
        (2, pytest.approx(1, abs=0.01)),
    ]
    twins = values["near_duplicates"]
    (pair,) = twins["pairs"]
    assert twins["limit"] == 0.9999 and pair["keys"] == ["a/1.png", "b/3.png"]
    assert pair["classes"] == ["a", "b"] and pair["parts"] == ["all", "all"]
    assert values["notices"] == [] == list(found.notices)


def test_two_names_of_one_class_are_alike(asked: Any) -> None:
    found, _ = asked({"a": 6, "b": 6, "c": 6}, lambda key: by_folder(key.replace("b/", "a/")))
    values = as_json(found, "m")
    (alike,) = values["alike"]
    assert alike["classes"] == ["a", "b"] and alike["share"] >= 0.4


def test_a_class_of_two_sides_is_divided(asked: Any) -> None:
    def place(key: str) -> tuple[float, ...]:
        folder, name = key.split("/")
        number = 0.02 * int(name[0])
        if folder == "a":
            return (1, number, 0, 0) if int(name[0]) < 4 else (-1, 0, number, 0)
        return (0.2, 1, number, 0) if folder == "b" else (-0.2, number, 0, 1)

    found, _ = asked({"a": 8, "b": 6, "c": 6}, place)
    (divided,) = as_json(found, "m")["divided"]
    assert divided["class"] == "a"
    assert sorted(map(sorted, divided["parts"])) == [
        [f"a/{n}.png" for n in range(4)], [f"a/{n}.png" for n in range(4, 8)],
    ]  # fmt: skip


def test_one_image_is_not_enough(asked: Any) -> None:
    with pytest.raises(DataError, match="two images are needed to compare them"):
        asked({"a": 1}, by_folder)


def test_unreadable_images_are_not_embedded(asked: Any) -> None:
    found, steps = asked({"a": 7, "b": 7}, by_folder, unreadable=("a/0.png", "b/1.png"))
    assert steps == [("embed", 12, 12)] and len(found.images) == 12


def test_one_class_has_no_labels_to_check(asked: Any) -> None:
    found, _ = asked({"a": 3}, by_folder)
    assert found.found.noise is None and as_json(found, "m")["labels"] is None
    assert found.notices == (
        "the images have no classes to check, so only near duplicates were sought",
    )


def test_a_network_that_knows_the_images_badly_or_too_well_is_told(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = asked({"a": 6, "b": 6}, by_folder)
    noise = found.found.noise
    for contradicted, share, end in (
        (0.29, 0.1, None), (0.3, 0.1, "so look at the suspects with doubt"),
        (0.3, None, "so it cannot tell which labels are wrong"),
    ):  # fmt: skip
        other = replace(found.found, noise=replace(noise, contradicted=contradicted, share=share))
        told = suspecting._notices(other, None, True)
        assert len(told) == (end is not None)
        if end is not None:
            assert told[0].startswith("for 30 % of the images, another class is nearer than their")
            assert told[0].endswith(end)
    assert suspecting._notices(found.found, 0, True) == ()
    (told_of_training,) = suspecting._notices(found.found, 5, True)
    assert told_of_training.startswith("the network was trained on 5 of these images, so it may")
    used = SimpleNamespace(number=7)
    monkeypatch.setattr(suspecting, "trained_use", lambda run, samples: used)
    trained, _ = asked({"a": 6, "b": 6}, by_folder, run=object())
    assert trained.trained_on == 7 and len(trained.notices) == 1


def test_a_model_is_asked_and_its_suspects_are_drawn(
    exported_run: tuple[Path, Path], image_folder: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(image_folder, tmp_path / "images")
    with Image.open(root / "class2/1.png") as image:
        image.save(root / "class2/copy.png", compress_level=0)
    (root / "class1/bad.png").write_bytes(b"no image")
    for model in exported_run:
        found = siamkit.check_data(root, model=model, output=tmp_path / "sheet.html")
        assert found["output"] == str(tmp_path / "sheet.html")
        assert (tmp_path / "sheet.html").read_text().startswith("<!doctype html>")
        suspects = found["suspects"]
        assert (suspects["model"], suspects["images"]) == (str(model), 49)
        keys = [set(pair["keys"]) for pair in suspects["near_duplicates"]["pairs"]]
        assert {"class2/1.png", "class2/copy.png"} in keys
        assert 0.9 < suspects["near_duplicates"]["limit"] <= 1
        assert suspects["trained_on"] == (24 if model == exported_run[0] else None)
        assert found["problems"] == ["1 image cannot be used"]
    assert siamkit.check_data(root, model=exported_run[1])["output"] is None
