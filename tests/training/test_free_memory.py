from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from siamkit.portable import control_groups
from siamkit.training import free_memory
from siamkit.training.free_memory import free_bytes

CPU = torch.device("cpu")
EVERYTHING = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of control groups without a limit."""
    (tmp_path / "groups").mkdir()
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "_OWN", tmp_path / "own")
    return tmp_path / "groups"


def limit(folder: Path, most: object, used: int, *, files: int = 0, version: int = 2) -> None:
    """Write the files of a group, as Linux shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {1: ("limit_in_bytes", "usage_in_bytes"), 2: ("max", "current")}[version]
    for name, value in zip(names, (most, used), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    prefix = {1: "total_", 2: ""}[version]
    (folder / "memory.stat").write_text(
        f"anon 400\n{prefix}inactive_file {files}\n{prefix}active_file 200\n"
    )


def own(root: Path, text: str) -> None:
    (root.parent / "own").write_text(text)


def test_without_a_limit_it_is_what_the_system_leaves(root: Path) -> None:
    assert 0 < free_bytes(CPU) <= EVERYTHING, "not Linux: no groups"
    own(root, "0::/\n")
    assert 0 < free_bytes(CPU) <= EVERYTHING
    limit(root, "max", 900)
    assert 0 < free_bytes(CPU) <= EVERYTHING


@pytest.mark.parametrize("text", [None, "MemTotal: 5 kB\n"])
def test_a_system_that_does_not_tell_leaves_half_of_its_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    def read(path: Path) -> str:
        if text is None:
            raise FileNotFoundError
        return text

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(free_memory, "groups_of", lambda name: [])
    pages = {"SC_PHYS_PAGES": 1001, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert free_bytes(CPU) == 1001 * 4096 // 2


def test_what_the_system_calls_available_is_free(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "groups_of", lambda name: [])
    told = "MemFree:  7 kB\nMemAvailable:  300 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path: told)
    assert free_bytes(CPU) == 300 * 1024


def test_a_container_has_a_limit_and_cached_files_give_way(root: Path) -> None:
    own(root, "0::/\n")
    limit(root, 1000, 900, files=300)
    assert free_bytes(CPU) == 600


def test_the_tightest_limit_above_the_own_group_counts(root: Path) -> None:
    own(root, "0::/user.slice/job.scope\n")
    limit(root / "user.slice" / "job.scope", 5000, 1000)
    assert free_bytes(CPU) == 4200
    limit(root / "user.slice", 3000, 1000)
    assert free_bytes(CPU) == 2200
    limit(root / "other.slice", 100, 100)
    assert free_bytes(CPU) == 2200, "of another process"


def test_version_1_of_the_groups_has_other_names(root: Path) -> None:
    own(root, "9:name=systemd:/job\n4:cpu,memory:/job\n0::/\n")
    limit(root / "memory" / "job", 1000, 900, files=300, version=1)
    assert free_bytes(CPU) == 600


def test_a_container_of_version_1_sees_its_group_as_the_root(root: Path) -> None:
    own(root, "4:memory:/docker/0123456789\n")
    limit(root / "memory", 1000, 900, version=1)
    assert free_bytes(CPU) == 300
    limit(root / "memory", 9223372036854771712, 900, version=1)
    assert 300 < free_bytes(CPU) <= EVERYTHING, "the number that means no limit"
