from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def people(make_images: Callable[..., Path]) -> Path:
    """Return a folder with eight class folders of four images each."""
    return make_images({f"c{i}": 4 for i in range(8)})
