"""Whether a network is measured on classes that its run trained on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from siamkit import api

KNOWN = "have the names of classes that the run trained on"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, image_folder: Path, values_of: Any) -> Path:
    """A run on four classes, and folders of other images: of known classes, and of new ones."""
    root = tmp_path_factory.mktemp("known")
    for kind in "012345":
        folder = image_folder / f"class{kind}"
        for number, path in enumerate(sorted(folder.iterdir())):
            part = "photos/val" if kind in "45" else "photos/train"
            if number < 2:
                part = "mixed"
            target = root / part / folder.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (root / "photos/val/class0").mkdir()
    for path in (root / "mixed/class0").iterdir():
        path.rename(root / "photos/val/class0" / path.name)
    api.fit(values_of(root / "run", data={"path": str(root / "photos")}, train={"epochs": 1}))
    return root


def test_known_classes_are_told_by_evaluate_and_calibrate(root: Path, tmp_path: Path) -> None:
    (told,) = [n for n in api.evaluate(root / "run", root / "mixed")["notices"] if KNOWN in n]
    assert told.startswith("3 of the 5 classes have the names")
    run = shutil.copytree(root / "run", tmp_path / "run")
    assert told in api.calibrate(run, root / "mixed").provenance.notices
    known, chose = api.calibrate(run).provenance.notices
    assert known.startswith("1 of the 3 classes has the name of a class that the run trained on")
    assert chose.startswith("these images chose the best epoch")


def test_new_classes_and_a_run_without_its_data_say_nothing(root: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    for kind in "45":
        shutil.copytree(root / "mixed" / f"class{kind}", new / f"class{kind}")
    assert not any(KNOWN in text for text in api.evaluate(root / "run", new)["notices"])
    moved = (root / "photos").rename(root / "away")
    try:
        found = api.evaluate(root / "run", root / "mixed")["notices"]
    finally:
        moved.rename(root / "photos")
    assert not any(KNOWN in text for text in found)
