import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from siamkit.interfaces import Options
from siamkit.report.options import describe_options, type_name
from siamkit.report.tables import (
    entries_table,
    entry_details,
    plugins_table,
    presets_table,
    timm_table,
)


class Mode(Enum):
    FAST = "fast"
    SAFE = "safe"


class Own(Options):
    margin: float = Field(0.2, gt=0, le=2, description="Distance between [red] classes.")
    mining: Literal["all", "hard"] = "all"
    names: tuple[str, ...] = ("a", "b")
    path: Path | None = None
    needed: int = Field(ge=1, multiple_of=2)


def test_options_are_described_exactly():
    margin, mining, names, path, needed = describe_options(Own)
    assert margin == {
        "name": "margin", "type": "float", "required": False, "default": 0.2,
        "bounds": "> 0, <= 2", "meaning": "Distance between [red] classes.",
    }  # fmt: skip
    assert (mining["type"], mining["default"]) == ("all | hard", "all")
    assert (names["type"], names["default"]) == ("list of text", ["a", "b"])
    assert (path["type"], path["default"]) == ("path | null", None)
    assert (needed["required"], needed["default"]) == (True, None)
    assert needed["bounds"] == ">= 1, multiple of 2"


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"), (bool, "true | false"), (str, "text"), (int | None, "int | null"),
        (tuple[float, float], "[float, float]"), (list[int], "list of int"),
        (tuple[int, ...], "list of int"), (frozenset[str], "list of text"),
        (dict[str, float], "mapping"), (Annotated[int, Field(ge=1)], "int"), (Mode, "fast | safe"),
        (Literal["a", None], "a | null"), (int | Literal["auto"], "int | auto"),
        (list[tuple[int, int]], "list of [int, int]"), (Any, "Any"),
    ],
)  # fmt: skip
def test_types_are_written_as_their_values_are(annotation, text):
    assert type_name(annotation) == text


ENTRY: dict[str, Any] = {
    "name": "triplet", "summary": "Pulls [bold]together.", "distribution": "siamkit",
    "pretrained": True, "options": describe_options(Own), "section_options": [],
}  # fmt: skip


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_entries_say_who_brings_them_and_backbones_whether_pretrained(render):
    assert ["triplet", "Pulls [bold]together.", "siamkit"] in rows(
        render(entries_table("losses", [ENTRY]))
    )
    random = {**ENTRY, "pretrained": False}
    found = rows(render(entries_table("backbones", [ENTRY, random])))
    assert [row[2] for row in found[2:4]] == ["pretrained", "random"]


def test_an_entry_shows_each_option_and_how_to_set_it(render):
    text = render(entry_details(ENTRY, "loss", "loss", "triplet"))
    found = rows(text)
    assert ["margin", "float", "0.2", "> 0, <= 2", "Distance between [red] classes."] in found
    assert ["path", "path | null", "null"] in found
    assert ["needed", "int", "(required)", ">= 1, multiple of 2"] in found
    assert ["names", "list of text", "[a, b]"] in found
    assert "Use it with --loss triplet --set loss.margin=VALUE" in text


def test_a_tracker_is_set_as_an_item_of_a_list(render):
    text = render(entry_details(ENTRY, "track", "track", "triplet"))
    assert "Use it with --set 'track=[{name: triplet, margin: VALUE}]'" in text


def test_an_entry_without_options_says_so(render):
    text = render(entry_details({**ENTRY, "options": []}, "loss", "loss", "triplet"))
    assert "It has no options of its own." in text
    assert "Use it with --loss triplet, or name it in a config file." in text


def test_what_every_entry_of_the_section_takes_stands_apart(render):
    shared = [{"name": "normalize", "type": "true | false", "required": False, "default": True,
               "bounds": "", "meaning": "L2-normalise."}]  # fmt: skip
    text = render(entry_details({**ENTRY, "section_options": shared}, "head", "head", "mlp"))
    assert "Options of every head:" in text
    assert ["normalize", "true | false", "true", "L2-normalise."] in rows(text)


def test_timm_models_say_which_weights_exist(render):
    models = [
        {"name": "convnext_tiny", "pretrained": True, "tags": ["in12k", "fb_in1k"]},
        {"name": "convnext_x", "pretrained": False, "tags": []},
        {"name": "resnet", "pretrained": True, "tags": []},
    ]
    assert rows(render(timm_table(models)))[2:] == [
        ["timm:convnext_tiny", "in12k, fb_in1k"], ["timm:convnext_x", "none"],
        ["timm:resnet", "default"],
    ]  # fmt: skip


def plugin(name, error=None, **registers):
    return {"name": name, "distribution": f"siamkit-{name}", "version": "1.0", "error": error,
            "registers": registers, "hooks": [], "problems": []}  # fmt: skip


def test_plugins_show_what_they_register_and_why_they_failed(render):
    good = plugin("good", backbones=["a", "b"], freeze_policies=["c"])
    bad = plugin("bad", error="ImportError: no [/bold]")
    found = rows(render(plugins_table([good, bad], [])))
    assert ["good", "siamkit-good 1.0", "backbones: a, b"] in found
    assert ["freeze policies: c"] in found
    assert ["bad", "siamkit-bad 1.0", "failed to load"] in found
    assert ["bad (siamkit-bad): ImportError: no [/bold]"] in found


def test_conflicts_name_every_claim(render):
    conflict = {"kind": "backbone", "name": "a", "by": ["one", "two"]}
    assert "conflict: backbone 'a' is registered by one and two" in render(
        plugins_table([plugin("good")], [conflict])
    )


def test_a_plugin_that_registers_nothing_says_so_and_hooks_are_named(render):
    watcher = {**plugin("watch"), "hooks": ["siamkit_event"]}
    found = rows(render(plugins_table([plugin("idle"), watcher], [])))
    assert ["idle", "siamkit-idle 1.0", "nothing"] in found
    assert ["watch", "siamkit-watch 1.0", "hook: siamkit_event"] in found


def test_a_conflict_says_what_is_used_and_what_to_do(render):
    def text(kind, *by):
        conflict = {"kind": kind, "name": "a", "by": list(by)}
        return render(plugins_table([plugin("good")], [conflict])).splitlines()[-1]

    own = "conflict: command 'a' is registered by siamkit and one: siamkit's own command is used"
    assert text("command", "siamkit", "one") == own
    undo = "uninstall or disable one of them to use it"
    assert text("command", "one", "siamkit").endswith(undo)
    assert text("backbone", "siamkit", "one").endswith(undo)


def test_presets_are_described_by_the_comment_at_their_start(render):
    presets = {"one": "# First line\n#  and second.\nkey: 1\n# not this\n", "two": "key: 1\n"}
    found = rows(render(presets_table(presets)))
    assert found[0] == ["name", "summary"]
    assert found[2:] == [["one", "First line and second."], ["two"]]
