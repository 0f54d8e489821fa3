"""Embeddings in files."""

import csv
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from siamkit.errors import CheckpointError, ConfigError, DataError, Interrupted, ResourceError
from siamkit.inference.gallery.build import build_index
from siamkit.portable.embedding_files import (
    _checked,
    embed_to_file,
    read_embeddings,
    require_usable,
)
from siamkit.portable.filling import working, workplace
from siamkit.portable.inputs import files_of


@pytest.fixture
def images(image_folder, tmp_path) -> Path:
    """Return a copy of the image folder, which the test may change."""
    return shutil.copytree(image_folder, tmp_path / "images")


def stopped(embedder, images, output, after=16):
    """Interrupt the embedding after some images, as Ctrl-C does."""

    def stop(done, total):
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=f"after {after} of 48") as caught:
        embed_to_file(embedder, images, output, batch_size=8, progress=stop)
    assert caught.value.exit_code == 130


def test_npy_and_its_list(embedder, images, tmp_path):
    result = embed_to_file(embedder, images, tmp_path / "out.npy", batch_size=7)
    found = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, embedder.embed(images).numpy(), rtol=1e-4, atol=1e-5)
    with (tmp_path / "out.csv").open(newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == [str(path.absolute()) for path in files_of(images)]
    assert (result["images"], result["dim"], result["resumed_at"]) == (48, 8, 0)
    assert (result["output"], result["paths"]) == (
        str(tmp_path / "out.npy"), str(tmp_path / "out.csv"))  # fmt: skip
    assert not workplace(tmp_path / "out.npy").exists()


def test_parquet(embedder, images, tmp_path):
    result = embed_to_file(embedder, images, tmp_path / "out.parquet")
    assert (result["output"], result["paths"]) == (str(tmp_path / "out.parquet"), None)
    table = pq.read_table(tmp_path / "out.parquet")
    found = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(found, embedder.embed(images).numpy(), rtol=1e-4, atol=1e-5)
    assert table["path"].to_pylist() == [str(path.absolute()) for path in files_of(images)]
    assert not (tmp_path / "out.csv").exists()


def test_resumed_work_gives_the_same_bytes_and_does_not_start_over(embedder, images, tmp_path):
    embed_to_file(embedder, images, tmp_path / "whole.npy", batch_size=8)
    stopped(embedder, images, tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()
    seen = []
    result = embed_to_file(
        embedder, images, tmp_path / "out.npy", batch_size=8,
        progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    assert result["resumed_at"] == 16 and seen == [16, 24, 32, 40, 48]
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_rows_that_never_reached_the_record_are_made_again(embedder, images, tmp_path):
    embed_to_file(embedder, images, tmp_path / "whole.npy", batch_size=8)
    stopped(embedder, images, tmp_path / "out.npy")
    with (workplace(tmp_path / "out.npy") / "embeddings.npy").open("ab") as file:
        file.write(b"\xff" * 45)  # a row and a half
    embed_to_file(embedder, images, tmp_path / "out.npy", batch_size=8)
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("change", ["touched", "gone", "new"])
def test_changed_images_are_refused(embedder, images, tmp_path, change):
    out, first = tmp_path / "out.npy", images / "class0/0.png"
    stopped(embedder, images, out)
    if change == "touched":
        os.utime(first, ns=(1, 1))
    elif change == "gone":
        first.unlink()
    else:
        shutil.copy(first, images / "class0/00.png")
    with pytest.raises(CheckpointError, match="the images changed since") as caught:
        embed_to_file(embedder, images, out)
    assert "force=True" in str(caught.value) and workplace(out).exists()
    assert embed_to_file(embedder, images, out, force=True)["resumed_at"] == 0
    assert len(np.load(out)) == len(files_of(images))


def test_another_network_is_refused(embedder, other, images, tmp_path):
    stopped(embedder, images, tmp_path / "out.npy")
    with pytest.raises(CheckpointError, match="the run's network changed since"):
        embed_to_file(other, images, tmp_path / "out.npy")
    embed_to_file(other, images, tmp_path / "out.npy", force=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), other.embed(images).numpy(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("name", "text"), [("out.npy", "mine"), ("out.csv", "path\nmine.png\n")])
def test_what_is_there_is_not_written_over(embedder, images, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="already exists"):
        embed_to_file(embedder, images, tmp_path / "out.npy")
    assert (tmp_path / name).read_text() == text
    embed_to_file(embedder, images, tmp_path / "out.npy", force=True)
    assert np.load(tmp_path / "out.npy").shape == (48, 8)


@pytest.mark.parametrize("name", ["out.npy", "out.csv", "out.parquet"])
def test_what_appears_during_the_work_is_not_written_over(embedder, images, tmp_path, name):
    output = tmp_path / name if name != "out.csv" else tmp_path / "out.npy"

    def meanwhile(done, total):
        (tmp_path / name).write_text("theirs")

    with pytest.raises(ConfigError, match="already exists"):
        embed_to_file(embedder, images, output, progress=meanwhile)
    assert (tmp_path / name).read_text() == "theirs"
    (tmp_path / name).unlink()
    assert embed_to_file(embedder, images, output)["resumed_at"] == 48


def test_a_list_in_the_way_is_refused_at_once_unless_work_is_unfinished(tmp_path):
    output, listed = tmp_path / "out.npy", tmp_path / "out.csv"
    require_usable(output, force=False)
    listed.write_text("path\na.png\n")
    with pytest.raises(ConfigError, match=r"out\.csv"):
        require_usable(output, force=False)
    require_usable(tmp_path / "out.parquet", force=False)  # has no list
    require_usable(output, force=True)
    workplace(output).mkdir()
    require_usable(output, force=False)  # the list is compared when the work is done


@pytest.mark.parametrize("other", ["path\n", "path\nb.png\n", "path\nA.png\n"])
def test_a_list_of_other_images_is_not_replaced(tmp_path, other):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    new.write_text("path\na.png\n")
    assert _checked(new, old, False) == new  # there is none
    old.write_text("path\na.png\n")
    assert _checked(new, old, False) == new
    old.write_text(other)
    with pytest.raises(ConfigError, match=r"old\.csv"):
        _checked(new, old, False)
    assert _checked(new, old, True) == new


def test_a_stop_between_the_list_and_the_embeddings(embedder, images, tmp_path, monkeypatch):
    from siamkit.portable import embedding_files as embed

    def halfway(path, target):
        if target.suffix == ".npy":
            raise KeyboardInterrupt
        real(path, target)

    real = embed._publish
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "_publish", halfway)
        embed_to_file(embedder, images, tmp_path / "out.npy")
    assert (tmp_path / "out.csv").exists()
    assert embed_to_file(embedder, images, tmp_path / "out.npy")["resumed_at"] == 48


@pytest.mark.parametrize("step", range(6))
def test_embeddings_never_lie_beside_the_list_of_other_images(
    embedder, images, tmp_path, monkeypatch, step
):
    """Replacing stops before or after each change of a file that others can see."""
    out, first = tmp_path / "out.npy", images / "class0"
    embed_to_file(embedder, first, out)
    steps = iter(range(6))

    def stopping(real):
        def change(*paths):
            if next(steps) == step:
                raise KeyboardInterrupt
            real(*paths)
            if next(steps) == step:
                raise KeyboardInterrupt

        return change

    from siamkit.portable import embedding_files

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("_remove", "_publish"):
            patch.setattr(embedding_files, name, stopping(getattr(embedding_files, name)))
        embed_to_file(embedder, images / "class5", out, force=True)
    if out.exists():
        embeddings, paths = read_embeddings(out, 8)
        np.testing.assert_allclose(embeddings, embedder.embed(paths).numpy(), atol=1e-5)
    else:
        with pytest.raises(CheckpointError, match=r"out\.npy: the file is missing"):
            read_embeddings(out, 8)
    embed_to_file(embedder, images / "class5", out, force=True)
    assert read_embeddings(out, 8)[1] == sorted((images / "class5").iterdir())


def test_a_quote_that_never_ends_is_damage(tmp_path):
    np.save(tmp_path / "out.npy", np.eye(2, 8, dtype=np.float32))
    (tmp_path / "out.csv").write_text('path\n"' + "a.png\n" * 40_000)
    with pytest.raises(CheckpointError, match=r"out\.csv: is no list of images"):
        read_embeddings(tmp_path / "out.npy", 8)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros(2, np.float32), r"float32 \[2\], 2 images"),
        (np.zeros((2, 8, 1), np.float32), r"float32 \[2, 8, 1\], 2 images"),
        (np.zeros((2, 8), np.float64), r"float64 \[2, 8\], 2 images"),
        (np.zeros((1, 8), np.float32), r"float32 \[1, 8\], 2 images"),
        (np.zeros((3, 8), np.float32), r"float32 \[3, 8\], 2 images"),
    ],
)
def test_embeddings_that_are_not_those_of_the_list_are_damage(tmp_path, array, got):
    np.save(tmp_path / "out.npy", array)
    (tmp_path / "out.csv").write_text("path\na.png\nb.png\n")
    with pytest.raises(CheckpointError, match=f"does not match the list of images.*{got}"):
        read_embeddings(tmp_path / "out.npy", 8)


def test_embeddings_of_another_width_are_refused(tmp_path):
    np.save(tmp_path / "out.npy", np.eye(2, 7, dtype=np.float32))
    (tmp_path / "out.csv").write_text("path\na.png\nb.png\n")
    assert read_embeddings(tmp_path / "out.npy", 7)[1] == [Path("a.png"), Path("b.png")]
    with pytest.raises(DataError, match="another width than those of the model, got 7, allowed: 8"):
        read_embeddings(tmp_path / "out.npy", 8)


@pytest.mark.parametrize("text", ["", "name\na.png\n", "path\na.png,b.png\n", "path,label\na,b\n"])
def test_a_table_of_other_things_is_no_list_of_images(tmp_path, text):
    np.save(tmp_path / "out.npy", np.eye(1, 8, dtype=np.float32))
    (tmp_path / "out.csv").write_text(text)
    with pytest.raises(CheckpointError, match=r"out\.csv: is no list of images"):
        read_embeddings(tmp_path / "out.npy", 8)


@pytest.mark.parametrize("name", ["out.txt", "out", "folder.npy", "list.npy"])
def test_names_that_cannot_be(embedder, images, tmp_path, name):
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "list.csv").mkdir()
    with pytest.raises(ConfigError):
        embed_to_file(embedder, images, tmp_path / name)


def test_parquet_without_its_package_is_refused_before_anything_is_done(
    embedder, images, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"out\.parquet: writing \.parquet needs .* pip install"):
        embed_to_file(embedder, images, tmp_path / "out.parquet")
    assert not workplace(tmp_path / "out.parquet").exists()


def test_an_unreadable_image_is_named_and_what_was_done_stays(embedder, images, tmp_path):
    bad = images / "class3/2.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:60])
    with pytest.raises(DataError, match=r"class3/2\.png"):
        embed_to_file(embedder, images, tmp_path / "out.npy", batch_size=8)
    bad.write_bytes(good)
    assert embed_to_file(embedder, images, tmp_path / "out.npy", batch_size=8)["resumed_at"] == 16


def test_another_process_at_the_same(embedder, images, tmp_path):
    with (
        working(tmp_path / "out.npy"),
        pytest.raises(ResourceError, match="another process"),
    ):
        embed_to_file(embedder, images, tmp_path / "out.npy")
    assert not workplace(tmp_path / "out.npy").exists()


def test_a_disk_too_small_is_refused_before_the_work(embedder, images, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match="not enough disk space"):
        embed_to_file(embedder, images, tmp_path / "out.npy")


def test_a_disk_that_fills_up_keeps_what_was_done(embedder, images, tmp_path):
    # Python ignores SIGXFSZ: a file over the limit is an OSError, as on a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 + 20 * 32 + 5, before[1]))
    try:
        with pytest.raises(ResourceError, match="cannot write: File too large"):
            embed_to_file(embedder, images, tmp_path / "out.npy", batch_size=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert embed_to_file(embedder, images, tmp_path / "out.npy", batch_size=8)["resumed_at"] == 16
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), embedder.embed(images).numpy(), rtol=1e-4, atol=1e-5
    )


def test_names_that_are_not_utf_8(embedder, tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff\n,[red].png"
    Image.new("RGB", (32, 32)).save(os.fsdecode(odd))
    embed_to_file(embedder, [os.fsdecode(odd)], tmp_path / "out.npy")
    assert (tmp_path / "out.csv").read_bytes() == b'path\n"' + odd + b'"\n'
    with pytest.raises(DataError, match="not valid UTF-8"):
        embed_to_file(embedder, [os.fsdecode(odd)], tmp_path / "out.parquet")


SLOW = """
import sys, time
from siamkit import api
from siamkit.portable import filling
filling._SAFE_EVERY = 0.0
def slowly(done, total):
    print(done, flush=True)
    time.sleep(0.5 if done >= 16 else 0)
api.embed(*sys.argv[1:], device="cpu", workers=0, batch_size=8, progress=slowly)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle(trained, images, tmp_path):
    from siamkit import api

    done = {"device": "cpu", "workers": 0, "batch_size": 8}
    api.embed(trained, images, tmp_path / "whole.npy", **done)
    env = {**os.environ, "SIAMKIT_CACHE_DIR": str(tmp_path / "own")}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, trained, images, tmp_path / "out.npy"],
        env=env, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        for line in child.stdout:
            if int(line) >= 24:
                break
        child.kill()
    result = api.embed(trained, images, tmp_path / "out.npy", **done)
    assert result["resumed_at"] == 24
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_bit_of_what_was_done_is_never_published(embedder, images, tmp_path):
    embed_to_file(embedder, images, tmp_path / "whole.npy", batch_size=8)
    for name, place in (("embeddings.npy", 200), ("embeddings.npy", -3), ("progress.json", 40)):
        output = tmp_path / "out.npy"
        stopped(embedder, images, output)
        file = workplace(output) / name
        content = bytearray(file.read_bytes())
        content[place] ^= 4
        file.write_bytes(content)
        assert embed_to_file(embedder, images, output, batch_size=8)["resumed_at"] == 0
        assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()
        output.unlink()
        (tmp_path / "out.csv").unlink()


def test_no_images_are_refused_and_nothing_is_written(embedder, tmp_path):
    for images in ([], iter(()), tmp_path.glob("*.jpg")):
        with pytest.raises(DataError, match=r"images: are none.*no file matched"):
            embed_to_file(embedder, images, tmp_path / "out.npy")
        with pytest.raises(DataError, match="images: are none"):
            build_index(embedder, images, tmp_path / "index", run=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_planted_workplace_is_refused(embedder, images, tmp_path):
    (tmp_path / "theirs").mkdir()
    workplace(tmp_path / "out.npy").symlink_to(tmp_path / "theirs")
    with pytest.raises(ResourceError, match=r"\.out\.npy\.partial: is in the way"):
        embed_to_file(embedder, images, tmp_path / "out.npy")
    assert list((tmp_path / "theirs").iterdir()) == []


def test_force_replaces_no_table_that_is_not_ours(embedder, image_folder, tmp_path):
    (tmp_path / "feats.csv").write_text("name,price\na,1\n")
    with pytest.raises(ConfigError, match=r"feats\.csv: is no list of images that siamkit wrote"):
        embed_to_file(embedder, image_folder, tmp_path / "feats.npy", force=True)
    assert (tmp_path / "feats.csv").read_text() == "name,price\na,1\n"
    # Parquet has no list beside it.
    embed_to_file(embedder, image_folder / "class0", tmp_path / "feats.parquet", force=True)
    assert (tmp_path / "feats.csv").read_text() == "name,price\na,1\n"
