"""What the pages show is what is printed: their blocks are run, and their output is compared.

``docs/run.py`` has the rules for pages, ``docs/compare.py`` those for what may differ.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compare, docs = load("compare"), load("run")

FAST = ("backbone-plugin.md", "loop.md", "policy-plugin.md")
"""Pages that take seconds; the others train."""


@pytest.mark.filterwarnings("default")  # as users see them
@pytest.mark.parametrize("page", [
    pytest.param(page, id=page.name, marks=[] if page.name in FAST else pytest.mark.slow)
    for page in docs.PAGES
])  # fmt: skip
def test_a_page_shows_what_is_printed(page, tmp_path, monkeypatch):
    if docs.NEEDS.get(page.name, "PATH") not in os.environ:
        pytest.skip(f"{docs.NEEDS[page.name]} names no folder of images")
    monkeypatch.delenv("SIAMKIT_CACHE_DIR")
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.setenv("BROWSER", "true")
    found = list(docs.differences(page, tmp_path))
    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("page", docs.PAGES, ids=lambda page: page.name)
def test_each_text_of_a_page_is_the_output_of_a_command(page):
    assert docs.steps(page.read_text(encoding="utf-8")) is not None


def test_a_text_without_a_command_is_noticed():
    with pytest.raises(ValueError, match="line 3: no command prints this text"):
        docs.steps("# Page\n\n```text\nrecall@1 0.9\n```\n")
    with pytest.raises(ValueError, match="no command prints"):
        docs.steps("```console\n$ siamkit plugins\n```\n\nIt prints:\n\n```text\na\n```\n")


def test_a_page_has_commands_with_outputs_code_and_files():
    found = docs.steps(
        "```console\n$ siamkit train \\\n    photos\n$ siamkit plugins\nplugin\n```\n\n"
        "```text\nmore\n```\n\nWrite `run.yaml`:\n\n```yaml\ndata: photos\n```\n\n"
        "```python\nprint(1)\n```\n\n```text\n1\n```\n"
    )
    assert [(step.kind, step.source, step.expected) for step in found] == [
        ("console", "siamkit train      photos", None),
        ("console", "siamkit plugins", "plugin\nmore\n"),
        ("file", "data: photos\n", "run.yaml"),
        ("python", "print(1)\n", "1\n"),
    ]


def test_a_page_that_shows_something_else_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nprint('a 0.50')\n```\n\n```text\na 0.55\n```\n\n"
        "```python\nprint('a 0.50')\n```\n\n```text\na 0.75\n```\n\n```python\n1 / 0\n```\n\n"
        "```console\n$ siamkit list lossen\n```\n"
    )
    wrong, failed, refused = docs.differences(page, tmp_path)
    assert "page.md:10: print('a 0.50')" in wrong and "a 0.75" in wrong
    assert "ZeroDivisionError" in failed and "did you mean 'losses'?" in refused


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("epoch 1/6  loss 1.012  auc 0.896  0.3 s  best", "epoch 1/6  loss 1.03  auc 0.93  17 s"),
        ("9.22 MB in /home/me at 87 img/s", "12.1 kB in /home/me at 3.2 img/s"),
        ("frozen up to b2: cached", "frozen up to b2: live (estimated 3 s)"),
        ("FAR 13.3 % (6.09 % to 24 %)", "FAR 12 % (9 % to 30 %)"),
        ("a   b\n───────\n1   2", "a b\n───\n1 2"),
        ("best (epoch 4)  0.942 (+0.046)", "best (epoch 5)  0.932 (-0.01)"),
        ("a\n...\nd", "a\nb\nc\nd"),
        ("...\nd", "a\nd"),
        ("a\n...", "a\nd"),
        ("...\nb\n...\nd\n...", "a\nb\nc\nd\ne"),
        ("a", "loading torch and the plugins ...\na\nepoch 3/6  step 6/19  lr 0.1"),
    ],
)
def test_what_may_differ(shown, printed):
    assert compare.difference(shown, printed) is None


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("train 180 images", "train 181 images"),
        ("auc 0.896", "auc 0.999"),
        ("FAR 13.3 %", "FAR 24 %"),
        ("1.31 M of 4.68 M", "1.32 M of 4.68 M"),
        ("val 180 of 30", "val 180 images of 30 classes"),
        ("all of it", "all of it\nand more"),
        ("a\n...\nd", "a\nb\nc"),
        ("a\n...\nd", "b\nd"),
        ("a\nb", "a"),
        ("frozen up to b2: cached", "frozen up to b3: cached"),
        ("recall@1 0.9", "recall@5 0.9"),
    ],
)
def test_what_may_not_differ(shown, printed):
    assert compare.difference(shown, printed) is not None
