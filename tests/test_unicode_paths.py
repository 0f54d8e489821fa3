"""A path that is not valid Unicode is refused by name wherever a library cannot use it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siamkit
from siamkit.errors import ConfigError
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut

BAD = "r\udcff"


@pytest.fixture
def moved(trained: Path, tmp_path: Path) -> Path:
    """A run that was moved to such a path."""
    return Path(shutil.copytree(trained, tmp_path / BAD / "run"))


@pytest.mark.parametrize(
    "write",
    [
        lambda folder, run, values: siamkit.fit(values(folder)),
        lambda folder, run, values: siamkit.compare(values(None), output=folder),
        lambda folder, run, values: siamkit.export(run, folder),
        lambda folder, run, values: siamkit.save_pretrained(run, folder),
        lambda folder, run, values: siamkit.prune(run, folder),
    ],
    ids=["fit", "compare", "export", "save", "prune"],
)
def test_nothing_is_written_there(
    trained: Path,
    values_of: Callable[..., dict[str, Any]],
    tmp_path: Path,
    write: Callable[..., Any],
) -> None:
    with pytest.raises(ConfigError, match="the path is not valid Unicode") as caught:
        write(tmp_path / BAD, trained, values_of)
    assert caught.value.where == str(tmp_path / BAD)
    assert not (tmp_path / BAD).exists()


def test_a_relative_folder_counts_too(
    values_of: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / BAD).mkdir()
    monkeypatch.chdir(tmp_path / BAD)
    with pytest.raises(ConfigError, match="the path is not valid Unicode"):
        siamkit.fit(values_of("run"))
    assert not list((tmp_path / BAD).iterdir())


def test_what_was_moved_there_is_not_called_damaged(moved: Path) -> None:
    for read in (siamkit.load_embedder, siamkit.evaluate, siamkit.resume, siamkit.calibrate):
        with pytest.raises(ConfigError, match="the path is not valid Unicode"):
            read(moved)
    with pytest.raises(ConfigError, match="the path is not valid Unicode"):
        HeldOut.load(RunDir(moved), "val")


def test_a_weights_file_with_such_a_path_is_refused(moved: Path) -> None:
    weights = next(moved.glob("checkpoints/*/model.safetensors"))
    with pytest.raises(ConfigError, match="the path is not valid Unicode"):
        siamkit.create_model("timm:test_resnet", weights=weights)
