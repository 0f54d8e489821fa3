"""The shell completes values: registered names, keys and values of --set, and runs."""

import json
import os
import subprocess
import sys

import pytest

from siamkit.cli import completion, names
from siamkit.cli.completion import glued
from siamkit.config import RunConfig


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache that has the index of what is installed."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        names.write()
    return folder


def complete(cache, words: str, *, shell: str = "bash", cwd=None) -> list[str]:
    """Return what a shell offers for the last word, and assert that torch stayed out."""
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cache),
        "_SIAMKIT_COMPLETE": f"complete_{shell}",
    }
    split = words.split(" ")
    if shell == "bash":
        environment |= {"COMP_WORDS": "\n".join(split), "COMP_CWORD": str(len(split) - 1)}
    else:
        environment |= {"_TYPER_COMPLETE_ARGS": words}
    done = subprocess.run(
        # From another folder than the repository, whose siamkit may not be the one under test.
        [sys.executable, "-X", "importtime", "-m", "siamkit"], env=environment, cwd=cwd or cache,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "timm", "siamkit.builtins"}
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("siamkit train --freeze-policy lp", ["lp-ft"]),
        ("siamkit train --loss pro", ["proxy-anchor"]),
        ("siamkit train --backbone resnet5", ["resnet50"]),
        ("siamkit inspect --head bn", ["bnneck"]),
        ("siamkit train --optimizer s", ["sgd"]),
        ("siamkit train --scheduler one", ["one-cycle"]),
        ("siamkit train --track tens", ["tensorboard"]),
        ("siamkit train --preset cl", ["classic"]),
        ("siamkit train --cache al", ["always"]),
        ("siamkit train --set train.ep", ["train.epochs=", "train.epoch_steps="]),
        ("siamkit train --set data.augment.bl", ["data.augment.blur="]),
        ("siamkit train --set freeze.warm", ["freeze.warmup="]),
        ("siamkit train --loss arcface --set loss.sc", ["loss.scale="]),
        ("siamkit train --loss triplet --set loss.sc", []),
        ("siamkit list losses tri", ["triplet"]),
        ("siamkit list presets c", ["classic"]),
        ("siamkit calibrate RUN --target acc", ["accuracy"]),
        ("siamkit index RUN GALLERY --kind fa", ["faiss"]),
    ],
)
def test_values_are_completed(cache, words, expected):
    assert complete(cache, words) == expected


def test_bash_splits_words_at_equals_and_colons_and_wants_only_the_rest(cache):
    assert complete(cache, "siamkit train --set engine.cache = al") == ["always"]
    assert set(complete(cache, "siamkit train --set engine.cache =")) == {"auto", "off", "always"}
    assert "resnet50" in complete(cache, "siamkit train --set backbone.name = resnet5")
    assert "resnet18" in complete(cache, "siamkit train --backbone timm : resnet1")


def test_other_shells_get_the_whole_word(cache):
    offered = complete(cache, "siamkit train --set engine.cache=al", shell="zsh")
    assert any("engine.cache=always" in word for word in offered)


def test_runs_are_completed_here_and_one_level_below(cache, tmp_path):
    for name in ("runs/a", "runs/b", "single"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("")
    (tmp_path / "runs/not-a-run").mkdir()
    assert complete(cache, "siamkit evaluate r", cwd=tmp_path) == ["runs/a", "runs/b"]
    assert complete(cache, "siamkit report runs/b", cwd=tmp_path) == ["runs/b"]
    assert complete(cache, "siamkit train --resume s", cwd=tmp_path) == ["single"]


def test_a_folder_that_cannot_be_read_completes_nothing(tmp_path, monkeypatch):
    assert completion.runs(str(tmp_path / "none" / "x")) == []


@pytest.mark.parametrize(
    ("words", "index", "expected"),
    [
        (["s", "--set", "a", "=", "b"], 4, (["s", "--set", "a=b"], 2, "a=")),
        (["s", "--set", "a", "="], 3, (["s", "--set", "a="], 2, "a=")),
        (["s", "timm", ":", "res"], 3, (["s", "timm:res"], 1, "timm:")),
        (["s", "--set", "a", "=", "b", "--lo"], 5, (["s", "--set", "a=b", "--lo"], 3, "")),
        (["s", "--set", "a=b"], 2, (["s", "--set", "a=b"], 2, "")),
        (["s", ""], 1, (["s", ""], 1, "")),
        (["s"], 1, (["s", ""], 1, "")),
        (["s", "--set", "a", "=", "b", ""], 5, (["s", "--set", "a=b", ""], 3, "")),
    ],
)
def test_words_that_bash_split_are_joined(words, index, expected):
    assert glued(words, index) == expected


def test_the_index_has_every_key(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    index = names.read()
    values = RunConfig().to_values()
    for section in ("data", "train", "engine", "optimizer"):
        for key, value in values[section].items():
            name = f"{section}.{key}"
            assert name in index["keys"] or isinstance(value, dict), name


def test_an_index_of_another_installation_is_written_anew_by_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(names, "_WAIT", 0.1)
    started = []
    monkeypatch.setattr(names.subprocess, "Popen", lambda *a, **k: started.append(k["env"]))
    monkeypatch.setenv("_SIAMKIT_COMPLETE", "complete_bash")
    path = names._file()
    path.parent.mkdir()
    for text in ("", "{", "[]", json.dumps({"stamp": "old", "entries": {"loss": {"triplet": ""}}})):
        path.write_text(text)
        assert completion.entries("loss")("tri") == []
    assert len(started) == 1 and "_SIAMKIT_COMPLETE" not in started[0]


def test_without_a_folder_for_the_index_nothing_is_completed_and_nothing_fails(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(names, "_WAIT", 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    assert completion.entries("loss")("tri") == []
    assert completion.presets() == []


INDEX = {
    "entries": {"backbone": {"resnet50": "Deep.", "timm:": "Any."}, "loss": {"triplet": "Three."},
                "augment": {}},
    "options": {"backbone": {"timm:": {"drop": ["Rate.", []]}, "resnet50": {}},
                "loss": {"triplet": {"margin": ["Gap.", []], "swap": ["Swap.", ["true", "false"]]},
                         "arcface": {"scale": ["Factor.", []]}}},
    "chosen": {"backbone": "resnet50", "loss": "triplet"},
    "keys": {"train.epochs": ["Epochs.", []], "engine.cache": ["Cache.", ["auto", "off"]]},
    "presets": ["classic"], "timm": ["convnext_tiny"],
}  # fmt: skip


class Context:
    """What the shell's words set so far."""

    def __init__(self, **params):
        self.params = params


@pytest.fixture
def index(monkeypatch):
    monkeypatch.setattr(names, "read", lambda: INDEX)


def test_names_come_with_their_meaning_and_timms_models_after_its_prefix(index):
    assert completion.named("backbone", "res") == [("resnet50", "Deep."), ("timm:", "Any.")]
    assert completion.named("backbone", "timm:") == [("timm:convnext_tiny", "")]
    for section in ("loss", "augment"):
        names_of = list(INDEX["entries"][section].items())
        assert completion.named(section, "timm:") == names_of, "only backbones come from timm"
    assert completion.named("head", "") == []
    assert completion.presets() == ["classic"]


def test_keys_of_set_are_those_of_the_chosen_entries_and_then_their_values(index):
    def offered(incomplete, **params):
        return completion.assignments(Context(**params), incomplete)

    assert dict(offered("loss.")) == {
        "train.epochs=": "Epochs.", "engine.cache=": "Cache.", "loss.margin=": "Gap.",
        "loss.swap=": "Swap.",
    }  # fmt: skip
    arcface = dict(offered("", loss="arcface", backbone="timm:convnext_tiny"))
    assert arcface["loss.scale="] == "Factor." and arcface["backbone.drop="] == "Rate."
    assert "loss.margin=" not in arcface
    assert "loss.scale=" not in dict(offered("", loss="unknown"))
    assert offered("engine.cache=a") == [("engine.cache=auto", ""), ("engine.cache=off", "")]
    assert offered("loss.swap=") == [("loss.swap=true", ""), ("loss.swap=false", "")]
    assert offered("loss.name=t") == [("loss.name=triplet", "Three.")]
    assert offered("backbone.name=timm:") == [("backbone.name=timm:convnext_tiny", "")]
    assert offered("no.key=") == offered("train.epochs=") == []


@pytest.mark.parametrize(
    ("variables", "words", "cut"),
    [
        ({"COMP_WORDS": "s\n--set\na\n=\nb", "COMP_CWORD": "4"}, ["s", "--set", "a=b"], "a="),
        ({"COMP_WORDS": "s --set a = b", "COMP_CWORD": "4"}, ["s", "--set", "a=b"], "a="),
        ({"COMP_WORDS": "s\n--set\na\n=\nb"}, None, ""),
        ({"COMP_CWORD": "4"}, None, ""),
        ({"COMP_WORDS": "s\n--set\na\n=\nb", "COMP_CWORD": "x"}, None, ""),
    ],
)
def test_only_bashs_variables_are_joined(monkeypatch, variables, words, cut):
    for name in ("COMP_WORDS", "COMP_CWORD"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert completion._glue_words() == cut
    if words is None:
        assert os.environ.get("COMP_WORDS") == variables.get("COMP_WORDS")
    else:
        assert os.environ["COMP_WORDS"].split("\n") == words
        assert os.environ["COMP_CWORD"] == str(len(words) - 1)


def test_hidden_folders_are_offered_only_if_asked_for(tmp_path):
    for name in (".hidden", "seen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("")
    (tmp_path / "file").write_text("")
    assert completion.runs(f"{tmp_path}/") == [str(tmp_path / "seen")]
    assert completion.runs(f"{tmp_path}/.h") == [str(tmp_path / ".hidden")]
