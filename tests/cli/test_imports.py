"""The heavy imports happen at once, while the user is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
