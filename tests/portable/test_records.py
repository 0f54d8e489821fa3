from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from siamkit.portable.records import Invalid, Matches, NotEmpty, Within, record


@dataclass(frozen=True)
class Inner:
    size: Annotated[int, Within(1, 9)]


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, Matches("[a-z]+")]
    share: Annotated[float, Within(above=0, most=1)]
    kind: Literal["a", "b"]
    flag: bool
    inner: Inner | None
    many: Annotated[tuple[Inner, ...], NotEmpty()]
    pair: tuple[int, float]
    by_name: Mapping[str, float | None]
    either: int | tuple[float, float] | None
    anything: Any = None
    optional: str | None = None


GOOD = {
    "name": "x", "share": 1, "kind": "a", "flag": True, "inner": {"size": 3},
    "many": [{"size": 1}, {"size": 9}], "pair": [1, 2], "by_name": {"a": 0.5, "b": None},
    "either": [0, 1],
}  # fmt: skip


def test_values_become_a_record():
    made = record(Outer, GOOD)
    assert made == Outer(
        "x", 1.0, "a", True, Inner(3), (Inner(1), Inner(9)), (1, 2.0), {"a": 0.5, "b": None},
        (0.0, 1.0),
    )  # fmt: skip
    assert type(made.share) is float and type(made.pair[1]) is float
    assert record(Outer, {**GOOD, "inner": None, "either": 7, "anything": [1]}).either == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "X"}, "name: is malformed: 'X'"),
        ({"name": "x\n"}, "name: is malformed"),
        ({"name": 3}, "name: must be text, and is 3"),
        ({"share": 0}, "share: is out of bounds: 0.0"),
        ({"share": float("nan")}, "share: is not a finite number"),
        ({"share": 10**400}, "share: is not a finite number"),
        ({"share": "0.5"}, "share: must be a number, and is '0.5'"),
        ({"share": True}, "share: must be a number, and is True"),
        ({"kind": "c"}, "kind: must be one of a, b, and is 'c'"),
        ({"kind": "A"}, "kind: must be one of a, b, and is 'A'"),
        ({"flag": 1}, "flag: must be true or false, and is 1"),
        ({"inner": {"size": 10}}, "inner.size: is out of bounds: 10"),
        ({"inner": {"size": 1.0}}, "inner.size: must be a whole number, and is 1.0"),
        ({"inner": {}}, "inner.size: is missing"),
        ({"inner": {"size": 1, "x": 1}}, "inner.x: is an unknown key"),
        ({"many": []}, "many: is empty"),
        ({"many": [{"size": 0}]}, "many.0.size: is out of bounds: 0"),
        ({"pair": [1]}, "pair: must have 2 items, and has 1"),
        ({"pair": "12"}, "pair: is not a list"),
        ({"by_name": {"a": "b"}}, "by_name.a: must be a number, and is 'b'"),
        ({"by_name": []}, "by_name: is not an object"),
        ({"either": "x"}, "either: must be a whole number, and is 'x'"),
        ({"optional": 3}, "optional: must be text, and is 3"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(change, message):
    with pytest.raises(Invalid) as caught:
        record(Outer, {**GOOD, **change})
    assert str(caught.value).startswith(message)


def test_what_is_no_object_is_refused():
    with pytest.raises(Invalid, match=r"^is not an object$"):
        record(Inner, [1])
