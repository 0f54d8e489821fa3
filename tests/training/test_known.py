"""Runs whose data is pairs or triplets, and manifests with boxes and roles."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from siamkit import api
from siamkit.errors import ConfigError, Interrupted
from siamkit.evaluation.pairs import known_pairs
from siamkit.interfaces import Event
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut

Values = Callable[..., dict[str, Any]]

COLUMNS = {"pairs": "a,b,same", "triplets": "anchor,positive,negative"}


def write(path: Path, header: str, rows: list[tuple[Any, ...]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return path


def rows_of(kind: str) -> list[tuple[Any, ...]]:
    """Rows within and between each two classes, so that four parts are not connected."""
    rows: list[tuple[Any, ...]] = []
    for one, other in ((0, 1), (2, 3), (4, 5), (6, 7)):
        for a, b in itertools.combinations(range(4), 2):
            for mine, theirs in ((one, other), (other, one)):
                same = (f"class{mine}/{a}.png", f"class{mine}/{b}.png")
                apart = f"class{theirs}/{b}.png"
                if kind == "triplets":
                    rows.append((*same, apart))
                elif mine == one:
                    rows += [(*same, 1), (same[0], apart, 0)]
    return rows


def data_of(kind: str, folder: Path, root: Path) -> dict[str, Any]:
    path = write(folder / f"{kind}.csv", COLUMNS[kind], rows_of(kind))
    return {"path": str(path), "root": str(root)}


def test_a_run_and_its_inspection_say_why_the_head_is_not_the_usual_default(
    run_values: Values, image_folder: Path, tmp_path: Path
) -> None:
    """And a run on labelled images, or with a head of the user's, says nothing."""
    pairs = data_of("pairs", tmp_path, image_folder)
    for changes, why in (
        ({"data": pairs, "loss": {"name": "contrastive"}}, "pairs and triplets name no classes"),
        ({"train": {"grad_checkpointing": True}}, "stages whose activations are recomputed"),
        ({}, None),
    ):
        values = run_values(**changes)
        values["train"]["epochs"] = 1
        del values["head"]
        events: list[Event] = []
        place = tmp_path / f"run-{(why or 'usual').split()[0]}"
        api.fit({**values, "run_dir": str(place)}, listeners=[events.append])
        (start,) = (event.data for event in events if event.name == "run_start")
        for notices in (start["notices"], api.inspect(values)["notices"]):
            told = [text for text in notices if text.startswith("the head is 'residual' instead")]
            assert [text.partition("multistage': ")[2][: len(why or "")] for text in told] == (
                [] if why is None else [why]
            )
    own = api.inspect(run_values(data=pairs, loss={"name": "contrastive"}))
    assert not any("the head is" in text for text in own["notices"])


def test_a_head_cannot_be_computed_from_pairs_after_each_epoch(
    run_values: Values, image_folder: Path, tmp_path: Path
) -> None:
    values = run_values(
        data=data_of("pairs", tmp_path, image_folder), loss={"name": "contrastive"},
        freeze="full", head={"name": "multistage", "dim": 8, "trained": False},
        train={"epochs": 1},
    )  # fmt: skip
    for run in (api.inspect, api.fit):
        with pytest.raises(ConfigError, match=r"head\.trained: .*a closed form needs classes"):
            run(values)
    assert not Path(values["run_dir"]).exists()
    values["head"]["trained"] = None  # where the policy would allow it
    assert len(api.fit(values)["history"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind, loss", [
    ("pairs", "contrastive"), ("pairs", "multi-similarity"), ("triplets", "triplet"),
])  # fmt: skip
def test_known_tuples_train_and_are_verified(
    run_values: Values, image_folder: Path, tmp_path: Path, kind: str, loss: str
) -> None:
    data = data_of(kind, tmp_path, image_folder)
    seen: list[Event] = []
    result = api.fit(run_values(data=data, loss={"name": loss}), listeners=[seen.append])
    assert set(result["metrics"]["best"]) == {"auc", "eer", "epoch"}
    assert set(result["history"][0]) == {"auc", "eer", "train_loss", "train_auc", "train_eer"}
    start = seen[0].data
    assert start["config"]["train"]["monitor"] == "auc"
    assert f" {kind}" in start["data"]["train"]
    held_out = HeldOut.load(RunDir(Path(result["run_dir"])), "val")
    assert held_out is not None and held_out.images.tuples is not None
    about = result["calibration"]["provenance"]
    assert about["same"] + about["different"] == len(known_pairs(held_out.images.tuples).same)
    found = api.evaluate(result["run_dir"])
    assert found["verification"]["auc"] == pytest.approx(result["metrics"]["best"]["auc"], abs=1e-6)
    at = found["verification"]["at_threshold"]
    assert at["threshold"] == result["calibration"]["threshold"]
    assert at["far"] == pytest.approx(result["calibration"]["far"]["rate"], abs=0.05)
    assert found["retrieval"] is None
    assert (found["triplets"] is None) == (kind == "pairs")
    other = api.evaluate(result["run_dir"], data["path"], root=data["root"])
    assert other["data"]["part"] == "all"


@pytest.mark.slow
def test_pairs_teach_what_they_say(run_values: Values, image_folder: Path, tmp_path: Path) -> None:
    """The same pairs with opposite answers pull the other way."""
    between = {}
    for flip in (False, True):
        part = {0: "train", 1: "train", 2: "val", 3: "val"}
        rows = [(f"class{c}/{i}.png", f"class{c}/{j}.png", int(not flip), part[c])
                for c in range(4) for i, j in itertools.combinations(range(4), 2)]  # fmt: skip
        rows += [(f"class{c}/{i}.png", f"class{c + 1}/{j}.png", int(flip), part[c])
                 for c in (0, 2) for i, j in itertools.product(range(4), range(4))]  # fmt: skip
        path = write(tmp_path / f"{flip}.csv", "a,b,same,split", rows)
        values = run_values(
            data={"path": str(path), "root": str(image_folder)}, optimizer={"lr": 0.02},
            freeze={"name": "full", "norm": "train"}, loss={"name": "contrastive"},
            train={"epochs": 4},
        )  # fmt: skip
        values["run_dir"] = str(tmp_path / f"run-{flip}")
        net = api.load_embedder(api.fit(values)["run_dir"], which="last")
        one, other = (net.embed(image_folder / f"class{kind}") for kind in (0, 1))
        between[flip] = float((one @ other.T).mean())
    assert between[True] > between[False] + 0.2, between


@pytest.mark.slow
def test_cached_pairs_train_as_live_ones_do(
    run_values: Values, image_folder: Path, tmp_path: Path
) -> None:
    runs = {}
    for cache in ("off", "always"):
        values = run_values(
            data={**data_of("pairs", tmp_path, image_folder), "views": 2},
            loss={"name": "contrastive"}, engine={"cache": cache, "dtype": "float32"},
            freeze={"name": "freeze-all"}, train={"micro_batch": 4},
        )  # fmt: skip
        values["run_dir"] = str(tmp_path / cache)
        runs[cache] = api.fit(values)["history"]
    for live, cached in zip(runs["off"], runs["always"], strict=True):
        assert cached == pytest.approx(live, abs=1e-4)


@pytest.mark.slow
def test_micro_batches_share_a_step(run_values: Values, image_folder: Path, tmp_path: Path) -> None:
    """Four parts of a step are averaged, not added up."""
    losses = []
    for micro in (None, 4):
        values = run_values(
            data=data_of("pairs", tmp_path, image_folder), loss={"name": "contrastive"},
            freeze={"name": "freeze-all"}, optimizer={"lr": 1e-9},
            train={"batch_size": 16, "micro_batch": micro, "epochs": 1},
        )  # fmt: skip
        values["run_dir"] = str(tmp_path / f"run-{micro}")
        losses.append(api.fit(values)["history"][0]["train_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.5)


@pytest.mark.slow
def test_a_resumed_run_of_pairs_is_bit_equal(
    run_values: Values, image_folder: Path, tmp_path: Path
) -> None:
    values = run_values(data=data_of("pairs", tmp_path, image_folder), loss={"name": "contrastive"})
    whole = api.fit({**values, "run_dir": str(tmp_path / "whole")})

    def stop(event: Event) -> None:
        if event.name == "step" and event.data["step"] == 7:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        api.fit(values, listeners=[stop])
    resumed = api.resume(values["run_dir"])
    assert resumed["history"] == whole["history"]
    last = [
        checkpoint.latest_intact(Path(run["run_dir"]) / "checkpoints")[0].model
        for run in (whole, resumed)
    ]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


@pytest.mark.parametrize("change, message", [
    ({"loss": {"name": "triplet"}}, "loss 'triplet' cannot use explicit pairs"),
    ({"loss": {"name": "arcface"}}, "loss 'arcface' cannot use explicit pairs"),
    ({"train": {"monitor": "map@r"}}, r"train\.monitor: is not measured on pairs or triplets"),
])  # fmt: skip
def test_what_pairs_cannot_do_is_told_before_anything_is_written(
    run_values: Values, image_folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    values = run_values(data=data_of("pairs", tmp_path, image_folder), **change)
    with pytest.raises(ConfigError, match=message):
        api.fit(values)
    assert not Path(values["run_dir"]).exists()


def test_labelled_images_have_no_auc(run_values: Values) -> None:
    with pytest.raises(ConfigError, match=r"got 'auc', allowed: recall@1, map@r"):
        api.fit(run_values(train={"monitor": "auc"}))


@pytest.mark.slow
def test_boxes_and_roles_of_a_manifest_count(
    run_values: Values, image_folder: Path, tmp_path: Path
) -> None:
    rows = []
    for kind, index in itertools.product(range(8), range(6)):
        part = "train" if kind < 4 else "val"
        box = (0, 0, 32, 40) if index else (8, 0, 40, 40)
        rows.append((f"class{kind}/{index}.png", f"k{kind}", part, index < 2, index > 1, *box))
    path = write(tmp_path / "m.csv", "path,label,split,is_query,is_gallery,x1,y1,x2,y2", rows)
    values = run_values(data={"path": str(path), "root": str(image_folder)})
    result = api.fit(values)
    found = api.evaluate(result["run_dir"])
    assert (found["retrieval"]["queries"], found["retrieval"]["gallery"]) == (8, 16)
    assert found["retrieval"]["recall@1"] == pytest.approx(result["metrics"]["best"]["recall@1"])
    held_out = HeldOut.load(RunDir(Path(result["run_dir"])), "val")
    assert held_out is not None
    assert held_out.images.samples[0].box == (8, 0, 40, 40)
    assert held_out.images.query is not None and sum(held_out.images.query) == 8
    # The whole image embeds otherwise than the part of it.
    whole = api.load_embedder(result["run_dir"]).embed([held_out.images.samples[0].path])
    assert not np.allclose(whole[0], held_out.embeddings[0], atol=1e-4)


def test_quarantined_images_are_listed_with_the_run(
    run_values: Values, tmp_path: Path, image_folder: Path
) -> None:
    import shutil

    root = tmp_path / "images"
    shutil.copytree(image_folder, root)
    data = (root / "class0/1.png").read_bytes()
    (root / "class0/1.png").write_bytes(data[:-200])
    result = api.fit(
        run_values(data={"path": str(root), "on_unreadable": "quarantine"}, train={"epochs": 1})
    )
    with (Path(result["run_dir"]) / "quarantine.csv").open() as file:
        [row] = list(csv.DictReader(file))
    assert row["path"] == str(root / "class0/1.png") and "truncated" in row["problem"]
    events = (Path(result["run_dir"]) / "events.jsonl").read_text().splitlines()
    assert any("left out 1 unreadable image" in text for text in json.loads(events[0])["notices"])
    assert (
        json.loads(events[0])["data"]["train_images"] + json.loads(events[0])["data"]["val_images"]
        == 47
    )
