from __future__ import annotations

import sys
from pathlib import Path

# The harness is a program of plain modules, which the tests use too.
sys.path.insert(0, str(Path(__file__).parent))
