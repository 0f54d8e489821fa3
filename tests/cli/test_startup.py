"""Help, completion and the version import neither torch nor a plugin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "torchvision", "timm", "pytorch_metric_learning", "siamkit.builtins")

PROGRAM = """
import sys
from siamkit.cli.app import main
{before}
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
found = [name for name in {heavy} if name in sys.modules]
print("heavy:", ",".join(found), file=sys.stderr)
raise SystemExit(code)
"""


def run(*args: str, before: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before, heavy=HEAVY), *args],
        env={**os.environ, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def heavy(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.rpartition("heavy: ")[2].strip()


@pytest.mark.parametrize(
    "args",
    [
        [], ["--help"], ["-h"], ["--version"], ["train", "--help"], ["inspect", "--help"],
        ["list", "--help"], ["plugins", "--help"], ["config", "--help"], ["config", "show", "-h"],
        ["train", "--no-such-option"], ["report", "--help"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_only_talks_about_the_command_line_imports_nothing_heavy(args):
    done = run(*args)
    assert heavy(done) == ""
    assert done.returncode == (2 if "--no-such-option" in args else 0)
    assert "Usage" in done.stdout or "siamkit 0" in done.stdout or done.returncode == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("siamkit train --fre", ["--freeze-policy"]),
        ("siamkit train --no", ["--no-pretrained", "--no-report"]),
        ("siamkit ins", ["inspect"]),
        ("siamkit list los", ["losses"]),
        ("siamkit config va", ["validate"]),
        ("siamkit some-plugin-command --", []),
    ],
)
def test_completion_works_and_imports_nothing_heavy(words, expected):
    count = str(len(words.split()) - 1)
    done = run(_SIAMKIT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    assert heavy(done) == ""
    if expected:
        assert done.stdout.split() == expected


@pytest.mark.slow
def test_this_check_can_fail():
    assert heavy(run("--help", before="import torch")) == "torch"


def test_help_imports_only_what_draws_it():
    program = "import sys; from siamkit.cli.app import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )  # fmt: skip
    imported = set(done.stdout.splitlines()[-1].split())
    packages = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    drawing = {"typer", "rich", "markdown_it", "mdurl", "pygments", "shellingham", "annotated_doc"}
    # rich imports attr where it is installed. Startup files of the environment have underscores.
    assert {p for p in packages if p[0] != "_"} - {"attr"} == {"siamkit", "pluggy", *drawing}
    assert not imported & {"importlib.metadata", "email", "hashlib", "asyncio", "siamkit.files"}


def test_python_m_siamkit_is_the_command(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "siamkit", "--version"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("siamkit ")
