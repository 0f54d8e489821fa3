"""The data of a comparison, and its folds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamkit.comparison.folds import _require_text, divide, open_images
from siamkit.comparison.plan import Plan, Round
from siamkit.config import RunConfig
from siamkit.data.memory import Item
from siamkit.errors import DataError

Tables = Callable[..., RunConfig]


@pytest.fixture
def table(make_images: Callable[..., Path], tmp_path: Path) -> Tables:
    """A function that returns the config of a table of 8 classes of 4 images."""
    root = make_images({f"c{kind}": 4 for kind in range(8)})

    def made(columns: str = "", cell: Callable[[int, int], str] = lambda kind, n: "") -> RunConfig:
        rows = [f"path,label{columns}"]
        rows += [f"c{k}/{n}.png,c{k}{cell(k, n)}" for k in range(8) for n in range(4)]
        (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
        return RunConfig(data={"path": str(tmp_path / "t.csv"), "root": str(root)})

    return made


def test_plain_images_need_no_notice(table: Tables) -> None:
    found = open_images(table())
    assert len(found.images) == 32
    assert found.notices == ()


def test_roles_of_images_are_said_not_to_count(table: Tables) -> None:
    found = open_images(table(",is_query,is_gallery", lambda kind, n: f",{int(n < 2)},{n // 2}"))
    assert found.notices == ("the roles of images (query, gallery) are not used in a comparison",)


def test_splits_of_the_data_are_said_not_to_count(table: Tables) -> None:
    def split(kind: int, _number: int) -> str:
        return ",test" if kind == 0 else ",val" if kind < 3 else ",train"

    found = open_images(table(",split", split))
    assert len(found.images) == 28
    first, second = found.notices
    assert first.startswith("the test split (") and "takes no part" in first
    assert second.startswith("the validation split is divided into folds")


def test_each_class_is_held_out_once_and_a_quarter_of_the_others_chooses(table: Tables) -> None:
    data = open_images(table())
    found = divide(data, Plan((), 2, (0, 5)))
    assert list(found.sets) == [Round(0, 0), Round(0, 1), Round(5, 0), Round(5, 1)]
    assert found.how == "class-disjoint: 4 classes train, 4 held out"
    for seed in (0, 5):
        held = [found.sets[Round(seed, fold)]["test"].classes for fold in range(2)]
        assert sorted([*held[0], *held[1]]) == [f"c{kind}" for kind in range(8)]
    for sets in found.sets.values():
        classes = [set(sets[part].classes) for part in ("train", "val", "test")]
        assert list(map(len, classes)) == [2, 2, 4] and len(set().union(*classes)) == 8


def test_folds_differ_by_their_images_parts_and_labels(table: Tables) -> None:
    data = open_images(table())
    digests = {
        divide(data, plan).digest(data.digest)
        for plan in (Plan((), 2, (0,)), Plan((), 2, (1,)), Plan((), 3, (0,)), Plan((), 2, (0, 1)))
    }
    assert len(digests) == 4
    same = Plan((), 2, (0,))
    assert divide(data, same).digest("x") == divide(data, same).digest("x")
    assert divide(data, same).digest("x") != divide(data, same).digest("y")


@pytest.mark.parametrize("folds", [5, 9])
def test_more_folds_than_the_classes_allow_are_refused(table: Tables, folds: int) -> None:
    data: Any = open_images(table())
    with pytest.raises(DataError, match="folds"):
        divide(data, Plan((), folds, (0,)))


def test_a_name_that_no_table_can_hold_is_refused(tmp_path: Path) -> None:
    _require_text([Item(tmp_path / "a.png", "ä")])
    for item in (Item(tmp_path / "\udcff.png", "a"), Item(tmp_path / "a.png", "\udcff")):
        with pytest.raises(DataError, match="the name is not valid Unicode"):
            _require_text([item])
