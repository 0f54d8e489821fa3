"""The embeddings of two test images are stored with a run, and read for their network only."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamkit.errors import CheckpointError
from siamkit.runs.computed import computed_by, file, save_computed
from siamkit.runs.directory import RunDir

ROWS = [[0.5, -1.25], [1e-9, 3.0]]


def test_embeddings_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert computed_by(run, "a") is None
    save_computed(run, "b", ROWS)
    save_computed(run, "a", ROWS)
    assert computed_by(run, "a") == ROWS


def test_those_of_another_network_are_unknown(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    save_computed(run, "b", ROWS)
    assert computed_by(run, "a") is None


def test_an_edited_file_is_refused_with_a_way_to_write_it_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    save_computed(run, "a", ROWS)
    path = file(run)
    path.write_text(path.read_text().replace("-1.25", "1.25"))
    with pytest.raises(CheckpointError, match=r"check\.json.*siamkit\.resume"):
        computed_by(run, "a")
