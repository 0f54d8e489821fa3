import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from siamkit.config import yaml_text
from siamkit.config.yaml_text import MOST_VALUES, NotYaml, dump, load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("FALSE", False), ("yes", "yes"), ("No", "No"), ("on", "on"),
        ("off", "off"), ("y", "y"), ("null", None), ("~", None), ("", None), ("nil", "nil"),
        ("0123", 123), ("-7", -7), ("+7", 7), ("0o17", 15), ("017", 17), ("0x1F", 31),
        ("0b11", "0b11"), ("1_000", "1_000"), ("1:30", "1:30"), ("190:20:30", "190:20:30"),
        ("1e-3", 0.001), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-.inf", -math.inf),
        (".inf", math.inf), ("inf", "inf"), ("nan", "nan"), ("1.2.3", "1.2.3"),
        ("2020-01-01", "2020-01-01"), ("2020-13-45", "2020-13-45"), ("=", "="),
        ("2020-01-01 10:00:00", "2020-01-01 10:00:00"), ("'5'", "5"), ("!!str 5", "5"),
        ("!!float 5", 5.0), ("%YAML 1.1\n---\noff", "off"), ("x ", "x"),
    ],
)  # fmt: skip
def test_scalars_are_read_by_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = load(text)
    assert (type(found), found) == (type(value), value)


def test_dot_nan_is_not_a_number() -> None:
    assert math.isnan(load(".nan"))


@pytest.mark.parametrize(
    ("text", "key", "first", "line"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", 1, 3),
        ("x:\n  a: 1\n  a: 2\n", "a", 2, 3),
        ("x: {a: 1, a: 1}", "a", 1, 1),
        ("base: &b {c: 1}\nx:\n  <<: *b\n  a: 1\n  a: 2\n", "a", 4, 5),
        ("x:\n  <<: {a: 1}\n  <<: {a: 2}\n", "<<", 2, 3),
        ("? &k a\n: 1\n? *k\n: 2\n", "a", 1, 1),
        ("a: 1\n'a': 2\n", "a", 1, 2),
        ("- {a: 1}\n- b: 1\n  b: 2\n", "b", 2, 3),
    ],
)
def test_a_key_given_twice_is_refused_with_its_line(
    text: str, key: str, first: int, line: int
) -> None:
    with pytest.raises(
        NotYaml, match=f"the key '{key}' is given twice, first in line {first}"
    ) as e:
        load(text)
    assert e.value.line == line


def test_aliases_and_merge_keys_are_followed() -> None:
    assert load("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\nd: {'<<': 1}") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3},
        "c": [{"x": 1, "y": 2}] * 2, "d": {"<<": 1},
    }  # fmt: skip
    assert load("a: &a {x: 1}\nb: &b {x: 2, z: 3}\nc: {<<: [*a, *b]}")["c"] == {"x": 1, "z": 3}


def test_a_value_and_its_alias_are_two_values() -> None:
    values = load("a: &a {x: 1}\nb: *a")
    values["a"]["x"] = 2
    assert values["b"] == {"x": 1}


def laughs(item: str, more: str) -> str:
    lines = [f"a0: &a0 {item}"]
    lines += [f"a{n}: &a{n} " + more.replace("*", f"*a{n - 1}") for n in range(1, 60)]
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("text", [
    laughs("[x]", "[*, *]"), laughs("{x: 1}", "{<<: [*, *]}"), laughs("{x: 1}", "{l: *, r: *}"),
], ids=["lists", "merges", "mappings"])  # fmt: skip
def test_a_document_that_grows_without_bound_is_refused(text: str) -> None:
    with pytest.raises(NotYaml, match="more than 100,000 values"):
        load(text)


@pytest.mark.parametrize("text", [
    "&a [*a]", "&a {x: *a}", "&a {<<: *a}", "[" * 5000, "{a: " * 5000,
])  # fmt: skip
def test_a_document_without_an_end_is_refused(text: str) -> None:
    with pytest.raises(NotYaml):
        load(text)


@pytest.mark.parametrize(("text", "problem"), [
    ("!!python/object/apply:os.system ['true']", "the type !!python/object/apply:os.system"),
    ("!!timestamp 2020-01-01", "the type !!timestamp cannot be used here"),
    ("!!binary aGk=", "!!binary"), ("!!set {a}", "!!set"), ("!mine x", "!mine"),
    ("!!int x", "'x' cannot be read as int"), ("!!int ''", "cannot be read as int"),
    ("1" * 9999, "cannot be read as int"), ("[a]: 1", "a key must be text or a number"),
    ("{a}: 1", "a key must be text"), ("<<: 1", "<< must be a mapping"),
    ("a: *b", "undefined alias"),
    ("[1", "expected"), ("a: b: c", "mapping values"), ("--- 1\n--- 2", "another document"),
    ("\x00", "special characters"), ("\t- a", "cannot start any token"), ("@a", "cannot start"),
])  # fmt: skip
def test_what_cannot_be_read_has_a_reason(text: str, problem: str) -> None:
    with pytest.raises(NotYaml, match=problem.replace("/", ".").replace("(", ".")):
        load(text)


@pytest.mark.parametrize(("text", "line"), [
    ("a: 1\nb: c: d", 2), ("a:\n\n- [1", 3), ("@a", 1), ("a: *b", 1), ("a: 1\n--- 1\n--- 2", 2),
    ("a: 1\nb: !mine x", 2), ("a: 1\n\n\nb: !!int x", 4), ("a: 1\n[a]: 1", 2),
    ("\x00", None), ("[" * 5000, None),
])  # fmt: skip
def test_the_line_of_a_problem_is_told_if_it_is_known(text: str, line: int | None) -> None:
    with pytest.raises(NotYaml) as caught:
        load(text)
    assert caught.value.line == line


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["off", "1:30", "0123", "0o17", "2020-01-01", "1_0", "~", "null", "<<", "=", ".inf", "1e5",
     "- a", "a: b", "#", "%", "'", '"', "\x85", "\ufeff", "\u2028", "a\n b", "---", "...",
     "true", " x ", "&a"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(words, values, max_size=5))
def test_what_is_written_is_read_back(written: dict) -> None:
    found = load(dump(written))
    assert repr(found) == repr(written)


@given(st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False) | st.sampled_from(
    ["off", "No", "1:30", "0123", "0b1", "2020-01-01", "1_0", "=", "1e5", "0o17", "text"]
)))  # fmt: skip
def test_readers_of_yaml_1_1_read_the_same(written: dict) -> None:
    old = YAML(typ="safe", pure=True)
    old.version = (1, 1)
    assert old.load(dump(written)) == written


@given(st.text(max_size=40) | st.text("{}[]:-&*!<>|'\"%@ \n\tab1.", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load(text)
    except NotYaml as error:
        assert error.problem


def test_a_file_has_as_many_values_as_the_limit_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert MOST_VALUES == 100_000
    monkeypatch.setattr(yaml_text, "MOST_VALUES", most := 2_000)  # a large file takes long
    assert len(load("[" + "x, " * (most - 1) + "]")) == most - 1  # and the list
    with pytest.raises(NotYaml, match="more than 2,000 values"):
        load("[" + "x, " * most + "]")
    pairs = (most - 1) // 2
    assert len(load("".join(f"k{i}: x\n" for i in range(pairs)))) == pairs  # keys are values too
