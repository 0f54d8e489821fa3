"""``siamkit embed``, ``index`` and ``search``, on a run of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory, values_of) -> Path:
    from siamkit import api

    folder = tmp_path_factory.mktemp("searched") / "run"
    api.fit(values_of(folder, train={"epochs": 1}))
    return folder


@pytest.fixture(scope="module")
def index(run, image_folder, tmp_path_factory) -> Path:
    from siamkit import api

    folder = tmp_path_factory.mktemp("index") / "index"
    api.build_index(run, image_folder, folder)
    return folder


def test_embed_writes_a_file_and_says_where(cli, run, image_folder, tmp_path):
    done = cli("embed", run, image_folder, "-o", tmp_path / "e.npy", "--batch-size", 5)
    assert done.code == 0
    assert f"48 images x 8, float32: {tmp_path / 'e.npy'}" in done.out
    assert f"their paths: {tmp_path / 'e.csv'}" in done.out
    assert np.load(tmp_path / "e.npy").shape == (48, 8)
    again = cli("embed", run, image_folder, "-o", tmp_path / "e.npy", "--json")
    assert again.code == 2 and "--force" in again.json["error"]["message"]
    forced = cli("embed", run, image_folder, "-o", tmp_path / "e.npy", "--force", "--json").json
    assert (forced["schema"], forced["images"], forced["dim"]) == ("siamkit.embed/1", 48, 8)


def test_a_query_finds_itself_first(cli, index, image_folder):
    query = image_folder / "class3/2.png"
    found = cli("search", index, query, "-k", 3, "--json").json
    assert found["schema"] == "siamkit.search/1"
    assert (found["kind"], found["images"], found["recall@10"]) == ("exact", 48, None)
    [answer] = found["queries"]
    assert answer["path"] == str(query)
    assert [n["rank"] for n in answer["neighbours"]] == [1, 2, 3]
    assert answer["neighbours"][0]["path"] == str(query)
    assert answer["neighbours"][0]["label"] == "class3"
    text = cli("search", index, query, "-k", 3).out
    assert "exact search of 48 images" in text and "class3" in text and "1.0000" in text


def test_a_folder_of_queries_is_searched_one_by_one(cli, index, image_folder):
    found = cli("search", index, image_folder / "class1", "--json").json
    assert len(found["queries"]) == 6
    assert all(len(query["neighbours"]) == 10 for query in found["queries"])


def test_an_approximate_index_prints_its_recall(cli, run, image_folder, tmp_path):
    pytest.importorskip("faiss")
    done = cli("index", run, image_folder, "-o", tmp_path / "i", "--kind", "faiss")
    assert done.code == 0 and "approximate search (faiss): recall@10" in done.out
    text = cli("search", tmp_path / "i", image_folder / "class1/0.png").out
    assert "faiss search of 48 images; recall@10 against exact search: 1.000" in text
    exact = cli("search", tmp_path / "i", image_folder / "class1/0.png", "--exact", "--json").json
    assert (exact["kind"], exact["recall@10"]) == ("exact", None)


def test_a_run_that_moved_is_named_with_run(cli, run, image_folder, tmp_path):
    moved = shutil.copytree(run, tmp_path / "moved")
    assert cli("index", moved, image_folder, "-o", tmp_path / "i", "--json").code == 0
    moved.rename(tmp_path / "elsewhere")
    query = image_folder / "class1/0.png"
    done = cli("search", tmp_path / "i", query)
    assert done.code == 4 and "say where it is now with --run" in done.err
    assert cli("search", tmp_path / "i", query, "--run", tmp_path / "elsewhere").code == 0


def test_a_run_with_another_network_is_refused(cli, index, image_folder, tmp_path, values_of):
    from siamkit import api

    other = api.fit(values_of(tmp_path / "other", train={"epochs": 1, "seed": 5}))["run_dir"]
    done = cli("search", index, image_folder / "class1/0.png", "--run", other)
    assert done.code == 4 and "built with another network" in done.err


def test_names_are_printed_literally(cli, run, image_folder, tmp_path):
    folder = tmp_path / "gallery/[bold]label"
    folder.mkdir(parents=True)
    shutil.copy(image_folder / "class0/0.png", folder / "a\x1b[31m.png")
    assert cli("index", run, tmp_path / "gallery", "-o", tmp_path / "i").code == 0
    text = cli("search", tmp_path / "i", image_folder / "class0/0.png").out
    assert "[bold]label" in text and "\\x1b[31m" in text and "\x1b" not in text


def test_what_is_no_index_or_image_is_an_error(cli, index, tmp_path, image_folder):
    assert cli("search", tmp_path, image_folder).code == 4
    done = cli("search", index, tmp_path / "none.png")
    assert done.code == 3 and "no such file" in done.err
