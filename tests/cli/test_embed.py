"""``siamkit embed`` and ``siamkit index``."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from siamkit.portable import filling


@pytest.fixture(scope="module")
def trained(tmp_path_factory, values_of) -> Path:
    from siamkit import api

    folder = tmp_path_factory.mktemp("embedding") / "run"
    api.fit(values_of(folder, train={"epochs": 1}))
    return folder


def test_what_embed_prints(cli, trained, image_folder, tmp_path):
    done = cli("embed", trained, image_folder, "-o", tmp_path / "a.npy", "--workers", 0)
    assert (
        done.code == 0
        and f"48 embeddings of 8 dimensions, float32: {tmp_path / 'a.npy'}" in done.out
    )
    assert f"image paths: {tmp_path / 'a.csv'}" in done.out and "48 images embedded in" in done.out
    found = cli("embed", trained, image_folder, "-o", tmp_path / "b.parquet", "--json").json
    assert set(found) == {
        "schema", "output", "paths", "images", "dim", "resumed_at", "seconds", "kernel",
        "notices",
    }  # fmt: skip
    assert found["schema"] == "siamkit.embed/1" and found["paths"] is None


def test_errors_have_their_codes(cli, trained, image_folder, tmp_path):
    out = tmp_path / "a.npy"
    assert cli("embed", trained, image_folder, "-o", tmp_path / "a.txt").code == 2
    out.write_text("mine")
    done = cli("embed", trained, image_folder, "-o", out)
    assert done.code == 2 and "--force" in done.err and out.read_text() == "mine"
    assert cli("embed", trained, tmp_path / "none", "-o", tmp_path / "b.npy").code == 3
    assert cli("embed", trained, image_folder, "-o", out, "--force").code == 0
    assert np.load(out).shape == (48, 8)


def test_ctrl_c_exits_130_and_the_same_command_goes_on(
    cli, trained, image_folder, tmp_path, monkeypatch
):
    append = filling.GrowingFile.append

    def stopping(self, vectors):
        append(self, vectors)
        raise KeyboardInterrupt

    args = ("embed", trained, image_folder, "-o", tmp_path / "a.npy", "--batch-size", 8)
    with monkeypatch.context() as patch:
        patch.setattr(filling.GrowingFile, "append", stopping)
        done = cli(*args)
    assert done.code == 130 and "after 8 of 48 images, which are kept" in done.err
    assert cli(*args, "--json").json["resumed_at"] == 8


def test_what_index_prints(cli, trained, image_folder, tmp_path):
    done = cli("index", trained, image_folder, "-o", tmp_path / "a")
    assert done.code == 0 and f"48 images of 8 labels, 8 dimensions: {tmp_path / 'a'}" in done.out
    assert "exact search" in done.out
    found = cli("index", trained, image_folder, "-o", tmp_path / "b", "--kind", "faiss", "--json")
    assert found.json["kind"] == "faiss" and found.json["recall@10"] == 1.0
    assert cli("index", trained, image_folder, "-o", tmp_path / "a").code == 2
    assert cli("index", trained, image_folder, "-o", tmp_path / "c", "--kind", "tree").code == 2
    shutil.copytree(image_folder / "class0", tmp_path / "flat")
    flat = cli("index", trained, tmp_path / "flat", "-o", tmp_path / "d")
    assert "labels" not in flat.out
    assert json.loads((tmp_path / "d/meta.json").read_text())["count"] == 6


CROPPED = "note: the centre crop leaves out 75% of the area of 8 of 16 images"
DARK = "note: the values of 8 images of more than 8 bits end at "


def test_images_of_other_shapes_and_depths_than_in_training_are_told(
    cli, trained, odd_folder, tmp_path
):
    for verb, output in (("embed", "a.npy"), ("index", "index")):
        done = cli(verb, trained, odd_folder, "-o", tmp_path / output)
        text = " ".join(done.out.split())
        assert done.code == 0 and CROPPED in text and DARK in text
        found = cli(verb, trained, odd_folder, "-o", tmp_path / f"b{output}", "--json").json
        assert [f"note: {text}"[:40] for text in found["notices"]] == [CROPPED[:40], DARK[:40]]


def test_an_index_whose_search_is_not_the_wanted_one_says_so(
    cli, trained, image_folder, tmp_path, monkeypatch
):
    from siamkit.inference.gallery import build

    monkeypatch.setattr(build, "choose_kind", lambda *_: ("exact", "using exact search"))
    done = cli("index", trained, image_folder, "-o", tmp_path / "a")
    assert "note: using exact search" in done.out
