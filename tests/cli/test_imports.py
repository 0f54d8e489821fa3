"""The heavy imports happen at once, while the user is told."""

from __future__ import annotations

import subprocess
import sys

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
