"""The keys of a configuration have the defaults and the bounds that the reference states."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from siamkit.config import RunConfig, parse_sets, yaml_text
from siamkit.config.identity import flat

PAGE = Path(__file__).parents[2] / "docs/reference/config.md"
ROW = re.compile(r"\| `([\w.]+)` \| ((?:\\\||[^|])+) \| `(.+?)` \| ")


def stated() -> dict[str, tuple[str, Any]]:
    """Return the type, with its bounds, and the default of each key."""
    section, found = "", {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.strip("# `") + "."
        elif row := ROW.match(line):
            found[section + row[1]] = row[2], yaml_text.load(row[3])
    return found


STATED = stated()
BOUNDS = [
    (key, comparison, number)
    for key, (kind, _) in STATED.items()
    for comparison, number in re.findall(r"(>=|<=|>|<) ([\d.e+-]+)", kind)
]


def is_refused(key: str, value: float) -> bool:
    try:
        RunConfig.model_validate(parse_sets([f"{key}={value}"]))
    except ValidationError as error:
        return key in {".".join(map(str, one["loc"])) for one in error.errors()}
    return False


def test_each_key_has_the_default_of_the_reference() -> None:
    assert len(STATED) > 50
    defaults = dict(flat(RunConfig().to_values()))
    known = {key: default for key, (_, default) in STATED.items() if key in defaults}
    assert known == {key: defaults[key] for key in known}
    assert set(defaults) - set(known) <= {"report", "run_dir", "track"}


@pytest.mark.parametrize(("key", "comparison", "number"), BOUNDS)
def test_a_number_at_its_bound_is_accepted_and_one_beyond_is_not(
    key: str, comparison: str, number: str
) -> None:
    bound = float(number)
    whole = "int" in STATED[key][0].split(",")[0]
    step = 1 if whole else max(abs(bound), 1) * 1e-6
    outwards = step if "<" in comparison else -step
    last = bound if "=" in comparison else bound - outwards
    convert = int if whole else float
    assert not is_refused(key, convert(last))
    assert is_refused(key, convert(last + outwards))


@pytest.mark.parametrize(
    "key", [key for key, (kind, _) in STATED.items() if "at least 1 long" in kind]
)
def test_a_name_has_a_character(key: str) -> None:
    RunConfig.model_validate(parse_sets([f"{key}=x"]))
    with pytest.raises(ValidationError):
        RunConfig.model_validate(parse_sets([f"{key}=''"]))
