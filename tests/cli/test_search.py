"""``siamkit search``, on a run and an index of its own."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def trained(tmp_path_factory, values_of) -> Path:
    from siamkit import api

    folder = tmp_path_factory.mktemp("searched") / "run"
    api.fit(values_of(folder, train={"epochs": 1}))
    return folder


@pytest.fixture(scope="module")
def index(trained, image_folder) -> Path:
    from siamkit import api

    api.build_index(trained, image_folder, trained.parent / "index", kind="faiss", workers=0)
    return trained.parent / "index"


def test_what_is_printed(cli, index, image_folder):
    image = image_folder / "class2/3.png"
    done = cli("search", index, image, "-k", 3)
    lines = done.out.splitlines()
    assert done.code == 0 and lines[0].startswith("faiss search among 48 images; recall@10 against")
    assert str(image) in lines
    header = next(
        i for i, line in enumerate(lines) if line.split() == ["rank", "score", "label", "path"]
    )
    rows = [line.split() for line in lines[header + 2 :] if line.strip()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert rows[0][1:] == ["1.0000", "class2", str(image)]


def test_a_folder_of_queries_as_json(cli, index, image_folder):
    found = cli("search", index, image_folder / "class1", "-k", 100, "--json").json
    assert found["schema"] == "siamkit.search/1"
    assert set(found) == {
        "schema", "index", "kind", "images", "k", "recall@10", "notices", "queries",
    }  # fmt: skip
    assert found["recall@10"] == 1.0 and len(found["queries"]) == 6
    for query in found["queries"]:
        assert len(query["neighbours"]) == 48
        first = query["neighbours"][0]
        assert set(first) == {"rank", "score", "label", "path"}
        assert (first["rank"], first["path"], first["label"]) == (1, query["path"], "class1")


def test_exact_gives_the_same_order_and_scores(cli, index, image_folder):
    found = cli("search", index, image_folder / "class1", "--json").json
    exact = cli("search", index, image_folder / "class1", "--exact", "--json").json
    assert exact["kind"] == "exact" and exact["recall@10"] is None
    for a, b in zip(found["queries"], exact["queries"], strict=True):
        assert [n["score"] for n in a["neighbours"]] == pytest.approx(
            [n["score"] for n in b["neighbours"]], abs=1e-6
        )


def test_odd_names_are_printed_as_they_are(cli, trained, image_folder, tmp_path):
    folder = tmp_path / "g" / "[red]x[bold]"
    folder.mkdir(parents=True)
    odd = folder / os.fsdecode(b"a\n\xff.png")
    shutil.copy(image_folder / "class0/0.png", odd)
    assert cli("index", trained, tmp_path / "g", "-o", tmp_path / "i").code == 0
    done = cli("search", tmp_path / "i", odd)
    assert done.code == 0 and "[red]x[bold]" in done.out
    assert "\\xff" in done.out or "\\udcff" in done.out
    found = cli("search", tmp_path / "i", odd, "--json").json
    assert found["queries"][0]["neighbours"][0]["path"] == str(odd)


@pytest.mark.slow
def test_a_run_that_moved_or_is_another(cli, trained, index, image_folder, values_of, tmp_path):
    from siamkit import api

    image, run = image_folder / "class0/0.png", tmp_path / "run"
    shutil.copytree(trained, run)
    api.build_index(run, image_folder / "class0", tmp_path / "i", workers=0)
    run.rename(tmp_path / "moved")
    done = cli("search", tmp_path / "i", image)
    assert done.code == 4 and "--run" in done.err
    assert cli("search", tmp_path / "i", image, "--run", tmp_path / "moved").code == 0
    api.fit(values_of(tmp_path / "other", train={"epochs": 1, "seed": 5}))
    done = cli("search", index, image, "--run", tmp_path / "other")
    assert done.code == 4 and "another network" in done.err


def test_errors_have_their_codes(cli, index, tmp_path):
    assert cli("search", index, tmp_path / "none.png").code == 3
    assert cli("search", tmp_path, tmp_path).code == 4
    assert cli("search", index, index, "-k", 0).code == 2


def test_queries_of_another_shape_than_in_training_are_told(cli, index, odd_folder):
    text = " ".join(cli("search", index, odd_folder / "class0/0.png").out.split())
    assert "note: the centre crop leaves out 75% of the area of 1 of 1 image, and its" in text
