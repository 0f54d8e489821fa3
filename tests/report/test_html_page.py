"""The report of a run as a file: what is in it, what is not, and what cannot break it."""

import html
import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from siamkit.api.models import open_run
from siamkit.api.reports import write_report
from siamkit.errors import CheckpointError, ConfigError
from siamkit.json_files import read_sealed, write_sealed
from siamkit.report.html.gather import gather
from siamkit.report.html.page import policy, render, unbroken
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.runs.open import OpenRun

from .conftest import HOSTILE


@pytest.fixture(scope="module")
def written(hostile_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "a.html"
    return write_report(hostile_run, path), path.read_text()


def body_of(text):
    """The page without its data, style and scripts."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)


def data_of(text, name):
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("damaged", [("test",), ("test", "val"), ()])
def test_validation_images_stand_in_for_test_images_that_cannot_be_read(
    hostile_run, monkeypatch, damaged
):
    own = OpenRun.final_held_out

    def final_held_out(run, part):
        if part in damaged:
            raise CheckpointError(f"{part}.safetensors: the file is damaged")
        return own(run, part)

    monkeypatch.setattr(OpenRun, "final_held_out", final_held_out)
    found = gather(open_run(hostile_run))
    left_out = [text for text in found.notices if "held-out images are left out" in text]
    assert len(left_out) == len(damaged)
    if len(damaged) == 2:
        assert found.held is None and found.seen is None and found.map is None
        assert found.why == "The embeddings cannot be read: test.safetensors: the file is damaged"
    else:
        assert found.held is not None and found.held.held.part == "val"
        assert found.why == ("test.safetensors: the file is damaged" if damaged else "")


@pytest.mark.slow
def test_it_is_one_file_of_moderate_size_that_loads_nothing(written):
    result, text = written
    assert result["bytes"] == len(text.encode()) < 8_000_000
    assert result["charts"] == ["loss", "metric-recall-1", "metric-map-r", "plan", "rates",
                                "time", "scores", "det", "roc", "map"]  # fmt: skip
    assert result["part"] == "val"
    links = re.findall(r'(?:src|href)="([^"]*)"', body_of(text))
    assert {link for link in links if not link.startswith("#")} == {"data:,"}


def test_scripts_are_those_of_the_policy_and_no_others(written):
    import base64
    import hashlib

    _, text = written
    found = re.search(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', text)
    assert found
    rules = dict(rule.split(" ", 1) for rule in html.unescape(found[1]).split("; "))
    assert rules["default-src"] == "'none'" and "unsafe" not in rules["script-src"]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in rules["script-src"]


def test_names_that_would_be_code_are_text(written):
    _, text = written
    body = body_of(text)
    assert "<img src=x" not in text and "<b>fat" not in text
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in body
    assert "{{ 7 * 7 }}" in body and "[/bold]" in body
    names = {item["name"].rpartition("/")[0] for item in data_of(text, "items")}
    assert names == {f"val/{name}" for name in HOSTILE}


def test_every_image_shown_has_a_thumbnail(written):
    _, text = written
    thumbs = data_of(text, "thumbs")
    wanted = set(re.findall(r'data-thumb="(\d+)"', text))
    assert wanted and wanted <= set(thumbs) and all(thumbs.values())
    assert {str(item["image"]) for item in data_of(text, "items")} <= set(thumbs)


def test_tables_have_heads_and_charts_have_words(written):
    _, text = written
    body = body_of(text)
    for table in re.findall(r"<table>.*?</table>", body, re.S):
        assert "<caption" in table and 'scope="col"' in table and 'scope="row"' in table
    for plot in re.findall(r"<div[^>]* class=\"plot\"[^>]*>|<div class=\"plot\"[^>]*>", body):
        assert re.search(r'aria-label="[^"]{40,}"', plot)
    assert body.count("<h1") == 1 and body.count("<main") == 1
    levels = [int(n) for n in re.findall(r"<h(\d)", body)]
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_the_menu_lists_the_headings_and_the_docs_explain_them(written):
    _, text = written
    body = body_of(text)
    menu = re.search(r"<nav.*?</nav>", body, re.S)
    assert menu
    links = re.findall(r'<a href="#(\w+)">(.*?)</a>', menu[0])
    assert links == re.findall(r'<h2 id="(\w+)">(.*?)</h2>', body)
    docs = Path(__file__).parents[2] / "docs/howto/report.md"
    table = docs.read_text().partition("## What it shows")[2].partition("\n\n")[2]
    rows = re.findall(r"^\| (\w[\w ]*) \|", table.partition("\n\n")[0], re.M)
    assert rows == ["section", "top of the page", *(name for _, name in links)]


def changed_by(run, to, **changes):
    """A copy of a run whose test images change by these from the untrained backbone."""
    run = copy_of(run, to)
    metrics = read_sealed(run / "metrics.json")
    metrics["metrics"]["test"] = {
        "untrained": dict.fromkeys(changes, 0.5),
        "best": {name: 0.5 + change for name, change in changes.items()},
    }
    write_sealed(run / "metrics.json", metrics)
    return run


def figures_of(text):
    found = re.findall(r'<span class="change">(.*?)</span>\s*</li>', text, re.S)
    return [re.sub(r"\s+", " ", part) for part in found]


def test_gains_and_losses_have_their_sign_word_and_colour(hostile_run, tmp_path):
    run = changed_by(
        hostile_run, tmp_path / "run", **{"recall@1": -0.125, "map@r": 0.0004, "eer": -0.25}
    )
    write_report(run)
    text = (run / "report.html").read_text()
    worse, same, fewer_errors = figures_of(text)[:3]
    assert worse == '0.500 untrained, <b class="loss">\N{MINUS SIGN}0.125 worse</b>'
    assert same == "0.500 untrained, unchanged"
    assert fewer_errors == '0.500 untrained, <b class="gain">\N{MINUS SIGN}0.250 better</b>'
    rules = dict(re.findall(r"\.change \.(gain|loss) \{ color: (.*?);", text))
    assert rules == {"gain": "var(--right)", "loss": "var(--wrong)"}


@pytest.mark.parametrize(("change", "told"), [(-0.125, True), (0.125, False), (0.0, False)])
def test_a_run_below_its_baseline_says_so_at_the_top(hostile_run, tmp_path, change, told):
    run = changed_by(hostile_run, tmp_path / "run", **{"recall@1": change})
    # Without its validation baseline, which this run may end below as well.
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["event"] != "untrained"]
    (run / "events.jsonl").write_text("".join(kept))
    write_report(run)
    top = body_of((run / "report.html").read_text()).partition("<h1>")[0]
    assert ('<span class="status">worse than the untrained backbone</span>' in top) == told


def test_it_says_what_the_network_sees(hostile_run, tmp_path):
    run = copy_of(hostile_run, tmp_path / "run")
    kept = HeldOut.load(RunDir(run), "val")
    assert kept is not None
    how = replace(kept.preprocessing, fit="squash", value_range=12)
    replace(kept, preprocessing=how).save(RunDir(run))
    write_report(run)
    body = body_of((run / "report.html").read_text())
    assert "whole images, squashed to a square; 4095 is white in 16-bit images" in body
    about = body.partition("<dt>the network sees</dt>")[2].partition("</dd>")[0]
    assert "squashed" in about and "pixels" in about
    note = body.partition('id="retrieval"')[2].partition("</p>")[0]
    assert "as the network sees them" in note and "squashed" in note


def copy_of(run: Path, to: Path) -> Path:
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("checkpoints", ".lock"))
    return to


@pytest.mark.parametrize("lines", [0, 1, 4, 9])
def test_an_interrupted_run_has_a_report_that_says_what_is_missing(hostile_run, tmp_path, lines):
    run = copy_of(hostile_run, tmp_path / "run")
    shutil.rmtree(run / "embeddings")
    (run / "metrics.json").unlink()
    kept = (run / "events.jsonl").read_text().splitlines(keepends=True)[:lines]
    (run / "events.jsonl").write_text("".join(kept) + '{"time": 3, "ev')
    result = write_report(run)
    text = (run / "report.html").read_text()
    assert "not finished" in text and "embedded at the end of a run" in text
    assert result["part"] is None and "map" not in result["charts"]
    assert any("events.jsonl" in notice for notice in result["notices"])


def test_a_damaged_file_of_embeddings_is_named(hostile_run, tmp_path):
    run = copy_of(hostile_run, tmp_path / "run")
    (run / "embeddings" / "val.safetensors").write_bytes(b"\0" * 20)
    (run / "metrics.json").write_text("{")
    write_report(run)
    assert "val.safetensors: the file is damaged" in (run / "report.html").read_text()


def test_images_that_were_moved_leave_a_labelled_gap(hostile_run, tmp_path):
    data = hostile_run.parent / "data"
    data.rename(tmp_path / "elsewhere")
    try:
        result = write_report(hostile_run, tmp_path / "a.html")
    finally:
        (tmp_path / "elsewhere").rename(data)
    text = (tmp_path / "a.html").read_text()
    assert "no file</span>" in text and "the file cannot be read" in text
    assert "<img data-thumb" not in text
    assert any("24 of the 24 images shown" in notice for notice in result["notices"])


def test_a_damaged_threshold_is_a_notice_and_is_not_used(hostile_run, tmp_path):
    run = copy_of(hostile_run, tmp_path / "run")
    (run / "calibration.json").write_text('{"threshold": 0.4321}')
    notices = write_report(run)["notices"]
    assert any("the threshold is not the run's own" in text for text in notices)
    assert "At the threshold of 0.432" not in (run / "report.html").read_text()


def test_the_threshold_of_the_calibration_is_shown_with_what_it_foresaw(hostile_run, tmp_path):
    run = copy_of(hostile_run, tmp_path / "run")
    rate = {"rate": 0.0123, "low": 0.004, "high": 0.031}
    path = run / "calibration.json"
    values = {**read_sealed(path), "threshold": 0.4321, "far": rate, "frr": rate}
    write_sealed(path, values)
    assert [text for text in write_report(run)["notices"] if "threshold" in text] == []
    text = (run / "report.html").read_text()
    assert "At the threshold of 0.432" in text and "predicted" in text
    assert "1.23\N{NO-BREAK SPACE}% (0.4\N{NO-BREAK SPACE}% to 3.1\N{NO-BREAK SPACE}%)" in text
    assert "no calibration.json" not in text


def test_test_images_come_before_validation_images(hostile_run, tmp_path):
    run = copy_of(hostile_run, tmp_path / "run")
    kept = HeldOut.load(RunDir(run), "val")
    assert kept is not None
    replace(kept, part="test").save(RunDir(run))
    metrics = read_sealed(run / "metrics.json")
    best = {"recall@1": 0.4567, "map@r": 0.25}
    metrics["metrics"]["test"] = {"untrained": {"recall@1": 0.25, "map@r": 0.125}, "best": best}
    write_sealed(run / "metrics.json", metrics)
    assert write_report(run)["part"] == "test"
    text = (run / "report.html").read_text()
    assert "the test set, " in text and "chose the best epoch" not in text
    assert "These images chose the threshold, so the figures are optimistic" in text
    assert "0.457" in text and '<b class="gain">+0.207 better</b>' in text


def test_what_is_no_run_or_no_file_is_told(hostile_run, tmp_path):
    with pytest.raises(CheckpointError, match="not a run directory"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="is a folder"):
        write_report(hostile_run, tmp_path)


def test_versions_and_configuration_are_those_of_the_run(written):
    _, text = written
    from importlib.metadata import version

    assert f">{version('torch')}</td>" in text
    assert "name: triplet" in text and "fixed seed" in text


def test_no_line_ends_between_a_number_and_its_unit():
    text = "17.6 % of 1.31 M in 3 min 05 s, epochs 10 to 12 of a 5 mile run, a 3 maps"
    hard = text.replace("17.6 %", "17.6\xa0%").replace("1.31 M", "1.31\xa0M")
    hard = hard.replace("3 min 05 s", "3\xa0min 05\xa0s").replace("10 to 12", "10\xa0to\xa012")
    assert unbroken(text) == hard


def test_the_policy_forbids_what_it_does_not_name():
    assert policy("sha256-x", "sha256-y") == (
        "default-src 'none'; script-src 'sha256-x' 'sha256-y'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_steps_tell_how_long_they_waited(hostile_run):
    events = [json.loads(s) for s in (hostile_run / "events.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    assert steps and all(0 < step["input_seconds"] < step["seconds"] for step in steps)


def test_a_name_that_a_template_forgot_is_an_error():
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        render({}, {})
