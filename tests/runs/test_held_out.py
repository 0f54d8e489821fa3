from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from siamkit.data.images import ImageSet
from siamkit.errors import CheckpointError
from siamkit.interfaces import Preprocessing
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.runs.held_out import _digest as digest_of


@pytest.fixture
def held_out(tmp_path: Path) -> HeldOut:
    images = ImageSet.of(tmp_path, {"a\udcff": ["a/1.png", "a/2.png"], "b": ["b/\udcff.png"]})
    preprocessing = Preprocessing(fit="pad", value_range=(0.0, 100.0))
    embeddings = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
    return HeldOut("val", images, embeddings, 2, "n", preprocessing, "d")


def test_it_comes_back_as_it_was_saved(held_out: HeldOut, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    held_out.save(run)
    loaded = HeldOut.load(run, "val")
    assert loaded is not None
    assert loaded.images == held_out.images
    assert (loaded.part, loaded.epoch) == ("val", 2)
    assert loaded.preprocessing == held_out.preprocessing
    assert loaded.digest == "d"
    assert loaded.embeddings.dtype == np.float32
    assert np.array_equal(loaded.embeddings, held_out.embeddings)
    assert [p.name for p in run.embeddings.iterdir()] == ["val.safetensors"]


def test_the_digest_stays_that_of_the_files_that_runs_have() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    known = hashlib.sha256(b'["about", "torch.float32", [2, 3]]' + values.tobytes()).hexdigest()
    assert digest_of("about", values) == known


def test_a_part_that_the_run_has_not_is_none(tmp_path: Path) -> None:
    assert HeldOut.load(RunDir(tmp_path), "test") is None


def test_damage_is_an_error_that_names_the_file(held_out: HeldOut, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    path = held_out.save(run)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"val\.safetensors: the file is damaged"):
        HeldOut.load(run, "val")


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_file_under_the_name_of_another_part_is_damaged(
    held_out: HeldOut, tmp_path: Path, part: str
) -> None:
    run = RunDir(tmp_path)
    other = "test" if part == "val" else "val"
    replace(held_out, part=part).save(run).rename(HeldOut.file(run, other))
    with pytest.raises(CheckpointError, match=rf"{other}\.safetensors: the file is damaged"):
        HeldOut.load(run, other)
