"""What embeds and searches, as functions: their arguments are checked before a file is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamkit.api import galleries
from siamkit.errors import CheckpointError, ConfigError


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "3"])
def test_at_least_one_neighbour_is_asked_for(tmp_path: Path, k: object) -> None:
    with pytest.raises(ConfigError, match=r"k: must be .*got"):
        galleries.search(tmp_path / "missing", tmp_path, k=k)
    with pytest.raises(CheckpointError):
        galleries.search(tmp_path / "missing", tmp_path, k=1)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "3"])
def test_a_forward_pass_takes_at_least_one_image(
    trained: Path, tmp_path: Path, size: object
) -> None:
    for call in (galleries.embed, galleries.build_index):
        with pytest.raises(ConfigError, match=r"batch_size: must be .*got"):
            call(trained, tmp_path, tmp_path / "out", batch_size=size)
    assert not (tmp_path / "out").exists()
