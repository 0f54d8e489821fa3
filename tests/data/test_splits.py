from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamkit.config import DataConfig
from siamkit.data.images import ImageSet, Sample
from siamkit.data.load import load_data
from siamkit.data.splits import HoldOut, held_out, split_groups
from siamkit.errors import DataError

TWO = {"a": 2, "b": 2}


def load(root, fraction=0.5, seed=0):
    return load_data(DataConfig(path=str(root), val_fraction=fraction), seed)


def below(folder, counts):
    return {f"{folder}/{name}": count for name, count in counts.items()}


def names(images):
    return {sample.key for sample in images.samples}


# --- the choice of what is held out --------------------------------------------------------------

texts = st.lists(st.text(max_size=8), min_size=4, max_size=40, unique=True)
fractions = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32 - 1)


@given(texts, fractions, seeds, st.randoms())
def test_held_out_is_a_pure_function_of_names_fraction_and_seed(names, fraction, seed, random):
    out = held_out(names, fraction, seed, least=2)
    shuffled = random.sample(names, len(names))
    assert held_out(shuffled, fraction, seed, least=2) == out
    assert out < set(names)
    assert len(out) == min(max(round(len(names) * fraction), 2), len(names) - 2)


def test_another_seed_holds_out_others():
    classes = [str(i) for i in range(40)]
    assert held_out(classes, 0.5, 0, 1) != held_out(classes, 0.5, 1, 1)


def test_a_new_class_moves_at_most_one_other():
    classes = [str(i) for i in range(40)]
    out, more = held_out(classes, 0.5, 0, 1), held_out([*classes, "new"], 0.5, 0, 1)
    assert len(out - more) <= 1


def test_the_choice_never_changes_between_versions():
    assert sorted(held_out("abcdefgh", 0.5, 0, 1)) == ["c", "d", "f", "h"]


# --- class folders -------------------------------------------------------------------------------


def test_sample_is_the_built_in_set(tmp_path, monkeypatch):
    splits = load("sample")
    assert (len(splits.train.classes), len(splits.val.classes)) == (30, 30)
    assert (len(splits.train), len(splits.val), splits.test) == (180, 180, None)
    assert splits.how == "class-disjoint: 30 classes train, 30 held out (seed 0)"
    assert splits.notices == ()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").mkdir()
    assert "write ./sample" in load("sample").notices[0]


def test_classes_are_held_out_whole(make_images):
    root = make_images({f"class{i}": 3 for i in range(10)})
    splits = load(root, fraction=0.3)
    assert len(splits.val.classes) == 3
    assert not set(splits.train.classes) & set(splits.val.classes)
    assert len(splits.train) + len(splits.val) == 30
    assert sorted(set(splits.train.labels)) == list(range(7))
    assert sorted(set(splits.val.labels)) == list(range(3))
    assert load(root, fraction=0.3) == splits
    assert load(root, fraction=0.3, seed=1).val.classes != splits.val.classes


def test_both_sides_keep_two_classes_at_any_fraction(make_images):
    root = make_images({f"class{i}": 2 for i in range(6)})
    assert len(load(root, fraction=0.01).val.classes) == 2
    assert len(load(root, fraction=0.99).train.classes) == 2


def test_classes_with_one_image_always_train_and_are_told(make_images):
    root = make_images({**{f"pair{i}": 2 for i in range(4)}, **{f"lone{i}": 1 for i in range(5)}})
    for seed in range(5):
        splits = load(root, seed=seed)
        assert set(splits.train.classes) >= {f"lone{i}" for i in range(5)}
        assert len(splits.val.classes) == 2
    assert "5 training classes have only one image" in splits.notices[0]
    assert "lone0, lone1, lone2 and 2 more" in splits.notices[0]


def test_three_classes_of_four_images_are_split_within(make_images):
    splits = load(make_images({"a": 4, "b": 4, "c": 4}))
    assert splits.val.counts == {"a": 2, "b": 2, "c": 2}


def test_too_few_classes_are_split_within(make_images):
    root = make_images({"a": 10, "b": 6, "c": 3})
    splits = load(root, fraction=0.5)
    assert (splits.train.classes, splits.val.classes) == (("a", "b", "c"), ("a", "b"))
    assert splits.train.counts == {"a": 5, "b": 3, "c": 3}
    assert splits.val.counts == {"a": 5, "b": 3}
    assert not names(splits.train) & names(splits.val)
    assert splits.how == "within classes: 11 images train, 8 held out (seed 0)"
    assert "only 3 classes have two or more images" in splits.notices[0]
    assert load(root) == splits
    assert load(root, seed=1) != splits


def test_a_class_that_is_named_train_is_a_class(make_images):
    root = make_images({"train": 2, "car": 2, "ship": 2, "test": 2})
    splits = load(root)
    assert set(splits.train.classes + splits.val.classes) == {"train", "car", "ship", "test"}


# --- given splits --------------------------------------------------------------------------------


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_given_splits_are_taken(make_images, val):
    root = make_images({
        **below("train", {"a": 2, "b": 3}),
        **below(val, {"b": 2, "c": 2, "d/e": 2}),
        **below("test", {"x": 2, "y": 4}),
    })  # fmt: skip
    splits = load(root)
    assert splits.train.counts == {"a": 2, "b": 3}
    assert splits.val.counts == {"b": 2, "c": 2, "d/e": 2}
    assert splits.test.counts == {"x": 2, "y": 4}
    assert splits.val.labels == [0, 0, 1, 1, 2, 2]
    assert splits.val.samples[0].key == f"{val}/b/0.png"
    assert splits.how == f"as given: 2 classes train, 3 in {val}/ (1 of them also in train/)"
    assert splits.notices == ()


@pytest.mark.parametrize("test", [{}, below("test", TWO)])
def test_val_comes_out_of_train_where_there_is_none(make_images, test):
    root = make_images({**below("train", {f"class{i}": 2 for i in range(4)}), **test})
    (root / "val").mkdir()
    splits = load(root)
    assert splits.how == "class-disjoint: 2 classes train, 2 held out (seed 0)"
    assert all(sample.key.startswith("train/class") for sample in splits.val.samples)
    assert (splits.test is not None) == bool(test)
    assert splits.notices == ("ignored 1 folder without images: val",)


def test_folders_without_images_beside_the_splits_do_not_matter(make_images):
    root = make_images({**below("train", TWO), **below("val", TWO)})
    (root / "annotations").mkdir()
    (root / "annotations/boxes.xml").touch()
    assert load(root).how.startswith("as given")


def test_classes_with_one_image_in_val_and_test_are_told(make_images):
    root = make_images({
        **below("train", TWO), **below("val", {"a": 2, "b": 1}), **below("test", {"d": 2, "c": 1}),
    })  # fmt: skip
    notices = load(root).notices
    assert notices[0].startswith("1 validation class has only one image") and notices[0].endswith(
        "b"
    )
    assert notices[1].startswith("1 test class has only one image") and notices[1].endswith("c")


def test_images_beside_class_folders_are_told(make_images):
    root = make_images({".": 3, **{f"class{i}": 2 for i in range(4)}})
    assert load(root).notices == (f"ignored 3 images outside class folders: {root}",)
    root = make_images({"train": 1, **below("train", TWO), **below("val", TWO)}, root / "class0/x")
    assert load(root).notices == (f"ignored 1 image outside class folders: {root}/train",)


@pytest.mark.parametrize(("choice", "share"), [
    (HoldOut(folds=2), 0.5), (HoldOut(folds=4), 0.25), (HoldOut(folds=5, fold=3), 0.2),
    (HoldOut(0.3), 0.3), (HoldOut(0.8), 0.2), (HoldOut(0.3, folds=10), 0.1),
])  # fmt: skip
def test_the_smaller_part_gets_its_share_of_the_names(choice, share):
    assert choice.share == pytest.approx(share)


# --- what cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize("counts, message", [
    ({".": 4}, r"\(4\) are directly in this folder, outside class folders; put the images"),
    ({"a": 4}, "the data has only one class"),
    ({"a": 1, "b": 1, "c": 1}, "every class of the data has only one image"),
    ({"a": 2, "b": 2}, "too few images to hold some out .* 'a: 2, b: 2', allowed: at least 4"),
    ({"a": 9, "b": 3}, "too few images to hold some out"),
    (below("train", {"a": 4}), "train/ has only one class"),
    ({**below("train", TWO), **below("val", {"a": 4})}, "val/ has only one class"),
    ({**below("train", TWO), **below("test", {"a": 1, "b": 1})}, "every class of test/"),
    (below("val", TWO), "has split folders, but no train/ with images, got 'val'"),
    ({**below("train", TWO), **below("val", TWO), **below("valid", TWO)}, "both the val split"),
    ({**below("train", TWO), **below("val", TWO), **below("extra", TWO)}, "got 'extra'; move"),
    ({"train": 4, "val": 4}, r"all images \(4\) are directly in this folder"),
])  # fmt: skip
def test_unusable_data_is_refused_with_the_next_step(make_images, counts, message):
    root = make_images(counts)
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert caught.value.where.startswith(str(root))
    assert caught.value.hint
    assert caught.value.exit_code == 3


def test_the_home_folder_may_be_abbreviated(make_images, tmp_path, monkeypatch):
    make_images({f"class{i}": 2 for i in range(4)})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load("~/images").train) == 4


# --- groups --------------------------------------------------------------------------------------

choices = st.builds(
    HoldOut, st.floats(0.05, 0.95), st.integers(0, 99), st.none() | st.integers(2, 5)
)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=4, max_size=60), choices)
def test_no_group_is_ever_on_both_sides(rows: list[tuple[int, int]], choice: HoldOut) -> None:
    classes = sorted({f"c{label}" for label, _ in rows})
    samples = tuple(
        Sample(Path(str(i)), classes.index(f"c{label}"), str(i))
        for i, (label, _) in enumerate(rows)
    )
    groups = [f"g{group}" for _, group in rows]
    try:
        train, val, _ = split_groups(ImageSet(samples, tuple(classes)), groups, "data", choice)
    except DataError:
        return
    sides = [{groups[int(key)] for key in names(images)} for images in (train, val)]
    assert not sides[0] & sides[1]
    assert sides[0] and sides[1]
    assert len(train) + len(val) == len(rows)


@given(st.sets(st.text(max_size=5), min_size=4, max_size=30), st.integers(2, 6), st.integers(0, 9))
def test_folds_hold_each_name_out_once(names: set[str], folds: int, seed: int) -> None:
    if folds > len(names) // 2:
        with pytest.raises(DataError, match=f"allowed: up to {len(names) // 2}"):
            HoldOut(0.5, seed, folds, 0).of(names, least=2)
        return
    parts = [HoldOut(0.5, seed, folds, fold).of(names, least=2) for fold in range(folds)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert min(map(len, parts)) >= 2
