"""Draw docs/architecture.svg from the tree and from the import contracts in pyproject.toml.

    python docs/architecture.py            rewrite the figure
    python docs/architecture.py --check    exit with 1 if it is out of date

``docs/generate.py`` takes the two tables of docs/architecture.md from here. A new room or module
needs a line in :data:`ROOMS` or :data:`MODULES`.
"""

from __future__ import annotations

import sys
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "siamkit"
FIGURE = ROOT / "docs" / "architecture.svg"

ROOMS = {
    "cli": "The commands, one file each: they parse, call `api` and print.",
    "api": "The functions behind the commands. They take names, mappings or objects.",
    "testing": "The conformance kit for plugins. It takes names or objects.",
    "objects": "Python objects passed instead of names: adapters, registry entries and hashes.",
    "report": "Tables, the log of a run, the HTML report, contact sheets.",
    "comparison": "Many runs on one data set: arms, folds, the race, intervals, the verdict.",
    "compress": "Pruning: groups and importance of channels, their choice, and the rounds.",
    "training": "Fit, the epoch loop, the step, the optimizer, the rates and the batches.",
    "inference": "The embedder, embedding files, galleries to search, and exports.",
    "runs": "The run directory, checkpoints, held-out embeddings, calibration and events.",
    "evaluation": "Retrieval, verification and few-shot metrics, with intervals.",
    "engine": "Runs frozen parts once: cutting the network, the planner, the kernels, the cache.",
    "freezing": "The schedule, the controller, eval mode, fingerprints and the memory of a step.",
    "model": "Backbones, their stages, the heads and `SiameseNet`.",
    "data": "Folders, tables, images in memory, splits, views, batches and checks.",
    "config": "The configuration: its sections, and the layers that it is resolved from.",
    "portable": "The code that an exported model needs to run, without torch.",
    "builtins": "The built-in plugins: backbones, policies, heads, losses, optimizers, ...",
}
"""What lives in each folder of the package."""

MODULES = {
    "commands": "The commands that plugins add.",
    "plugins": "Finds plugins by entry point and loads each in isolation.",
    "hooks": "Checks a plugin's hooks.",
    "registration": "Checks each entry that a plugin registers.",
    "hookspecs": "The hooks that a plugin may implement.",
    "registry": "Registered names, with their build functions and options.",
    "problems": "Rewords validation errors.",
    "guard": "Adds the plugin's name to an error or a wrong result.",
    "interfaces": "The classes that plugins implement.",
    "batches": "Batches and their sources.",
    "json_files": "Reads and writes JSON, with a SHA-256 if it decides a result.",
    "tensor_files": "Reads and writes tensors.",
    "files": "Checks paths; reads files; replaces files and folders in one step.",
    "hub": "Gets files from the model hub.",
    "showing": "Reprs and progress, in terminals and notebooks.",
    "checks": "Checks arguments of functions.",
    "errors": "Exceptions and exit codes.",
    "keys": "The size of cache keys.",
    "spelling": "Spells settings for Python or for the CLI.",
    "lazy": "Public names that load on their first use.",
    "words": "Numbers with nouns or units; texts that are safe to print.",
    "options": "The base class of options models.",
    "version": "The version of siamkit, and the versions that results record.",
}
"""What each module at the top level of the package does."""

TRAIN = {
    "cli": (1,),
    "api": (2,),
    "plugins": (3,),
    "config": (4,),
    "training": (5,),
    "data": (6,),
    "model": (7,),
    "runs": (8, 12),
    "freezing": (9,),
    "engine": (10,),
    "evaluation": (11,),
    "report": (13,),
}
"""The steps of ``siamkit train`` in each room, as the page numbers them."""


@dataclass(frozen=True)
class Contract:
    """An import contract that forbids something.

    Attributes:
        name: The contract in words.
        sources: The rooms whose imports the contract restricts.
        forbidden: The rooms, or modules in rooms, that the sources may not import.
    """

    name: str
    sources: tuple[str, ...]
    forbidden: tuple[str, ...]


def _contracts() -> list[dict[str, object]]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts: list[dict[str, object]] = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    return contracts


def _short(names: object) -> tuple[str, ...]:
    assert isinstance(names, list)
    return tuple(name.removeprefix("siamkit.") for name in names)


def layers() -> list[tuple[str, ...]]:
    """Return the layers, highest first; the names in one layer may not import each other."""
    (contract,) = (c for c in _contracts() if c["type"] == "layers")
    names = _short(contract["layers"])
    split = (layer.split("|") for layer in names)
    return [tuple(n.strip().removeprefix("siamkit.") for n in layer) for layer in split]


def contracts() -> list[Contract]:
    """Return the contracts that forbid imports, without the contract of the layers."""
    found = (c for c in _contracts() if c["type"] == "forbidden")
    return [
        Contract(str(c["name"]), _short(c["source_modules"]), _short(c["forbidden_modules"]))
        for c in found
    ]


def rooms() -> set[str]:
    """Return the folders of the package."""
    return {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def modules() -> set[str]:
    """Return the modules at the top level of the package."""
    return {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}


def folders(room: str) -> list[str]:
    """Return the folders in a room."""
    return sorted(path.parent.name for path in (PACKAGE / room).glob("*/__init__.py"))


def exceptions(name: str) -> list[str]:
    """Return the rooms and modules in lower layers that the room ``name`` may not import."""
    order = [layer for names in layers() for layer in names]
    below = set(order[order.index(name) + 1 :])
    forbidden = (f for c in contracts() if name in c.sources for f in c.forbidden)
    return sorted({f for f in forbidden if f.partition(".")[0] in below})


# --- the tables of the page ----------------------------------------------------------------------


def room_rows() -> list[list[str]]:
    """Return a row for each folder: its name, what lives there, what it may import."""
    ordered = [name for layer in layers() for name in layer if name in rooms()]
    rows = []
    for name in [*ordered, *sorted(rooms() - set(ordered))]:
        inner = "".join(f", `{folder}/`" for folder in folders(name))
        rows.append([f"`{name}/`{inner}", ROOMS[name], _may_import(name, ordered)])
    return rows


def _may_import(name: str, ordered: list[str]) -> str:
    if name not in ordered:
        return "everything; only its entry point names it"
    but = ", ".join(f"`{one}`" for one in exceptions(name))
    return "everything below" + (f", but not {but}" if but else "")


def module_rows() -> list[list[str]]:
    """Return a row for each module at the top level: its name, and what it does."""
    ordered = [name for layer in layers() for name in layer if name in modules()]
    return [[f"`{name}.py`", MODULES[name]] for name in ordered]


# --- the figure ----------------------------------------------------------------------------------

_WIDTH, _LEFT, _BOX = 880, 44, 536
_SIDE = _LEFT + _BOX + 24
_ROOM, _MODULE, _GAP, _INDENT = 38, 22, 6, 92

_STYLE = """
  .page { fill: #ffffff; }
  .room { fill: #eaf2fb; stroke: #4f81bd; }
  .lib { fill: #fdf0e0; stroke: #c77d2e; }
  .small { fill: #f3f4f6; stroke: #9aa2ad; }
  .door { fill: #eef7ee; stroke: #5a9e5f; stroke-dasharray: 5 3; }
  .name { fill: #1b2430; font-weight: 600; }
  .text { fill: #4b5563; }
  .line { stroke: #8b95a3; fill: none; }
  .tip { fill: #8b95a3; }
  .step { fill: #2f5f9e; }
  .number { fill: #ffffff; font-weight: 600; text-anchor: middle; }
  text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
"""
_DARK = """
  .page { fill: #11161d; }
  .room { fill: #17293f; stroke: #5d94d6; }
  .lib { fill: #3a2814; stroke: #d99a52; }
  .small { fill: #1e252e; stroke: #5b6675; }
  .door { fill: #16291a; stroke: #6fb776; }
  .name { fill: #e8edf4; }
  .text { fill: #a9b4c2; }
  .line { stroke: #74808f; }
  .tip { fill: #74808f; }
  .step { fill: #6ea3e6; }
  .number { fill: #0d1420; }
"""


def figure(dark: bool | None = None) -> str:
    """Return the figure as SVG.

    Args:
        dark: True for dark colours, False for light ones; None follows the reader's setting.
    """
    places, height = _places()
    parts = [*_boxes(places), *_downwards(height), *_notes(places), *_door(places, height)]
    follow = f"  @media (prefers-color-scheme: dark) {{{_DARK}  }}\n" if dark is None else ""
    style = _STYLE + (_DARK if dark else follow)
    label = "The rooms of siamkit in layers: each imports only what lies below it."
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" role="img" aria-label="{label}">',
            f"<style>{style}</style>",
            f'<rect class="page" width="{_WIDTH}" height="{height}" rx="8"/>',
            *parts,
            "</svg>\n",
        )
    )


@dataclass(frozen=True)
class _Place:
    x: int
    y: int
    width: int
    height: int

    @property
    def middle(self) -> int:
        return self.y + self.height // 2


def _places() -> tuple[dict[str, _Place], int]:
    """Return where the box of each name lies, and the height of the figure."""
    places, y = {}, 20
    for layer in layers():
        height = _ROOM if set(layer) & rooms() else _MODULE
        width = (_BOX - _GAP * (len(layer) - 1)) // len(layer)
        for column, name in enumerate(layer):
            places[name] = _Place(_LEFT + column * (width + _GAP), y, width, height)
        y += height + _GAP
    return places, y + 14


def _boxes(places: dict[str, _Place]) -> Iterator[str]:
    library = next(c for c in contracts() if c.sources[0] == "engine")
    for name, at in places.items():
        kind = "small" if name in modules() else "lib" if name in library.sources else "room"
        yield (
            f'<rect class="{kind}" x="{at.x}" y="{at.y}" width="{at.width}" height="{at.height}" '
            'rx="5"/>'
        )
        steps = TRAIN.get(name, ())
        if name in modules():
            yield _text(at.x + 10, at.middle + 4, name, "name", 11)
            if _INDENT + 5.6 * len(MODULES[name]) < at.width - 24 * len(steps):
                yield _text(at.x + _INDENT, at.middle + 4, MODULES[name], "text", 10)
        else:
            yield _text(at.x + 10, at.y + 16, name, "name", 13)
            text = ROOMS[name].replace("`", "")
            if len(text) * 5.9 > at.width - 20 - 24 * len(steps):
                text = text.partition(". ")[0].removesuffix(".") + "."
            yield _text(at.x + 10, at.y + 31, text, "text", 11)
        for at_right, step in enumerate(reversed(steps)):
            x, radius = at.x + at.width - 16 - 22 * at_right, 9
            yield f'<circle class="step" cx="{x}" cy="{at.middle}" r="{radius}"/>'
            yield _text(x, at.middle + 4, str(step), "number", 11)


def _downwards(height: int) -> Iterator[str]:
    bottom = height - 24
    yield f'<path class="line" d="M22 24 V{bottom}"/>'
    yield f'<path class="tip" d="M17 {bottom - 4} h10 l-5 9 z"/>'
    x, y = 15, height // 2
    yield (
        f'<text class="text" font-size="11" text-anchor="middle" x="{x}" y="{y}" '
        f'transform="rotate(-90 {x} {y})">imports go downwards only</text>'
    )


def _notes(places: dict[str, _Place]) -> Iterator[str]:
    """Draw each contract of a few rooms beside them."""
    for contract in contracts():
        if "builtins" in contract.forbidden:
            continue
        marked = [places[name] for name in contract.sources]
        top = min(at.y for at in marked) + 4
        bottom = max(at.y + at.height for at in marked) - 4
        yield f'<path class="line" d="M{_SIDE - 16} {top} h7 V{bottom} h-7"/>'
        lines = [(line, "name") for line in textwrap.wrap(contract.name, 42)]
        below = {f for name in contract.sources for f in exceptions(name)}
        if below:
            whole = sorted(f for f in below if "." not in f)
            lines += [(line, "text") for line in textwrap.wrap(f"not {', '.join(whole)}", 46)]
        y = (top + bottom) // 2 - 7 * len(lines) + 11
        for number, (line, kind) in enumerate(lines):
            yield _text(_SIDE, y + 14 * number, line, kind, 11)


def _door(places: dict[str, _Place], height: int) -> Iterator[str]:
    """Draw the plugins that come in by entry points."""
    target = places["plugins"]
    y, tall = target.y - 28, 78
    yield (
        f'<rect class="door" x="{_SIDE}" y="{y}" width="{_WIDTH - _SIDE - 16}" height="{tall}" '
        'rx="5"/>'
    )
    yield _text(_SIDE + 10, y + 18, "builtins, plugins/*, yours", "name", 12)
    said = next(c.name for c in contracts() if "builtins" in c.forbidden)
    text = f"Plugins come in by entry points. {said}."
    for number, line in enumerate(textwrap.wrap(text, 40)):
        yield _text(_SIDE + 10, y + 36 + 14 * number, line, "text", 11)
    end = target.x + target.width
    yield f'<path class="line" d="M{_SIDE} {target.middle} H{end + 8}"/>'
    yield f'<path class="tip" d="M{end + 9} {target.middle - 5} v10 l-8 -5 z"/>'
    yield _text(_SIDE, height - 24, "Numbers: the steps of siamkit train.", "text", 11)


def _text(x: int, y: int, text: str, kind: str, size: int) -> str:
    return f'<text class="{kind}" font-size="{size}" x="{x}" y="{y}">{escape(text)}</text>'


def main(argv: list[str]) -> int:
    """Rewrite the figure, or check it; return the exit code."""
    stale = not FIGURE.exists() or FIGURE.read_text(encoding="utf-8") != figure()
    if stale and "--check" not in argv:
        FIGURE.write_text(figure(), encoding="utf-8")
    if stale:
        print(f"{FIGURE.relative_to(ROOT)}: {'stale' if '--check' in argv else 'written'}")
    return int("--check" in argv and stale)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
