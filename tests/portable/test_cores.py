"""The cores that a process may use, and those that others leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.portable import control_groups, cores
from siamkit.portable.cores import (
    THREADS,
    Usage,
    affinity,
    allowed_cores,
    asked_threads,
    free_cores,
    threads_of_libraries,
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of control groups, on a machine of 8 cores."""
    (tmp_path / "groups").mkdir()
    (tmp_path / "own").write_text("0::/job\n")
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path / "groups"


def quota(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{text}\n")


def test_without_a_quota_it_is_the_affinity(root: Path) -> None:
    assert allowed_cores() == 8
    quota(root / "job", "max 100000")
    assert allowed_cores() == 8


@pytest.mark.parametrize("text, allowed", [
    ("200000 100000", 2), ("240000 100000", 2), ("260000 100000", 3), ("20000 100000", 1),
    ("50000 25000", 2), ("9900000 100000", 8), ("0 100000", 8), ("nonsense", 8),
    ("1 100000", 1), ("4 1", 4), ("200000 0", 8),
])  # fmt: skip
def test_a_quota_is_rounded_to_cores(root: Path, text: str, allowed: int) -> None:
    quota(root / "job", text)
    assert allowed_cores() == allowed


def test_the_tightest_quota_of_the_groups_above_counts(root: Path) -> None:
    quota(root / "job", "600000 100000")
    quota(root, "300000 100000")
    assert allowed_cores() == 3


def test_version_1_of_the_groups_has_other_names(root: Path) -> None:
    (root.parent / "own").write_text("4:cpu,cpuacct:/job\n3:memory:/job\n")
    folder = root / "cpu" / "job"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert allowed_cores() == 8
    (folder / "cpu.cfs_quota_us").write_text("400000\n")
    assert allowed_cores() == 4


def test_a_system_without_affinity_has_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(control_groups, "_OWN", Path("/there is none"))
    assert allowed_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert affinity() == {0}, "of an unknown number, there is one"


@pytest.mark.parametrize("others, free", [(0.0, 8), (0.4, 8), (0.6, 7), (5.2, 3), (30.0, 1)])
def test_cores_that_others_use_are_not_free(root: Path, others: float, free: int) -> None:
    assert free_cores(others) == free


def test_the_quota_bounds_the_free_cores_and_others_use_those_of_the_machine(root: Path) -> None:
    quota(root / "job", "200000 100000")
    assert free_cores(5.0) == 2
    assert free_cores(7.0) == 1


def stat(path: Path, ticks: int) -> None:
    """Write the time of three cores: the columns that always count have ``ticks`` in total.

    The columns are user, nice, system, idle, iowait, interrupts (two), stolen, guests (two).
    """
    shares = (0.01, 3, 0.02, 5, 7, 0.05, 0.12, 0.8, 9, 11)
    row = " ".join(str(round(share * ticks)) for share in shares)
    rows = [f"cpu{core} {row}" for core in range(3)]
    path.write_text("\n".join(["cpu 1 2 3 4 5 6 7 8", *rows, "intr 12 3"]))


# Two of the cores computed 300 ticks each, 6 s in 4 s, and three times as much with nice.
@pytest.mark.parametrize(("autogroup", "computed"), [("0\n", 6.0), ("1\n", 24.0), (None, 6.0)])
def test_others_are_what_all_computed_without_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autogroup: str | None, computed: float
) -> None:
    path = tmp_path / "stat"
    monkeypatch.setattr(cores, "_AUTOGROUP", tmp_path / "autogroup")
    if autogroup is not None:
        (tmp_path / "autogroup").write_text(autogroup)
    monkeypatch.setattr(cores, "_STAT", path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    times = iter([(10.0, 1.0), (14.0, 2.5)])
    now = [(0.0, 0.0)]
    monkeypatch.setattr(cores.time, "monotonic", lambda: now[0][0])
    monkeypatch.setattr(cores.time, "process_time", lambda: now[0][1])
    usages = []
    for ticks in (300, 600):
        stat(path, ticks)
        now[0] = next(times)
        usages.append(Usage.now())
    before, after = usages
    assert before is not None and after is not None
    assert after.others_since(before) == pytest.approx((computed - 1.5) / 4)  # 1.5 s of it here


def test_where_the_system_does_not_tell_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_STAT", tmp_path / "none")
    assert Usage.now() is None
    for text in ("cpu0 1 2\n", "cpu0 a b c d e f g h i j\n"):
        (tmp_path / "none").write_text(text)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        assert Usage.now() is None


@given(st.floats(0, 100), st.floats(0, 1e6), st.floats(0, 1e6))
def test_others_are_never_negative(passed: float, everybody: float, own: float) -> None:
    assert Usage(passed, everybody, own).others_since(Usage(0.0, 0.0, 0.0)) >= 0


@pytest.mark.parametrize("text, asked", [
    (None, None), ("3", 3), ("4,2", 4), ("0", None), ("", None), ("many", None), ("-1", None),
])  # fmt: skip
def test_the_user_asks_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str | None, asked: int | None
) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    if text is not None:
        monkeypatch.setenv(THREADS, text)
    assert asked_threads() == asked


def test_libraries_choose_by_themselves_where_all_cores_may_be_used(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads_of_libraries() == 0
    quota(root / "job", "300000 100000")
    assert threads_of_libraries() == 3
    monkeypatch.setenv(THREADS, "5")
    assert threads_of_libraries() == 5
