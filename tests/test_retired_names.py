"""Names that were given up come back nowhere: in no code, test, page or example."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("siamkit", "tests", "docs", "examples", "plugins")
SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".html", ".css", ".js", ".svg", ""}
AT_THE_TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml")

# Split, so that this file does not find itself. 'CHANGELOG.md' names what was renamed.
WORDS = (
    "Curri" + "culum", "curri" + "culum", "Rou" + "te", "Cour" + "se", "Sur" + "vey",
    "Whole" + "Network", "forward" + "_single", "uses" + "_state", "self" + "test",
    "boundaries" + "_of", "Known" + "Source", "File" + "Record", "Pair" + "List",
    "Pairs" + "ToVerify", "Shown" + "Pair", "Triplet" + "List",
    "passed" + "_over", "torn" + "_groups",
)  # fmt: skip
PHRASES = (
    "siamkit." + "deploy", "siamkit/" + "deploy", "siamkit." + "plan(", "siamkit." + "load(",
    "freezing." + "phases", "freezing/" + "phases", "training." + "engine", "training/" + "engine",
    "training." + "checkpoint", "training." + "run_dir", "training." + "events",
    "training." + "rundir", "training." + "heldout", "training." + "caching",
    "training." + "sources", "training." + "routes", "engine." + "routes",
    "freezing." + "prefix", "freezing." + "suffix", "freezing." + "boundary",
    "freezing." + "cache", "freezing." + "kernels", "freezing." + "planner", "freezing." + "flops",
    "siamkit." + "embedding", "siamkit." + "pairlist", "data." + "known",
)  # fmt: skip
RETIRED = [*(rf"\b{re.escape(w)}\b" for w in WORDS), *(re.escape(p) + r"\b" for p in PHRASES)]


def files() -> Iterator[Path]:
    yield from (ROOT / name for name in AT_THE_TOP)
    for place in PLACES:
        for path in (ROOT / place).rglob("*"):
            hidden = any(part.startswith((".", "__pycache__")) for part in path.parts[-4:])
            if path.is_file() and path.suffix in SUFFIXES and not hidden:
                yield path


def texts() -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8", errors="replace") for path in files()}


TEXTS = texts()


@pytest.mark.parametrize("pattern", RETIRED)
def test_a_retired_name_is_nowhere(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path, text in TEXTS.items()
        if path.name != "CHANGELOG.md"
        for match in re.finditer(pattern, text)
    ]
    assert found == []


def test_the_search_reads_the_tree_and_would_find_a_name():
    assert len(TEXTS) > 300
    assert sum("FreezeSchedule" in text for text in TEXTS.values()) > 5
    for pattern, name in zip(RETIRED, [*WORDS, *PHRASES], strict=True):
        # A word stands for itself alone; a call goes on with its argument.
        assert re.search(pattern, f"x = {name}" + "net" * name.endswith("("))


def test_what_was_renamed_is_gone_from_the_package_too():
    import siamkit
    from siamkit.model.siamese import SiameseNet

    for name in ("plan", "load", "embedder"):
        assert not hasattr(siamkit, name)
    assert not hasattr(SiameseNet, "forward" + "_single")
