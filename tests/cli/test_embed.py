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
