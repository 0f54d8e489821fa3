from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest

from siamkit.config import RunConfig
from siamkit.errors import ConfigError, ResourceError
from siamkit.training.rundir import RunDir

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_default_name_tells_when_and_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig.model_validate({"backbone": "timm:convnext_tiny.fb_in22k"})
    first, second = (RunDir.create(config, NOW).path for _ in range(2))
    assert first.as_posix() == "runs/20260102-030405-timm-convnext_tiny.fb_in22k-stages"
    assert second.name == f"{first.name}-2", "two runs in one second do not meet"


def test_the_written_config_reads_back_as_the_same_config(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"run_dir": tmp_path / "run", "optimizer": {"lr": 1e-5}})
    run = RunDir.create(config)
    again = RunConfig.model_validate(run.read_config())
    assert again == config.model_copy(update={"run_dir": None})


def test_a_lock_held_by_a_live_process_refuses_and_names_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.lock.write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname()}))
    with pytest.raises(ResourceError, match=rf"in use by process {os.getppid()} on "), run.locked():
        pass
    assert run.lock.exists()


def test_a_dead_process_on_this_host_leaves_no_lock_behind(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.lock.write_text(json.dumps({"pid": 2**22 - 1, "host": socket.gethostname()}))
    with run.locked():
        assert json.loads(run.lock.read_text())["pid"] == os.getpid()
    assert not run.lock.exists()


@pytest.mark.parametrize("content", ['{"pid": 1, "host": "elsewhere"}', "", "not json"])
def test_a_lock_that_cannot_be_judged_is_respected(tmp_path: Path, content: str) -> None:
    run = RunDir(tmp_path)
    run.lock.write_text(content)
    with pytest.raises(ResourceError, match=r"or remove .*lock if it is dead"), run.locked():
        pass


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = RunConfig.model_validate({"run_dir": tmp_path / "file" / "run"})
    with pytest.raises(ResourceError, match="cannot write: Not a directory"):
        RunDir.create(config)


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    with pytest.raises(ConfigError, match="run: is a file; choose another --run-dir"):
        RunDir.create(RunConfig.model_validate({"run_dir": tmp_path / "run"}))
    assert (tmp_path / "run").read_text() == "precious"
