from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from siamkit.deploy.building import build_index
from siamkit.deploy.filling import workplace
from siamkit.deploy.index import Index
from siamkit.embedding import Embedder, files_of
from siamkit.errors import CheckpointError, ConfigError, DataError, Interrupted

RUN = Path("runs/a")


@pytest.fixture
def index(embedder: Embedder, image_folder: Path, tmp_path: Path) -> Index:
    build_index(embedder, image_folder, tmp_path / "index", run=RUN)
    return Index(tmp_path / "index")


def test_an_image_finds_itself_and_then_its_nearest(
    embedder: Embedder, image_folder: Path, index: Index
) -> None:
    paths = files_of(image_folder)
    found = embedder.search(paths[5:8], index, k=4)
    assert [row[0] for row in found.paths] == paths[5:8]
    vectors = torch.nn.functional.normalize(embedder.embed(image_folder), dim=1)
    expected = (vectors[5:8] @ vectors.T).topk(4)
    torch.testing.assert_close(found.scores, expected.values)
    assert torch.equal(found.indices, expected.indices)
    assert found.labels[0] == [paths[i].parent.name for i in found.indices[0].tolist()]
    first = found.rows()[0][0]
    assert first["rank"] == 1 and first["path"] == str(paths[5])
    assert first["score"] == pytest.approx(1, abs=1e-5)
    assert (len(index), index.embedding_dim) == (48, embedder.embedding_dim)


def test_more_than_there_are_is_all(embedder: Embedder, image_folder: Path, index: Index) -> None:
    found = embedder.search(files_of(image_folder)[:1], index, k=500)
    assert sorted(found.indices[0].tolist()) == list(range(48))


def test_labels_are_folders_within_the_gallery(
    embedder: Embedder, image_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "g"
    (root / "a/b").mkdir(parents=True)
    odd = "x\n[red]\udcff.png"
    for name in ("loose.png", f"a/{odd}", "a/b/2.png"):
        shutil.copy(image_folder / "class0/0.png", root / name)
    build_index(embedder, root, tmp_path / "index", run=RUN)
    found = Index(tmp_path / "index")
    items = {found.item(i) for i in range(3)}
    assert items == {
        (root / "loose.png", None), (root / "a" / odd, "a"), (root / "a/b/2.png", "a/b"),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["embeddings.npy", "items.jsonl", "offsets.npy"])
def test_damage_is_named(index: Index, name: str) -> None:
    data = bytearray((index.path / name).read_bytes())
    data[-3] ^= 1
    (index.path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"{name}: the file is missing or damaged.*index"):
        Index(index.path)
    (index.path / name).write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=name):
        Index(index.path, verify=False)
    (index.path / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        Index(index.path)


def test_another_folder_or_format_is_no_index(index: Index, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not an index"):
        Index(tmp_path)
    meta = json.loads((index.path / "meta.json").read_text())
    (index.path / "meta.json").write_text(json.dumps({**meta, "format": 9}))
    with pytest.raises(CheckpointError, match="unknown index format, got 9"):
        Index(index.path)
    (index.path / "meta.json").write_text(json.dumps({**meta, "count": "many"}))
    with pytest.raises(CheckpointError, match=r"meta\.json: the file is damaged"):
        Index(index.path)


def test_another_network_may_not_search_it(
    other: Embedder, image_folder: Path, index: Index
) -> None:
    with pytest.raises(CheckpointError, match="built with another network"):
        other.search(files_of(image_folder)[:1], index)


def test_queries_of_another_width_are_refused(index: Index) -> None:
    with pytest.raises(DataError, match="of one width"):
        index.search(torch.randn(2, 3))


def test_an_index_is_replaced_only_when_told_and_at_once(
    embedder: Embedder, image_folder: Path, index: Index, tmp_path: Path
) -> None:
    before = (index.path / "meta.json").read_bytes()
    with pytest.raises(ConfigError, match=r"is there already.*--force"):
        build_index(embedder, image_folder / "class0", index.path, run=RUN)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        build_index(embedder, image_folder / "class0", index.path, run=RUN, force=True,
                    progress=lambda done, total: stop(done, total) if done else None)  # fmt: skip
    assert (index.path / "meta.json").read_bytes() == before
    build_index(embedder, image_folder / "class0", index.path, run=RUN, force=True)
    assert len(Index(index.path)) == 6
    assert not workplace(index.path).exists()
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_what_is_no_index_is_never_replaced(
    embedder: Embedder, image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    with pytest.raises(ConfigError, match="is not an index"):
        build_index(embedder, image_folder, tmp_path / "mine", run=RUN, force=True)
    assert (tmp_path / "mine/file").read_text() == "x"


def test_an_approximate_index_ranks_what_it_finds_as_exact_search_does(
    embedder: Embedder, image_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("faiss")
    told = build_index(embedder, image_folder, tmp_path / "index", run=RUN, kind="faiss")
    assert told["kind"] == "faiss" and 0.9 <= told["recall@10"] <= 1
    index = Index(tmp_path / "index")
    vectors = embedder.embed(image_folder)[:5]
    near, exact = index.search(vectors, 5), index.search(vectors, 5, exact=True)
    assert index.recall(vectors, 5) == 1  # it is small enough to be looked into whole
    assert torch.equal(near.indices, exact.indices)
    torch.testing.assert_close(near.scores, exact.scores)
    (index.path / "cells.faiss").write_bytes(b"x" * (index.path / "cells.faiss").stat().st_size)
    with pytest.raises(CheckpointError, match=r"cells\.faiss"):
        Index(index.path)


def test_embeddings_are_stored_normalised(index: Index) -> None:
    lengths = np.linalg.norm(index.embeddings, axis=1)
    assert np.allclose(lengths, 1, atol=1e-5)
