from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from siamkit.deploy.embed import embed_to_file
from siamkit.deploy.filling import workplace
from siamkit.embedding import Embedder, files_of
from siamkit.errors import CheckpointError, ConfigError, DataError, Interrupted, ResourceError


@pytest.fixture
def images(image_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(image_folder, tmp_path / "images")


def listed(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["path"] for row in csv.DictReader(file)]


def test_the_file_holds_what_embed_returns_and_its_paths(
    embedder: Embedder, images: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    found = embed_to_file(
        embedder, images, tmp_path / "e.npy", batch_size=7, progress=lambda *p: seen.append(p)
    )
    vectors = np.load(tmp_path / "e.npy", allow_pickle=False)
    assert (vectors.dtype, vectors.shape) == (np.float32, (48, embedder.embedding_dim))
    assert np.array_equal(vectors, embedder.embed(images).numpy())
    assert listed(tmp_path / "e.csv") == [str(path) for path in files_of(images)]
    assert (found["images"], found["resumed_at"]) == (48, 0)
    assert seen[0] == (0, 48) and seen[-1] == (48, 48)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.csv", "e.npy", "images"]


def test_parquet_holds_the_same(embedder: Embedder, images: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    embed_to_file(embedder, images, tmp_path / "e.parquet")
    table = parquet.read_table(tmp_path / "e.parquet")
    assert table.column("path").to_pylist() == [str(path) for path in files_of(images)]
    assert table.schema.field("embedding").type.list_size == embedder.embedding_dim
    vectors = np.array(table.column("embedding").to_pylist(), np.float32)
    assert np.array_equal(vectors, embedder.embed(images).numpy())


def stopped(embedder: Embedder, images: Path, output: Path, after: int) -> None:
    """Embed, and stop as Ctrl-C does after some images."""

    def stop(done: int, total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="of 48 images, which are kept") as caught:
        embed_to_file(embedder, images, output, batch_size=8, progress=stop)
    assert caught.value.exit_code == 130
    assert not output.exists()


def test_stopped_it_goes_on_where_it_was(
    embedder: Embedder, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "e.npy"
    stopped(embedder, images, output, after=16)
    asked: list[Path] = []
    stream = Embedder.stream

    def watched(self: Embedder, paths: list[Path], **options: int) -> object:
        asked.extend(paths)
        return stream(self, paths, **options)

    monkeypatch.setattr(Embedder, "stream", watched)
    found = embed_to_file(embedder, images, output, batch_size=8)
    assert found["resumed_at"] == 16
    assert asked == [path.absolute() for path in files_of(images)][16:]
    monkeypatch.undo()
    assert np.array_equal(np.load(output), embedder.embed(images).numpy())
    assert not workplace(output).exists()


def test_what_changed_meanwhile_is_refused_or_dropped(
    embedder: Embedder, other: Embedder, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "e.npy"
    stopped(embedder, images, output, after=16)
    with pytest.raises(CheckpointError, match=r"the run's network changed since.*--force"):
        embed_to_file(other, images, output)
    first = files_of(images)[0]
    shutil.copy(files_of(images)[20], first)
    with pytest.raises(CheckpointError, match="the images changed since"):
        embed_to_file(embedder, images, output)
    found = embed_to_file(embedder, images, output, force=True)
    assert found["resumed_at"] == 0
    assert np.array_equal(np.load(output), embedder.embed(images).numpy())


def test_a_torn_tail_is_not_trusted(embedder: Embedder, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "e.npy"
    stopped(embedder, images, output, after=24)
    rows = workplace(output) / "embeddings.npy"
    rows.write_bytes(rows.read_bytes()[:-5])  # fewer rows than the record says are safe
    embed_to_file(embedder, images, output)
    assert np.array_equal(np.load(output), embedder.embed(images).numpy())
    stopped(embedder, images, tmp_path / "f.npy", after=24)
    (workplace(tmp_path / "f.npy") / "progress.json").write_text("{")
    assert embed_to_file(embedder, images, tmp_path / "f.npy")["resumed_at"] == 0


@pytest.mark.parametrize("name", ["e.npy", "e.csv"])
def test_nothing_of_the_users_is_overwritten(
    embedder: Embedder, images: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=r"is there already.*--force"):
        embed_to_file(embedder, images, tmp_path / "e.npy")
    assert (tmp_path / name).read_text() == "mine"
    embed_to_file(embedder, images, tmp_path / "e.npy", force=True)
    assert np.load(tmp_path / "e.npy").shape[0] == 48


def test_another_ending_is_refused(embedder: Embedder, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.npy or \.parquet"):
        embed_to_file(embedder, images, tmp_path / "e.txt")


def test_an_unreadable_image_is_named_and_what_was_done_stays(
    embedder: Embedder, images: Path, tmp_path: Path
) -> None:
    bad = files_of(images)[30]
    good = bad.read_bytes()
    bad.write_bytes(good[:60])
    with pytest.raises(DataError, match=str(bad)):
        embed_to_file(embedder, images, tmp_path / "e.npy", batch_size=8)
    bad.write_bytes(good)
    assert embed_to_file(embedder, images, tmp_path / "e.npy", batch_size=8)["resumed_at"] == 24


def test_two_processes_do_not_make_the_same(
    embedder: Embedder, images: Path, tmp_path: Path
) -> None:
    def again(done: int, total: int) -> None:
        with pytest.raises(ResourceError, match="another process is making the same"):
            embed_to_file(embedder, images, tmp_path / "e.npy")

    embed_to_file(embedder, images, tmp_path / "e.npy", progress=again)


def test_no_images_are_no_rows(embedder: Embedder, tmp_path: Path) -> None:
    embed_to_file(embedder, [], tmp_path / "e.npy")
    assert np.load(tmp_path / "e.npy").shape == (0, embedder.embedding_dim)


KILLED = """
import sys, time, torch
from pathlib import Path
from siamkit import api
from siamkit.deploy import filling
from siamkit.deploy.embed import embed_to_file
from siamkit.embedding import Embedder
torch.manual_seed(0); torch.set_num_threads(1)
net = api.create_model("timm:test_resnet", pretrained=False, head="linear", image_size=32)
filling._SAFE_EVERY = 0.0
embed_to_file(
    Embedder(net, kernel="eager", workers=0), sys.argv[1], Path(sys.argv[2]), batch_size=4,
    progress=lambda done, total: (print(done, flush=True), time.sleep(0.1)),
)
"""


@pytest.mark.slow
def test_kill_9_loses_no_more_than_a_batch(
    embedder: Embedder, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "e.npy"
    command = [sys.executable, "-c", KILLED, str(images), str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 20:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    process.wait()
    assert not output.exists()
    safe = json.loads((workplace(output) / "progress.json").read_text())["rows"]
    assert safe >= 16
    time.sleep(0.1)
    found = embed_to_file(embedder, images, output, batch_size=4)
    assert found["resumed_at"] == safe
    torch.testing.assert_close(torch.from_numpy(np.load(output)), embedder.embed(images))
