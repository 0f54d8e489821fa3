"""A path that is not valid Unicode is refused by name wherever a library cannot use it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siamkit
from siamkit.api import galleries
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
        lambda folder, run, values: siamkit.export(run, folder, format="torch"),
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


def test_parquet_files_are_refused_before_anything_is_embedded(
    trained: Path, image_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / BAD).mkdir()
    with pytest.raises(ConfigError, match="Parquet files cannot have such a path"):
        galleries.embed(trained, image_folder, tmp_path / BAD / "a.parquet")
    assert not list((tmp_path / BAD).iterdir())
    (tmp_path / BAD / "pairs.parquet").touch()
    with pytest.raises(ConfigError, match="Parquet files cannot have such a path"):
        galleries.verify_pairs(trained, tmp_path / BAD / "pairs.parquet")


def test_what_holds_no_tensors_may_have_such_a_path(
    trained: Path, image_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / BAD).mkdir()
    galleries.embed(trained, image_folder, tmp_path / BAD / "a.npy")
    galleries.build_index(trained, image_folder, tmp_path / BAD / "index")
    assert len(siamkit.load_index(tmp_path / BAD / "index")) > 0


def test_data_with_such_a_path_is_told_what_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data: must be valid Unicode, got"):
        siamkit.fit(data=str(tmp_path / BAD), backbone="timm:test_resnet")


def test_pages_show_images_with_such_a_path(
    values_of: Callable[..., dict[str, Any]], image_folder: Path, tmp_path: Path
) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(image_folder, photos)
    for folder in list(photos.iterdir()):
        folder.rename(folder.with_name(f"{folder.name}{BAD}"))
    siamkit.fit(values_of(run, data={"path": str(photos)}, train={"epochs": 1}))
    report = siamkit.write_report(run, tmp_path / "report.html")
    assert "r\\udcff" in Path(report["path"]).read_text()
    sheet = siamkit.check_data(photos, model=run, output=tmp_path / "sheet.html")["output"]
    assert Path(sheet).read_text()
