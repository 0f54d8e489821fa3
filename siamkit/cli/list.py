"""``siamkit list``: lists registered names and their options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamkit.cli import completion, output
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
"""The kinds of registered entries, each with its config section and its flag."""

LISTED = (*KINDS, "presets")
"""Everything that can be listed."""


def _complete_name(ctx: typer.Context, incomplete: str) -> completion.Values:
    kind = ctx.params.get("kind")
    if kind == "presets":
        return [(name, "") for name in completion.presets()]
    return completion.named(KINDS[kind][0], incomplete) if kind in KINDS else []


def list_(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help=f"One of {', '.join(LISTED)}.",
            autocompletion=completion.choices(*LISTED),
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Show the options of this name, or the settings of this preset.",
            autocompletion=_complete_name,
        ),
    ] = None,
    timm: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="With 'backbones': list the timm models whose names match, such as 'convnext*'.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the registered names of a kind, such as losses, or the options of one name."""
    if kind not in LISTED:
        near = did_you_mean(kind, LISTED) or None
        raise ConfigError(
            "no such kind", where="KIND", got=kind, allowed=", ".join(LISTED), hint=near
        )
    if timm is not None:
        if kind != "backbones" or name is not None:
            raise ConfigError(
                "works only with 'siamkit list backbones', without a NAME", where="--timm"
            )
        _list_timm(timm, json)
    elif kind == "presets":
        _list_presets(name, json)
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


def _list_presets(name: str | None, json: bool) -> None:
    from siamkit.config import preset_file, preset_names, read_preset

    names = preset_names() if name is None else [name]
    presets = [{"name": one, "values": dict(read_preset(one))} for one in names]
    if json:
        output.emit_json("list", {"kind": "presets", "entries": presets})
        return
    texts = [preset_file(one).read_text(encoding="utf-8") for one in names]
    if name is not None:
        output.emit_text(f"{texts[0]}\nUse it with --preset {name}; other flags override it.\n")
        return
    from siamkit.report.tables import presets_table

    output.emit(presets_table(dict(zip(names, texts, strict=True))))


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
