from siamkit.config import RunConfig
from siamkit.config.identity import FREE, decisive, flat


def test_nested_values_have_dotted_keys() -> None:
    values = {"a": 1, "b": {"c": 2, "d": {"e": [3]}}, "f": {}}
    assert list(flat(values)) == [("a", 1), ("b.c", 2), ("b.d.e", [3])]


def test_what_changes_no_result_is_left_out() -> None:
    found = decisive(RunConfig())
    assert {"train.epochs", "data.image_size"} <= set(found)
    assert not set(found) & set(FREE)
