"""How commands end: exit codes, one JSON object whatever happens, no bare traceback."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from siamkit import errors
from siamkit.cli import output
from siamkit.cli.failures import as_siamkit_error


@pytest.fixture
def failing(monkeypatch):
    """Make ``siamkit plugins`` fail with an exception."""
    from siamkit import plugins

    def fail_with(error: BaseException) -> None:
        def get():
            raise error

        get.cache_clear = lambda: None
        monkeypatch.setattr(plugins, "get", get)

    return fail_with


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("x"), 2), (errors.DataError("x"), 3), (errors.CheckpointError("x"), 4),
        (errors.PluginError("x"), 5), (errors.NonFiniteError("x"), 6),
        (errors.ResourceError("x"), 7), (errors.FrozenDriftError("x"), 1),
        (errors.Interrupted("x", exit_code=143), 143), (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 1), (MemoryError(), 7), (OSError(errno.ENOSPC, "full", "/d"), 7),
    ],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
def test_each_failure_has_its_exit_code_and_one_json_object(cli, failing, error, code):
    failing(error)
    done = cli("plugins", "--json")
    assert done.code == code
    assert done.json["schema"] == "siamkit.error/1"
    assert done.json["error"]["exit_code"] == code
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err


def test_sigterm_ends_every_command_with_a_message(cli, monkeypatch):
    from siamkit import plugins

    def get():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(9)

    get.cache_clear = lambda: None
    monkeypatch.setattr(plugins, "get", get)
    before = signal.getsignal(signal.SIGTERM)
    done = cli("plugins", "--json")
    assert done.code == done.json["error"]["exit_code"] == 143
    assert done.err == "error: stopped by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_json_stdout_stays_empty(cli, failing):
    failing(errors.DataError("no images", where="DATA"))
    done = cli("plugins")
    assert (done.code, done.out, done.err) == (3, "", "error: DATA: no images\n")


def test_a_bug_is_a_short_message_with_a_way_to_see_more(cli, failing):
    failing(ValueError("shapes differ"))
    done = cli("plugins")
    assert done.code == 1
    assert done.err.startswith("error: unexpected ValueError: shapes differ (test_ending.py:")
    assert "SIAMKIT_DEBUG=1" in done.err


def test_debug_shows_the_traceback_by_flag_or_variable(cli, failing, monkeypatch):
    failing(ValueError("shapes differ"))
    assert "Traceback" in cli("--debug", "plugins").err
    monkeypatch.setenv("SIAMKIT_DEBUG", "1")
    assert "Traceback" in cli("plugins").err


def test_an_error_prints_names_literally(cli, failing):
    failing(errors.DataError("class '[/bold]' \x1b[31m is empty"))
    assert cli("plugins").err == "error: class '[/bold]' \\x1b[31m is empty\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'? 'siamkit --help' lists them"),
        (["zzzz"], "unknown command 'zzzz'; 'siamkit --help' lists them"),
        (["train", "--backbnoe", "x"], "siamkit train: no such option '--backbnoe'; did you mean "
         "'--backbone'? 'siamkit train --help' shows the usage"),
        (["train", "--epochs", "x"], "--epochs: must be an integer; 'siamkit train --help' shows "
         "the usage"),
        (["config"], "siamkit config: missing command; 'siamkit config --help' shows the usage"),
        (["--no-plugins", "--plugin", "x", "plugins"], "--no-plugins: cannot be combined with "
         "--plugin"),
        (["list", "lossess"], "KIND: no such kind, got 'lossess', allowed: backbones, "
         "freeze-policies, losses, schedulers, heads, optimizers, trackers, presets; did you mean "
         "'losses'?"),
        (["list", "losses", "--timm", "x"], "--timm: works only with 'siamkit "
         "list backbones', without a NAME"),
        (["train", "--resume", "r", "--config", "c.yaml"], "--resume: continues "
         "with the run's own configuration, so it cannot be combined with --config; "
         "'siamkit train --config r/config.yaml' starts another run like it"),
        (["train", "--strict"], "--strict: works only with --resume"),
        (["train", "sample", "--resume", "auto"], "--run-dir: is missing: it names the "
         "directory of the run to continue or begin"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)  # fmt: skip
def test_usage_errors_have_our_form_and_exit_2(cli, args, message):
    done = cli(*args)
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    "args",
    [["trian", "--json"], ["train", "--json", "--nope"], ["train", "--json", "a", "b"],
     ["list", "--json"], ["--plugin", "--json"]],
    ids=" ".join,
)  # fmt: skip
def test_usage_errors_are_json_too(cli, args):
    done = cli(*args)
    assert done.code == done.json["error"]["exit_code"] == 2
    assert done.json["schema"] == "siamkit.error/1"


def test_an_error_of_ours_stays_itself():
    error = errors.DataError("x")
    assert as_siamkit_error(error) is error


def test_json_has_no_nan(capsys):
    output.emit_json("x", {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (1, None)}})
    assert json.loads(capsys.readouterr().out) == {
        "schema": "siamkit.x/1", "a": None, "b": [None, 1.5], "c": {"d": [1, None]},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("args", [["--help"], ["plugins", "--json"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(args):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "siamkit", *args],
        stdout=writer, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
