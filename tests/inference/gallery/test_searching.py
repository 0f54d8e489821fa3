"""What a search for image files returns, whatever the index and the network are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from siamkit.errors import CheckpointError
from siamkit.inference.gallery import searching
from siamkit.inference.gallery.searching import run_of, search_index


@pytest.mark.parametrize(
    ("exact", "kind", "recall"), [(True, "exact", None), (False, "faiss", 0.5)]
)
def test_an_approximate_search_tells_its_recall_on_some_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool, kind: str, recall: float | None
) -> None:
    asked: list[Any] = []
    paths = [tmp_path / f"{number}.png" for number in range(101)]
    monkeypatch.setattr(searching, "files_of", lambda queries: paths)
    monkeypatch.setattr(searching, "judge_files", lambda paths, embedder: ["a notice"])

    class Opened:
        meta = SimpleNamespace(kind="faiss")

        def __len__(self) -> int:
            return 7

        def require_model(self, fingerprint: str) -> None:
            asked.append(fingerprint)

        def search(self, embeddings: Any, k: int, *, exact: bool) -> Any:
            asked.append((len(embeddings), k, exact))
            return SimpleNamespace(rows=lambda: [[number] for number in range(len(embeddings))])

        def recall(self, embeddings: Any) -> float:
            asked.append(len(embeddings))
            return 0.5

    opened: Any = Opened()
    network: Any = SimpleNamespace(fingerprint="f", embed=lambda files: np.ones((len(files), 2)))
    found = search_index(opened, network, [], 3, exact=exact)
    queries = found.pop("queries")
    assert found == {
        "kind": kind, "images": 7, "k": 3, "recall@10": recall, "notices": ["a notice"]
    }  # fmt: skip
    assert queries[100] == {"path": str(paths[100]), "neighbours": [100]} and len(queries) == 101
    assert asked == ["f", (101, 3, exact), *([] if exact else [100])]


def test_a_run_that_was_moved_is_named_anew(tmp_path: Path) -> None:
    opened: Any = SimpleNamespace(meta=SimpleNamespace(run=str(tmp_path / "gone")))
    with pytest.raises(CheckpointError, match="the run that built the index is missing"):
        run_of(opened, None)
    assert run_of(opened, tmp_path) == tmp_path
