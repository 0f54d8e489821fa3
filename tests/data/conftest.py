"""Small generated image folders."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeImages = Callable[..., Path]


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """Return a function that fills a folder with ``{class folder: number of images}``."""

    def make(counts: Mapping[str, int], root: Path = tmp_path / "images", size: int = 12) -> Path:
        rng = np.random.default_rng(0)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{i}.png")
        return root

    return make
