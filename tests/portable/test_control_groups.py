"""The control groups that may limit a process, of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamkit.portable import control_groups
from siamkit.portable.control_groups import groups_of


@pytest.mark.parametrize(
    ("lines", "controller", "groups"),
    [
        ("0::/a/b\n", "cpu", [("a/b", 2), ("a", 2), (".", 2)]),
        ("0::/\n", "memory", [(".", 2)]),
        ("3:memory:/m\n4:cpu,cpuacct:/c\n", "cpu", [("cpu/c", 1), ("cpu", 1)]),
        ("3:memory:/m\n4:cpu,cpuacct:/c\n", "memory", [("memory/m", 1), ("memory", 1)]),
        ("4:cpuacct:/c\n", "cpu", []),
        ("4:cpu:/c\n0::/u\n", "cpu", [("cpu/c", 1), ("cpu", 1), ("u", 2), (".", 2)]),
    ],
)
def test_the_own_group_comes_first_and_the_root_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    lines: str, controller: str, groups: list[tuple[str, int]],
) -> None:  # fmt: skip
    (tmp_path / "own").write_text(lines)
    monkeypatch.setattr(control_groups, "_OWN", tmp_path / "own")
    monkeypatch.setattr(control_groups, "_ROOT", tmp_path / "root")
    expected = [(tmp_path / "root" / name, version) for name, version in groups]
    assert list(groups_of(controller)) == expected


def test_without_control_groups_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_groups, "_OWN", tmp_path / "none")
    assert list(groups_of("cpu")) == []
