"""The filling of a file with embeddings, by a network that is written by hand."""

from __future__ import annotations

import os
from collections import namedtuple
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from siamkit.errors import CheckpointError, DataError, ResourceError
from siamkit.json_files import read_sealed
from siamkit.portable import filling
from siamkit.portable.filling import GrowingFile, fill, working, workplace

DIM = 3
Usage = namedtuple("Usage", "free")


class Network:
    """Embeds the file ``n`` as (n, n, 0)."""

    embedding_dim = DIM
    fingerprint = "a network"
    numerics = "float32"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def stream(self, images: Sequence[Path], *, batch_size: int) -> Iterator[Any]:
        for start in range(0, len(images), batch_size):
            some = images[start : start + batch_size]
            numbers = [int(path.name) for path in some]
            self.asked += numbers
            rows = np.array([[n, n, 0] for n in numbers], np.float64)
            yield SimpleNamespace(paths=tuple(some), embeddings=rows)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "images"
    folder.mkdir()
    made = [folder / str(number) for number in range(1, 8)]
    for path in made:
        path.write_text(path.name)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


def filled(folder: Path, paths: Sequence[Path], **options: Any) -> tuple[Any, int, list[int]]:
    network: Any = Network()
    file, before = fill(folder, network, paths, **{"batch_size": 2, **options})
    return np.load(file), before, network.asked


def stopped(folder: Path, paths: Sequence[Path], after: int) -> None:
    class Full(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done >= after:
            raise Full

    with pytest.raises(Full):
        filled(folder, paths, progress=stop)


def test_rows_are_those_of_the_network_and_each_batch_is_told(
    folder: Path, paths: list[Path]
) -> None:
    told: list[tuple[int, int]] = []
    rows, before, _ = filled(folder, paths, progress=lambda *given: told.append(given))
    assert rows.dtype == np.float32 and rows.flags.c_contiguous
    assert rows.tolist() == [[n, n, 0] for n in range(1, 8)]
    assert before == 0 and told == [(0, 7), (2, 7), (4, 7), (6, 7), (7, 7)]


def test_rows_can_be_normalised(folder: Path, paths: list[Path]) -> None:
    rows, _, _ = filled(folder, paths, normalize=True)
    np.testing.assert_allclose(rows, [[0.5**0.5, 0.5**0.5, 0]] * 7, rtol=1e-6)


def test_finished_rows_are_not_computed_again(folder: Path, paths: list[Path]) -> None:
    stopped(folder, paths, 4)
    told: list[tuple[int, int]] = []
    rows, before, asked = filled(folder, paths, progress=lambda *given: told.append(given))
    assert (before, asked) == (4, [5, 6, 7])
    assert rows.tolist() == [[n, n, 0] for n in range(1, 8)]
    assert told[0] == (4, 7)


def test_more_images_than_before_go_on_and_other_images_do_not(
    folder: Path, paths: list[Path]
) -> None:
    stopped(folder, paths[:5], 4)
    assert filled(folder, paths)[1] == 4
    stopped(folder, paths, 7)  # the work is complete, and other images come first
    with pytest.raises(CheckpointError, match="7 embeddings of an earlier command: the images"):
        filled(folder, paths[::-1])
    assert filled(folder, paths[::-1], anew=True)[0][0].tolist() == [7, 7, 0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fingerprint": "another"}, "the run's network changed since"),
        ({"numerics": "bfloat16"}, "the device or its precision changed since"),
        ({"fingerprint": "x", "numerics": "y"},
         "the run's network and the device or its precision changed since"),
    ],
)  # fmt: skip
def test_what_changed_is_named(
    folder: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str], told: str,
) -> None:  # fmt: skip
    stopped(folder, paths, 2)
    for name, value in changes.items():
        monkeypatch.setattr(Network, name, value)
    with pytest.raises(CheckpointError, match=f"2 embeddings of an earlier command: {told}"):
        filled(folder, paths)
    with pytest.raises(CheckpointError, match="the kind of output"):
        filled(folder, paths, normalize=True)
    assert filled(folder, paths, anew=True)[1] == 0


def test_work_that_an_index_shares_is_not_continued(folder: Path, paths: list[Path]) -> None:
    stopped(folder, paths, 4)
    os.link(folder / "embeddings.npy", folder / "of an index")
    before = (folder / "of an index").read_bytes()
    assert filled(folder, paths)[1] == 0
    assert (folder / "of an index").read_bytes() == before


@pytest.mark.parametrize("at", [-1, -4 * 12])  # in the last and the first of 4 finished rows
def test_damaged_rows_are_computed_again(folder: Path, paths: list[Path], at: int) -> None:
    stopped(folder, paths, 4)
    file = folder / "embeddings.npy"
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    rows, before, asked = filled(folder, paths)
    assert (before, asked) == (0, list(range(1, 8)))
    assert rows.tolist() == [[n, n, 0] for n in range(1, 8)]


def test_a_shorter_file_than_recorded_is_made_anew(folder: Path, paths: list[Path]) -> None:
    stopped(folder, paths, 4)
    file = folder / "embeddings.npy"
    file.write_bytes(file.read_bytes()[:-1])
    assert filled(folder, paths)[1] == 0


def test_rows_are_recorded_every_five_seconds(
    folder: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(filling, "time", SimpleNamespace(monotonic=lambda: now[0]))
    recorded: list[int] = []

    def progress(done: int, total: int) -> None:
        record = folder / "progress.json"
        recorded.append(read_sealed(record)["rows"] if record.exists() else 0)
        now[0] += {2: 4.9, 3: 0.1}.get(done, 0.0)

    filled(folder, paths, batch_size=1, progress=progress)
    # At once; then, five seconds later, after the fourth image; and all at the end.
    assert recorded == [0, 1, 1, 1, 4, 4, 4, 4]
    assert read_sealed(folder / "progress.json")["rows"] == 7


def test_an_image_that_is_gone_is_named(folder: Path, paths: list[Path]) -> None:
    def remove(done: int, total: int) -> None:
        if done == 2:
            paths[3].unlink()

    with pytest.raises(DataError, match=r"images/4: cannot read the image: No such file"):
        filled(folder, paths, progress=remove)
    assert read_sealed(folder / "progress.json")["rows"] == 2


@pytest.mark.parametrize("done", [0, 2])
def test_the_missing_rows_must_fit_on_the_disk(
    folder: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    if done:
        stopped(folder, paths, done)
    about = {"format": 2, "model": "a network", "numerics": "float32", "dim": DIM,
             "normalized": False}  # fmt: skip
    file = GrowingFile(folder, about, paths, False)
    needed = (7 - done) * DIM * 4
    asked: list[Path] = []

    def usage(free: int) -> None:
        monkeypatch.setattr(
            filling.shutil, "disk_usage", lambda path: (asked.append(path), Usage(free))[1]
        )

    usage(needed)
    file.require_space()
    usage(needed - 1)
    with pytest.raises(ResourceError, match=r"disk space: 0\.0 GB needed, 0\.0 GB free"):
        file.require_space()
    assert set(asked) == {folder}


def test_the_missing_space_is_told_in_gigabytes(
    folder: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling.shutil, "disk_usage", lambda path: Usage(1_230_000_000))
    file = GrowingFile(folder, {"dim": 100_000_000}, paths, False)
    with pytest.raises(ResourceError, match=r"2\.8 GB needed, 1\.2 GB free") as caught:
        file.require_space()
    assert caught.value.where == str(folder.parent)


@pytest.mark.parametrize("apart", [-1, 1])
def test_the_folder_of_another_user_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, apart: int
) -> None:
    owner = folder.stat().st_uid
    filling._require_own(folder)
    monkeypatch.setattr(os, "geteuid", lambda: owner + apart)
    with pytest.raises(ResourceError, match="belongs to another user"):
        filling._require_own(folder)


def test_a_workplace_is_for_one_process_and_goes_if_it_is_empty(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out.npy"
    with working(target) as place:
        assert place == workplace(target) == tmp_path / "deep" / ".out.npy.partial"
        assert place.stat().st_mode & 0o777 == 0o700
        with pytest.raises(ResourceError, match="another process is writing the same output"):
            with working(target):
                pass
    assert not place.exists()
    with working(target) as place:
        (place / "part").touch()
    assert place.exists()
