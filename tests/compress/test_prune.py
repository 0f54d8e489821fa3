"""Whole runs that are pruned: with real data, a small network, and every step of the real chain."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import siamkit
from siamkit import api
from siamkit.api.results import PruningResult
from siamkit.compress import prune as pruning
from siamkit.compress import rounds
from siamkit.compress.rounds import Wish
from siamkit.errors import CheckpointError, ConfigError, Interrupted
from siamkit.freezing.proof import fingerprints
from siamkit.inference.embedder import Embedder
from siamkit.runs import checkpoint
from siamkit.runs.open import OpenRun
from siamkit.training import heads, loop

pytest.importorskip("torch_pruning")

RunValues = Callable[..., dict[str, Any]]


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(first[k].equal(second[k]) for k in first)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, values_of: RunValues) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    api.fit(values_of(folder, train={"epochs": 2}, freeze={"name": "stages", "warmup": 0}))
    return folder


@pytest.fixture(scope="module")
def done(trained: Path) -> PruningResult:
    return siamkit.prune(trained, trained.with_name("small"), ratio=0.5, freeze="full")


@pytest.mark.slow
def test_the_new_run_is_smaller_and_the_old_one_is_untouched(trained: Path) -> None:
    before = contents(trained)
    result = siamkit.prune(trained, trained.with_name("other"), ratio=0.4, finetune_epochs=1)
    assert contents(trained) == before
    assert 0.4 <= result.after["flops"] / result.before["flops"] <= 0.6
    assert result.after["parameters"] < result.before["parameters"]
    full, small = (siamkit.load_model(r) for r in (trained, result.run_dir))
    assert full.embedding_dim == small.embedding_dim
    assert full.backbone.embedding_dim == small.backbone.embedding_dim
    assert [s.name for s in full.stages()] == [s.name for s in small.stages()]
    assert not list(trained.parent.glob(".siamkit-*")), "nothing is left of the work"
    # The stages that the run's policy freezes could not be fine-tuned, and it says so.
    assert any("did not train in the fine-tuning" in text for text in result.notices)


@pytest.mark.slow
def test_the_result_holds_what_both_runs_say(trained: Path, done: PruningResult) -> None:
    assert done["importance"] == "taylor" and done["epochs"] == 2
    for side, run in ((done.before, trained), (done.after, done.run_dir)):
        opened = api.open_run(run)
        best = opened.metrics["best"]
        assert side["recall@1"] == pytest.approx(best["recall@1"])
        assert side["map@r"] == pytest.approx(best["map@r"])
        assert side["threshold"] == opened.calibration().threshold
        net = siamkit.load_model(run)
        assert side["parameters"] == sum(p.numel() for p in net.parameters())
        assert side["latency_ms"] > 0 and side["images_per_second"] > 0


@pytest.mark.slow
def test_every_command_works_on_the_new_run(done: PruningResult, tmp_path: Path) -> None:
    run = done.run_dir
    inspected = siamkit.inspect(run)
    assert inspected["phases"][0]["flops"]["forward"] == done.after["flops"]
    assert siamkit.evaluate(run, device="cpu").retrieval["recall@1"] == pytest.approx(
        done.after["recall@1"]
    )
    siamkit.calibrate(run, far=0.2)
    assert siamkit.write_report(run, tmp_path / "report.html")
    best = api.open_run(run.with_name("run"))
    about = f"pruned: run, epoch {best.best_epoch + 1} (network {best.checkpoint().network[:12]})"
    assert about in (tmp_path / "report.html").read_text()
    assert siamkit.resume(run).metrics["best"]


def test_a_run_is_moved_with_its_record(done: PruningResult, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(done.run_dir, tmp_path / "moved"))
    assert "pruning: pruning.json" in (moved / "config.yaml").read_text()
    assert equal(siamkit.load_model(moved), siamkit.load_model(done.run_dir))


def test_a_saved_network_is_built_again(done: PruningResult, tmp_path: Path) -> None:
    siamkit.save_pretrained(done.run_dir, tmp_path / "shared")
    net = siamkit.from_pretrained(tmp_path / "shared")
    assert equal(net, siamkit.load_model(done.run_dir))
    net.save_pretrained(tmp_path / "again")
    assert Embedder.from_pretrained(tmp_path / "again").net.pruning == net.pruning


@pytest.mark.parametrize("damage", ["gone", "edited", "another"])
def test_a_record_that_changed_is_refused(done: PruningResult, tmp_path: Path, damage: str) -> None:
    run = Path(shutil.copytree(done.run_dir, tmp_path / "run"))
    path = run / "pruning.json"
    if damage == "gone":
        path.unlink()
    elif damage == "edited":
        path.write_text(path.read_text().replace('"of": 16', '"of": 17'))
    else:  # sealed, and of the same network
        net = siamkit.load_model(run)
        assert net.pruning is not None
        net.pruning.__class__(net.pruning.layers, {"ratio": 0.1}).save(path)
    for use in (siamkit.load_model, siamkit.resume, siamkit.evaluate):
        with pytest.raises(CheckpointError, match=r"pruning\.json"):
            use(run)


def test_a_config_without_the_record_is_refused(done: PruningResult, tmp_path: Path) -> None:
    run = Path(shutil.copytree(done.run_dir, tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("pruning: pruning.json", "pruning: null"))
    with pytest.raises(CheckpointError, match=r"config\.yaml: backbone\.pruning changed"):
        siamkit.load_model(run)


@pytest.mark.slow
def test_a_pruned_run_is_pruned_again(done: PruningResult) -> None:
    again = siamkit.prune(
        done.run_dir, done.run_dir.with_name("smaller"), ratio=0.3, finetune_epochs=1
    )
    assert again.before["flops"] == done.after["flops"]
    assert again.after["flops"] <= 0.7 * again.before["flops"]
    assert siamkit.load_model(again.run_dir).pruning is not None


@pytest.mark.slow
def test_frozen_tensors_keep_their_values_if_only_trainable_layers_are_pruned(
    trained: Path, tmp_path: Path
) -> None:
    result = siamkit.prune(
        trained, tmp_path / "new", ratio=0.05, part="trainable", finetune_epochs=1
    )
    saved = api.open_run(result.run_dir).checkpoint("last")
    full, small = siamkit.load_model(trained), siamkit.load_model(result.run_dir, "last")
    assert saved.frozen and fingerprints(small, saved.frozen) == saved.frozen
    frozen = ("stem", "layer1", "layer2")
    parts = [f"{m}." for s in full.stages() if s.name in frozen for m in s.modules]
    early = [name for name in saved.frozen if name.startswith(tuple(parts))]
    assert len(early) > 10
    assert fingerprints(full, early) == {name: saved.frozen[name] for name in early}
    assert not result.notices or "did not train" not in " ".join(result.notices)


@pytest.mark.slow
def test_the_frozen_part_can_be_pruned_and_is_then_proved_anew(
    trained: Path, tmp_path: Path
) -> None:
    result = siamkit.prune(trained, tmp_path / "new", ratio=0.1, part="frozen", finetune_epochs=1)
    saved = api.open_run(result.run_dir).checkpoint("last")
    full, small = siamkit.load_model(trained), siamkit.load_model(result.run_dir, "last")
    assert saved.frozen and fingerprints(small, saved.frozen) == saved.frozen
    assert fingerprints(full, saved.frozen) != saved.frozen
    stages = {stage.name: stage for stage in full.stages()}
    trains = [n for name in ("layer3", "layer4") for n in stages[name].parameters]
    shapes = [dict(net.named_parameters()) for net in (full, small)]
    assert all(shapes[0][n].shape == shapes[1][n].shape for n in trains)


@pytest.mark.slow
def test_more_rounds_remove_as_much(trained: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    result = siamkit.prune(
        trained, tmp_path / "new", ratio=0.5, iterations=2, finetune_epochs=1, freeze="full",
        listeners=[lambda event: heard.append(event.name)],
    )  # fmt: skip
    assert 0.35 <= result.after["flops"] / result.before["flops"] <= 0.5
    assert heard.count("run_start") == 2 == heard.count("run_end")
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["new"]


def test_channels_are_counted_before_the_first_round_and_after_the_last() -> None:
    first = SimpleNamespace(kept={"a": (8, 4), "b": (8, 6), "gone": (2, 1)})
    last = SimpleNamespace(kept={"b": (6, 5), "a": (4, 2)})
    assert pruning._groups([first, SimpleNamespace(kept={}), last]) == [  # type: ignore[list-item]
        {"name": "a", "before": 8, "after": 2}, {"name": "b", "before": 8, "after": 5},
    ]  # fmt: skip


def test_each_round_removes_the_same_share() -> None:
    wish = Wish(0.75, "all", 2)
    assert [wish.left_after(n) for n in (1, 2)] == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ratio": 0}, "ratio: must be a share"),
        ({"ratio": 1}, "ratio: must be a share"),
        ({"ratio": "half"}, "ratio: must be a share"),
        ({"ratio": 0.99}, "do not make up that many operations"),
        ({"part": "best"}, "part: no such part"),
        ({"iterations": 0}, "iterations"),
        ({"finetune_epochs": 0}, "finetune_epochs"),
        ({"head": "linear"}, "cannot be changed by pruning"),
        ({"seed": 3}, "cannot be changed by pruning"),
        ({"lr": "auto"}, "optimizer.lr: .* finds no rate by itself"),
        ({"engine": {"prefix": "int8"}}, "engine.prefix: .* computes nothing in int8"),
        ({"image_size": 64}, "cannot be changed by pruning"),
        ({"freeze": "frozen-solid"}, "unknown freeze policy"),
        ({"rate": 3}, "no such argument"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_written(
    trained: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        siamkit.prune(trained, tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_a_directory_in_use_is_refused(trained: Path, done: PruningResult) -> None:
    before = contents(done.run_dir)
    with pytest.raises(ConfigError, match="the run directory is not empty"):
        siamkit.prune(trained, done.run_dir)
    assert contents(done.run_dir) == before


@pytest.fixture(scope="module")
def with_closed_head(tmp_path_factory: pytest.TempPathFactory, values_of: RunValues) -> Path:
    """A run whose head has a closed form, and whose best network has a trained one."""
    folder = tmp_path_factory.mktemp("closed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "best_of", lambda history, *_: len(history) - 1)
        patch.setattr(heads.Heads, "refit_epoch", lambda self: None)
        values = values_of(folder, train={"epochs": 1}, head={"name": "multistage", "dim": 8})
        api.fit({**values, "freeze": {"name": "full"}})
    return folder


@pytest.mark.parametrize("better", ["trained", "closed form"])
def test_a_trained_head_is_replaced_only_by_a_better_one_and_the_result_says_so(
    with_closed_head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: str
) -> None:
    scores = iter([0.5, 0.5 if better == "trained" else 0.6])
    monkeypatch.setattr(heads.Heads, "scored", lambda *_: {"recall@1": next(scores)})
    monkeypatch.setattr(heads.Heads, "refit_epoch", lambda self: None)
    result = siamkit.prune(
        with_closed_head, tmp_path / "small", finetune_epochs=1, train={"keep_checkpoints": 9}
    )
    verdict = "the trained head stays" if better == "trained" else "that one replaces it"
    assert any(text.endswith(f"in closed form, so {verdict}") for text in result.notices)
    first = tmp_path / "small" / "checkpoints" / "epoch-00000-step-00000000"
    before, after = (
        {name: t for name, t in checkpoint.load_network(folder).model.items() if "head." in name}
        for folder in (best_of(with_closed_head), first)
    )
    assert before and before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before) is (better == "trained")


def best_of(run: Path) -> Path:
    opened = OpenRun(run, api.registries)
    return run / "checkpoints" / opened.checkpoint_name("best")


@pytest.mark.slow
def test_a_run_without_labels_for_each_image_is_pruned(
    tmp_path: Path, image_folder: Path, values_of: RunValues
) -> None:
    rows = [
        f"class{a}/{i}.png,class{b}/{j}.png,{int(a == b)}"
        for a in range(8)
        for i in range(5)
        for b, j in ((a, i + 1), ((a + 1 + i) % 8, i))
    ]
    table = tmp_path / "pairs.csv"
    table.write_text("a,b,same\n" + "\n".join(rows) + "\n")
    values = values_of(tmp_path / "run", loss="contrastive", train={"epochs": 1})
    values["data"] |= {"path": str(table), "root": str(image_folder)}
    api.fit(values)
    result = siamkit.prune(tmp_path / "run", tmp_path / "new", ratio=0.3)
    assert result.after["recall@1"] is None and 0 <= result.after["eer"] <= 1


@pytest.mark.slow
def test_a_loss_with_its_own_parameters_keeps_them(
    tmp_path: Path, values_of: RunValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.fit(values_of(tmp_path / "run", loss="proxy-anchor", train={"epochs": 1}))
    begun: list[Any] = []
    begin = rounds.begin
    monkeypatch.setattr(
        rounds, "begin", lambda *args, **more: begun.append(args[4]) or begin(*args, **more)
    )
    siamkit.prune(tmp_path / "run", tmp_path / "new", ratio=0.3)
    before = api.open_run(tmp_path / "run").checkpoint("best").model
    own = {name: tensor for name, tensor in before.items() if name.startswith("loss.")}
    assert own and all(torch.equal(begun[0][name], tensor) for name, tensor in own.items())
    assert own.keys() <= api.open_run(tmp_path / "new").checkpoint("last").model.keys()


def test_what_appears_in_the_place_during_the_pruning_is_not_replaced(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = rounds.begin

    def somebody_else(*args: Any, **named: Any) -> Any:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "notes.txt").write_text("mine")
        return begin(*args, **named)

    monkeypatch.setattr(rounds, "begin", somebody_else)
    with pytest.raises(ConfigError, match="the run directory is not empty"):
        siamkit.prune(trained, tmp_path / "new", ratio=0.3)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]


def test_a_signal_between_two_rounds_says_that_nothing_was_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: Any) -> Any:
        raise Interrupted("stopped by SIGTERM after step 7 of epoch 2", exit_code=143, hint="old")

    monkeypatch.setattr(rounds, "resume", stopped)
    with pytest.raises(Interrupted) as caught:
        siamkit.prune(trained, tmp_path / "new", ratio=0.3, iterations=2)
    error = caught.value
    told = "stopped by SIGTERM between two rounds of pruning; nothing was written"
    assert (error.what, error.exit_code, error.hint) == (told, 143, "run the command again")
    assert not (tmp_path / "new").exists()


# --- kills ---------------------------------------------------------------------------------------


def command(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "siamkit", "prune", *map(str, arguments), "--quiet", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "the command did not get going"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 7])
def test_kill_9_in_the_fine_tuning_then_resume_gives_the_same_run(
    trained: Path, tmp_path: Path, steps: int
) -> None:
    asked = ("--freeze-policy", "full", "--finetune-epochs", "4", "--ratio", "0.4")
    whole = command(trained, "-o", tmp_path / "whole", *asked)
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    process = command(trained, "-o", tmp_path / "killed", *asked)
    events = tmp_path / "killed" / "events.jsonl"
    wait_for(lambda: events.exists() and events.read_text().count('"event": "step"') >= steps)
    process.kill()
    process.communicate()
    siamkit.resume(tmp_path / "killed")
    runs = [api.open_run(tmp_path / name) for name in ("whole", "killed")]
    assert runs[0].history == runs[1].history
    assert runs[0].calibration().threshold == runs[1].calibration().threshold
    for which in ("best", "last"):
        assert equal(*(siamkit.load_model(run.path, which) for run in runs))
    saved = [run.checkpoint("last").optimizer for run in runs]
    assert all(saved[0][name].equal(saved[1][name]) for name in saved[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_kill_while_channels_are_chosen_leaves_nothing(
    trained: Path, tmp_path: Path, number: signal.Signals
) -> None:
    asked = (trained, "-o", tmp_path / "new", "--iterations", "2", "--finetune-epochs", "30")
    process = command(*asked)
    wait_for(lambda: any(tmp_path.glob(".siamkit-*/new/round-1/events.jsonl")))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert not (tmp_path / "new").exists()
    if number == signal.SIGTERM:
        assert process.returncode == 143 and "nothing was written" in err
    result = siamkit.prune(trained, tmp_path / "new", finetune_epochs=1, ratio=0.2)
    assert result.run_dir.exists() and not list(tmp_path.glob(".siamkit-*"))
