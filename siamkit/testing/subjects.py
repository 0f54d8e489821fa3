"""The subjects of the checks: registered names, and objects that :func:`siamkit.fit` takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic import BaseModel

from siamkit import plugins
from siamkit.config import ENTRY_MODELS
from siamkit.errors import ConfigError
from siamkit.model.copying import copied
from siamkit.objects.entries import TAKES, entry_of
from siamkit.objects.identity import qualified_name, source_hash
from siamkit.registry import KINDS, Entry, whose
from siamkit.testing.common import Expect, Values

P = ParamSpec("P")
S = TypeVar("S")

_COPIED = ("backbones", "heads", "losses")
"""The kinds of which a run trains a deep copy."""


def conformance(check: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """Make a check raise only ``AssertionError``, whatever the plugin or the object raises."""

    @functools.wraps(check)
    def run(given: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        expect = Expect(f"{check.__name__} of {_name(given)!r}")
        with expect.during("in the check", "Every user would get the same error."):
            check(given, *args, **kwargs)

    return run


def _name(given: Any) -> str:
    return given if isinstance(given, str) else qualified_name(given)


def checked_entry(kind: str, given: Any, values: Values | None) -> tuple[Entry, BaseModel, Expect]:
    """Return the entry of a name or an object, its validated options, and an ``Expect`` for it."""
    if isinstance(given, str):
        return _named(kind, given, values)
    return _given(kind, given, values)


def _given(kind: str, thing: Any, values: Values | None) -> tuple[Entry, BaseModel, Expect]:
    about = KINDS[kind]
    expect = Expect(f"{about.singular} {qualified_name(thing)!r}")
    try:
        entry = entry_of(about.section, thing)
    except ConfigError as error:
        hint = "" if error.hint is None else f" To mend it, {error.hint}."
        raise expect.failure(
            f"a name, or {TAKES[about.section]}", error.got, f"siamkit would refuse it.{hint}"
        ) from error
    expect = Expect(whose(about.singular, entry.name, entry.distribution))
    expect(not values, "options={...} only together with a name", values,
           "An object has its settings already, so siamkit.fit takes none for it.")  # fmt: skip
    twin = thing
    if kind in _COPIED:
        with expect.during("when it is copied", "Training would not start: it trains a copy."):
            twin = copied(thing, about.section)
    with expect.during("when it is described in the config", "Training would not start."):
        same = source_hash(twin) == source_hash(thing)
    expect(
        same, "attributes that are the same in a copy", "others, such as a counter of copies",
        "siamkit.resume would take the copy for another object, and refuse to continue the run.",
    )  # fmt: skip
    return entry, entry.options(), expect


def _named(kind: str, name: str, values: Values | None) -> tuple[Entry, BaseModel, Expect]:
    singular, section = KINDS[kind].singular, KINDS[kind].section
    expect = Expect(f"{singular} {name!r}")
    with expect.during(
        "when it is looked up", "Users cannot use it by this name.", "a registered name"
    ):
        entry = plugins.get().registries[kind].get(name)
    expect = Expect(whose(singular, name, entry.distribution))
    fields = entry.options.model_fields
    required = sorted(n for n, f in fields.items() if f.is_required())
    expect(
        all(option in (values or {}) for option in required),
        f"options={{...}} with values for {required}, which have no defaults", values,
        "Without them this check cannot build it.",
    )  # fmt: skip
    own = sorted(set(fields) & set(ENTRY_MODELS[section].model_fields))
    expect(
        not own, f"options with other names than the keys of the section {section!r}", own,
        "Users could not choose it, since the config would be refused.",
    )  # fmt: skip
    with expect.during("when its options are checked", "Users could not choose it."):
        validated = entry.validate(values or {}, name)
    config = entry.options.model_config
    expect(
        config.get("frozen") is True and config.get("extra") == "forbid",
        "options that are frozen and forbid extras: derive from siamkit.Options", config,
        "A misspelt option would be ignored silently.",
    )  # fmt: skip
    text, same = "options that are not JSON", False
    with expect.during(
        "when its options are written and read", "Resuming a run would fail.",
        "options that survive JSON, as resume and `train --config` need",
    ):  # fmt: skip
        text = validated.model_dump_json()
        same = type(validated).model_validate_json(text) == validated
    expect(
        same, "options that survive JSON, as resume and `train --config` need", text,
        "A run could not be resumed, or would continue with other options.",
    )  # fmt: skip
    return entry, validated, expect
