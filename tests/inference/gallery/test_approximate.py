"""Approximate search: the number of cells to search, and the order of the results."""

from typing import ClassVar

import numpy as np
import pytest

from siamkit.errors import CheckpointError
from siamkit.inference.gallery import approximate as ann
from siamkit.portable.nearest import nearest


def clustered(count: int, seed: int = 0, dim: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(200, dim))
    found = centres[rng.integers(200, size=count)] + 0.3 * rng.normal(size=(count, dim))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_cells_can_be_filled():
    assert [ann.cells(n) for n in (1, 63, 64, 640, 1_000_000)] == [1, 1, 1, 10, 4000]


def test_the_recall_that_is_told_is_what_others_measure(tmp_path):
    gallery, queries = clustered(6000), clustered(200, seed=1)
    looked, told = ann.build(gallery, tmp_path / "cells")
    assert told >= ann.RECALL and 1 <= looked < ann.cells(6000)
    found = ann.opened(tmp_path / "cells", looked)(queries, 10)
    assert ann.overlap(found, nearest(queries, gallery, 10)[1]) > 0.95
    one = ann.opened(tmp_path / "cells", 1)(queries, 10)
    assert ann.overlap(one, nearest(queries, gallery, 10)[1]) < told


def test_looking_into_every_cell_is_exact_ties_included(tmp_path):
    gallery = np.repeat(clustered(700), 3, axis=0)  # threes of equal ones
    ann.build(gallery, tmp_path / "cells")
    queries = clustered(50, seed=1)
    found = ann.opened(tmp_path / "cells", ann.cells(len(gallery)))(queries, 9)
    scores, indices = ann.rescored(queries, gallery, found)
    best = nearest(queries, gallery, 9)
    np.testing.assert_allclose(scores, best[0], atol=2e-6)
    assert (np.diff(scores) <= 0).all()
    assert np.array_equal(indices // 3, best[1] // 3)


def test_what_is_missing_comes_last():
    gallery = np.eye(3, dtype=np.float32)
    scores, indices = ann.rescored(gallery[:1], gallery, np.array([[-1, 2, 0]]))
    assert indices.tolist() == [[0, 2, -1]] and scores.tolist() == [[1, 0, -np.inf]]


def test_equal_scores_come_by_index():
    gallery = np.ones((5, 2), dtype=np.float32)
    assert ann.rescored(gallery[:1], gallery, np.array([[4, 1, 3]]))[1].tolist() == [[1, 3, 4]]


class Counted(np.ndarray):
    """A gallery that notes how many rows are picked at once."""

    picked: ClassVar[list[int]] = []

    def __getitem__(self, indices):
        rows = np.asarray(self)[indices]
        self.picked.append(rows.size // self.shape[1])
        return rows


def test_the_candidates_of_many_queries_are_not_in_memory_at_once(monkeypatch):
    gallery, queries = clustered(300), clustered(50, seed=1)
    found = np.random.default_rng(0).integers(-1, 300, (50, 7))
    whole = ann.rescored(queries, gallery, found)
    monkeypatch.setattr(ann, "_GATHERED", 4 * 7 * gallery.shape[1] + 3)
    counted = gallery.view(Counted)
    for a, b in zip(ann.rescored(queries, counted, found), whole, strict=True):
        np.testing.assert_array_equal(a, b)
    assert max(Counted.picked) == 4 * 7 and sum(Counted.picked) == 50 * 7
    monkeypatch.setattr(ann, "_GATHERED", 1)  # less than one query needs
    np.testing.assert_array_equal(ann.rescored(queries, gallery, found)[1], whole[1])
    assert ann.rescored(queries[:0], gallery, found[:0])[0].shape == (0, 7)


def test_overlap():
    best = np.array([[1, 2], [3, 4]])
    assert ann.overlap(np.array([[2, 1], [3, -1]]), best) == 0.75
    assert ann.overlap(best[:, :0], best[:, :0]) == 1.0


def test_a_file_of_something_else(tmp_path):
    (tmp_path / "cells").write_bytes(b"not an index")
    with pytest.raises(CheckpointError, match="damaged"):
        ann.opened(tmp_path / "cells", 1)
