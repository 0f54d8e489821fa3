"""The data of a run: its splits, and what is said about it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from people import keys, load, pair_rows, rows_of, table
from PIL import Image

from siamkit.config import DataConfig
from siamkit.data.load import unseen_images
from siamkit.data.opening import open_source
from siamkit.errors import DataError

Nobody = Callable[[], AbstractContextManager[None]]


# --- manifests -----------------------------------------------------------------------------------


def test_a_manifest_without_splits_is_split_by_class(people: Path) -> None:
    path = table(people / "m.csv", "path,label", rows_of(people))
    splits = load(path)
    assert splits.how == "class-disjoint: 4 classes train, 4 held out (seed 0)"
    assert not set(splits.train.classes) & set(splits.val.classes)
    folders = load(people)
    assert (folders.train.samples, folders.val.samples) == (
        splits.train.samples,
        splits.val.samples,
    )


def test_an_own_split_wins(people: Path) -> None:
    part = ["train", "train", "train", "val", "val", "test", "test", "test"]
    rows = [(p, label, part[int(label[1])], label) for p, label in rows_of(people)]
    splits = load(table(people / "m.csv", "path,label,split,group", rows))
    assert splits.train.classes == ("c0", "c1", "c2")
    assert splits.val.classes == ("c3", "c4")
    assert splits.test is not None and splits.test.classes == ("c5", "c6", "c7")
    assert splits.how.startswith("as given: 3 classes train, 2 in split val")
    found = unseen_images(str(people / "m.csv"))
    assert (found.images.classes, found.part) == (("c5", "c6", "c7"), "split test")


def test_folds_beside_an_own_split_are_refused(people: Path) -> None:
    rows = [(p, label, "val" if label > "c3" else "train") for p, label in rows_of(people)]
    with pytest.raises(
        DataError, match=r"data\.folds: cannot be used with data that has its own validation split"
    ):
        load(table(people / "m.csv", "path,label,split", rows), folds=2)


def test_without_rows_that_train_nothing_trains(people: Path) -> None:
    rows = [(p, label, "val") for p, label in rows_of(people)]
    with pytest.raises(DataError, match="no row has the split 'train'"):
        load(table(people / "m.csv", "path,label,split", rows))


def test_groups_stay_together(people: Path) -> None:
    # Each group has images of every class, as patients have of diagnoses.
    rows = [(p, label, f"g{p[-5]}") for p, label in rows_of(people)]
    splits = load(table(people / "m.csv", "path,label,group", rows))
    assert splits.how.startswith("by group: 2 groups train, 2 held out (seed 0); 8 of 8")
    sides = [{key[-5] for key in keys(images)} for images in (splits.train, splits.val)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set("0123")


def test_a_group_that_the_splits_tear_is_told_or_refused(people: Path) -> None:
    part = {"0": "train", "1": "train", "2": "val", "3": "val"}
    rows = [(p, label, part[p[-5]], label) for p, label in rows_of(people)]
    path = table(people / "m.csv", "path,label,split,group", rows)
    assert "8 groups are in two splits: c0, c1, c2 and 5 more" in load(path).notices
    with pytest.raises(DataError, match="8 groups are in two splits"):
        load(path, strict=True)
    pairs = [(*row, "val" if row[0] > "c5" else "train", "w") for row in pair_rows()]
    known = load(table(people / "p.csv", "a,b,same,split,group", pairs))
    assert "1 group is in two splits: w" in known.notices


def test_one_group_cannot_be_held_out(people: Path) -> None:
    rows = [(p, label, "all") for p, label in rows_of(people)]
    with pytest.raises(DataError, match="all images are in one group"):
        load(table(people / "m.csv", "path,label,group", rows))


def test_paths_are_relative_to_the_root(people: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "m.csv", "path,label", rows_of(people))
    assert keys(load(path, root=people).train) <= {p for p, _ in rows_of(people)}
    with pytest.raises(DataError, match="32 of 32 images cannot be used"):
        load(path)
    with pytest.raises(DataError, match=r"data\.root: no such folder"):
        load(path, root=tmp_path / "nowhere")


@pytest.mark.parametrize("blank", ["", "0"])
def test_roles_may_be_given_for_the_test_images_alone(people: Path, blank: str) -> None:
    rows: list[tuple[object, ...]] = []
    for p, label in rows_of(people):
        test = label > "c5"
        query, gallery = (int(p[-5] < "2"), int(p[-5] > "1")) if test else (blank, blank)
        rows.append((p, label, "test" if test else "train", query, gallery))
    splits = load(table(people / "m.csv", "path,label,split,is_query,is_gallery", rows))
    assert (splits.train.query, splits.val.query) == (None, None)
    assert splits.test is not None and sum(splits.test.query or ()) == 4


def test_validation_images_need_no_roles_where_test_images_have_them(people: Path) -> None:
    rows = [
        (name, label, part, int(part == "test"), int(part == "test"))
        for name, label in rows_of(people)
        for part in ["train" if label < "c4" else "val" if label < "c6" else "test"]
    ]
    splits = load(table(people / "m.csv", "path,label,split,is_query,is_gallery", rows))
    assert (splits.val.query, splits.val.gallery) == (None, None)
    assert splits.test is not None and splits.test.query == (True,) * 8


def test_one_column_of_roles_alone_counts(people: Path) -> None:
    rows = [(p, label, int(p[-5] > "0")) for p, label in rows_of(people)]
    splits = load(table(people / "m.csv", "path,label,is_gallery", rows))
    assert splits.val.query is None
    assert splits.val.gallery == tuple(s.path.name > "1" for s in splits.val.samples)


def test_a_split_that_cannot_be_read_does_not_vanish(people: Path) -> None:
    rows = [(p, label, "val" if label == "c7" else "train") for p, label in rows_of(people)]
    path = table(people / "m.csv", "path,label,split", rows)
    for i in range(4):
        (people / f"c7/{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image of val can be read"):
        load(path, on_unreadable="skip", max_skipped=0.5)


def test_pairs_may_have_other_columns(people: Path) -> None:
    rows = [(*row, "x") for row in pair_rows()]
    assert load(table(people / "p.csv", "a,b,same,label", rows)).train.tuples is not None


def test_roles_with_which_nothing_is_found_are_refused(people: Path) -> None:
    rows = [(p, label, "val" if label > "c3" else "train", 1, int(label < "c4"))
            for p, label in rows_of(people)]  # fmt: skip
    path = table(people / "m.csv", "path,label,split,is_query,is_gallery", rows)
    with pytest.raises(
        DataError, match=r"no query of split val .* got '16 queries, 0 images in the gal"
    ):
        load(path)


# --- pairs and triplets --------------------------------------------------------------------------


def test_pairs_are_held_out_by_the_groups_of_the_training_split(people: Path) -> None:
    rows = [
        (a, b, same, "test" if a < "c2" else "train", f"g{a[1]}")
        for a, b, same in map(tuple, pair_rows())
    ]
    splits = load(table(people / "p.csv", "a,b,same,split,group", rows))
    assert splits.how.startswith("by group")
    assert splits.test is not None and len(splits.test.tuples) == 6
    assert len(splits.train.tuples) == len(splits.val.tuples) == 9
    sides = [{key[:2] for key in keys(part)} for part in (splits.train, splits.val, splits.test)]
    assert list(map(len, sides)) == [3, 3, 2] and len(set().union(*sides)) == 8


def test_pairs_that_fall_into_parts_lose_none(people: Path) -> None:
    splits = load(table(people / "p.csv", "a,b,same", pair_rows()))
    assert splits.how == "image-disjoint (seed 0)"
    assert len(splits.train.tuples) + len(splits.val.tuples) == 24
    assert not keys(splits.train) & keys(splits.val)
    assert splits.notices == ()


@pytest.mark.parametrize("folds", [2, 4])
def test_folds_of_pairs_are_parts_of_one_whole(people: Path, folds: int) -> None:
    path = table(people / "p.csv", "a,b,same", pair_rows())
    parts = [load(path, folds=folds, fold=fold).val for fold in range(folds)]
    held = [key for part in parts for key in keys(part)]
    assert len(held) == len(set(held)) == 32
    assert sum(len(part.tuples) for part in parts) == 24


def test_pairs_by_group_keep_writers_apart(people: Path) -> None:
    rows = [(*row, f"writer{row[0][1]}") for row in pair_rows()]
    rows.append(("c0/0.png", "c1/0.png", 0, "writer0"))
    splits = load(table(people / "p.csv", "a,b,same,group", rows))
    assert splits.how == "by group (seed 0)"
    assert not {k[:2] for k in keys(splits.train)} & {k[:2] for k in keys(splits.val)}


def test_pairs_with_a_split_of_their_own(people: Path) -> None:
    part = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    rows = [(*row, part[int(row[0][1])]) for row in pair_rows()]
    splits = load(table(people / "p.csv", "a,b,same,split", rows))
    assert [len(s.tuples) for s in (splits.train, splits.val, splits.test)] == [12, 6, 6]
    assert splits.how == "as given"


def test_pairs_of_one_kind_are_refused(people: Path) -> None:
    rows = [row for row in pair_rows() if row[2]]
    with pytest.raises(DataError, match=r"needs same and different pairs, got '16 pairs \(16 same"):
        load(table(people / "p.csv", "a,b,same", rows))


def test_pairs_of_which_none_can_be_held_out_say_what_to_add(people: Path) -> None:
    rows = [("c0/0.png", "c0/1.png", 1), ("c0/0.png", "c1/0.png", 0)]
    with pytest.raises(DataError, match=r"no pairs can be held out.*column 'split'"):
        load(table(people / "p.csv", "a,b,same", rows))


def test_triplets_are_split_too(people: Path) -> None:
    rows = [(f"c{i}/0.png", f"c{i}/1.png", f"c{i}/2.png") for i in range(8)]
    splits = load(table(people / "t.csv", "anchor,positive,negative", rows))
    assert splits.train.tuples is not None and splits.train.tuples.same is None
    assert len(splits.train.tuples) + len(splits.val.tuples) == 8
    assert not keys(splits.train) & keys(splits.val)


def test_lfw_pairs_are_found_under_the_root(make_images, tmp_path) -> None:
    for name in ("Ann", "Bob", "Cyd", "Dee"):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for i in (1, 2):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "lfw" / name / f"{name}_000{i}.jpg")
    lines = ["2\t2", "Ann 1 2", "Bob 1 2", "Ann 1 Bob 1", "Ann 2 Bob 2"]
    lines += ["Cyd 1 2", "Dee 1 2", "Cyd 1 Dee 1", "Cyd 2 Dee 2"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    found = unseen_images(str(tmp_path / "pairs.txt"), tmp_path / "lfw")
    images, part = found.images, found.part
    assert (part, len(images), images.classes) == ("all", 8, ("Ann", "Bob", "Cyd", "Dee"))
    assert images.tuples is not None and images.tuples.folds == (0,) * 4 + (1,) * 4


def test_names_that_look_like_missing_values_are_said(people: Path, make_images) -> None:
    rows = [(p, "nan" if p.endswith("0.png") else label) for p, label in rows_of(people)]
    notices = load(table(people / "m.csv", "path,label", rows)).notices
    told = "the class 'nan' of 8 images looks like a missing value, but counts as a class"
    assert any(told in notice for notice in notices)
    rows = [(p, label, "None" if p < "c4" else p) for p, label in rows_of(people)]
    notices = load(table(people / "g.csv", "path,label,group", rows)).notices
    assert any("the group 'None' of " in notice for notice in notices)
    assert not any("missing" in n for n in load(people).notices)
    for name in ("NULL", "n/a"):
        folder = people / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (40, 40)).save(folder / f"{i}.png")
    assert sum("looks like a missing value" in n for n in load(people).notices) == 1


# --- tables whose paths or names are not ours -----------------------------------------------------


def test_classes_and_groups_that_are_written_in_two_ways_are_said(people: Path) -> None:
    rows = [(name, "c1 " if name == "c2/0.png" else label.upper() if name == "c3/0.png" else label)
            for name, label in rows_of(people)]  # fmt: skip
    table(people / "m.csv", "path,label", rows)
    (notice,) = [text for text in load(people / "m.csv").notices if "written in several" in text]
    assert notice.endswith("'C3' and 'c3'")
    assert notice in unseen_images(str(people / "m.csv")).notices
    grouped = [(name, label, "P1" if name < "c4" else "p1") for name, label in rows_of(people)]
    table(people / "g.csv", "path,label,group", grouped)
    assert any("2 groups have names" in text for text in open_source(str(people / "g.csv")).notices)
    pairs = [(f"c{i}/0.png", f"c{i}/1.png", 1, "w" if i else "W") for i in range(8)]
    table(people / "p.csv", "a,b,same,group", pairs)
    assert any("2 groups have names" in text for text in open_source(str(people / "p.csv")).notices)


def test_class_folders_whose_place_is_not_clear_are_said(make_images) -> None:
    root = make_images({f"{part}/c{i}": 2 for part in ("train", "dev") for i in range(4)})
    assert any("8 class folders in different folders" in text for text in load(root).notices)
    make_images({"train/c1/old": 1}, root)
    (root / "dev").rename(root / "val")
    (inside,) = [text for text in open_source(str(root)).notices if "class folder" in text]
    assert inside.endswith("c1/old in c1")


def test_class_folders_may_have_the_names_of_splits(make_images: Callable[..., Path]) -> None:
    folder = make_images(dict.fromkeys(("cat", "dog", "test", "val", "train"), 4))
    splits = load(folder)
    assert splits.test is None
    assert {*splits.train.classes, *splits.val.classes} == {"cat", "dog", "test", "val", "train"}


def test_a_table_with_other_names_of_columns(people: Path) -> None:
    path = table(people / "m.csv", "Image,who,label", [(p, c, "?") for p, c in rows_of(people)])
    splits = load(path, path_column="image", label_column="Who")
    assert len(splits.train) + len(splits.val) == 32
    assert "ignored columns: label (not used)" in splits.notices
    with pytest.raises(DataError, match=r"no column 'path', .*data=\{'path_column': NAME\} takes"):
        load(path)
    other = table(people / "o.csv", "file,who", rows_of(people))
    with pytest.raises(DataError, match=r"unknown header, .*name the columns of images with data="):
        load(other)
    with pytest.raises(
        DataError, match=r"data\.path_column: can only be set for tables, not for a"
    ):
        load(people, path_column="image")
    with pytest.raises(DataError, match="one column cannot hold path and label"):
        load(other, path_column="who", label_column="who")


def test_unseen_images_may_have_the_runs_names_of_columns_or_ours(people: Path) -> None:
    config = DataConfig(path="x", path_column="image", label_column="who")
    for header in ("image,who", "path,label"):
        path = table(people / "u.csv", header, rows_of(people))
        assert len(unseen_images(str(path), None, config).images) == 32
    assert len(unseen_images(str(people), None, config).images) == 32


def test_what_is_left_out_of_unseen_images_is_said(people: Path, make_images, tmp_path) -> None:
    root = make_images({"a": 6, "b": 6, "c": 1}, tmp_path / "others")
    (root / "c/0.png").rename(root / "c/0.heic")
    (root / "b/5.png").write_bytes(b"")
    config = DataConfig(path="x", on_unreadable="skip", max_skipped=0.5)
    found = unseen_images(str(root), None, config)
    assert found.images.classes == ("a", "b") and len(found.images) == 11
    heic, _, empty = found.notices
    assert "c/0.heic" in heic and "1 folder lost with them: c" in heic
    assert "left out 1 unreadable image" in empty and "5.png (the file is empty)" in empty

    rows = [(p, "nan" if label == "c0" else label, label, 7) for p, label in rows_of(people)]
    split = [(*row, "test" if i % 2 else "train") for i, row in enumerate(rows)]
    path = table(people / "t.csv", "path,label,group,weight,split", split)
    text = "\n".join(unseen_images(str(path)).notices)
    assert "weight" in text and "nan" in text and "in two splits" in text


def test_a_test_split_that_cannot_be_read_is_not_replaced_by_another(make_images) -> None:
    root = make_images({f"{part}/{part}{i}": 6 for part in ("train", "val") for i in range(2)})
    (root / "test/t").mkdir(parents=True)
    (root / "test/t/0.png").write_bytes(b"")
    config = DataConfig(path="x", on_unreadable="skip")
    with pytest.raises(DataError, match="no image of test can be read"):
        unseen_images(str(root), None, config)


# --- leaks ---------------------------------------------------------------------------------------


def test_an_image_on_both_sides_is_told_or_refused(make_images) -> None:
    counts = {f"{part}/{part}{i}": 3 for part in ("train", "val") for i in range(3)}
    root = make_images(counts)
    (root / "val/val0/copy.png").write_bytes((root / "train/train1/2.png").read_bytes())
    splits = load(root)
    told = "train/train1/2.png (train) and val/val0/copy.png (val)"
    assert any(
        "1 group of images with the same content is in two splits" in n and told in n
        for n in splits.notices
    )
    with pytest.raises(
        DataError, match="1 group of images with the same content is in two splits"
    ) as caught:
        load(root, strict=True)
    assert caught.value.exit_code == 3


def test_test_classes_that_train_are_told(make_images) -> None:
    root = make_images(dict.fromkeys(("train/a", "train/b", "val/c", "val/d", "test/a"), 2))
    make_images({"test/e": 2}, root)
    notice = "1 of 2 test classes also trains, so the test metrics describe new images of known"
    assert any(text.startswith(notice) for text in load(root).notices)
    (root / "test/a").rename(root / "test/f")
    assert not any("also train" in text for text in load(root).notices)


def test_copies_on_which_a_network_is_measured_are_told(make_images) -> None:
    root = make_images({"train/a": 2, "train/b": 2, "val/c": 2, "val/d": 2, "test/e": 2})
    for name in ("train/a", "val/c"):
        (root / name / "copy.png").write_bytes((root / name / "0.png").read_bytes())
    make_images({"test/f": 2}, root)
    (told,) = [text for text in load(root).notices if "copy" in text]
    assert told.startswith("2 validation images have a copy of the same class beside them")
    assert not any("copy" in text for text in unseen_images(str(root)).notices)
    (told,) = [text for text in unseen_images(str(root / "val")).notices if "copy" in text]
    assert told.startswith("2 images have a copy of the same class beside them")
