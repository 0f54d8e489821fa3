from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for people.py


@pytest.fixture
def people(make_images: Callable[..., Path]) -> Path:
    """Return a folder with eight class folders of four images each."""
    return make_images({f"c{i}": 4 for i in range(8)})
