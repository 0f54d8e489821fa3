from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def common(image_folder: Path) -> Callable[..., dict[str, Any]]:
    """A function that returns the config values that all arms of a small comparison share."""

    def values(**sections: Any) -> dict[str, Any]:
        return {
            "data": {"path": str(image_folder), "image_size": 32, "workers": 0, "views": 1},
            "backbone": {"name": "timm:test_resnet", "pretrained": False},
            "head": {"name": "mlp", "hidden": 16, "dim": 8},
            "loss": {"name": "triplet"},
            "train": {"epochs": 2, "batch_size": 8, "images_per_class": 2},
            **sections,
        }

    return values
