"""The head of the page, from the events of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.interfaces import Preprocessing
from siamkit.report.html import timing
from siamkit.report.html.facts import facts_of
from siamkit.report.html.head import head, seen_text

from .charts import events

CONFIG = {
    "backbone": {"name": "resnet50"}, "head": {"name": "mlp"}, "loss": {"name": "triplet"},
    "freeze": {"name": "stages"}, "scheduler": {"name": "cosine"},
    "data": {"path": "/photos/birds", "fit": "pad", "image_size": 64, "range": 12},
    "train": {"monitor": "recall@1"},
}  # fmt: skip
DATA = {"train": "8 images", "val": "4 images", "how": "class-disjoint"}


def gathered(log: list[dict[str, Any]] | None = None, held: Any = None, **start: Any) -> Any:
    first, *rest = events() if log is None else log
    first = {**first, "config": CONFIG, "device": "cpu", "data": DATA, "weights": "random", **start}
    return SimpleNamespace(
        facts=facts_of([first, *rest]), metrics={}, held=held,
        run=SimpleNamespace(path=Path("runs/a")), spent={0: {timing.SETUP: 90.0}},
    )  # fmt: skip


def about(*args: Any, **kwargs: Any) -> dict[str, str]:
    return dict(head(gathered(*args, **kwargs))["about"])


def test_the_title_and_the_lead_name_the_parts_of_the_run():
    found = head(gathered())
    assert found["title"] == "resnet50 on birds"
    assert found["lead"] == (
        "mlp head, triplet loss, freeze policy stages, cosine schedule; 5 of 5 epochs on cpu "
        "in 1 min 30 s."
    )


def test_a_log_without_a_start_says_so():
    found = head(gathered(config=None))
    assert found["title"] == "a" and "no start of the run" in found["lead"]


def test_the_facts_of_the_run_are_rows():
    assert about() == {
        "run": "runs/a", "data": "/photos/birds", "trained on": "8 images", "held out": "4 images",
        "split": "class-disjoint", "weights": "random",
        "the network sees": "64 × 64 pixels: whole images, padded to a square; "  # noqa: RUF001
        "4095 is white in 16-bit images",
        "best epoch": "3 of 5", "trainable at the end": "100 % of the parameters (3 phases)",
    }  # fmt: skip
    assert "weights" not in about(data=None)
    assert "the network sees" not in about(config={**CONFIG, "data": {}})
    unsized = {**CONFIG, "data": {"fit": "crop"}}
    sees = about(config=unsized)["the network sees"]
    assert sees == "the backbone's size: the centre of each image"


def test_a_rate_that_was_found_and_held_out_images_have_rows():
    found = {"lr": 2e-3, "low": 1e-3, "high": 4e-3, "losses": [[]], "phase": {"number": 1}}
    assert about(lr_find=found)["learning rate"].startswith("0.002, found by a range test")
    metrics = SimpleNamespace(eer=0.1239, auc=0.98765)
    held = SimpleNamespace(
        held=SimpleNamespace(preprocessing=Preprocessing(size=(32, 48)), part="val"),
        verified=SimpleNamespace(metrics=metrics),
    )
    rows = about(held=held)
    assert rows["the network sees"].startswith("48 × 32 pixels")  # noqa: RUF001
    assert rows["verification (validation)"] == "equal error rate 0.124, AUC 0.988"
    held.verified = None
    assert "verification (validation)" not in about(held=held)


@pytest.mark.parametrize(
    ("sessions", "text"), [(1, None), (2, "once"), (3, "2 times"), (4, "3 times")]
)
def test_how_often_a_run_was_resumed(sessions: int, text: str | None):
    first, *rest = events()
    again = {**first, "config": CONFIG, "data": DATA, "finished_epochs": 0}
    log = [first, *[again] * (sessions - 1), *rest]
    assert about(log).get("resumed") == text


def test_what_is_wrong_with_a_run_is_said():
    assert head(gathered())["status"] == []
    assert head(gathered(events()[:-1]))["status"] == ["not finished"]
    stopped = [*events()[:-1], {"time": 99.0, "event": "early_stop"}, events()[-1]]
    assert head(gathered(stopped))["status"] == ["stopped early"]
    worse = [
        {**event, "metrics": {"recall@1": 0.1}} if event["event"] == "epoch_end" else event
        for event in events()
    ]
    assert head(gathered(worse))["status"] == ["worse than the untrained backbone"]


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({}, "the centre of each image"),
        ({"fit": "squash"}, "whole images, squashed to a square"),
        ({"value_range": (0.5, 200.0)}, "the centre of each image; 0.5 is black and 200 white"),
        ({"value_range": 8}, "the centre of each image; 255 is white in 16-bit images"),
    ],
)
def test_what_the_network_sees(how: dict[str, Any], text: str):
    found = seen_text(Preprocessing(size=(10, 20), **how))
    assert found.startswith(f"20 × 10 pixels: {text}")  # noqa: RUF001
