"""The heavy imports happen at once, while the user is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from siamkit.cli.imports import HUGE_PAGES, _say_loading

CODE = """
import sys
from siamkit.cli.imports import heavy_imports
from siamkit import api
assert "torch" not in sys.modules
with heavy_imports(announced=True):
    pass
before = set(sys.modules)
for name in api.__all__:
    getattr(api, name)
print(sorted(set(sys.modules) - before), "torch" in before)
"""


def test_nothing_is_imported_after_the_announcement() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"
    assert done.stderr == "loading torch and the plugins ...\n"


WITHOUT_TORCH = """
import sys
from siamkit.cli.app import main

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Refuses())
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [["train", "photos"], ["inspect"], ["lr-find", "photos"]])
def test_a_command_that_logs_its_work_announces_the_imports_before_they_start(
    words: list[str],
) -> None:
    program = [sys.executable, "-c", WITHOUT_TORCH, *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("loading torch and the plugins ...\n")


@pytest.mark.parametrize("given, kept", [({}, "1"), ({HUGE_PAGES: "0"}, "0")])
def test_torch_uses_huge_pages_unless_the_user_says_otherwise(
    given: dict[str, str], kept: str
) -> None:
    code = f"""
import os, sys
from siamkit.cli.imports import heavy_imports
with heavy_imports():
    seen = os.environ["{HUGE_PAGES}"]
import torch
tensor = torch.empty(1 << 20)
print(seen, tensor.data_ptr() % 4096 == 0 or sys.platform != "linux" or seen == "0")
"""
    environment = {k: v for k, v in os.environ.items() if k != HUGE_PAGES}
    program = [sys.executable, "-c", code]
    done = subprocess.run(program, env=environment | given, capture_output=True, text=True)
    assert done.stdout == f"{kept} True\n", done.stderr


@pytest.mark.parametrize(
    ("terminal", "term", "announced", "erased", "printed"),
    [
        (True, "xterm", False, True, "loading torch and the plugins ..."),
        (True, "xterm", True, True, "loading torch and the plugins ..."),
        (True, "dumb", False, False, ""),
        (True, "dumb", True, False, "loading torch and the plugins ...\n"),
        (False, "xterm", False, False, ""),
        (False, "xterm", True, False, "loading torch and the plugins ...\n"),
    ],
)
def test_the_announcement_is_a_line_that_a_capable_terminal_erases(
    terminal: bool, term: str, announced: bool, erased: bool, printed: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert _say_loading(announced) is erased
    assert capsys.readouterr().err == printed
