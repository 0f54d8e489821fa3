"""Evaluation of embeddings that are given in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import siamkit
from siamkit.errors import ConfigError, DataError

LABELS = [number // 4 for number in range(100)]


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((100, 24), dtype=np.float32)


@pytest.mark.parametrize("scale", [1e-20, 1e-30, 1e20, 1e36])
def test_an_evaluation_does_not_depend_on_the_length_of_embeddings(
    vectors: np.ndarray, scale: float
) -> None:
    found = siamkit.evaluate(embeddings=vectors * scale, labels=LABELS)
    expected = siamkit.evaluate(embeddings=vectors, labels=LABELS)
    assert found["retrieval"] == expected["retrieval"]
    assert found["notices"] == expected["notices"]


def test_a_tensor_of_any_type_is_evaluated_like_an_array(vectors: np.ndarray) -> None:
    expected = siamkit.evaluate(embeddings=vectors, labels=LABELS)
    tensor = torch.from_numpy(vectors).requires_grad_()
    found = siamkit.evaluate(embeddings=tensor, labels=torch.tensor(LABELS))
    assert found.to_json() == expected.to_json()
    short = siamkit.evaluate(embeddings=tensor.bfloat16(), labels=LABELS)
    assert short["retrieval"]["map@r"] == pytest.approx(expected["retrieval"]["map@r"], abs=0.05)


def test_complex_embeddings_are_refused(vectors: np.ndarray) -> None:
    with pytest.raises(DataError, match="are no real numbers, got 'complex64'"):
        siamkit.evaluate(embeddings=vectors + 1j * vectors, labels=LABELS)


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        (torch.eye(4), [0, 0, 1], r"embeddings: must be one vector per label, got 'shape \[4, 4\] "
                                  r"and 3 labels', allowed: \[N, E\] and N labels"),
        (torch.ones(4), [0, 0, 1, 1], r"must be one vector per label, got 'shape \[4\] and 4"),
        (torch.ones(0, 3), [], r"embeddings: must not be empty, got 'shape \[0, 3\]'"),
        (torch.full((2, 2), float("nan")), [0, 1], "embeddings: contain NaN or infinity"),
        (torch.eye(2), ["a", None], "labels item 1: a label must be a name or a number, got"),
        (torch.eye(2), 3, "embeddings and labels: cannot be read: .*, allowed: numbers"),
        ("text", [0, 1], "embeddings: are no real numbers, got 'str'"),
    ],
)  # fmt: skip
def test_embeddings_and_labels_that_do_not_fit_are_told(
    embeddings: Any, labels: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        siamkit.evaluate(embeddings=embeddings, labels=labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "run: is missing: pass a run, or embeddings and labels"),
        ({"embeddings": torch.eye(4)}, "embeddings: need labels, and cannot be combined wi"),
        ({"embeddings": torch.eye(4), "labels": [0, 0, 1, 1], "run": "runs/a"}, "need labels, and"),
        ({"embeddings": torch.eye(4), "labels": [0, 0, 1, 1], "data": "a"}, "need labels, and"),
        ({"embeddings": torch.eye(4), "labels": [0, 0, 1, 1], "which": "last"},
         "which: cannot be used with embeddings, which need no network and no files"),
        ({"embeddings": torch.eye(4), "labels": [0, 0, 1, 1], "device": "cpu"}, "device: cannot"),
    ],
)  # fmt: skip
def test_what_has_no_effect_on_an_evaluation_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        siamkit.evaluate(**arguments)


def test_an_evaluation_says_of_what_it_is(
    exported_run: tuple[Path, Path], image_folder: Path
) -> None:
    run, folder = exported_run
    own = siamkit.evaluate(run, which="last", device="cpu")
    assert (own["run_dir"], own["which"]) == (str(run), "last")
    assert own["data"]["part"] == "the run's validation images"
    assert own["data"]["path"] == str(image_folder) and own["data"]["trained_on"] == 0
    assert own["verification"]["at_threshold"] is None, "the threshold is the best network's"
    assert siamkit.evaluate(run, device="cpu")["verification"]["at_threshold"] is not None
    model = siamkit.evaluate(folder, image_folder)
    assert (model["run_dir"], model["which"]) == (str(folder), None)
    assert model["data"] == {"path": str(image_folder), "part": model["data"]["part"],
                             "chose": model["data"]["chose"], "trained_on": None}  # fmt: skip
    opened = siamkit.load_embedder(run, device="cpu", workers=0)
    given = siamkit.evaluate(opened, image_folder)
    assert (given["run_dir"], given["which"]) == (None, None)
    alone = siamkit.evaluate(embeddings=torch.eye(4), labels=[0, 0, 1, 1])
    assert (alone["run_dir"], alone["which"]) == (None, None)
    assert alone["data"] == {"path": "embeddings", "part": "all"}


@pytest.mark.parametrize("most", [1, 7, 300])
def test_an_exported_model_is_asked_a_few_images_at_a_time(
    exported_run: tuple[Path, Path], image_folder: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    from siamkit.api import embedding

    expected = siamkit.evaluate(exported_run[1], image_folder)
    asked: list[int] = []
    whole = siamkit.ExportedModel.embed
    monkeypatch.setattr(
        siamkit.ExportedModel,
        "embed",
        lambda model, some: asked.append(len(some)) or whole(model, some),
    )
    monkeypatch.setattr(embedding, "BATCH_SIZE", most)
    found = siamkit.evaluate(exported_run[1], image_folder)
    assert max(asked) <= most and sum(asked) == found["images"]
    assert found["retrieval"] == expected["retrieval"]


def test_an_exported_model_takes_no_arguments_of_a_run(
    exported_run: tuple[Path, Path], image_folder: Path
) -> None:
    model = siamkit.ExportedModel(exported_run[1])
    with pytest.raises(ConfigError, match="backbone: cannot be used with an exported model"):
        siamkit.evaluate(exported_run[1], image_folder, backbone=torch.nn.Identity())
    with pytest.raises(ConfigError, match="device: cannot be used with an exported model, which"):
        siamkit.evaluate(model, image_folder, device="cpu")
    with pytest.raises(ConfigError, match="data: is missing: an embedder or an exported model has"):
        siamkit.evaluate(exported_run[1])


def test_labels_that_are_written_in_two_ways_are_told(vectors: np.ndarray) -> None:
    labels = ["Anna", *["anna"] * 49, *["ben"] * 50]
    found = siamkit.evaluate(embeddings=vectors, labels=labels)["notices"]
    assert found[0].startswith("2 classes have names that differ only in case")
