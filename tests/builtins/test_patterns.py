"""Regular expressions of the user."""

from __future__ import annotations

import pytest
import regex

from siamkit.builtins import patterns
from siamkit.builtins.patterns import matching, require_compilable
from siamkit.errors import ConfigError

NAMES = [f"backbone.layer{n}.{part}.weight" for n in range(1, 5) for part in ("conv", "bn")]


@pytest.mark.parametrize("pattern", [
    r"^((\w|\.)+)+[!?]", r"([a-z.0-9]+)*[!?]$",  # exponential time in Python's re
    r"^(.*)(.*)(.*)(.*)(.*)(.*)(.*)\1\2\3\4\5\6\7[!?]$",  # and with every engine
])  # fmt: skip
@pytest.mark.timeout(30)
def test_a_pattern_that_would_search_for_ever_is_refused(pattern: str) -> None:
    try:
        assert not matching(require_compilable(pattern), NAMES, "here")
    except ConfigError as error:
        assert str(error).startswith("here: the pattern takes more than 1 s")
        assert "repeats within repeats" in str(error)
    else:
        assert "\\1" not in pattern


@pytest.mark.parametrize("pattern", [
    "((a{1000}){1000}){1000}", "a{4000000000}", "a{9" + "0" * 400 + "}",
    "(" * 20 + "a" + "{2})" * 20, "(" * 14 + "a" + "{2,})" * 14, "(" * 20 + "a" + "+)" * 20,
    "(?:[a-z(]{1000}b){1000}", "(a|\\)){200000}", "(?x) (a { 1000 }) {1000}", "(){200000}",
    "(?:[]()]a{1000}){1000}", "((a{400}){400}", "a" * 200_000,
])  # fmt: skip
def test_a_pattern_that_is_too_large_is_not_compiled(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regex, "compile", lambda pattern: pytest.fail("compiled"))
    with pytest.raises(ValueError, match=r"the pattern is too large.*up to 100,000 are allowed"):
        require_compilable(pattern)


@pytest.mark.parametrize("pattern", [
    "layer[34].*conv", r"\w+\.layer\d{1,3}\..+" + r"(\w+\.)?" * 20, "(?:a{0,1000}){0,1000}",
    "a{,5}b{}c{x}", "(" * 30 + "a" + "*)" * 30, "a{300}" * 300,
    "|".join(f"backbone.layer{n}.conv.weight" for n in range(2000)),
    "[{1000}]" * 100, r"\{1000\}" * 100, "(?i)[(]", "é{2}",
])  # fmt: skip
def test_a_pattern_of_usual_size_is_accepted(pattern: str) -> None:
    assert require_compilable(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3), ("a{3}", 3), ("a{3,}", 4), ("a{,5}", 1), ("a{2,3}", 3), ("a+", 2), ("a{0}", 1),
        ("a{3}{2}", 6), ("a{0}{3}", 3), ("(ab)", 3), ("(ab){3}", 9), ("(ab)+c", 7),
        ("((ab){2}c){3}", 24), ("(((a){2}){2}){2}", 22), ("x(y(ab){2}){2}", 17), ("(a)b{2}", 4),
        # A space may count for nothing, so what stands before it is repeated.
        ("a {3}", 4), ("(ab) {3}", 10), (" {3}", 3), ("(a ){3}", 9),
    ],
)  # fmt: skip
def test_a_size_counts_what_the_required_repeats_write_out(
    pattern: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group counts as a character of its own."""
    monkeypatch.setattr(patterns, "_LARGEST", 0)
    with pytest.raises(ValueError, match=f"multiply to about {size} characters; up to 0 are"):
        require_compilable(pattern)


@pytest.mark.parametrize("pattern", ["layer[", "a)", "(", "*a", "a\\", "{9" + "0" * 400 + "}+"])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"not a regular expression|too large"):
        require_compilable(pattern)


def test_memory_that_runs_out_is_the_patterns_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pattern: str) -> None:
        raise MemoryError

    monkeypatch.setattr(regex, "compile", fail)
    with pytest.raises(ValueError, match="not a regular expression: it needs too much memory"):
        require_compilable("a")


def test_matching_searches_anywhere_in_the_name() -> None:
    assert matching(r"layer2|layer4\.bn", NAMES, "here") == {NAMES[2], NAMES[3], NAMES[7]}
