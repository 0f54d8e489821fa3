from __future__ import annotations

import pytest

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
