from __future__ import annotations

import sys
from pathlib import Path

# The script's modules import each other by their plain names.
sys.path.insert(0, str(Path(__file__).parent))
