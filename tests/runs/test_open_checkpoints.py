"""The checkpoints of a run that is opened, and the next step if one is missing or damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from siamkit.config import RunConfig, decisive
from siamkit.config.identity import flat
from siamkit.data.digest import digest
from siamkit.data.images import ImageSet
from siamkit.errors import CheckpointError, ConfigError
from siamkit.runs import open as opening
from siamkit.runs.checkpoint import SavedCheckpoint, name_of
from siamkit.runs.directory import RunDir
from siamkit.runs.open import OpenRun

ONE, TWO, THREE = (name_of(n, 3 * n) for n in (1, 2, 3))
FULL = dict.fromkeys(("model.safetensors", "frozen.safetensors", "optimizer.safetensors"), "0")
SLIM = {name: digest for name, digest in FULL.items() if not name.startswith("optimizer")}

Opened = Callable[..., OpenRun]


def saved(name: str = THREE, files: Any = FULL, **state: Any) -> SavedCheckpoint:
    known = {"epoch": 3, "step": 9, "best_checkpoint": TWO, "best_epoch": 1, "identity": {},
             "history": [{"recall@1": 0.5}]}  # fmt: skip
    return SavedCheckpoint(Path(name), {**known, **state}, {}, files)


def broken(name: str) -> CheckpointError:
    return CheckpointError("the file is damaged", where=name, got="x", allowed="y", hint="old")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """A function that opens a run with these checkpoints or errors, the newest first."""

    def opened(**checkpoints: SavedCheckpoint | CheckpointError) -> OpenRun:
        by_name = {name.replace("_", "-"): found for name, found in checkpoints.items()}

        def load(folder: Path) -> SavedCheckpoint:
            found = by_name[folder.name]
            if isinstance(found, CheckpointError):
                raise found
            return found

        given = RunDir(tmp_path)
        given.write_config(RunConfig())
        fake = SimpleNamespace(
            newest_first=lambda folder: [folder / name for name in by_name],
            load_state=load, load_network=load, name_of=name_of,
        )  # fmt: skip
        monkeypatch.setattr(opening, "checkpoint", fake)
        return OpenRun(tmp_path, dict)

    return opened


def key(name: str) -> str:
    return name.replace("-", "_")


def test_the_best_and_the_last_checkpoint_are_told_apart(run: Opened) -> None:
    found = run(**{key(THREE): saved(), key(TWO): saved(TWO)})
    assert (found.checkpoint_name(), found.checkpoint_name("last")) == (TWO, THREE)
    assert (found.checkpoint().name, found.checkpoint("last").name) == (TWO, THREE)
    assert found.best_epoch == 1 and found.some_checkpoint().name == TWO
    assert found.history == [{"recall@1": 0.5}]


def test_before_the_first_epoch_there_is_only_a_last_one(run: Opened) -> None:
    found = run(**{key(ONE): saved(ONE, best_checkpoint=None, best_epoch=None)})
    assert found.some_checkpoint().name == ONE
    with pytest.raises(CheckpointError, match="has no best epoch yet; finish the run with"):
        found.checkpoint()
    untrained = run(
        **{key(THREE): saved(best_checkpoint=ONE), key(ONE): saved(ONE, best_epoch=None)}
    )
    assert untrained.best_epoch == -1


def test_without_checkpoints_there_is_neither(run: Opened) -> None:
    found = run()
    assert found.history == [] and found.digest_of("val") is None
    for which in ("best", "last"):
        with pytest.raises(CheckpointError):
            found.checkpoint(which)
    with pytest.raises(CheckpointError, match="has saved no checkpoint yet"):
        found.some_checkpoint()
    with pytest.raises(ConfigError, match="no such checkpoint, got 'first', allowed: best, last"):
        found.checkpoint_name("first")  # type: ignore[arg-type]


def test_a_slim_run_has_a_last_network_only_if_that_is_the_best(run: Opened) -> None:
    found = run(**{key(TWO): saved(TWO, SLIM, epoch=3, step=9)})
    assert found.checkpoint().name == TWO
    with pytest.raises(CheckpointError, match="slim: it kept only the network of its best epoch"):
        found.checkpoint("last")
    for files, state in ((SLIM, {"epoch": 2, "step": 6}), (FULL, {"epoch": 3, "step": 9})):
        same = run(**{key(TWO): saved(TWO, files, **state)})
        assert same.checkpoint("last").name == TWO


@pytest.mark.parametrize(
    ("checkpoints", "which", "hint"),
    [
        ([THREE], "last", "it is the only checkpoint of the run: restore it from a copy, or"),
        ([THREE, TWO], "last", "goes back to the checkpoint before"),
        ([THREE], "best", "it is the only checkpoint of the run"),
    ],
)
def test_a_damaged_newest_checkpoint_says_what_to_do(
    run: Opened, checkpoints: list[str], which: Any, hint: str
) -> None:
    found = run(**{key(n): broken(n) if n == THREE else saved(n) for n in checkpoints})
    with pytest.raises(CheckpointError) as caught:
        found.checkpoint(which)
    error = caught.value
    assert hint in (error.hint or "")
    assert (error.what, error.where, error.got, error.allowed) == (
        "the file is damaged", THREE, "x", "y",
    )  # fmt: skip
    # Whether the data or the config changed is known from an older one.
    assert found.history == ([] if len(checkpoints) == 1 else [{"recall@1": 0.5}])


def test_a_damaged_best_checkpoint_leaves_the_last_one(run: Opened) -> None:
    found = run(**{key(THREE): saved(), key(TWO): broken(TWO)})
    assert found.checkpoint("last").name == THREE
    with pytest.raises(CheckpointError, match="is lost; use the network of the last epoch"):
        found.checkpoint("best")


def test_images_of_a_part_must_be_those_of_the_training(run: Opened, tmp_path: Path) -> None:
    images = ImageSet.of(tmp_path, {"a": ["a/1.png"]})
    identity = {"data val": digest(images), "data test": digest(None)}
    found = run(**{key(THREE): saved(identity=identity)})
    found.require_images("val", images)
    with pytest.raises(CheckpointError, match="the data has changed since the run"):
        found.require_images("test", images)
    run().require_images("test", images)


@pytest.mark.parametrize(
    ("names", "ended"),
    [
        ([], False), (["run_end"], True), (["run_start"], False), (["run_start", "run_end"], True),
        (["run_start", "run_end", "run_start"], False),
        (["run_start", "run_start", "step_done", "run_end", "notice"], True),
    ],
)  # fmt: skip
def test_a_run_has_ended_if_its_last_session_has(
    run: Opened, names: list[str], ended: bool
) -> None:
    found = run(**{key(THREE): saved()})
    for name in names:
        found.dir.append_event(name, {})
    assert found.ended is ended


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"config train.seed": 7},
         r"config\.yaml: config train\.seed changed since the run was saved, got '?0'?, al.*: 7"),
        ({"config train.seed": 7, "config train.epochs": 3},
         r"config train\.epochs, config train\.seed changed since the run was saved; restore"),
        ({"config no.longer": 7}, r"config no\.longer changed since .*, got '?None'?, allowed: 7"),
        ({"data val": "x"}, None),
        ({"pruning": "x"}, r"backbone\.pruning changed since the run was saved, allowed: the file "
         r"pruning\.json of the run, whose network is pruned; restore the file"),
        ({"int8": "x"}, r"backbone\.int8 changed since the run was saved, allowed: the file "),
    ],
)  # fmt: skip
def test_a_config_that_changed_is_refused(
    run: Opened, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str | None
) -> None:
    monkeypatch.setattr(opening, "resolve", lambda *_, **__: RunConfig())
    known = {f"config {name}": value for name, value in decisive(RunConfig()).items()}
    found = run(**{key(THREE): saved(identity={**known, **change})})
    if told is None:
        assert found.config == RunConfig() and found.config_problem is None
        return
    with pytest.raises(CheckpointError, match=told):
        _ = found.config
    if "pruning" not in change and "int8" not in change:  # which the config's text does not tell
        assert "changed since the run was saved" in (found.config_problem or "")


def test_a_config_that_cannot_be_compared_says_so(
    run: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ConfigError("unknown loss")

    monkeypatch.setattr(opening, "resolve", fails)
    found = run(**{key(THREE): saved(identity={"config train.seed": 7})})
    assert (found.config_problem or "").endswith("cannot be compared with the run's checkpoints")
    assert run().config_problem is None
    # A file that looks the same needs no plugins.
    same = {f"config {name}": value for name, value in flat(found.dir.read_config())}
    assert run(**{key(THREE): saved(identity=same)}).config_problem is None
