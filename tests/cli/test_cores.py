"""The number of threads of a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from siamkit.cli.cores import notice, restored_threads, set_threads, use
from siamkit.portable.cores import THREADS, Usage

CODE = """
import sys
from siamkit.cli.app import main
from siamkit.cli import imports
code = main(sys.argv[1:])
import os, torch
print("threads", torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"))
"""


@contextmanager
def threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    with threadpool_limits():
        try:
            yield
        finally:
            torch.set_num_threads(before)


def test_a_number_is_for_the_libraries_and_for_processes_that_are_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(THREADS, "7")
    before = torch.get_num_threads()
    with restored_threads():
        assert use(3) == 3
        assert os.environ[THREADS] == "3" and torch.get_num_threads() == 3
        assert use(None) is None
        assert os.environ[THREADS] == "3" and torch.get_num_threads() == 3
    assert os.environ[THREADS] == "7" and torch.get_num_threads() == before


def usage(monkeypatch: pytest.MonkeyPatch, others: float) -> Usage:
    """Make others use some cores since the usage that is returned."""
    monkeypatch.setattr(Usage, "now", lambda: Usage(10.0, 10 * others, 0.0))
    return Usage(0.0, 0.0, 0.0)


@pytest.mark.parametrize("others, threads", [(0.0, 4), (1.1, 3), (9.0, 1)])
def test_there_are_as_many_threads_as_free_cores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], others: float, threads: int
) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr("siamkit.portable.cores.groups_of", lambda _: ())
    before = usage(monkeypatch, others)
    with threads_kept():
        torch.set_num_threads(16)
        set_threads(before, quiet=False)
        assert torch.get_num_threads() == threads
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        assert set(pools) == {threads}
        said = capsys.readouterr().err
        assert ("other programs use about" in said) == (threads < 4)
        torch.set_num_threads(2)
        set_threads(before, quiet=True)
        assert torch.get_num_threads() == min(2, threads), "never more than torch has"
    assert not capsys.readouterr().err


def test_what_the_user_asks_for_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "2")
    with threads_kept():
        torch.set_num_threads(2)
        set_threads(usage(monkeypatch, 100.0), quiet=False)
        assert torch.get_num_threads() == 2


def test_where_nobody_tells_what_others_use_all_cores_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr("siamkit.portable.cores.groups_of", lambda _: ())
    with threads_kept():
        torch.set_num_threads(16)
        set_threads(None, quiet=False)
        assert torch.get_num_threads() == 4


@pytest.mark.parametrize("asked, threads, most, others, text", [
    (None, 4, 4, 0.0, None),
    (None, 2, 4, 0.3, None),
    (None, 3, 4, 1.2, "other programs use about 1 core, so this command computes with 3 threads"),
    (None, 1, 4, 2.6, "other programs use about 3 cores, so this command computes with 1 thread;"),
    (2, 2, 2, 2.0, None),
    (8, 8, 2, 0.0, "8 threads on 2 cores"),
])  # fmt: skip
def test_what_is_not_as_the_cores_is_said(
    asked: int | None, threads: int, most: int, others: float, text: str | None
) -> None:
    said = notice(asked, threads, most, others)
    assert said is None if text is None else said is not None and said.startswith(text)


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    ["train", "sample", "--no-pretrained", "--backbone", "timm:resnet10t", "--epochs", "1",
     "--image-size", "32", "--no-report", "--quiet"],
    ["inspect", "sample", "--no-pretrained", "--backbone", "timm:resnet10t"],
])  # fmt: skip
def test_a_command_computes_with_the_threads_that_the_user_asks_for(
    words: list[str], tmp_path: os.PathLike[str]
) -> None:
    command = [sys.executable, "-c", CODE, *words, "--threads", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "threads 3 1", done.stderr
