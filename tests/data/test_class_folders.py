"""What the place of class folders leaves open."""

from pathlib import Path

import pytest

from siamkit.data.class_folders import structure_notices
from siamkit.portable.folders import scan


def test_a_class_folder_inside_another_one_is_told(make_images) -> None:
    root = make_images({"anna": 1, "anna/old": 1, "anna/old/x": 1, "ben": 1})
    (notice,) = structure_notices(scan(root))
    assert notice == (
        "2 class folders are inside another class folder, but count as classes of their own: "
        "anna/old in anna"
    )


@pytest.mark.parametrize("names", [("train", "dev"), ("Training", "Testing"), ("2019", "2020")])
def test_folders_of_one_name_below_others_are_told(make_images, names) -> None:
    root = make_images({f"{above}/{c}": 1 for above in names for c in ("anna", "ben")})
    (notice,) = structure_notices(scan(root))
    assert notice.startswith("4 class folders in different folders have the same name, but each")
    assert f"{min(names)}/anna and {max(names)}/anna" in notice


def test_splits_hold_the_same_names_without_a_notice(make_images: Path) -> None:
    root = make_images({f"{split}/{c}": 1 for split in ("train", "val") for c in ("anna", "ben")})
    found = scan(root)
    assert structure_notices(found, "train") == structure_notices(found, "val") == []
    assert structure_notices(found)  # as class folders, they are not clear


def test_folders_inside_others_are_told_within_a_split(make_images) -> None:
    root = make_images({"train/anna": 1, "train/anna/old": 1})
    (notice,) = structure_notices(scan(root), "train")
    assert notice.endswith("counts as a class of its own: anna/old in anna")
