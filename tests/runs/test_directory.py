from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from siamkit.config import RunConfig
from siamkit.errors import ConfigError, ResourceError
from siamkit.runs.directory import RunDir
from siamkit.runs.open import OpenRun

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_default_name_tells_when_and_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig.model_validate({"backbone": "timm:convnext_tiny.fb_in22k"})
    first, second = (RunDir.reserve(config, NOW).path for _ in range(2))
    assert first.as_posix() == "runs/20260102-030405-timm-convnext_tiny.fb_in22k-stages"
    assert second.name == f"{first.name}-2", "two runs in one second do not meet"


def test_the_written_config_reads_back_as_the_same_config(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"run_dir": tmp_path / "run", "optimizer": {"lr": 1e-5}})
    run = RunDir.reserve(config)
    run.write_config(config)
    again = RunConfig.model_validate(run.read_config())
    assert again == config.model_copy(update={"run_dir": None})


@pytest.mark.slow
def test_a_run_in_use_is_refused_and_its_owner_named(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from siamkit.runs.directory import RunDir\n"
        "with RunDir(pathlib.Path(sys.argv[1])).locked():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ResourceError, match=rf"in use by process {holder.pid} on "),
            RunDir(tmp_path).locked(),
        ):
            pass
        holder.kill()
        holder.wait()
        with RunDir(tmp_path).locked() as left:  # a dead process holds nothing
            assert left == (
                f"process {holder.pid} on {socket.gethostname()} was killed while it used the run; "
                "its lock is taken over"
            )
        with RunDir(tmp_path).locked() as left:
            assert left is None
    finally:
        holder.kill()
        holder.communicate()


@pytest.mark.parametrize("content", ["", "[]", '{"pid": 1}', "\0"])
def test_a_dead_process_without_a_description_is_told_too(tmp_path: Path, content: str) -> None:
    RunDir(tmp_path).owner.write_text(content)
    with RunDir(tmp_path).locked() as left:
        assert left == "another process was killed while it used the run; its lock is taken over"


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = RunConfig.model_validate({"run_dir": tmp_path / "file" / "run"})
    with pytest.raises(ResourceError, match="cannot write: Not a directory"):
        RunDir.reserve(config)


def test_a_run_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    with pytest.raises(ConfigError, match="run: is not a directory; choose another run_dir"):
        RunDir.reserve(RunConfig.model_validate({"run_dir": tmp_path / "run"}))
    assert (tmp_path / "run").read_text() == "precious"


def test_what_a_killed_process_left_is_no_run(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"run_dir": tmp_path / "run"})
    run = RunDir.reserve(config)
    (run.path / ".siamkit-0123456789abcdef").mkdir()
    for path in (run.lock, run.owner):
        path.touch()
    RunDir.reserve(config)
    run.write_config(config)
    with pytest.raises(ConfigError, match=r"or start this run again with .*--resume auto"):
        RunDir.reserve(config)
    (run.checkpoints / "epoch-00000-step-00000000").mkdir(parents=True)
    with pytest.raises(ConfigError, match="not empty; choose another run_dir, or continue"):
        RunDir.reserve(config)


def test_a_run_starts_again_until_it_has_a_checkpoint_and_never_over_other_files(
    tmp_path: Path,
) -> None:
    config = RunConfig.model_validate({"run_dir": tmp_path / "run"})
    run = RunDir.reserve(config)
    run.write_config(config)
    run.append_event("notice", {"text": "old"})
    (run.checkpoints / ".siamkit-0123456789abcdef").mkdir(parents=True)
    (run.checkpoints / ".DS_Store").touch()
    assert not run.has_begun
    assert RunDir.reserve(config, restart=True).path == run.path
    run.restart()
    assert not run.events.exists()
    (run.path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        RunDir.reserve(config, restart=True)
    with pytest.raises(ConfigError, match="not empty"):
        RunDir.reserve(config, kept=["mine.txt"])
    assert RunDir.reserve(config, restart=True, kept=["mine.txt"]).path == run.path
    (run.path / "mine.txt").unlink()
    (run.checkpoints / "epoch-00000-step-00000000").mkdir()
    assert run.has_begun
    with pytest.raises(ConfigError, match="not empty"):
        RunDir.reserve(config, restart=True)
    with pytest.raises(ResourceError, match="another process began the run meanwhile"):
        run.restart()


def test_a_read_only_directory_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    config = RunConfig.model_validate({"run_dir": tmp_path / "run"})
    run = RunDir.reserve(config)
    os.seteuid(65534)
    try:
        with pytest.raises(ResourceError, match="cannot write: Permission denied"):
            RunDir.reserve(config.model_copy(update={"run_dir": tmp_path / "new"}))
        with (
            pytest.raises(ResourceError, match="cannot write: Permission denied"),
            RunDir.reserve(config).locked(),
        ):
            pass
    finally:
        os.seteuid(0)
    assert not run.config.exists()


def test_a_run_in_another_run_is_refused(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"run_dir": tmp_path / "run"})
    run = RunDir.reserve(config)
    run.write_config(config)
    run.append_event("notice", {"text": "began"})
    inner = RunConfig.model_validate({"run_dir": tmp_path / "run" / "deep" / "inner"})
    with pytest.raises(ConfigError, match=r"inner: lies in the run .*run; choose another run_dir"):
        RunDir.reserve(inner)
    assert not (tmp_path / "run" / "deep").exists()


def test_a_run_that_has_not_begun_is_replaced_only_if_it_is_asked_for(tmp_path: Path) -> None:
    run = RunDir.reserve(RunConfig.model_validate({"run_dir": tmp_path / "run"}))
    run.write_config(RunConfig())
    with pytest.raises(ConfigError, match="the run directory is not empty"):
        run.require_free()
    run.require_free(restart=True)


def test_paths_in_the_run_are_stored_relative_to_it(tmp_path: Path) -> None:
    data = {"path": str(tmp_path / "run/images/items.csv"), "root": tmp_path / "photos"}
    config = RunConfig.model_validate({"run_dir": tmp_path / "run", "data": data})
    run = RunDir.reserve(config)
    run.write_config(config)
    text = run.config.read_text()
    assert "path: images/items.csv\n" in text and f"root: {tmp_path / 'photos'}\n" in text
    assert run.read_config()["data"]["path"] == data["path"]


def test_the_trackers_of_a_run_are_read_only_if_they_are_wanted(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"run_dir": tmp_path / "run", "track": ["tensorboard"]})
    run = RunDir.reserve(config)
    run.write_config(config)
    assert "track" not in run.read_config()
    assert "track" in run.read_config(trackers=True)


@pytest.mark.parametrize(
    ("events", "ended"),
    [
        ((), False),
        (("run_start", "epoch_end"), False),
        (("run_start", "epoch_end", "run_end"), True),
        (("run_start", "run_end", "run_start"), False),  # resumed
        (("run_start", "run_start", "epoch_end", "run_end", "notice"), True),
    ],
)
def test_a_run_has_ended_if_its_last_start_has(
    tmp_path: Path, events: tuple[str, ...], ended: bool
) -> None:
    config = RunConfig.model_validate({"run_dir": tmp_path / "run"})
    run = RunDir.reserve(config)
    run.write_config(config)
    for name in events:
        run.append_event(name, {})
    assert OpenRun(run.path, dict).ended == ended
