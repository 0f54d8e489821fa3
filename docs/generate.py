"""Write the generated parts of the documentation from the code.

    python docs/generate.py            rewrite the pages
    python docs/generate.py --check    exit with 1 if a page is out of date

A page is written by hand around blocks ``<!-- generated: NAME -->`` ... ``<!-- end -->``; this
script fills the blocks and touches nothing else. It documents siamkit's own entries, even if other
plugins are installed.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

import siamkit
from siamkit import api, config, errors, hookspecs
from siamkit.cli.app import app
from siamkit.registry import Entry
from siamkit.report.options import bounds, describe_options, type_name
from siamkit.report.sheet.views import strengths_text

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "docs") not in sys.path:
    sys.path.append(str(ROOT / "docs"))
import architecture  # noqa: E402

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_WIDTH = 96
_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(argv: list[str]) -> int:
    """Rewrite the pages, or check them; return the exit code."""
    stale = [page for page in PAGES if render(page) != page.read_text(encoding="utf-8")]
    for page in stale:
        if "--check" not in argv:
            page.write_text(render(page), encoding="utf-8")
        print(f"{page.relative_to(ROOT)}: {'stale' if '--check' in argv else 'written'}")
    return int("--check" in argv and bool(stale)) | architecture.main(argv)


def render(page: Path) -> str:
    """Return the text of ``page`` with its generated blocks up to date."""
    text = page.read_text(encoding="utf-8")
    return _BLOCK.sub(lambda m: f"{m[1]}\n{BLOCKS[m[2]]().strip()}\n\n{m[3]}", text)


# --- markdown ------------------------------------------------------------------------------------


def table(header: str, rows: list[list[str]]) -> str:
    """Return a Markdown table; ``header`` has its columns separated by ``|``."""
    columns = header.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(c) for c in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def markdown(docstring: str) -> str:
    """Return a Google-style docstring as Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", inspect.cleandoc(docstring))
    text = text.replace("``", "`")
    lines: list[str] = []
    listing = False
    for line in text.splitlines():
        section = re.fullmatch(r"(Args|Attributes|Raises|Returns):", line)
        item = re.fullmatch(r"    (\*{0,2}\w+): (.*)", line)
        if section:
            listing = section[1] != "Returns"
            lines += [f"**{section[1]}**", ""]
        elif item and listing:
            lines.append(f"- `{item[1]}`: {item[2]}")
        else:
            listing = listing and (line.startswith("    ") or not line)
            lines.append(f"  {line.strip()}" if listing and line else line.strip())
    return "\n".join(lines)


def _summary(thing: Any) -> str:
    return markdown((thing.__doc__ or "").strip()).split("\n\n", 1)[0].replace("\n", " ")


# --- options and configuration -------------------------------------------------------------------


def option_rows(model: type[BaseModel], prefix: str = "") -> list[list[str]]:
    """Return a row (key, type, default, meaning) for each field of a model and of nested models."""
    rows = []
    for option in describe_options(model):
        nested = model.model_fields[option["name"]].annotation
        key = prefix + option["name"]
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            rows += option_rows(nested, f"{key}.")
            continue
        default = "required" if option["required"] else f"`{_yaml(option['default'])}`"
        limits = f", {option['bounds']}" if option["bounds"] else ""
        meaning = option["meaning"] or "The name of the entry."
        rows.append([f"`{key}`", option["type"] + limits, default, meaning])
    return rows


def _yaml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def config_sections() -> str:
    """Return every section of a config file."""
    parts = []
    for name, field in config.RunConfig.model_fields.items():
        model = field.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        parts += [f"## `{name}`", _summary(model)]
        if name in config.COMPONENT_MODELS:
            page, what = _OPTION_PAGES[name]
            parts.append(
                f"The section also takes the options of the chosen entry: see [{what}]({page})."
            )
        parts.append(table("key|type|default|meaning", option_rows(model)))
    for name in ("track", "report", "run_dir"):
        field = config.RunConfig.model_fields[name]
        kind = f"{type_name(field.annotation)}{bounds(field)}"
        row = [f"`{name}`", kind, f"`{_yaml(field.default)}`", field.description or ""]
        parts += [f"## `{name}`", table("key|type|default|meaning", [row])]
    return "\n\n".join(parts)


_OPTION_PAGES = {
    "backbone": ("backbones.md", "backbones"),
    "head": ("heads.md", "heads"),
    "freeze": ("policies.md", "freeze policies"),
    "loss": ("losses.md", "losses"),
    "optimizer": ("optimizers.md", "optimizers"),
    "scheduler": ("schedulers.md", "schedulers"),
    "track": ("trackers.md", "trackers"),
}


def augment_presets() -> str:
    """Return a row for each preset of the augmentation."""
    rows = [
        [
            f"`{name}`",
            preset.suits,
            preset.assumes,
            strengths_text(config.AugmentConfig(preset=name)),
        ]
        for name, preset in config.PRESETS.items()
    ]
    return table("preset|for|what it assumes|what it does", rows)


def own(section: str) -> list[Entry]:
    """Return siamkit's own entries of a component section, in the order of registration."""
    return [e for e in api.registries()[section].entries.values() if e.distribution == "siamkit"]


def entries(section: str) -> str:
    """Return each entry of a section, with its description and options."""
    parts = []
    for entry in own(section):
        documented = entry.build if inspect.getdoc(entry.build) else None
        text = markdown(inspect.getdoc(documented) or "") if documented else ""
        if not text or entry.summary.replace("``", "`") not in text:
            text = entry.summary.replace("``", "`")
        rows = option_rows(entry.options)
        options = table("option|type|default|meaning", rows) if rows else "No options."
        parts += [f"## `{entry.name}`", text, options]
    return "\n\n".join(parts)


def entry_table(section: str) -> str:
    """Return a table of the entries of a section."""
    return table("name|what it does", [[f"`{e.name}`", e.summary.replace("``", "`")]
                                       for e in own(section)])  # fmt: skip


# --- hooks, errors, Python -----------------------------------------------------------------------


def signature(node: ast.FunctionDef) -> str:
    """Return a function's signature as in the source."""
    returns = ast.unparse(node.returns) if node.returns else "None"
    return f"def {node.name}({ast.unparse(node.args)}) -> {returns}"


def hooks() -> str:
    """Return every hook with its signature, and ``register`` with its signature."""
    tree = ast.parse(inspect.getsource(hookspecs))
    parts = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("siamkit_"):
            code = f"```python\n@siamkit.hookimpl\n{signature(node)}: ...\n```"
            parts += [f"## `{node.name}`", code, markdown(ast.get_docstring(node) or "")]
    register = _signature("register", hookspecs.Register.__call__)
    doc = markdown(hookspecs.Register.__call__.__doc__ or "")
    return "\n\n".join([*parts, "## `register`", register, doc])


def exit_codes() -> str:
    """Return a table of the exit codes, from the tree in the docstring of ``siamkit.errors``."""
    tree = re.findall(r"(\w+) +exit (\d+(?: or \d+)?),? +(.*)", errors.__doc__ or "")
    rows = [[code, f"`{name}`", meaning] for name, code, meaning in tree]
    rows = [["0", "", "success"], *sorted(rows, key=lambda row: int(row[0].split()[0]))]
    return table("code|exception|meaning", rows)


def python() -> str:
    """Return the public names of the package, with their signatures and docstrings."""
    parts = []
    for name in sorted(siamkit.__all__, key=lambda n: (not n[0].islower(), n)):
        thing = getattr(siamkit, name)
        if name.startswith("__") or name == "hookimpl":
            continue
        parts.append(f"## `{name}`")
        if not inspect.isclass(thing) or _is_built_by_users(thing):
            parts.append(_signature(name, thing))
        parts.append(markdown(thing.__doc__ or ""))
        if inspect.isclass(thing) and not issubclass(thing, BaseModel | Exception):
            parts += _members(thing)
    return "\n\n".join(part for part in parts if part)


def _is_built_by_users(thing: type) -> bool:
    return not issubclass(thing, BaseModel) and not inspect.isabstract(thing)


def _members(thing: type) -> Iterator[str]:
    for name, raw in vars(thing).items():
        value = getattr(raw, "__func__", raw)
        if name.startswith("_") or not getattr(value, "__doc__", None):
            continue
        if isinstance(value, property):
            yield f"### `{thing.__name__}.{name}`\n\n{markdown(value.__doc__ or '')}"
        elif callable(value):
            code = _signature(name, value)
            yield f"### `{thing.__name__}.{name}`\n\n{code}\n\n{markdown(value.__doc__ or '')}"


class _Annotation(str):
    """An annotation that prints without quotes, as in the source."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _signature(name: str, thing: Any) -> str:
    """Return a code block with the signature of a function or class."""
    plain = inspect.signature(thing)
    parameters = [
        p.replace(annotation=_Annotation(p.annotation))
        for p in plain.parameters.values()
        if p.name not in ("self", "cls")
    ]
    shown = plain.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    text = name + str(shown).replace("<factory>", "{}")
    if not inspect.isclass(thing):
        text += f" -> {plain.return_annotation}"
    if len(text) > _WIDTH:
        lines = [str(shown.replace(parameters=[p.replace(kind=p.KEYWORD_ONLY)]))[4:-1]
                 for p in parameters]  # fmt: skip
        star = next((i for i, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
        for i, p in enumerate(parameters):
            lines[i] = "**" * (p.kind is p.VAR_KEYWORD) + lines[i]
        if star is not None:
            lines.insert(star, "*")
        body = "".join(f"    {line},\n" for line in lines).replace("<factory>", "{}")
        text = f"{name}(\n{body})" + text[text.rindex(")") + 1 :]
    return f"```text\n{text}\n```"


# --- the command line ----------------------------------------------------------------------------


def commands() -> str:
    """Return every command with its arguments and options."""
    parts = []
    for path, command in _walk(typer.main.get_command(app), "siamkit"):
        usage = " ".join([path, *_usage(command)])
        shown = [p for p in command.params if p.help and not getattr(p, "hidden", False)]
        rows = [[_spelled(p), _explained(p)] for p in shown]
        parts += [f"## `{path}`", f"```text\n{usage}\n```", inspect.cleandoc(command.help or "")]
        parts += [table("argument or option|meaning", rows)] if rows else []
        if command.epilog:
            examples = command.epilog.replace("\n\n", "\n")
            parts.append(f"```console\n{examples}\n```")
    return "\n\n".join(parts)


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, f"{path} {name}")


def _usage(command: Any) -> Iterator[str]:
    if any(p.param_type_name == "option" for p in command.params):
        yield "[OPTIONS]"
    for p in command.params:
        if p.param_type_name == "argument":
            bare = p.metavar.strip("[]{}")
            yield bare if p.required else f"[{bare}]"
    if hasattr(command, "commands"):
        yield "COMMAND ..."


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar.strip('[]{}')}`"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    return names[:-1] + f" {parameter.metavar or parameter.name.upper()}`"


def _explained(parameter: Any) -> str:
    """Return the help of a parameter, with the default that ``--help`` shows beside it."""
    default = parameter.default
    shown = isinstance(default, str | int | float) and not isinstance(default, bool)
    return f"{parameter.help} Default: {default}." if shown else parameter.help


# --- the architecture ----------------------------------------------------------------------------


def architecture_rooms() -> str:
    """Return a table of the package's folders."""
    return table("folder|what lives there|what it may import", architecture.room_rows())


def architecture_modules() -> str:
    """Return a table of the modules at the top level of the package."""
    return table("module|what it does", architecture.module_rows())


BLOCKS: dict[str, Callable[[], str]] = {
    "architecture-rooms": architecture_rooms,
    "architecture-modules": architecture_modules,
    "config": config_sections,
    "augment-presets": augment_presets,
    "commands": commands,
    "hooks": hooks,
    "exit-codes": exit_codes,
    "python": python,
    "policy-table": lambda: entry_table("freeze"),
    "policies": lambda: entries("freeze"),
    "losses": lambda: entries("loss"),
    "schedulers": lambda: entries("scheduler"),
    "optimizers": lambda: entries("optimizer"),
    "heads": lambda: entries("head"),
    "backbones": lambda: entries("backbone"),
    "trackers": lambda: entries("track"),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
