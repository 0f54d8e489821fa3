from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest
import torch

from siamkit.deploy import ann
from siamkit.deploy.search import exact_search
from siamkit.errors import CheckpointError, ConfigError

pytest.importorskip("faiss")


def clustered(rows: int = 4000, dim: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, dim, generator=generator)
    labels = torch.arange(rows) % 200
    noise = 0.4 * torch.randn(rows, dim, generator=generator)
    return torch.nn.functional.normalize(centres[labels] + noise, dim=1)


def test_recall_is_what_it_says_and_looks_into_few_cells(tmp_path: Path) -> None:
    gallery = clustered()
    looked, recall = ann.build(gallery.numpy(), tmp_path / "cells")
    assert recall >= ann.RECALL
    assert looked < ann.cells(len(gallery))
    queries = clustered(4100)[4000:]
    found = ann.opened(tmp_path / "cells", looked)(queries, 10)
    assert ann.overlap(found, exact_search(queries, gallery, 10)[1]) > 0.95


def test_building_is_deterministic(tmp_path: Path) -> None:
    gallery = clustered(2000).numpy()
    results = [ann.build(gallery, tmp_path / name) for name in "ab"]
    assert results[0] == results[1]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("rows", [1, 2, 11, 130])
def test_a_tiny_gallery_is_searched_whole(tmp_path: Path, rows: int) -> None:
    gallery = clustered(rows)
    looked, recall = ann.build(gallery.numpy(), tmp_path / "cells")
    assert recall == 1
    k = min(3, rows)
    found = ann.opened(tmp_path / "cells", looked)(gallery[:1], k)
    scores, indices = ann.rescored(gallery[:1], gallery.numpy(), found)
    assert indices.tolist() == exact_search(gallery[:1], gallery, k)[1].tolist()
    torch.testing.assert_close(scores, exact_search(gallery[:1], gallery, k)[0])


def test_scores_are_those_of_exact_search_and_gaps_come_last() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    scores, indices = ann.rescored(
        torch.tensor([[1.0, 0.0]]), gallery.numpy(), torch.tensor([[-1, 2, 1, 0]])
    )
    assert indices.tolist() == [[0, 2, 1, -1]]  # of equal scores the lower index first
    assert scores.tolist() == [[1, 1, 0, -torch.inf]]


def test_overlap_counts_what_was_found() -> None:
    best = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert ann.overlap(torch.tensor([[3, 2, 9], [4, 5, 6]]), best) == pytest.approx(5 / 6)
    assert ann.overlap(torch.empty(2, 0), torch.empty(2, 0)) == 1


def test_the_kind_is_chosen_by_size() -> None:
    assert ann.choose_kind("auto", 1000, 128) == ("exact", None)
    assert ann.choose_kind("auto", 1_000_000, 128) == ("faiss", None)
    assert ann.choose_kind("exact", 10**9, 128) == ("exact", None)
    assert ann.choose_kind("faiss", 10, 4) == ("faiss", None)
    with pytest.raises(ConfigError, match="allowed: auto, exact, faiss"):
        ann.choose_kind("hnsw", 10, 4)


def test_without_faiss_auto_is_exact_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    kind, notice = ann.choose_kind("auto", 10**8, 128)
    assert kind == "exact" and notice is not None and "siamkit[search]" in notice
    with pytest.raises(ConfigError, match=r"siamkit\[search\]"):
        ann.choose_kind("faiss", 10, 4)


def test_another_file_is_no_index(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(9))
    with pytest.raises(CheckpointError, match="damaged"):
        ann.opened(tmp_path / "x.npy", 1)
