"""Real signals and a real kill -9 to a real process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import siamkit
from siamkit import api
from siamkit.config import yaml_text
from siamkit.errors import ResourceError
from siamkit.runs import checkpoint
from siamkit.runs.directory import RunDir

RunValues = Callable[..., dict[str, Any]]


def start(
    values: dict[str, Any], folder: Path, program: Sequence[str] = ("-m", "siamkit")
) -> subprocess.Popen[str]:
    config = folder / "config.yaml"
    config.write_text(yaml_text.dump(values))
    return began([*program, "train", "--config", str(config), "--json"])


def began(args: Sequence[object]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Sums in another order differ in the last bit: as many threads as this process has.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


def wait_for_steps(run_dir: Path, steps: int) -> None:
    events = run_dir / "events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if events.exists() and events.read_text().count('"event": "step"') >= steps:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not get going")


def of_four_epochs(values_of: RunValues, folder: Path) -> dict[str, Any]:
    # A network that is slow enough to be met in the middle of its run.
    backbone = {"name": "timm:resnet10t", "pretrained": False}
    return values_of(folder, backbone=backbone, train={"epochs": 4}, head="bnneck")


@pytest.fixture(scope="module")
def whole(values_of: RunValues, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run that is never interrupted."""
    return api.fit(of_four_epochs(values_of, tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
@pytest.mark.slow
def test_a_signal_saves_in_mid_epoch_and_the_run_goes_on_where_it_was(
    values_of: RunValues,
    whole: dict[str, Any],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    values = of_four_epochs(values_of, tmp_path / "run")
    run_dir = Path(values["run_dir"])
    process = start(values, tmp_path)
    wait_for_steps(run_dir, 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert json.loads(out)["error"]["exit_code"] == code
    assert api.resume(run_dir)["history"] == whole["history"]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_kill_9_then_resume_gives_the_uninterrupted_run(
    values_of: RunValues, whole: dict[str, Any], tmp_path: Path, steps: int
) -> None:
    values = of_four_epochs(values_of, tmp_path / "run")
    run_dir = Path(values["run_dir"])
    process = start(values, tmp_path)
    wait_for_steps(run_dir, steps)
    process.kill()
    process.communicate()
    assert (run_dir / "checkpoints" / checkpoint.LATEST).exists(), "written before the first step"
    assert RunDir(run_dir).lock.exists(), "a killed process cannot take its lock away"
    told: list[siamkit.Event] = []
    resumed = api.resume(run_dir, listeners=[told.append])
    [lock] = [str(e.data["text"]) for e in told if "lock" in str(e.data.get("text"))]
    assert lock.startswith(f"process {process.pid} on {socket.gethostname()} was killed")
    assert resumed["history"] == whole["history"]
    require_equal(run_dir, whole)


def require_equal(run_dir: Path, whole: dict[str, Any]) -> None:
    a, b = (api.load_model(run, "last").state_dict() for run in (run_dir, whole["run_dir"]))
    assert all(a[name].equal(b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker:UserWarning")
def test_kill_9_and_another_number_of_workers_give_the_uninterrupted_run(
    values_of: RunValues, whole: dict[str, Any], tmp_path: Path
) -> None:
    values = of_four_epochs(values_of, tmp_path / "run")
    run_dir = Path(values["run_dir"])
    process = start(values, tmp_path)
    wait_for_steps(run_dir, 3)
    process.kill()
    process.communicate()
    before = (run_dir / "events.jsonl").read_text().count('"event": "step"')
    process = began(
        ["-m", "siamkit", "train", "--resume", run_dir, "--set", "data.workers=2", "--json"]
    )
    wait_for_steps(run_dir, before + 3)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was not finished yet"
    resumed = api.resume(run_dir, data={"workers": 4})
    assert resumed["history"] == whole["history"]
    require_equal(run_dir, whole)


TWICE = """
import os, signal, sys
from siamkit.training import fit
emitter, steps = fit.emitter, []
def counting(*given):
    emit = emitter(*given)
    def told(name, data):
        emit(name, data)
        steps.append(name)
        if steps.count("step") == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            print("it went on", file=sys.stderr)
    return told
fit.emitter = counting
from siamkit.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_second_sigint_stops_at_once_and_the_last_checkpoint_is_valid(
    values_of: RunValues, whole: dict[str, Any], tmp_path: Path
) -> None:
    values = of_four_epochs(values_of, tmp_path / "run")
    run_dir = Path(values["run_dir"])
    process = start(values, tmp_path, ["-c", TWICE])
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "it went on" not in err and json.loads(out)["error"]["exit_code"] == 130
    saved, notice = checkpoint.latest_intact(run_dir / "checkpoints", strict=True)
    assert notice is None and saved.state["step"] < 3, "the third step was not saved"
    assert api.resume(run_dir)["history"] == whole["history"]
    require_equal(run_dir, whole)


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def wait_until_it_stands_still(run_dir: Path) -> None:
    events, size = run_dir / "events.jsonl", -1
    while size != events.stat().st_size:
        size = events.stat().st_size
        time.sleep(3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_sigterm_ends_a_run_whose_worker_was_stopped(
    values_of: RunValues, whole: dict[str, Any], tmp_path: Path
) -> None:
    values = of_four_epochs(values_of, tmp_path / "run")
    values["data"]["workers"] = 1
    run_dir = Path(values["run_dir"])
    process = start(values, tmp_path)
    wait_for_steps(run_dir, 2)
    workers = workers_of(process.pid)
    assert workers
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    wait_until_it_stands_still(run_dir)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert time.monotonic() - started < 15
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    assert api.resume(run_dir)["history"] == whole["history"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_a_resumed_run_holds_no_space_of_a_checkpoint_that_was_deleted(
    run_values: RunValues,
) -> None:
    values = run_values(train={"epochs": 4})
    with pytest.raises(ZeroDivisionError):
        api.fit(values, listeners=[lambda event: event.name == "epoch_end" and 1 // 0])
    maps: list[str] = []

    def look(event: siamkit.Event) -> None:
        if event.name in ("step", "epoch_end"):
            maps.append(Path("/proc/self/maps").read_text())

    api.resume(values["run_dir"], listeners=[look])
    assert maps and not any(".safetensors" in text for text in maps)


@pytest.mark.slow
def test_a_resumed_run_needs_room_for_its_checkpoints(
    run_values: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values()
    with pytest.raises(ZeroDivisionError):
        api.fit(values, listeners=[lambda event: event.name == "epoch_end" and 1 // 0])
    usage = shutil.disk_usage(values["run_dir"])
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(ResourceError, match="not enough disk space for checkpoints"):
            api.resume(values["run_dir"])
    api.resume(values["run_dir"])
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    assert api.resume(values["run_dir"])["history"], "a finished run saves no more checkpoints"


AT_THE_END = """
import os, signal, sys
from siamkit.training import fit
calibrated = fit.calibrated
def asked(*given):
    os.kill(os.getpid(), signal.SIGTERM)
    return calibrated(*given)
fit.calibrated = asked
from siamkit.cli.app import main
sys.exit(main(sys.argv[1:]))
"""

IN_THE_REPORT = """
import os, signal, sys, time
import siamkit.api.reports
def slow(*given):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
siamkit.api.reports.write_report = slow
from siamkit.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (AT_THE_END, "stopped by SIGTERM when the training was complete"),
        (IN_THE_REPORT, "the report was stopped by SIGTERM"),
    ],
    ids=["calibration", "report"],
)
def test_sigterm_after_the_training_loses_nothing_and_says_what_is_missing(
    run_values: RunValues, tmp_path: Path, program: str, said: str
) -> None:
    values = run_values(train={"epochs": 1})
    config = tmp_path / "config.yaml"
    config.write_text(yaml_text.dump(values))
    done = subprocess.run(
        [sys.executable, "-c", program, "train", "--config", str(config), "--json"],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 143, done.stderr
    assert said in done.stderr and f"siamkit report {values['run_dir']}" in done.stderr
    run = api.open_run(values["run_dir"])
    assert run.metrics and run.calibration() and run.log.events[-1]["event"] == "run_end"
    if program == IN_THE_REPORT:
        assert json.loads(done.stdout)["history"]


IN_THE_RANGE_TEST = """
import os, signal, sys
# A process that was started in the background may ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from siamkit.training import find_lr
run_range_test = find_lr.run_range_test
def asked(*given):
    number = int(os.environ["SIGNAL"])
    def advance(done, total):
        if done == 3:
            os.kill(os.getpid(), number)
    return run_range_test(*given[:-1], advance)
find_lr.run_range_test = asked
from siamkit.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"]
)
def test_a_signal_in_the_range_test_of_a_run_leaves_nothing(
    run_values: RunValues, tmp_path: Path, number: int, code: int
) -> None:
    values = run_values(train={"epochs": 1}, optimizer={"name": "adamw", "lr": "auto"})
    config = tmp_path / "config.yaml"
    config.write_text(yaml_text.dump(values))
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_RANGE_TEST, "train", "--config", str(config)],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "SIGNAL": str(int(number))},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(values["run_dir"]).exists()
    assert api.fit(values)["history"], "the command can be run again"
