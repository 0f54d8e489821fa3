"""The reference states the names, defaults, ranges and signatures of the code, in all rooms."""

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from siamkit import api, hookspecs
from siamkit.config import RunConfig
from siamkit.report.options import describe_options

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("siamkit_docs_generate", DOCS / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


@pytest.mark.parametrize("page", GENERATOR.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_generated_text_is_up_to_date(page):
    assert GENERATOR.render(page) == read(page), "run: python docs/generate.py"


def test_every_generated_block_stands_in_some_page():
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    used = {n for page in pages for n in re.findall(r"<!-- generated: ([\w-]+) -->", read(page))}
    assert used == set(GENERATOR.BLOCKS)


def test_the_defaults_of_options_stand_in_the_reference():
    text = read(DOCS / "reference/cli.md")
    assert "| `-k K` | Results per query. Default: 10. |" in text
    assert [line for line in text.splitlines() if line.count("Default: ") > 1] == []


def test_a_stale_page_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- generated: exit-codes -->\nold\n<!-- end -->\nb\n")
    text = GENERATOR.render(page)
    assert "old" not in text
    assert text.startswith("a\n") and text.endswith("<!-- end -->\nb\n")


HOOKS = [name for name in vars(hookspecs) if name.startswith("siamkit_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hooks_exact_signature_stands_in_the_reference(hook):
    signature = str(inspect.signature(getattr(hookspecs, hook))).replace("'", "")
    assert f"def {hook}{signature}: ..." in read(DOCS / "reference/hooks.md")


@pytest.mark.parametrize(
    ("section", "page"),
    [(name, page) for name, (page, _) in GENERATOR._OPTION_PAGES.items()],
)
def test_each_registered_name_and_option_is_documented(section, page):
    text = read(DOCS / "reference" / page)
    registry = api.registries()[section]
    assert "siamkit" in {entry.distribution for entry in registry}
    for entry in registry:
        if entry.distribution != "siamkit":
            continue
        _, heading, rest = text.partition(f"\n## `{entry.name}`\n")
        assert heading, entry.name
        own = rest.partition("\n## ")[0]
        for option in entry.options.model_fields:
            assert f"| `{option}` |" in own, f"{entry.name}: {option}"


def test_every_option_and_key_has_a_meaning():
    models = [entry.options for r in api.registries().values() for entry in r]
    rows = [row for model in [*models, RunConfig] for row in GENERATOR.option_rows(model)]
    assert [key for key, _, _, meaning in rows if not meaning] == []


def test_every_key_of_the_configuration_is_documented():
    text = read(DOCS / "reference/config.md")
    for section in describe_options(RunConfig):
        assert f"\n## `{section['name']}`\n" in text


def test_the_readme_names_every_freeze_policy():
    for entry in GENERATOR.own("freeze"):
        assert f"| `{entry.name}` |" in read(ROOT / "README.md")
