"""stdout and stderr in every state: another encoding, closed, or with a reader that leaves."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from siamkit.cli import output
from siamkit.cli.app import main
from siamkit.errors import DataError

SIAMKIT = [sys.executable, "-m", "siamkit"]
COMMAND = shlex.join(SIAMKIT)
FEW = ["--backbone", "timm:test_resnet", "--no-pretrained", "--image-size", "32", "--head",
       "linear", "--batch-size", "8", "--workers", "0", "--epochs", "2", "--no-report"]  # fmt: skip


class Stream(io.TextIOWrapper):
    """A stream of some encoding, which is a terminal or not."""

    def __init__(self, encoding: str, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A configuration file whose name has Japanese letters, an escape and half a character."""
    path = tmp_path / "日本\x1b[31m\udcff.yaml"
    path.write_text("train: {epochs: 2}\n")
    return path


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_name_that_the_encoding_lacks_is_escaped(named, monkeypatch, encoding):
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["config", "validate", str(named)]) == 0
    name = "日本" if encoding == "utf-8" else "\\u65e5\\u672c"
    assert stream.text.endswith(f"{name}\x1b[31m\\udcff.yaml: ok\n")


def test_json_is_ascii(named, monkeypatch):
    stream = Stream("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["config", "validate", str(named), "--json"]) == 0
    assert "\\u65e5\\u672c\\u001b[31m\\udcff.yaml" in stream.text


@pytest.mark.parametrize(
    "args", [["config", "validate"], ["config", "show", "--config"]], ids=" ".join
)
def test_a_terminal_gets_no_control_characters(named, monkeypatch, args):
    stream, error = Stream("utf-8", terminal=True), Stream("utf-8", terminal=True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", error)
    named.write_text('run_dir: "\\e[2J"\n')
    assert main([*args, str(named)]) == 0
    assert "\x1b" not in stream.text
    output.notice("a \x1b[2J b")
    assert "a \\x1b[2J b" in error.text
    assert "\x1b" not in str(DataError("is wrong", where="\x1b[2J.png"))


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_nothing(closed):
    done = shell(f"{COMMAND} list losses {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) is (closed == "2>&-")


@pytest.mark.slow
def test_a_closed_stream_does_not_change_the_exit_code(tmp_path):
    done = shell(f"{COMMAND} data check {shlex.quote(str(tmp_path / 'none'))} >&-")
    assert done.returncode == 3 and done.stderr.startswith("error: ")


def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path):
    """A library's message on stdout would otherwise be written into the file."""
    code = (
        "import sys; from siamkit.cli.output import usable_streams\n"
        "with usable_streams(), open(sys.argv[1], 'w') as file: file.write(str(file.fileno()))"
    )
    path = shlex.quote(str(tmp_path / "file"))
    shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {path} <&- >&- 2>&-")
    assert int((tmp_path / "file").read_text()) > 2


def with_a_reader_that_left(stream: str, *args: object) -> int:
    """Run siamkit with a pipe that nobody reads, and return its exit code."""
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: writing}
    done = subprocess.run([*SIAMKIT, *map(str, args)], check=False, **streams)
    os.close(writing)
    return done.returncode


@pytest.mark.slow
def test_a_reader_of_stdout_that_left_does_not_change_the_exit_code(tmp_path, images):
    assert with_a_reader_that_left("stdout", "list", "losses") == 0
    assert with_a_reader_that_left("stdout", "data", "check", images) == 0
    (images / "[red]0" / "broken.png").write_bytes(b"\x89PNG\r\n")
    try:
        assert with_a_reader_that_left("stdout", "data", "check", images) == 3
        assert with_a_reader_that_left("stdout", "data", "check", images, "--json") == 3
    finally:
        (images / "[red]0" / "broken.png").unlink()


@pytest.mark.slow
def test_a_training_goes_on_after_the_reader_of_its_log_left(tmp_path, images):
    run = tmp_path / "run"
    assert with_a_reader_that_left("stderr", "train", images, *FEW, "--run-dir", run) == 0
    assert (run / "metrics.json").is_file()


def test_progress_counts_the_unit_that_is_at_work(capsys):
    with output.progress("run") as show:
        show("train", 0, 3)
    assert capsys.readouterr().err == "train run 1 of 3 ...\n"
