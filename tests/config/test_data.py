from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from siamkit.config import DataConfig


def config(**values: object) -> DataConfig:
    return DataConfig(path="x", **values)


@pytest.mark.parametrize(
    ("given", "expected"), [("auto", None), ("full", None), (12, 12), ((5, 90), (5, 90))]
)
def test_a_range_of_values_is_bits_or_two_ends(given: object, expected: object) -> None:
    assert config(range=given).value_range == expected


def test_only_columns_with_another_name_are_listed() -> None:
    assert config().columns == {}
    assert config(path_column="file").columns == {"path": "file"}
    both = config(path_column="file", label_column="who").columns
    assert both == {"path": "file", "label": "who"}


def test_a_fold_is_one_of_the_folds() -> None:
    assert [config(folds=3, fold=fold).fold for fold in (0, 2)] == [0, 2]
    assert config(fold=0).fold == 0
    for wrong in ({"folds": 3, "fold": 3}, {"folds": 3, "fold": 4}, {"fold": 1}):
        with pytest.raises(ValidationError, match=r"data\.folds"):
            config(**wrong)


@pytest.mark.parametrize("path", ["photos", "zebras", "sample/one"])
def test_a_path_is_absolute_and_the_word_sample_is_none(path: str) -> None:
    assert DataConfig(path=path).path == str(Path(path).absolute())
    assert DataConfig(path="sample").path == "sample"
