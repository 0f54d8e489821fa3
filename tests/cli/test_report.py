"""``siamkit report``, and the report at the end of ``siamkit train``."""

import json
from pathlib import Path

import pytest

from siamkit.config import yaml_text


@pytest.fixture
def config(tmp_path, run_values) -> Path:
    path = tmp_path / "run.yaml"
    values = run_values(train={"epochs": 1}, engine={"cache": "off"})
    path.write_text(yaml_text.dump(values))
    return path


@pytest.mark.slow
def test_training_ends_with_a_report_and_the_verb_writes_another(cli, config, tmp_path):
    done = cli("train", "--config", config, "--json")
    report = tmp_path / "run" / "report.html"
    assert done.code == 0 and done.json["schema"] == "siamkit.train/1"
    assert f"report: {report}" in done.err
    assert report.read_text().startswith("<!doctype html>")
    again = cli("report", tmp_path / "run", "-o", tmp_path / "b.html", "--json")
    assert again.code == 0
    assert again.json["schema"] == "siamkit.report/1"
    assert again.json["path"] == str(tmp_path / "b.html")
    assert again.json["bytes"] == (tmp_path / "b.html").stat().st_size
    plain = cli("report", tmp_path / "run")
    assert plain.out.strip() == str(report)


def test_no_report_where_none_is_wanted(cli, config, tmp_path):
    assert cli("train", "--config", config, "--no-report").code == 0
    assert not (tmp_path / "run" / "report.html").exists()
    assert "report: false" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize("error", [RuntimeError("[/bold]"), KeyboardInterrupt()])
def test_a_report_that_fails_does_not_fail_the_run(cli, config, tmp_path, monkeypatch, error):
    from siamkit.api import reports

    def fail(run_dir):
        raise error

    monkeypatch.setattr(reports, "write_report", fail)
    done = cli("train", "--config", config, "--json", "--quiet")
    assert done.code == 0 and done.json["epochs"] == 1
    assert "notice: " in done.err and "siamkit report" in done.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"] == 1


def test_what_is_no_run_is_told(cli, tmp_path):
    done = cli("report", tmp_path / "none", "--json")
    assert done.code == 4 and done.json["schema"] == "siamkit.error/1"


def test_it_opens_where_that_is_asked_for(cli, config, tmp_path, monkeypatch):
    from siamkit.cli import report

    assert cli("train", "--config", config, "--no-report").code == 0
    seen = []
    monkeypatch.setattr(report.webbrowser, "open", seen.append)
    assert cli("report", tmp_path / "run", "--open").code == 0
    assert seen == [(tmp_path / "run" / "report.html").as_uri()]
