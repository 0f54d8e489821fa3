"""``siamkit list``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamkit.cli import output
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import Json
from siamkit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from siamkit.registry import Entry

KINDS = {
    "backbones": ("backbone", "backbone"),
    "freeze-policies": ("freeze", "freeze-policy"),
    "losses": ("loss", "loss"),
    "schedulers": ("scheduler", "scheduler"),
    "heads": ("head", "head"),
    "optimizers": ("optimizer", "optimizer"),
    "trackers": ("track", "track"),
}
"""The kinds that can be listed: the config section of each, and its flag."""


def _complete_kind() -> list[str]:
    return list(KINDS)


def list_(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help=f"One of {', '.join(KINDS)}.",
            autocompletion=_complete_kind,
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show the options of this entry.")
    ] = None,
    timm: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN", help="List the timm models that match, such as 'convnext*'."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the registered entries of a kind, or the options of one entry."""
    if kind not in KINDS:
        near = did_you_mean(kind, KINDS) or None
        raise ConfigError(
            "no such kind", where="KIND", got=kind, allowed=", ".join(KINDS), hint=near
        )
    if timm is not None:
        if kind != "backbones" or name is not None:
            raise ConfigError(
                "works only with 'siamkit list backbones', without a NAME", where="--timm"
            )
        _list_timm(timm, json)
    else:
        _list_entries(kind, name, json)


def _list_entries(kind: str, name: str | None, json: bool) -> None:
    with heavy_imports():
        from siamkit import api
    from siamkit.report.tables import entries_table, entry_details

    section, flag = KINDS[kind]
    registry = api.registries()[section]
    entries = list(registry) if name is None else [registry.get(name)]
    described = [_describe(entry, section) for entry in entries]
    if json:
        output.emit_json("list", {"kind": kind, "entries": described})
    elif name is None:
        output.emit(entries_table(kind, described))
    else:
        output.emit(entry_details(described[0], section, flag, name))


def _describe(entry: Entry, section: str) -> dict[str, Any]:
    from siamkit.config import ENTRY_MODELS
    from siamkit.report.options import describe_options

    return {
        "name": entry.name,
        "summary": entry.summary.replace("``", "'"),
        "distribution": entry.distribution,
        "pretrained": entry.pretrained,
        "options": describe_options(entry.options),
        "section_options": [
            option for option in describe_options(ENTRY_MODELS[section])
            if option["name"] != "name"
        ],
    }  # fmt: skip


def _list_timm(pattern: str, json: bool) -> None:
    import timm

    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    names = timm.list_models(wanted)
    if not names:
        raise ConfigError(
            "no timm model matches",
            where="--timm",
            got=pattern,
            hint=did_you_mean(pattern.strip("*"), timm.list_models()) or None,
        )
    tags: dict[str, list[str]] = {}
    for tagged in timm.list_models(wanted, pretrained=True):
        architecture, _, tag = tagged.partition(".")
        tags.setdefault(architecture, []).extend([tag] if tag else [])
    models = [
        {"name": name, "pretrained": name in tags, "tags": tags.get(name, [])} for name in names
    ]
    if json:
        output.emit_json("timm", {"pattern": pattern, "models": models})
        return
    from siamkit.report.tables import timm_table

    output.emit(timm_table(models))
