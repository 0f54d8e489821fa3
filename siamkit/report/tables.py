"""The tables of ``siamkit list`` and ``siamkit plugins``."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from siamkit.report.terminal import cells, make_table, styled

Json = Mapping[str, Any]


def entries_table(kind: str, entries: Sequence[Json]) -> RenderableType:
    """Return the table of registered entries, such as losses or backbones."""
    backbones = kind == "backbones"
    table = make_table("name", "summary", *(["weights"] if backbones else []), "from")
    for entry in entries:
        weights = [("pretrained" if entry["pretrained"] else "random")] if backbones else []
        table.add_row(
            styled(entry["name"], "bold"), *cells(entry["summary"], *weights, entry["distribution"])
        )
    return table


def presets_table(presets: Mapping[str, str]) -> RenderableType:
    """Return the table of presets, given each file's text, which begins with the summary."""
    table = make_table("name", "summary")
    for name, text in presets.items():
        comments = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
        summary = " ".join(line.lstrip("# ") for line in comments)
        table.add_row(styled(name, "bold"), *cells(summary))
    return table


def entry_details(entry: Json, section: str, flag: str, name: str) -> RenderableType:
    """Return a registered entry's summary and options, and how to choose it and set an option.

    Args:
        entry: The entry.
        section: The config section of the entry.
        flag: The flag that chooses the entry, without its leading dashes.
        name: The name that the user typed; longer than the entry's own name for ``timm:``.
    """
    head = Text.assemble(
        styled(entry["name"], "bold"), styled(f"  {entry['summary']}  ({entry['distribution']})")
    )
    own, shared = entry["options"], entry["section_options"]
    parts: list[RenderableType] = [head, Text()]
    parts.append(_options(own, None) if own else Text("It has no options of its own."))
    if shared:
        parts += [Text(), _options(shared, f"Options of every {flag}:")]
    keys = [option["name"] for option in (*own, *shared)]
    example = f"--{flag} {name}"
    if keys and section == "track":  # a list of entries
        example = f"--set 'track=[{{name: {name}, {keys[0]}: VALUE}}]'"
    elif keys:
        example += f" --set {section}.{keys[0]}=VALUE"
    parts += [Text(), styled(f"Use it with {example}, or name it in a config file.")]
    return Group(*parts)


def _options(options: Sequence[Json], title: str | None) -> RenderableType:
    table = make_table("option", "type", "default", "bounds", "meaning", title=title)
    for option in options:
        default = "(required)" if option["required"] else _value(option["default"])
        table.add_row(
            styled(option["name"], "bold"),
            *cells(option["type"], default, option["bounds"], option["meaning"]),
        )
    return table


def _value(value: object) -> str:
    """Return a value as YAML, which is how it is typed after ``--set``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value)


def timm_table(models: Sequence[Json]) -> RenderableType:
    """Return the table of timm architectures and their pretrained weights."""
    table = make_table("name", "pretrained weights")
    for model in models:
        tags = ", ".join(model["tags"]) or "default" * model["pretrained"]
        table.add_row(
            styled(f"timm:{model['name']}", "bold"),
            styled(tags) if model["pretrained"] else styled("none", "dim"),
        )
    return table


def plugins_table(plugins: Sequence[Json], conflicts: Sequence[Json]) -> RenderableType:
    """Return the table of plugins: what each one registers, and why a plugin failed to load."""
    table = make_table("plugin", "distribution", "registers")
    problems = []
    for plugin in plugins:
        lines = [f"{kind.replace('_', ' ')}: {', '.join(names)}"
                 for kind, names in plugin["registers"].items()]  # fmt: skip
        lines += [f"hook: {hook}" for hook in plugin["hooks"]]
        text = styled("\n".join(lines) or "nothing")
        if plugin["error"] is not None:
            text = styled("failed to load", "bold red")
            problems.append(
                styled(f"{plugin['name']} ({plugin['distribution']}): {plugin['error']}", "red")
            )
        table.add_row(
            styled(plugin["name"], "bold"),
            styled(f"{plugin['distribution']} {plugin['version']}"),
            text,
        )
    problems += [
        styled(f"{plugin['name']} ({plugin['distribution']}): {problem}", "red")
        for plugin in plugins
        for problem in plugin["problems"]
    ]
    problems += [styled(_conflict(c), "red") for c in conflicts]
    return Group(table, *([Text(), *problems] if problems else []))


def _conflict(conflict: Json) -> str:
    by = " and ".join(conflict["by"])
    text = f"conflict: {conflict['kind']} {conflict['name']!r} is registered by {by}: "
    if conflict["kind"] == "command" and conflict["by"][0] == "siamkit":
        return text + "siamkit's own command is used"
    return text + "uninstall or disable one of them to use it"
