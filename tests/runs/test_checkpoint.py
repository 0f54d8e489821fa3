from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from siamkit.errors import CheckpointError, ResourceError
from siamkit.runs import checkpoint
from siamkit.runs.checkpoint import (
    BEST,
    LATEST,
    Checkpoint,
    candidates,
    load,
    pointed_to,
    publish,
)


def make(value: float, frozen: float = 0) -> Checkpoint:
    weights = torch.full((2, 3, 4, 4), float(value)).contiguous(memory_format=torch.channels_last)
    return Checkpoint(
        {"w": weights, "f": torch.tensor([frozen])},
        {"w::step": torch.tensor(value)},
        {"epoch": int(value)},
        {"f": f"fingerprint of {frozen}"},
    )


def test_what_is_published_is_loaded_back(tmp_path: Path) -> None:
    folder = publish(tmp_path, "epoch-1", make(1), best=True)
    saved = load(folder)
    assert torch.equal(saved.model["w"], make(1).model["w"])
    assert saved.model["f"] == 0 and saved.frozen == make(1).frozen
    assert saved.optimizer["w::step"] == 1 and saved.state == {"epoch": 1}
    assert pointed_to(tmp_path, LATEST) == pointed_to(tmp_path, BEST) == "epoch-1"


def test_the_best_and_the_two_newest_are_kept(tmp_path: Path) -> None:
    for i in range(1, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best=i == 2)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"epoch-2", "epoch-4", "epoch-5"}
    assert pointed_to(tmp_path, BEST) == "epoch-2"
    assert [p.name for p in candidates(tmp_path)] == ["epoch-5", "epoch-4", "epoch-2"]


FILES = ["model.safetensors", "frozen.safetensors", "optimizer.safetensors", "state.json"]


def inodes(root: Path) -> list[int]:
    return [(root / f"epoch-{i}" / "frozen.safetensors").stat().st_ino for i in range(1, 6)]


def test_what_is_frozen_is_written_twice_and_then_shared(tmp_path: Path) -> None:
    for i in range(1, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best=False, keep=9)
    one, two, three, four, five = inodes(tmp_path)
    assert one != two, "damage to one file must leave a checkpoint that is intact"
    assert three == one and four == two and five == one
    assert [load(tmp_path / f"epoch-{i}").model["w"].max() for i in range(1, 6)] == [1, 2, 3, 4, 5]


def test_the_two_that_are_kept_never_share_a_file(tmp_path: Path) -> None:
    for i in range(1, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best=False)
        files = [f.stat().st_ino for f in tmp_path.glob("epoch-*/frozen.safetensors")]
        assert len(set(files)) == len(files)


def test_after_a_crash_before_the_pointer_the_latest_is_not_shared_either(tmp_path: Path) -> None:
    publish(tmp_path, "epoch-1", make(1), best=False, keep=9)
    publish(tmp_path, "epoch-2", make(2), best=False, keep=9)
    shutil.copytree(tmp_path / "epoch-2", tmp_path / "epoch-3")  # renamed, and then the power went
    publish(tmp_path, "epoch-3", make(3), best=False, keep=9)
    one, two, three = [
        (tmp_path / f"epoch-{i}" / "frozen.safetensors").stat().st_ino for i in (1, 2, 3)
    ]
    assert three == one != two


def test_another_phase_writes_what_is_frozen_anew(tmp_path: Path) -> None:
    for i in range(1, 4):
        publish(tmp_path, f"epoch-{i}", make(i), best=False, keep=9)
    publish(tmp_path, "epoch-4", make(4, frozen=1), best=False, keep=9)
    publish(tmp_path, "epoch-5", make(5, frozen=1), best=False, keep=9)
    assert len(set(inodes(tmp_path))) == 4
    assert load(tmp_path / "epoch-5").model["f"] == 1


def test_without_hard_links_each_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("operation not permitted")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    for i in range(1, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best=False, keep=9)
    assert len(set(inodes(tmp_path))) == 5
    assert load(tmp_path / "epoch-5").model["f"] == 0


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_found_and_the_file_named(tmp_path: Path, file: str) -> None:
    folder = publish(tmp_path, "epoch-1", make(1), best=True)
    content = bytearray((folder / file).read_bytes())
    content[-2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{file}: the file is missing or damaged"):
        load(folder)


@pytest.mark.parametrize(
    "damage",
    ["", "not json", "[]", "{}", '{"format": 1}', '{"format": 1, "files": {}, "frozen": {}}'],
)
def test_a_damaged_manifest_is_an_error_not_a_traceback(tmp_path: Path, damage: str) -> None:
    folder = publish(tmp_path, "epoch-1", make(1), best=True)
    (folder / "manifest.json").write_text(damage)
    with pytest.raises(CheckpointError):
        load(folder)


def test_a_kill_before_the_rename_leaves_the_previous_checkpoint_in_force(tmp_path: Path) -> None:
    publish(tmp_path, "epoch-1", make(1), best=True)
    shutil.copytree(tmp_path / "epoch-1", tmp_path / ".tmp-epoch-2")
    assert [p.name for p in candidates(tmp_path)] == ["epoch-1"]
    publish(tmp_path, "epoch-2", make(2), best=False)
    assert not list(tmp_path.glob(".tmp-*")), "orphans are cleaned up"


def test_a_kill_between_the_rename_and_the_pointer_leaves_the_previous_in_force(
    tmp_path: Path,
) -> None:
    publish(tmp_path, "epoch-1", make(1), best=True)
    shutil.copytree(tmp_path / "epoch-1", tmp_path / "epoch-2")
    assert [p.name for p in candidates(tmp_path)] == ["epoch-1"]
    publish(tmp_path, "epoch-2", make(2), best=False)
    assert load(next(candidates(tmp_path))).state == {"epoch": 2}


def test_a_save_that_fails_leaves_the_old_one_even_with_keep_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "epoch-1", make(1), best=True, keep=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(ResourceError, match=r"No space left.*free some space"):
        publish(tmp_path, "epoch-2", make(2), best=False, keep=1)
    assert load(next(candidates(tmp_path))).state == {"epoch": 1}
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_run_that_never_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        next(candidates(tmp_path))


def test_the_manifest_holds_the_fingerprints_of_what_was_frozen(tmp_path: Path) -> None:
    made = Checkpoint({"w": torch.ones(1)}, {}, {}, {"w": "abc"})
    folder = publish(tmp_path, "epoch-1", made, best=True)
    assert json.loads((folder / "manifest.json").read_text())["frozen"] == {"w": "abc"}
    assert load(folder).frozen == {"w": "abc"}


@pytest.mark.parametrize("pointer", [b"", b"\xff\xfe", b"nonsense"])
def test_a_damaged_pointer_leaves_the_checkpoints_usable(tmp_path: Path, pointer: bytes) -> None:
    publish(tmp_path, "epoch-1", make(1), best=True)
    (tmp_path / LATEST).write_bytes(pointer)
    assert [p.name for p in candidates(tmp_path)] == ["epoch-1"]
