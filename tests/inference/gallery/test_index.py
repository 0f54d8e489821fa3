"""Indexes: their content, damage to their files, and their replacement."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from siamkit import files
from siamkit.errors import CheckpointError, ConfigError, DataError, Interrupted, NonFiniteError
from siamkit.inference.gallery import build as building
from siamkit.inference.gallery.build import build_index
from siamkit.inference.gallery.index import Index
from siamkit.json_files import sealed, unsealed
from siamkit.portable.filling import workplace
from siamkit.portable.inputs import files_of

FILES = ["meta.json", "embeddings.npy", "items.jsonl", "offsets.npy", "cells.faiss"]


@pytest.fixture(scope="session")
def built(embedder, trained, image_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "gallery"
    build_index(embedder, image_folder, folder, run=trained, kind="faiss")
    return folder


@pytest.fixture
def index(built, tmp_path) -> Path:
    return shutil.copytree(built, tmp_path / "index")


def test_what_is_in_it(index, embedder, image_folder):
    assert sorted(path.name for path in index.iterdir()) == sorted(FILES)
    opened, paths = Index(index), files_of(image_folder)
    assert (len(opened), opened.embedding_dim) == (48, 8)
    for i, path in enumerate(paths):
        assert opened.item(i) == (path, path.parent.name)
    expected = F.normalize(embedder.embed(image_folder), dim=1)
    np.testing.assert_allclose(opened.embeddings, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda i: pickle.loads(pickle.dumps(i))], ids=["deepcopy", "pickle"]
)
def test_an_index_is_copied_after_an_approximate_search(index, embedder, image_folder, copied):
    opened = Index(index)
    queries = embedder.embed(image_folder)
    expected = opened.search(queries, 5)
    again = copied(opened)
    assert torch.equal(again.search(queries, 5).indices, expected.indices)
    assert len(pickle.dumps(opened)) < 1000  # the files stay where they are


def test_an_image_finds_itself_and_its_label(index, embedder, image_folder):
    for exact in (False, True):
        found = Index(index).search(3 * embedder.embed(image_folder), 5, exact=exact)
        assert found.scores.shape == found.indices.shape == (48, 5)
        assert (found.scores.diff(dim=1) <= 0).all()
        assert torch.equal(found.scores[:, 0], torch.ones(48))  # not 1.0000001
        row = found.rows()[17]
        assert [r["rank"] for r in row] == [1, 2, 3, 4, 5]
        assert row[0]["label"] == Path(row[0]["path"]).parent.name
    neighbours = embedder.search(image_folder / "class0/0.png", Index(index), k=99)
    assert neighbours.indices.sort().values.tolist() == [list(range(48))]


def test_labels_of_what_lies_in_no_folder_and_deep(embedder, trained, image_folder, tmp_path):
    image = image_folder / "class0/0.png"
    for name in ("top.png", "a/b/deep.png"):
        (tmp_path / "g" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "g" / name)
    build_index(embedder, tmp_path / "g", tmp_path / "one", run=trained)
    opened = Index(tmp_path / "one")
    items = dict(opened.item(i) for i in range(2))
    assert items == {tmp_path / "g/top.png": None, tmp_path / "g/a/b/deep.png": "a/b"}
    build_index(embedder, [image], tmp_path / "two", run=trained)
    assert Index(tmp_path / "two").item(0) == (image, None)


def test_names_that_are_not_utf_8(embedder, trained, image_folder, tmp_path):
    folder = tmp_path / "g\udcff" / "[red]\n\udcfe"
    folder.mkdir(parents=True)
    shutil.copy(image_folder / "class0/0.png", folder / "x\udcfd.png")
    build_index(embedder, tmp_path / "g\udcff", tmp_path / "index", run=trained)
    path, label = Index(tmp_path / "index").item(0)
    assert path == folder / "x\udcfd.png" and path.is_file() and label == "[red]\n\udcfe"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_damage_is_found_in_each_file(index, name, damage):
    file = index / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flipped" else data[:-1] if name != FILES[0] else b"{")
    with pytest.raises(CheckpointError) as caught:
        Index(index)
    assert str(index) in str(caught.value)


def test_what_is_no_index(tmp_path):
    with pytest.raises(CheckpointError, match="not an index"):
        Index(tmp_path)


def test_another_format_and_files_that_do_not_fit_each_other(index):
    meta = unsealed(json.loads((index / "meta.json").read_text()), "meta.json")
    for change, message in (
        ({"format": 9}, "unknown index format"), ({"count": 47}, "does not match"),
        ({"files": {}}, "damaged"), ({"extra": 1}, "damaged"),
    ):  # fmt: skip
        (index / "meta.json").write_text(json.dumps(sealed({**meta, **change})))
        with pytest.raises(CheckpointError, match=message):
            Index(index)
    root = str(meta["root"])
    (index / "meta.json").write_text(json.dumps(sealed(meta)).replace(root, f"{root}x"))
    with pytest.raises(CheckpointError, match="damaged or was edited"):
        Index(index)


def test_the_index_of_another_network(index, other, image_folder):
    with pytest.raises(CheckpointError, match="another network"):
        other.search(image_folder / "class0/0.png", Index(index))


@pytest.mark.parametrize("exact", [False, True])
def test_queries_that_cannot_be(index, exact):
    opened = Index(index)
    with pytest.raises(DataError):
        opened.search(torch.ones(1, 7), exact=exact)
    with pytest.raises(ConfigError):
        opened.search(torch.ones(1, 8), 0, exact=exact)
    bad = torch.ones(2, 8)
    bad[1, 3] = torch.nan
    with pytest.raises(NonFiniteError, match="query 1: the embedding is NaN or infinite"):
        opened.search(bad, exact=exact)


def test_what_is_there_is_replaced_with_force_only(index, embedder, trained, image_folder):
    gallery = image_folder / "class1"
    with pytest.raises(ConfigError, match="force=True"):
        build_index(embedder, gallery, index, run=trained)
    assert len(Index(index)) == 48
    build_index(embedder, gallery, index, run=trained, force=True)
    assert len(Index(index)) == 6
    assert [path.name for path in index.parent.glob("*index*")] == ["index"]


def test_cells_of_a_later_index_are_never_searched_for_an_older_one(
    index, embedder, trained, image_folder
):
    searched, opened = Index(index), Index(index)
    queries = embedder.embed(image_folder)
    expected, exact = searched.search(queries, 5), opened.search(queries, 5, exact=True)
    build_index(embedder, image_folder / "class7", index, run=trained, kind="faiss", force=True)
    assert searched.search(queries, 5).paths == expected.paths
    with pytest.raises(CheckpointError, match="the index was replaced; open it again"):
        opened.search(queries, 5)
    assert opened.search(queries, 5, exact=True).paths == exact.paths
    assert "approximate search" in repr(opened)


def test_what_appears_during_the_work_is_not_replaced(embedder, trained, image_folder, tmp_path):
    def meanwhile(done, total):
        (tmp_path / "i").mkdir(exist_ok=True)
        (tmp_path / "i/notes.txt").write_text("theirs")

    with pytest.raises(ConfigError, match="is not an index, so it is not replaced"):
        build_index(embedder, image_folder, tmp_path / "i", run=trained, progress=meanwhile)
    assert (tmp_path / "i/notes.txt").read_text() == "theirs"
    shutil.rmtree(tmp_path / "i")
    assert build_index(embedder, image_folder, tmp_path / "i", run=trained)["resumed_at"] == 48


def test_what_is_no_index_is_never_replaced(embedder, trained, image_folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ConfigError, match=r"not an index|is a file, not a folder"):
            build_index(embedder, image_folder, place, run=trained, force=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_index_that_holds_other_files_too_is_never_replaced(
    index, embedder, trained, image_folder
):
    (index / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds more than an index: mine\.txt"):
        build_index(embedder, image_folder, index, run=trained, force=True)
    assert (index / "mine.txt").read_text() == "mine" and len(Index(index)) == 48


def test_a_damaged_index_can_be_replaced(index, embedder, trained, image_folder):
    (index / "meta.json").write_text("{")
    build_index(embedder, image_folder, index, run=trained, force=True)
    assert len(Index(index)) == 48


def test_stopped_it_goes_on(embedder, trained, image_folder, tmp_path):
    def stop(done, total):
        if done >= 16:
            raise KeyboardInterrupt

    call = {"run": trained, "batch_size": 8}
    with pytest.raises(Interrupted):
        build_index(embedder, image_folder, tmp_path / "i", progress=stop, **call)
    assert build_index(embedder, image_folder, tmp_path / "i", **call)["resumed_at"] == 16
    build_index(embedder, image_folder, tmp_path / "j", **call)
    for name in FILES[1:4]:
        assert (tmp_path / "i" / name).read_bytes() == (tmp_path / "j" / name).read_bytes()


def test_stopped_while_it_is_put_in_its_place_nothing_is_embedded_again(
    embedder, trained, image_folder, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "_publish", interrupted)
        build_index(embedder, image_folder, tmp_path / "i", run=trained)
    assert build_index(embedder, image_folder, tmp_path / "i", run=trained)["resumed_at"] == 48


def test_what_a_finished_index_left_behind_is_never_written_into(
    embedder, trained, image_folder, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(building.shutil, "rmtree", removing_the_workplace_is_interrupted)
        build_index(embedder, image_folder, tmp_path / "i", run=trained)
    assert workplace(tmp_path / "i").exists()
    before = (tmp_path / "i/embeddings.npy").read_bytes()
    bad = shutil.copytree(image_folder, tmp_path / "bad")
    (bad / "class7/5.png").write_bytes(b"")
    with pytest.raises(DataError):
        build_index(embedder, bad, tmp_path / "i", run=trained, force=True)
    assert (tmp_path / "i/embeddings.npy").read_bytes() == before
    assert len(Index(tmp_path / "i")) == 48


def interrupted(new, target, old):
    if target.name == "i":
        raise KeyboardInterrupt
    publish(new, target, old)


publish = files._publish


def removing_the_workplace_is_interrupted(path, **options):
    if Path(path).name.endswith(".partial"):
        raise KeyboardInterrupt
    remove(path, **options)


remove = shutil.rmtree


def test_an_index_whose_replacement_was_killed_is_put_back(index):
    place = index.parent / ".siamkit-0123456789abcdef"
    (place / "old").mkdir(parents=True)
    index.rename(place / "old" / index.name)
    assert len(Index(index)) > 0
    assert index.is_dir() and not place.exists()


@pytest.mark.parametrize("position", [-1, 10**6, 1.5, "3", None, True])
def test_a_position_that_the_index_lacks_is_refused(index, position):
    with pytest.raises(ConfigError, match="index: "):
        Index(index).item(position)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None])
def test_a_number_of_results_that_is_none_is_refused(index, k):
    opened = Index(index)
    with pytest.raises(ConfigError, match="k: must be a whole number"):
        opened.search(opened.embeddings[:1], k)


@pytest.mark.parametrize("queries", [None, "words", object()])
def test_queries_that_are_no_vectors_are_refused(index, queries):
    with pytest.raises(DataError, match="embeddings: are no real numbers"):
        Index(index).search(queries)


def test_a_query_of_zeros_is_refused(index):
    opened = Index(index)
    queries = torch.from_numpy(opened.embeddings[:2].copy())
    queries[1] = 0
    with pytest.raises(DataError, match="query 1: the embedding consists of zeros"):
        opened.search(queries)


@pytest.mark.parametrize("shape", [(8,), (1, 1, 8)])
@pytest.mark.parametrize("exact", [True, False])
def test_queries_that_are_no_matrix_are_refused_as_such(index, shape, exact):
    for query in (np.ones(shape), np.zeros(shape)):
        with pytest.raises(DataError, match="must be matrices with the same number of columns"):
            Index(index).search(query, exact=exact)


def test_ten_results_are_the_default_and_an_exact_search_is_asked_for(index):
    opened = Index(index)
    queries = torch.from_numpy(opened.embeddings[:3].copy())
    assert opened.search(queries).indices.shape == (3, 10)
    assert opened.recall(queries) == opened.recall(queries, 10)
