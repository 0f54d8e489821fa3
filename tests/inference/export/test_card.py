"""The card of an export, word for word."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.data.digest import digest
from siamkit.data.images import image_set_of
from siamkit.inference.export.card import graph_card, quality_section
from siamkit.inference.export.measuring import REFITTED
from siamkit.inference.export.subject import Converted, Row
from siamkit.inference.export.thresholds import Threshold
from siamkit.interfaces import Preprocessing
from siamkit.model.machine import Machine
from siamkit.model.pretrained.card import CardSection
from siamkit.version import VERSION

IMAGES = image_set_of(["a", "a", "b", "b", "b"])
MACHINE = Machine("a cpu", 1, True)
PLAIN = Row("torch", "float32", {"recall@1": 0.91234, "eer": None}, 2_345_000, 0.00123, 456.7)
SMALL = Row("onnx", "int8", {"recall@1": 0.9, "eer": 0.25, REFITTED: 0.01}, 605_000, 0.0005, 1e3)


def subject_of(threshold: float | None = None, fitted_on: str = "") -> Any:
    about = SimpleNamespace(digest=fitted_on)
    calibration = None if threshold is None else SimpleNamespace(provenance=about)
    images = Preprocessing((0.5, 0.25, 0.125), (0.2, 0.3, 0.4), (32, 48), "bicubic", 0.9, "pad")
    return SimpleNamespace(
        val=SimpleNamespace(images=IMAGES), threshold=threshold, calibration=calibration,
        net=SimpleNamespace(preprocessing=images),
    )  # fmt: skip


MADE = Converted(
    "onnx", "float32", "model.onnx", 8, True, (PLAIN, SMALL), 0.99999994, Threshold(None),
    notices=("Mind the gap.",),
)  # fmt: skip


def test_the_quality_table_has_a_column_for_each_metric_that_was_measured() -> None:
    found = quality_section(MADE, subject_of(), MACHINE)
    assert list(found.header) == [
        "network", "recall@1", "EER", "at its own threshold", "size", "one image", "batches of 32",
    ]  # fmt: skip
    assert [list(row) for row in found.rows] == [
        ["torch float32", "0.9123", "", "", "2.35 MB", "1.23 ms", "457 images/s"],
        ["onnx int8", "0.9000", "0.2500", "0.0100", "0.60 MB", "0.50 ms", "1000 images/s"],
    ]
    assert list(found.lines) == [
        f"Measured on the run's validation data: {IMAGES}. The best epoch was chosen by them, so "
        "the metrics are slightly optimistic for other images.",
        "False accepts: the share of different pairs at or above the stored threshold.",
        "Speed: on a cpu, with 1 thread. It includes neither decoding nor preparing images.",
        "Mind the gap.",
    ]


@pytest.mark.parametrize("same", [True, False])
def test_images_that_chose_the_threshold_too_are_said_to(same: bool) -> None:
    fitted_on = digest(IMAGES) if same else "others"
    first, second, *_ = quality_section(MADE, subject_of(0.51237, fitted_on), MACHINE).lines
    assert ("and the threshold was fitted on them, so" in first) == same
    assert second.endswith("at or above the stored threshold (0.5124).")


def text_of(made: Converted = MADE, name: str = "model", license: str | None = None) -> str:
    sections = [CardSection("Quality", ["Good."]), CardSection("Run", ["Long."])]
    return graph_card(name, made, subject_of(), "abc", sections, license)


def test_the_whole_card() -> None:
    assert text_of() == (
        """---
library_name: onnx
tags:
- siamkit
- image-embeddings
- metric-learning
- image-feature-extraction
pipeline_tag: image-feature-extraction
license: unknown
---

# model

"""
        "Turns an image into an embedding of 8 numbers, L2-normalised. Images of the same class "
        "have a high cosine similarity. Exported to onnx in float32 by "
        f"siamkit {VERSION}. It needs no PyTorch.\n"
        """
## Use

```console
$ pip install 'siamkit-runtime'
$ siamkit-runtime embed model photos -o photos.npy
```

`siamkit embed model photos -o photos.npy` does the same where siamkit is installed.

## Quality

Good.

## Run

Long.

## Model

|  |  |
| --- | --- |
| file | `model.onnx` |
| input `images` | float32, any number x 3 x 32 x 48 |
| output `embeddings` | float32, the same number x 8 |
| resized | to 48 x 32 pixels, pad, bicubic |
| mean, for values in [0, 1] | 0.5, 0.25, 0.125 |
| standard deviation | 0.2, 0.3, 0.4 |
| least cosine similarity to torch | 0.9999999 |
| fingerprint of the run's network | `abc` |
"""
    )


def test_a_model_with_a_threshold_verifies_and_one_for_openvino_needs_it() -> None:
    calibration: Any = object()
    made = replace(
        MADE, kind="openvino", precision="int8", threshold=Threshold(calibration),
        normalized=False, cosine=None, floats=("a", "b"), layers=9,
    )  # fmt: skip
    text = text_of(made, "my model", "mit")
    assert "license: mit\n" in text and "library_name: openvino\n" in text
    assert "embedding of 8 numbers. Images" in text
    assert "Exported to openvino in int8 by" in text
    assert "$ pip install 'siamkit-runtime[openvino]'" in text
    assert "$ siamkit-runtime verify 'my model' one.jpg other.jpg\n" in text
    assert "| file | `model.xml` |" in text
    assert "| layers in float32 | 2 of 9 |" in text and "cosine similarity to" not in text
