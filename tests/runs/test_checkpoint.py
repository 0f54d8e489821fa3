from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from siamkit.errors import CheckpointError, FrozenDriftError, ResourceError
from siamkit.json_files import write_sealed
from siamkit.model.fingerprint import fingerprint
from siamkit.runs import checkpoint
from siamkit.runs.checkpoint import (
    BEST,
    LATEST,
    Checkpoint,
    latest_intact,
    load,
    newest_first,
    pointed_to,
    publish,
)


def make(value: float, frozen: float = 0) -> Checkpoint:
    weights = torch.full((2, 3, 4, 4), float(value)).contiguous(memory_format=torch.channels_last)
    return Checkpoint(
        {"w": weights, "f": torch.tensor([frozen])},
        {"w::step": torch.tensor(value)},
        {"epoch": int(value)},
        {"f": fingerprint(torch.tensor([frozen]))},
    )


def test_what_is_published_is_loaded_back(tmp_path: Path) -> None:
    folder = publish(tmp_path, "epoch-1", make(1), best="epoch-1")
    saved = load(folder)
    assert torch.equal(saved.model["w"], make(1).model["w"])
    assert saved.model["f"] == 0 and saved.frozen == make(1).frozen
    assert saved.optimizer["w::step"] == 1 and saved.state == {"epoch": 1}
    assert pointed_to(tmp_path, LATEST) == pointed_to(tmp_path, BEST) == "epoch-1"


def test_the_best_and_the_two_newest_are_kept(tmp_path: Path) -> None:
    for i in range(1, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best="epoch-2" if i >= 2 else None)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"epoch-2", "epoch-4", "epoch-5"}
    assert pointed_to(tmp_path, BEST) == "epoch-2"
    assert [p.name for p in newest_first(tmp_path)] == ["epoch-5", "epoch-4", "epoch-2"]


FILES = ["model.safetensors", "frozen.safetensors", "optimizer.safetensors", "state.json"]


def inodes(root: Path) -> list[int]:
    return [(root / f"epoch-{i}" / "frozen.safetensors").stat().st_ino for i in range(1, 6)]


def test_what_is_frozen_is_written_twice_and_then_shared(tmp_path: Path) -> None:
    for i in range(1, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best=None, keep=9)
    one, two, three, four, five = inodes(tmp_path)
    assert one != two, "damage to one file must leave a checkpoint that is intact"
    assert three == one and four == two and five == one
    assert [load(tmp_path / f"epoch-{i}").model["w"].max() for i in range(1, 6)] == [1, 2, 3, 4, 5]


def test_the_two_that_are_kept_never_share_a_file(tmp_path: Path) -> None:
    for i in range(1, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best=None)
        files = [f.stat().st_ino for f in tmp_path.glob("epoch-*/frozen.safetensors")]
        assert len(set(files)) == len(files)


def test_after_a_crash_before_the_pointer_the_latest_is_not_shared_either(tmp_path: Path) -> None:
    publish(tmp_path, "epoch-1", make(1), best=None, keep=9)
    publish(tmp_path, "epoch-2", make(2), best=None, keep=9)
    shutil.copytree(tmp_path / "epoch-2", tmp_path / "epoch-3")  # renamed, and then the power went
    publish(tmp_path, "epoch-3", make(3), best=None, keep=9)
    one, two, three = [
        (tmp_path / f"epoch-{i}" / "frozen.safetensors").stat().st_ino for i in (1, 2, 3)
    ]
    assert three == one != two


def test_a_damaged_file_is_not_shared_with_new_checkpoints(tmp_path: Path) -> None:
    for i in (1, 2):
        publish(tmp_path, f"epoch-{i}", make(i), best=None, keep=9)
    path = tmp_path / "epoch-1" / "frozen.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for i in (3, 4):
        publish(tmp_path, f"epoch-{i}", make(i), best=None, keep=9)
        assert load(tmp_path / f"epoch-{i}").model["f"] == 0


def test_a_changed_tensor_is_not_hidden_by_an_older_file(tmp_path: Path) -> None:
    for i in (1, 2):
        publish(tmp_path, f"epoch-{i}", make(i), best=None, keep=9)
    good = make(3)
    drifted = replace(good, model={**good.model, "f": torch.tensor([1])})
    with pytest.raises(FrozenDriftError, match=r"1 frozen tensor had changed at .*epoch-3: f"):
        publish(tmp_path, "epoch-3", drifted, best=None, keep=9)
    assert not (tmp_path / "epoch-3").exists()
    publish(tmp_path, "epoch-3", replace(good, proven=True), best=None, keep=9)


def test_a_frozen_buffer_that_no_file_holds_is_no_tensor_that_is_gone(tmp_path: Path) -> None:
    made = make(1)
    made = replace(made, frozen={**made.frozen, "not persistent": "its fingerprint"})
    for i in range(1, 4):
        publish(tmp_path, f"epoch-{i}", made, best=None, keep=9)
    saved = load(tmp_path / "epoch-3")
    assert saved.frozen == made.frozen and saved.model.keys() == made.model.keys()


def test_a_checkpoint_whose_replacement_was_killed_is_put_back(tmp_path: Path) -> None:
    publish(tmp_path, "epoch-1", make(1), best="epoch-1")
    place = tmp_path / ".siamkit-0123456789abcdef"
    (place / "old").mkdir(parents=True)
    (tmp_path / "epoch-1").rename(place / "old" / "epoch-1")
    saved, notice = latest_intact(tmp_path)
    assert saved.state == {"epoch": 1} and notice is None and not place.exists()


def test_another_phase_writes_what_is_frozen_anew(tmp_path: Path) -> None:
    for i in range(1, 4):
        publish(tmp_path, f"epoch-{i}", make(i), best=None, keep=9)
    publish(tmp_path, "epoch-4", make(4, frozen=1), best=None, keep=9)
    publish(tmp_path, "epoch-5", make(5, frozen=1), best=None, keep=9)
    assert len(set(inodes(tmp_path))) == 4
    assert load(tmp_path / "epoch-5").model["f"] == 1


def test_a_shared_file_is_read_once_until_it_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest = checkpoint.sha256_of
    monkeypatch.setattr(
        checkpoint, "sha256_of", lambda path: read.append(path.name) or digest(path)
    )
    for i in range(1, 7):
        publish(tmp_path, f"epoch-{i}", make(i), best="epoch-1", keep=6)
    # written twice, and each of the two files is read once more before it is first shared
    assert read.count("frozen.safetensors") <= 4
    before = (tmp_path / "epoch-5" / "frozen.safetensors").read_bytes()
    (tmp_path / "epoch-5" / "frozen.safetensors").write_bytes(before[:-1] + b"?")
    publish(tmp_path, "epoch-7", make(7), best="epoch-1", keep=7)
    assert load(tmp_path / "epoch-7").model["f"] == 0, "the damaged file is not shared"


def test_without_hard_links_each_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("operation not permitted")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    for i in range(1, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best=None, keep=9)
    assert len(set(inodes(tmp_path))) == 5
    assert load(tmp_path / "epoch-5").model["f"] == 0


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_found_and_the_file_named(tmp_path: Path, file: str) -> None:
    folder = publish(tmp_path, "epoch-1", make(1), best="epoch-1")
    content = bytearray((folder / file).read_bytes())
    content[-2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{file}: the file is damaged"):
        load(folder)


@pytest.mark.parametrize(
    "damage",
    ["", "not json", "[]", "{}", '{"format": 1}', '{"format": 1, "files": {}, "frozen": {}}'],
)
def test_a_damaged_manifest_is_an_error_not_a_traceback(tmp_path: Path, damage: str) -> None:
    folder = publish(tmp_path, "epoch-1", make(1), best="epoch-1")
    (folder / "manifest.json").write_text(damage)
    with pytest.raises(CheckpointError):
        load(folder)


def test_the_manifest_has_the_format_that_other_versions_know(tmp_path: Path) -> None:
    folder = publish(tmp_path, "epoch-1", make(1), best="epoch-1")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == 2
    write_sealed(folder / "manifest.json", {**manifest, "format": 3})
    with pytest.raises(CheckpointError, match=r"unknown checkpoint format, got 3, allowed: 2"):
        load(folder)


def test_a_kill_before_the_rename_leaves_the_previous_checkpoint_in_force(tmp_path: Path) -> None:
    publish(tmp_path, "epoch-1", make(1), best="epoch-1")
    place = tmp_path / ".siamkit-0123456789abcdef"
    shutil.copytree(tmp_path / "epoch-1", place / "new" / "epoch-2")
    assert [p.name for p in newest_first(tmp_path)] == ["epoch-1"]
    publish(tmp_path, "epoch-2", make(2), best=None)
    assert not list(tmp_path.glob(".siamkit-*")), "orphans are cleaned up"


def test_after_a_kill_between_the_rename_and_the_pointer_the_new_one_counts(tmp_path: Path) -> None:
    publish(tmp_path, "epoch-1", make(1), best="epoch-1")
    publish(tmp_path, "epoch-2", make(2), best="epoch-1")
    (tmp_path / LATEST).write_text("epoch-1\n")
    assert latest_intact(tmp_path)[0].state == {"epoch": 2}, "a rename is the last step of writing"
    publish(tmp_path, "epoch-2", make(3), best="epoch-1")
    assert latest_intact(tmp_path)[0].state == {"epoch": 3}


def test_a_save_that_fails_leaves_the_old_one_even_with_keep_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "epoch-1", make(1), best="epoch-1", keep=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(ResourceError, match=r"No space left.*check the free space"):
        publish(tmp_path, "epoch-2", make(2), best=None, keep=1)
    assert latest_intact(tmp_path)[0].state == {"epoch": 1}
    assert not list(tmp_path.glob(".siamkit-*"))


def test_a_run_that_never_saved_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        latest_intact(tmp_path)


def test_the_manifest_holds_the_fingerprints_of_what_was_frozen(tmp_path: Path) -> None:
    made = Checkpoint({"w": torch.ones(1)}, {}, {}, {"w": "abc"})
    folder = publish(tmp_path, "epoch-1", made, best="epoch-1")
    assert json.loads((folder / "manifest.json").read_text())["frozen"] == {"w": "abc"}
    assert load(folder).frozen == {"w": "abc"}


@pytest.mark.parametrize("pointer", [b"", b"\xff\xfe", b"nonsense"])
def test_a_damaged_pointer_leaves_the_checkpoints_usable(tmp_path: Path, pointer: bytes) -> None:
    publish(tmp_path, "epoch-1", make(1), best="epoch-1")
    for i in range(2, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best="epoch-1")
    (tmp_path / LATEST).write_bytes(pointer)
    assert latest_intact(tmp_path)[0].name == "epoch-5"
    (tmp_path / BEST).write_bytes(pointer)
    publish(tmp_path, "epoch-6", make(6), best="epoch-1")
    assert load(tmp_path / "epoch-1").state == {"epoch": 1}, "the state knows the best one"
    assert pointed_to(tmp_path, BEST) == "epoch-1"


def test_without_any_word_on_the_best_one_nothing_is_deleted(tmp_path: Path) -> None:
    for i in range(1, 4):
        publish(tmp_path, f"epoch-{i}", make(i), best=None, keep=9)
    (tmp_path / BEST).write_bytes(b"\xff")
    publish(tmp_path, "epoch-4", make(4), best=None)
    assert len(newest_first(tmp_path)) == 4


def test_names_sort_by_their_numbers(tmp_path: Path) -> None:
    for name in ("epoch-99999-step-1", "epoch-100000-step-2"):
        publish(tmp_path, name, make(1), best=None)
    assert newest_first(tmp_path)[0].name == "epoch-100000-step-2"


def test_what_is_no_checkpoint_is_neither_read_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for i in range(1, 6):
        publish(tmp_path, f"epoch-{i}", make(i), best=None)
    assert (tmp_path / "mine").is_dir()
    assert [p.name for p in newest_first(tmp_path)] == ["epoch-5", "epoch-4"]


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "broken link", "deep"])
def test_whatever_lies_in_a_files_place_is_gone_back_from(
    tmp_path: Path, file: str, kind: str
) -> None:
    for i in (1, 2):
        publish(tmp_path, f"epoch-{i}", make(i), best=None)
    path = tmp_path / "epoch-2" / file
    path.unlink()
    put[kind](path)
    saved, notice = latest_intact(tmp_path)
    assert saved.name == "epoch-1"
    assert notice is not None and file in notice and "going back to epoch-1" in notice


put: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "fifo": os.mkfifo,
    "loop": lambda path: path.symlink_to(path),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "deep": lambda path: path.write_text("[" * 100_000),
}


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_others_may_read_a_checkpoint_as_the_umask_allows(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        folder = publish(tmp_path / "c", "epoch-1", make(1), best=None)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {0o666 & ~mask}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask


def test_a_loaded_checkpoint_does_not_hold_the_space_of_its_files(tmp_path: Path) -> None:
    saved = load(publish(tmp_path, "epoch-1", make(1), best=None))
    copies = {name: tensor.clone() for name, tensor in saved.model.items()}
    assert copies and ".safetensors" not in Path("/proc/self/maps").read_text()


# --- slim ----------------------------------------------------------------------------------------


def run_of(root: Path) -> None:
    for i in range(1, 5):
        publish(root, f"epoch-{i}", make(i), best="epoch-2" if i >= 2 else None)


def test_a_slim_run_keeps_the_best_network_the_last_state_and_nothing_else(tmp_path: Path) -> None:
    run_of(tmp_path)
    before = checkpoint.load_network(tmp_path / "epoch-2")
    checkpoint.slim(tmp_path, before, {"epoch": 4})
    assert [p.name for p in newest_first(tmp_path)] == ["epoch-2"]
    saved = load(tmp_path / "epoch-2")
    assert saved.is_slim and not before.is_slim
    assert saved.network == before.network, "what belongs to the network stays valid"
    assert saved.state == {"epoch": 4} and torch.equal(saved.model["w"], make(2).model["w"])
    assert {p.name for p in saved.folder.iterdir()} == {
        "model.safetensors", "frozen.safetensors", "state.json", "manifest.json",
    }  # fmt: skip
    assert pointed_to(tmp_path, LATEST) == pointed_to(tmp_path, BEST) == "epoch-2"


def test_a_run_is_slimmed_without_hard_links_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("operation not permitted")

    run_of(tmp_path)
    monkeypatch.setattr(checkpoint.os, "link", refuse)
    checkpoint.slim(tmp_path, checkpoint.load_network(tmp_path / "epoch-2"), {"epoch": 4})
    assert torch.equal(load(tmp_path / "epoch-2").model["w"], make(2).model["w"])


def test_without_an_intact_checkpoint_the_newest_is_named(tmp_path: Path) -> None:
    for i in range(1, 4):
        publish(tmp_path, f"epoch-{i}", make(i), best=None, keep=3)
        (tmp_path / f"epoch-{i}" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="epoch-3"):
        latest_intact(tmp_path)


def test_slimming_that_was_killed_is_finished_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoint, "write_atomic", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            checkpoint.slim(tmp_path, load(tmp_path / "epoch-2"), {"epoch": 4})
    assert load(tmp_path / "epoch-2").is_slim and not load(tmp_path / "epoch-4").is_slim
    checkpoint.slim(tmp_path, load(tmp_path / "epoch-2"), {"epoch": 4})
    assert [p.name for p in newest_first(tmp_path)] == ["epoch-2"]


def test_a_slim_checkpoint_is_checked_like_others(tmp_path: Path) -> None:
    run_of(tmp_path)
    checkpoint.slim(tmp_path, load(tmp_path / "epoch-2"), {"epoch": 4})
    (tmp_path / "epoch-2" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        load(tmp_path / "epoch-2")


def test_an_old_checkpoint_that_cannot_be_removed_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(16, "Device or resource busy", str(path))

    monkeypatch.setattr(checkpoint.shutil, "rmtree", busy)
    run_of(tmp_path)
    assert len(newest_first(tmp_path)) == 4
    checkpoint.slim(tmp_path, load(tmp_path / "epoch-2"), {"epoch": 4})
    assert load(tmp_path / "epoch-2").is_slim
    assert pointed_to(tmp_path, LATEST) == "epoch-2"


def test_readers_of_checkpoints_import_no_torch() -> None:
    code = (
        "import sys, siamkit.runs.checkpoint, siamkit.runs.seen; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
