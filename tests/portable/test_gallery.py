from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import siamkit
from siamkit.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from siamkit.json_files import sealed
from siamkit.portable import gallery as module
from siamkit.portable.arrays import mapped_bytes
from siamkit.portable.gallery import (
    EMBEDDINGS,
    ITEMS,
    META,
    OFFSETS,
    Gallery,
    ListedGallery,
    is_index,
    own_entries,
)
from siamkit.portable.manifest import seal_of
from siamkit.portable.model import ExportedModel


@pytest.fixture(scope="module")
def built(exported_run, image_folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "index"
    siamkit.build_index(exported_run[1], image_folder, path)
    return path


@pytest.fixture
def folder(built, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(built, tmp_path / "index")


def test_it_holds_what_was_embedded(built, exported_run, image_folder):
    gallery, model = Gallery(built), ExportedModel(exported_run[1], threads=1)
    assert len(gallery) == 48 and gallery.embedding_dim == 8
    assert gallery.item(0) == (image_folder / "class0/0.png", "class0")
    np.testing.assert_allclose(gallery.embeddings, model.embed(image_folder), atol=1e-6)
    gallery.require_model(model.fingerprint)
    assert gallery.item(47) == (image_folder / "class7/5.png", "class7")
    for wrong in (48, 49):
        told = rf"index: there is no such image, got {wrong}, allowed: 0 to 47"
        with pytest.raises(ConfigError, match=told):
            gallery.item(wrong)
    with pytest.raises(ConfigError, match="index: must be a whole number"):
        gallery.item(-1)


def test_it_gives_the_neighbours_that_the_index_gives(built):
    queries = np.random.default_rng(0).normal(size=(5, 8))
    ours, theirs = Gallery(built).search(queries, 7), siamkit.load_index(built).search(queries, 7)
    assert ours.indices.tolist() == theirs.indices.tolist() and ours.paths == theirs.paths
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=2e-6)
    assert Gallery(built).search(queries).indices.shape == (5, 10)
    assert siamkit.load_index(built).search(queries).indices.shape == (5, 10)
    rows, wanted = (found.rows()[0][0] for found in (ours, theirs))
    assert list(rows) == ["rank", "score", "label", "path"] and rows["path"] == wanted["path"]


def test_a_copy_opens_the_same_files(built):
    again = copy.deepcopy(Gallery(built))
    assert type(again) is Gallery and len(again) == 48
    assert type(copy.deepcopy(siamkit.load_index(built))) is siamkit.Index


def test_queries_without_a_direction_are_refused(built):
    with pytest.raises(DataError, match="query 1: the embedding consists of zeros"):
        Gallery(built).search([[1.0] * 8, [0.0] * 8])
    with pytest.raises(DataError, match="same number of columns"):
        Gallery(built).search(np.ones((2, 9)))
    for shape in ((8,), (1, 1, 8)):
        for query in (np.ones(shape), np.zeros(shape)):
            with pytest.raises(DataError, match="must be matrices with the same number"):
                Gallery(built).search(query)
    with pytest.raises(ConfigError, match="k: must be a whole number, got 0"):
        Gallery(built).search(np.ones((2, 8)), 0)


def test_a_flipped_bit_in_any_file_is_refused(folder):
    rng = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for place in rng.integers(0, len(content), 20).tolist():
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            try:
                gallery = Gallery(folder)
            except CheckpointError as error:
                assert path.name in str(error)
            else:  # only the layout of the JSON changed
                assert path.name == META and gallery.meta == Gallery(folder).meta
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "unknown index format, got 1, allowed: 2"),
        ({"kind": "hnsw"}, "kind: must be one of exact, faiss"),
        ({"dim": 0}, "dim: is out of bounds: 0"),
        ({"count": 47}, "does not match the other files"),
        ({"dim": 7}, "does not match the other files"),
        ({"count": -1}, "count: is out of bounds: -1"),
        ({"cells": 0}, "cells: is out of bounds: 0"),
        ({"recall": 1.01}, r"recall: is out of bounds: 1\.01"),
        ({"recall": -0.01}, r"recall: is out of bounds: -0\.01"),
        ({"which": "first"}, "which: must be one of best, last"),
        ({"extra": 1}, "extra: is an unknown key"),
        ({"files": {}}, "the file is damaged"),
    ],
)
def test_metadata_that_makes_no_sense_is_refused(change, message, folder):
    values = json.loads((folder / META).read_text())
    del values["sha256"]
    (folder / META).write_text(json.dumps(sealed({**values, **change})))
    with pytest.raises(CheckpointError, match=message) as caught:
        Gallery(folder)
    assert META in str(caught.value)


@pytest.mark.parametrize("change", [{"cells": 1}, {"recall": 0.0}, {"recall": 1.0}])
def test_metadata_at_its_bounds_is_valid(change, folder):
    values = json.loads((folder / META).read_text())
    del values["sha256"]
    (folder / META).write_text(json.dumps(sealed({**values, **change})))
    (name,) = change
    assert getattr(Gallery(folder).meta, name) == change[name]


def test_the_sizes_of_files_are_checked_even_if_their_bytes_are_not(folder):
    (folder / ITEMS).write_bytes((folder / ITEMS).read_bytes() + b"\n")
    with pytest.raises(CheckpointError, match=r"items\.jsonl: the file is damaged"):
        Gallery(folder, verify=False)


@pytest.mark.parametrize("line", [
    {"path": None}, {"path": "a", "label": 1}, {"path": "a"}, {"label": "a"}, [], None, "a", 1,
])  # fmt: skip
def test_a_damaged_item_of_a_file_that_was_not_verified_is_refused(folder, line):
    start, end = np.load(folder / OFFSETS)[:2].tolist()
    content = (folder / ITEMS).read_bytes()
    (folder / ITEMS).write_bytes(json.dumps(line).ljust(end - start).encode() + content[end:])
    with pytest.raises(CheckpointError, match=r"items\.jsonl: the file is damaged"):
        Gallery(folder, verify=False).item(0)


@pytest.mark.parametrize("offsets", [(-5, 3), (3, 1), (0, 10**9), (10**18, 10**18)])
def test_offsets_beyond_the_items_are_refused(folder, offsets):
    array = np.load(folder / OFFSETS)
    array[:2] = offsets
    np.save(folder / OFFSETS, array)
    with pytest.raises(CheckpointError, match="the file is damaged"):
        Gallery(folder, verify=False).item(0)


@pytest.mark.parametrize(("name", "dtype"), [(OFFSETS, np.float64), (EMBEDDINGS, np.int32)])
def test_arrays_of_another_type_are_refused(folder, name, dtype):
    np.save(folder / name, np.load(folder / name).astype(dtype))
    with pytest.raises(CheckpointError, match="does not match the other files"):
        Gallery(folder, verify=False)


def test_embeddings_in_memory_are_searched_too():
    items = [(Path(f"{n}.png"), None if n else "first") for n in range(4)]
    gallery = ListedGallery(np.eye(4) * 7, items)
    found = gallery.search([[1, 0.5, 0, 0]], 2)
    assert found.paths == [[Path("0.png"), Path("1.png")]] and found.labels == [["first", None]]
    assert found.scores[0] == pytest.approx([0.894427, 0.447214], abs=2e-6)


def test_a_folder_with_most_of_an_indexs_files_is_one_damaged_or_not(folder, tmp_path):
    assert is_index(folder) and own_entries(folder) >= {path.name for path in folder.iterdir()}
    (folder / "note.txt").touch()
    (folder / META).unlink()
    assert is_index(folder)
    (folder / ITEMS).unlink()
    assert not is_index(folder) and own_entries(folder) is None
    assert not is_index(tmp_path / "missing") and not is_index(tmp_path / "index" / "note.txt")


def test_an_exact_search_misses_nothing(built):
    assert Gallery(built).recall(np.eye(8), k=3) == 1.0


@pytest.mark.parametrize(
    ("queries", "k", "error"),
    [
        (np.eye(8), 0, ConfigError),
        (np.eye(8), True, ConfigError),
        (np.full((1, 8), np.nan), 3, NonFiniteError),
        (np.zeros((1, 8)), 3, DataError),
        (np.eye(9), 3, DataError),
    ],
)
def test_the_recall_of_a_search_that_is_refused_is_refused(built, queries, k, error):
    for gallery in (Gallery(built), siamkit.load_index(built)):
        for verb in (gallery.search, gallery.recall):
            with pytest.raises(error):
                verb(queries, k)


def test_an_open_gallery_answers_as_before_when_its_index_is_built_again(
    folder, exported_run, image_folder
):
    gallery, items = Gallery(folder), [Gallery(folder).item(i) for i in range(48)]
    siamkit.build_index(exported_run[1], image_folder / "class7", folder, force=True)
    assert [gallery.item(i) for i in range(48)] == items
    with pytest.raises(CheckpointError, match="the index was replaced; open it again"):
        copy.deepcopy(gallery)
    assert Gallery(folder).item(0)[0] == image_folder / "class7/0.png"


def test_an_index_that_is_replaced_while_it_is_opened_is_refused(folder, built, monkeypatch):
    def meanwhile(path, hint):
        values = json.loads((folder / META).read_text())
        del values["sha256"]
        (folder / META).write_text(json.dumps(sealed({**values, "run": "another"})))
        return mapped_bytes(path, hint)

    monkeypatch.setattr(module, "mapped_bytes", meanwhile)
    with pytest.raises(CheckpointError, match="the index was replaced"):
        Gallery(folder)


def test_an_index_without_images_can_be_opened(folder):
    values = json.loads((folder / META).read_text())
    del values["sha256"]
    (folder / ITEMS).write_bytes(b"")
    np.save(folder / EMBEDDINGS, np.empty((0, 8), np.float32))
    np.save(folder / OFFSETS, np.zeros(1, np.int64))
    seals = {name: asdict(seal_of(folder / name)) for name in (EMBEDDINGS, ITEMS, OFFSETS)}
    (folder / META).write_text(json.dumps(sealed({**values, "count": 0, "files": seals})))
    assert len(Gallery(folder)) == 0
