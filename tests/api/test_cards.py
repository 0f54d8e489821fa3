"""The sections of a run's model card, from the run's facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siamkit.api import cards
from siamkit.api.cards import CardFacts, sections_of
from siamkit.api.entries import load_config
from siamkit.data.images import ImageSet, Sample
from siamkit.errors import CheckpointError
from siamkit.evaluation.summary import summarize
from siamkit.interfaces import Preprocessing
from siamkit.portable.calibration import Calibration, Provenance, Rate
from siamkit.runs.held_out import HeldOut
from siamkit.runs.log import Log

START = {
    "event": "run_start", "weights": "random",
    "data": {"how": "class-disjoint", "train": "24 images of 4 classes", "val": "12 images",
             "test": None},
}  # fmt: skip


def calibration(target: Any = "eer", far: float | None = None, part: str = "val") -> Calibration:
    made = Provenance("/home/me/photos", part, "d", 18, 3, 45, 108, True, "epoch-1", "n", 2, "1",
                      ("private",))  # fmt: skip
    return Calibration(
        target, far, 0.25, Rate(0.1, 0.05, 0.2), Rate(0.3, 0.25, 0.4), 1.0, 0.0, made
    )


def held_out(part: str = "val") -> HeldOut:
    """Five classes of three images."""
    angles = np.radians([0, 10, 21, 60, 66, 75, 120, 131, 143, 180, 188, 150, 240, 251, 263])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    samples = tuple(Sample(Path(f"/none/{i}.png"), i // 3, f"{i}.png") for i in range(15))
    return HeldOut(
        part, ImageSet(samples, tuple("abcde")), embeddings, 0, "n", Preprocessing(), "d"
    )


def facts(**changes: Any) -> CardFacts:
    config = load_config({
        "data": {"path": "/home/me/photos", "image_size": 64}, "optimizer": {"lr": 0.002},
        "train": {"epochs": 7, "batch_size": 8, "images_per_class": 2, "seed": 3},
    })  # fmt: skip
    found = CardFacts(config, "random", START["data"], None, None, 4)  # type: ignore[arg-type]
    return replace(found, **changes)


def rows(found: CardFacts, title: str) -> dict[str, tuple[str, ...]]:
    (section,) = (one for one in sections_of(found) if one.title == title)
    return {row[0]: tuple(row[1:]) for row in section.rows}


def lines(found: CardFacts, title: str) -> str:
    (section,) = (one for one in sections_of(found) if one.title == title)
    return "\n".join(section.lines)


def test_a_run_without_figures_and_threshold_says_what_it_was_trained_on():
    found = facts()
    assert [section.title for section in sections_of(found)] == ["Data", "Training", "Figures"]
    assert lines(found, "Data") == "`photos`, split: class-disjoint."
    assert rows(found, "Data") == {
        "training": ("24 images of 4 classes",), "validation": ("12 images",),
    }  # fmt: skip
    assert rows(found, "Training") == {
        "freeze policy": ("`stages`",), "loss": (f"`{found.config.loss.name}`",),
        "optimizer": ("`adamw`, rate 0.002",),
        "epochs": ("7; this is the network of epoch 5",),
        "batch": ("8 images, 2 per class",), "image size": ("64 pixels",), "seed": ("3",),
    }  # fmt: skip
    assert lines(found, "Figures") == "The run has not ended, so it has no figures yet."


def test_a_size_that_was_not_set_is_the_backbones():
    found = facts(config=load_config({"data": {"path": "/"}}))
    assert rows(found, "Training")["image size"] == ("the backbone's own",)
    assert lines(found, "Data").startswith("`the data`, ")


@pytest.mark.parametrize(("part", "word"), [("val", "validation"), ("test", "test")])
def test_the_figures_are_those_of_evaluate_with_their_chance_levels(part, word):
    held = held_out(part)
    found, expected = facts(held=held), summarize(held.embeddings, held.images)
    text, figures = lines(found, "Figures"), rows(found, "Figures")
    assert text.startswith(f"On the 15 {word} images, of 5 classes.")
    assert ("slightly optimistic" in text) == (part == "val")
    retrieval, verification = expected["retrieval"], expected["verification"]
    for key in ("recall@1", "recall@5", "map@r"):
        chance = retrieval["chance"][key]
        assert figures[key] == (f"{retrieval[key]:.4g}", "", f"{chance:.4g}")
    low, high = verification["intervals"]["auc"]
    assert figures["auc"] == (f"{verification['auc']:.4g}", f"{low:.4g} to {high:.4g}", "0.5")
    assert figures["eer"][2] == "0.5" and figures["eer"][0] == f"{verification['eer']:.4g}"
    assert not any(key.startswith("triplets") for key in figures)


def test_figures_that_the_images_do_not_have_are_left_out(monkeypatch):
    nothing = {"images": 6, "classes": 3, "retrieval": None, "verification": None}
    triplets = {"accuracy": 0.75, "count": 4, "margin": 0.5}
    monkeypatch.setattr(cards, "summarize", lambda *_, **__: {**nothing, "triplets": triplets})
    assert rows(facts(held=held_out()), "Figures") == {
        "triplets: accuracy": ("0.75", "", ""), "triplets: margin": ("0.5", "", ""),
    }  # fmt: skip
    some = {
        **nothing, "triplets": None,
        "retrieval": {"recall@1": 0.5, "recall@5": None, "map@r": 0.0, "chance": {"map@r": 0.1}},
        # By chance, as many same as different pairs are accepted.
        "verification": {"auc": 0.9, "eer": None, "tar@far=0.1": 0.0, "tar@far": 0.5, "same": 9,
                         "intervals": None},
    }  # fmt: skip
    monkeypatch.setattr(cards, "summarize", lambda *_, **__: some)
    assert rows(facts(held=held_out()), "Figures") == {
        "recall@1": ("0.5", "", ""), "map@r": ("0", "", "0.1"), "auc": ("0.9", "", "0.5"),
        "tar@far=0.1": ("0", "", "0.1"), "tar@far": ("0.5", "", ""),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("own", "target"),
    [
        (calibration(), "equal rates of false accepts and false rejects"),
        (calibration("far", 0.01), "a false accept rate of 0.01"),
        (calibration("accuracy"), "the best accuracy"),
    ],
)
def test_the_threshold_says_what_it_was_fitted_for_and_on(own, target):
    text = lines(facts(calibration=own), "Threshold")
    assert "if their cosine similarity is at least 0.25." in text
    assert f"Fitted for {target}" in text
    assert (
        "on 45 same and 108 different pairs of 18 images of 3 classes (validation images)" in text
    )
    assert rows(facts(calibration=own), "Threshold") == {
        "false accepts (FAR)": ("0.1", "0.05 to 0.2"),
        "false rejects (FRR)": ("0.3", "0.25 to 0.4"),
    }  # fmt: skip


def test_error_rates_belong_to_the_runs_own_threshold(monkeypatch):
    seen = []
    monkeypatch.setattr(
        cards,
        "summarize",
        lambda *_, threshold: (
            seen.append(threshold)
            or {
                "images": 1,
                "classes": 1,
                "retrieval": None,
                "verification": None,
                "triplets": None,
            }
        ),
    )
    for own in (None, calibration()):
        sections_of(facts(held=held_out(), calibration=own))
    assert seen == [None, 0.25]


def of(events: list[dict[str, Any]], own: Calibration | None = None) -> CardFacts:
    return CardFacts.of(Log(tuple(events)), Path("events.jsonl"), facts().config, own, None, 2)


def test_facts_hold_no_path_of_the_machine():
    found = of([START, {"event": "run_end"}], calibration())
    assert found.weights == "random" and found.data == START["data"] and found.epoch == 2
    assert found.calibration is not None
    made = found.calibration.provenance
    assert (made.data, made.notices, made.part) == ("photos", (), "val")
    assert of([START]).calibration is None


@pytest.mark.parametrize(
    "events",
    [[], [{"event": "step"}, START], [{**START, "event": "step"}], [{"event": "run_start"}],
     [{k: v for k, v in START.items() if k != "weights"}],
     [{k: v for k, v in START.items() if k != "data"}]],
)  # fmt: skip
def test_a_log_without_the_runs_start_is_refused(events):
    with pytest.raises(CheckpointError, match=r"events\.jsonl: has no valid run_start event"):
        of(events)
