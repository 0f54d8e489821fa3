"""Each command reads a run once: its config is resolved once, a checkpoint loaded once."""

import shutil
from pathlib import Path

import pytest

from siamkit.api import entries
from siamkit.runs import checkpoint
from siamkit.runs import open as opening


@pytest.fixture(scope="module")
def trained(tmp_path_factory, values_of) -> Path:
    from siamkit import api

    folder = tmp_path_factory.mktemp("once") / "run"
    api.fit(values_of(folder, train={"epochs": 1}))
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def counts(monkeypatch) -> dict[str, int]:
    """How often a config was resolved, and a checkpoint loaded, since the test began."""
    made = {"resolve": 0, "load": 0}

    def counted(module, name):
        real = getattr(module, name)

        def call(*args, **options):
            made[name.partition("_")[0]] += 1
            return real(*args, **options)

        monkeypatch.setattr(module, name, call)

    for module in (entries, opening):
        counted(module, "resolve")
    counted(checkpoint, "load_network")
    return made


@pytest.mark.parametrize(
    ("command", "resolved", "loaded"),
    [
        ("evaluate RUN", 1, 1),
        ("evaluate RUN DATA", 1, 1),
        ("calibrate RUN", 1, 0),
        ("calibrate RUN sample --far 0.1", 1, 1),
        ("verify RUN IMAGE IMAGE", 1, 1),
        ("embed RUN DATA -o OUT/a.npy", 1, 1),
        ("index RUN DATA -o OUT/index", 1, 1),
        ("inspect RUN", 1, 0),
        ("report RUN", 0, 0),
    ],
)
def test_a_run_is_read_once(cli, run, image_folder, tmp_path, counts, command, resolved, loaded):
    places = {
        "RUN": str(run), "DATA": str(image_folder), "IMAGE": str(image_folder / "class0/0.png"),
    }  # fmt: skip
    words = [places.get(word, word.replace("OUT", str(tmp_path))) for word in command.split()]
    done = cli(*words)
    assert done.code == 0, done.err
    assert counts == {"resolve": resolved, "load": loaded}


@pytest.mark.slow
def test_a_training_resolves_its_config_once(cli, run_values, tmp_path, counts):
    from siamkit.config import yaml_text

    file = tmp_path / "c.yaml"
    file.write_text(yaml_text.dump(run_values(train={"epochs": 1})))
    assert cli("train", "--config", file, "--quiet").code == 0
    assert counts["resolve"] == 1
    assert (tmp_path / "run/report.html").is_file()
    counts["resolve"] = 0
    assert cli("train", "--resume", tmp_path / "run", "--quiet").code == 0
    assert counts["resolve"] == 1


def test_without_report_none_is_written(cli, run_values, tmp_path):
    from siamkit.config import yaml_text

    file = tmp_path / "c.yaml"
    file.write_text(yaml_text.dump(run_values(train={"epochs": 1}, report=False)))
    assert cli("train", "--config", file, "--quiet").code == 0
    assert not (tmp_path / "run/report.html").exists()
