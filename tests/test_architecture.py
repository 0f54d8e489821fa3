"""docs/architecture.md and its figure show the tree and the import contracts as they are."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "siamkit"
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def load_script() -> ModuleType:
    path = ROOT / "docs/architecture.py"
    spec = importlib.util.spec_from_file_location("siamkit_docs_architecture", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script()
FOLDERS = {p.parent for p in PACKAGE.rglob("__init__.py")} - {PACKAGE}
MODULES = {p for p in PACKAGE.glob("*.py") if not p.stem.startswith("__")}


def first_cells(heading: str) -> list[str]:
    """Return the first column of the table under a header row."""
    rows = PAGE.partition(f"| {heading} | ")[2].splitlines()[2:]
    cells = []
    for row in rows:
        if not row.startswith("| "):
            break
        cells.append(row.split(" | ")[0].removeprefix("| "))
    return cells


def pyproject_layers() -> list[set[str]]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    return [{re.sub(r"^siamkit\.", "", n.strip()) for n in row.split("|")} for row in layers]


def test_every_folder_stands_on_the_page_and_no_other():
    named = set()
    for cell in first_cells("folder"):
        room, *inner = re.findall(r"`([\w/]+)/`", cell)
        named |= {PACKAGE / room, *(PACKAGE / room / name for name in inner)}
    assert named == FOLDERS


def test_every_module_at_the_top_stands_on_the_page_and_no_other():
    named = {PACKAGE / cell.strip("`") for cell in first_cells("module")}
    assert named == MODULES


def test_texts_are_there_for_what_exists_and_for_nothing_else():
    assert set(SCRIPT.ROOMS) == {p.name for p in FOLDERS if p.parent == PACKAGE}
    assert set(SCRIPT.MODULES) == {p.stem for p in MODULES}
    assert set(SCRIPT.TRAIN) <= {*SCRIPT.ROOMS, *SCRIPT.MODULES}


def test_the_order_on_the_page_is_that_of_the_layers():
    layer_of = {name: at for at, layer in enumerate(pyproject_layers()) for name in layer}
    folders = [re.findall(r"`(\w+)/`", cell)[0] for cell in first_cells("folder")]
    modules = [cell.strip("`").removesuffix(".py") for cell in first_cells("module")]
    assert folders.pop() == "builtins"  # in no layer: it comes in by an entry point
    for names in (folders, modules):
        at = [layer_of[name] for name in names]
        assert at == sorted(at)
    assert {*folders, *modules} == set(layer_of)


def test_the_figure_has_a_box_for_each_name_and_higher_layers_lie_higher():
    rects, names = {}, {}
    for element in ElementTree.parse(ROOT / "docs/architecture.svg").iter():
        tag = element.tag.partition("}")[2]
        kind = element.get("class")
        if tag == "rect" and kind in ("room", "lib", "small"):
            rects[int(element.get("x")) + 10] = rects.get(int(element.get("x")) + 10, [])
            rects[int(element.get("x")) + 10].append(int(element.get("y")))
        elif tag == "text" and kind == "name":
            names[element.text] = int(element.get("y"))
    heights = [{names[name] for name in layer} for layer in pyproject_layers()]
    assert all(len(at) == 1 for at in heights)
    flat = [at.pop() for at in heights]
    assert flat == sorted(set(flat))
    assert sum(map(len, rects.values())) == sum(map(len, pyproject_layers()))


def test_the_figure_is_up_to_date():
    figure = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")
    assert figure == SCRIPT.figure(), "run: python docs/architecture.py"


def test_no_text_of_the_figure_leaves_its_box():
    """On average a character is 0.56 of the font size wide, in the fonts that the figure names."""
    boxes = []
    for element in ElementTree.fromstring(SCRIPT.figure()).iter():
        tag = element.tag.partition("}")[2]
        if tag == "rect" and element.get("class") != "page":
            boxes.append([float(element.get(k)) for k in ("x", "y", "width", "height")])
        elif tag == "text" and element.get("transform") is None:
            x, y, size = (float(element.get(k)) for k in ("x", "y", "font-size"))
            end = x + len(element.text) * size * 0.56
            inside = [b for b in boxes if b[0] <= x <= b[0] + b[2] and b[1] <= y <= b[1] + b[3]]
            right = inside[-1][0] + inside[-1][2] if inside else SCRIPT._WIDTH
            assert end <= right, element.text


def test_the_contracts_decide_what_a_room_may_import():
    assert SCRIPT.exceptions("engine") == ["config", "data"]
    assert SCRIPT.exceptions("evaluation") == ["engine", "freezing", "model"]
    assert SCRIPT.exceptions("data") == []
    assert "portable.nearest" in SCRIPT.exceptions("report")


def test_the_files_of_the_path_exist_and_its_numbers_are_those_of_the_figure():
    path = PAGE.partition("## The path of `siamkit train`")[2].partition("\n## ")[0]
    steps = dict(re.findall(r"^(\d+)\. (.*?)(?=^\d+\. |\n\n|\Z)", path, re.MULTILINE | re.DOTALL))
    for file in re.findall(r"`([\w/]+\.py)`", path):
        assert (PACKAGE / file).exists(), file
    assert sorted(map(int, steps)) == sorted(n for at in SCRIPT.TRAIN.values() for n in at)
    for name, numbers in SCRIPT.TRAIN.items():
        for number in numbers:
            assert re.search(rf"`{name}\b", steps[str(number)]), (name, number)


@pytest.mark.parametrize("dark", [True, False, None])
def test_the_figure_is_well_formed(dark):
    assert ElementTree.fromstring(SCRIPT.figure(dark)).get("width") == "880"
