"""What the user is told about an int8 network, and which one is refused."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from siamkit.data.images import ImageSet, image_set_of
from siamkit.errors import ConfigError
from siamkit.inference.export.subject import Row
from siamkit.inference.quantizing.deciding import LIMIT, choice_of, notices_on, require_quality
from siamkit.inference.quantizing.search import Choice
from siamkit.model.machine import Machine

ALL = Choice((), 0.0, 20)


def row(precision: str = "float32", size: int = 3000, latency: float = 2.0,
        throughput: float = 10.0, **metrics: float) -> Row:  # fmt: skip
    return Row("onnx", precision, metrics, size, latency, throughput)


def told(plain: Row, int8: Row, choice: Choice = ALL, vnni: bool | None = True) -> list[str]:
    return list(notices_on(plain, int8, choice, Machine("a cpu", 2, vnni)))


def test_a_small_and_fast_network_needs_no_notice() -> None:
    assert told(row(), row(size=1000, latency=1.0, throughput=20.0)) == []
    assert told(row(), row(size=1000)) == [], "neither slower nor too large"
    assert told(row(), row(size=1000), vnni=None) == []


def test_a_network_that_saves_less_than_two_thirds_is_told() -> None:
    assert told(row(), row(size=1001)) == ["int8 is only 3.0 times smaller than float32"]
    assert told(row(), row(size=2000)) == ["int8 is only 1.5 times smaller than float32"]


@pytest.mark.parametrize("slow", [{"latency": 2.1}, {"throughput": 9.9}])
def test_a_network_that_is_slower_is_told_with_the_reason(slow: dict[str, float]) -> None:
    text = "int8 is not faster than float32 on this CPU."
    assert told(row(), row(size=1000, **slow)) == [text]
    assert told(row(), row(size=1000, **slow), vnni=None) == [text]
    reason = " It has no instructions for int8 (VNNI)."
    assert told(row(), row(size=1000, **slow), vnni=False) == [text + reason]


def test_a_cpu_without_the_instructions_is_told() -> None:
    [notice] = told(row(), row(size=1000), vnni=False)
    assert notice.startswith("this CPU has no instructions for int8 (VNNI)")


def test_layers_in_float32_are_told() -> None:
    [notice] = told(row(), row(size=1000), Choice(("a", "b"), 0.0, 20))
    assert notice.startswith("2 of 20 layers stay in float32")


@pytest.mark.parametrize("name", ["recall@1", "auc"])
def test_a_network_that_costs_more_than_the_limit_is_refused(name: str) -> None:
    plain, choice = row(**{name: 0.5}), Choice(("a",), 0.0, 20)
    for after in (0.9, 0.5, 0.5 - LIMIT):
        require_quality(plain, row(**{name: after}), choice)
    require_quality(plain, row(), choice)
    require_quality(row(), row(**{name: 0.1}), choice)
    with pytest.raises(ConfigError, match="costs too much quality") as raised:
        require_quality(plain, row(**{name: 0.4799}), choice)
    error = raised.value
    assert f"{name} on the validation images is 0.5000 in float32" in error.what
    assert error.got == "0.4799 with 1 of 20 layers in float32"
    assert error.allowed == "0.4800 or more"


def test_the_limit() -> None:
    assert LIMIT == 0.02


@dataclass(frozen=True)
class Val:
    """Images of three pixels, which are their embeddings."""

    images: ImageSet
    preprocessing: Any = None
    max_pixels: int = 1
    most: int = 1000

    def together(self) -> Any:
        return np.eye(3, dtype=np.float32)[self.images.labels]


class Broken:
    """Has three layers; only if the first stays in float32 are there embeddings."""

    layers = ("first", "second", "third")

    def __init__(self, weightless: Collection[str] = ()) -> None:
        self.weightless = weightless

    def quantized(self, floats: Collection[str]) -> Any:
        return lambda images: images if "first" in floats else images * np.nan

    def write(self, floats: Collection[str], path: Any) -> None:
        raise AssertionError("is not asked for")


def test_layers_without_which_there_are_no_embeddings_stay_in_float32() -> None:
    said: list[str] = []
    val = Val(image_set_of(["a", "a", "b", "b", "c", "c"]))
    subject: Any = SimpleNamespace(val=val, seed=0, say=said.append)
    found = choice_of(subject, Broken(), lambda images: images, np.ones((7, 3), np.float32))
    assert found == Choice(("first",), 0.0, 3)
    assert said == [
        "quantizes, calibrated on 7 training images",
        "int8: the quality falls by 1.000",
        "int8 with 1 of 3 layers in float32: the quality falls by 0.000",
    ]


def test_the_layers_without_weights_are_tried_first() -> None:
    said: list[str] = []
    val = Val(image_set_of(["a", "a", "b", "b", "c", "c"]))
    subject: Any = SimpleNamespace(val=val, seed=0, say=said.append)
    quantizer = Broken(weightless=("first", "third"))
    found = choice_of(subject, quantizer, lambda images: images, np.ones((7, 3), np.float32))
    assert found == Choice(("first", "third"), 0.0, 3)
    assert said[1:] == [
        "int8: the quality falls by 1.000",
        "int8 with 2 of 3 layers in float32: the quality falls by 0.000",
    ]


def test_a_part_of_many_validation_images_is_measured() -> None:
    sizes: list[int] = []

    def plain(images: Any) -> Any:
        sizes.append(len(images))
        return images

    images = image_set_of([f"{n % 3}" for n in range(90)])
    for most, batches in ((1000, [32, 32, 26]), (60, [32, 28])):
        sizes.clear()
        val = replace(Val(images), most=most)
        subject: Any = SimpleNamespace(val=val, seed=0, say=lambda text: None)
        choice_of(subject, Broken(("first",)), plain, np.ones((40, 3), np.float32))
        assert sizes == [*batches, 32], "the last ones are calibration images"
