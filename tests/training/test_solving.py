"""Runs whose head is computed in closed form: without epochs, before training, and after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import siamkit
from siamkit import api
from siamkit.data.load import load_data
from siamkit.data.loader import ViewDataset
from siamkit.data.views import EvalView
from siamkit.errors import ConfigError
from siamkit.model.closed_form import wccn
from siamkit.runs import checkpoint
from siamkit.runs.open import OpenRun
from siamkit.training import begin, heads, loading, loop, range_test
from siamkit.training.loading import SOLVE
from siamkit.training.solving import require_solvable
from siamkit.training.state import BEFORE, RunState, best_of, lost, refit_text

Values = Callable[..., dict[str, Any]]
NOTHING = {"epochs": 0}
HEAD = {"name": "multistage", "dim": 8, "stages": 3}


class Recorder:
    def __init__(self) -> None:
        self.events: list[siamkit.Event] = []

    def __call__(self, event: siamkit.Event) -> None:
        self.events.append(event)

    @property
    def notices(self) -> list[str]:
        return [event.data["text"] for event in self.events if event.name == "notice"]

    def data(self, name: str) -> list[dict[str, Any]]:
        return [dict(event.data) for event in self.events if event.name == name]


@pytest.fixture
def run_values(values_of: Values, tmp_path: Path) -> Values:
    def values(name: str = "run", **sections: Any) -> dict[str, Any]:
        return values_of(tmp_path / name, **{"head": HEAD, "report": False, **sections})

    return values


def network(run: Path, which: str = "best") -> dict[str, torch.Tensor]:
    return OpenRun(run, siamkit.api.entries.registries).checkpoint(which).model


# --- without epochs ------------------------------------------------------------------------------


def test_a_run_without_epochs_has_all_that_a_run_has(run_values: Values) -> None:
    watch = Recorder()
    result = api.fit(run_values(train=NOTHING), listeners=[watch])
    run = Path(result["run_dir"])
    assert result["epochs"] == 0 and result["history"] == [] and result["phases"] == []
    assert result["metrics"]["best"]["epoch"] == 0
    assert result["metrics"]["best"] == {**result["metrics"]["last"], "epoch": 0}
    assert result["calibration"]["provenance"]["epoch"] == 0
    assert not watch.data("step") and not watch.data("epoch_end")
    embedder = api.load_embedder(run, device="cpu", workers=0)
    held = OpenRun(run, siamkit.api.entries.registries).final_held_out("val")
    assert held is not None
    paths = [sample.path for sample in held.images.samples]
    np.testing.assert_allclose(embedder.embed(paths).numpy(), held.embeddings, atol=1e-4)


def test_the_head_is_the_closed_form_of_the_training_images_without_augmentation(
    run_values: Values,
) -> None:
    values = run_values(train=NOTHING)
    api.fit(values)
    net = api.load_embedder(values["run_dir"], device="cpu", workers=0).net
    run = OpenRun(Path(values["run_dir"]), siamkit.api.entries.registries)
    train = load_data(run.config.data, run.config.train.seed).train
    dataset = ViewDataset(train, EvalView(net.preprocessing), 0)
    images = torch.stack([dataset[i, 0] for i in range(len(train))])
    with torch.no_grad():
        read = net.extractor(images).double().numpy()
    expected = wccn(read, np.array(train.labels), 8)
    weight = net.head[0].weight.detach().double().numpy()
    np.testing.assert_allclose(
        np.abs(weight @ read.T), np.abs(expected.weight @ read.T), rtol=1e-2, atol=1e-2
    )


def test_the_head_need_not_be_named(run_values: Values) -> None:
    values = run_values(train=NOTHING)
    del values["head"]
    api.fit(values)
    kept = OpenRun(Path(values["run_dir"]), siamkit.api.entries.registries).config.head
    assert (kept.name, kept.options["stages"]) == ("multistage", 4)


def test_the_head_is_computed_from_a_bounded_number_of_images(
    run_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "SOLVED", 12)
    seen: list[tuple[int, ...]] = []
    plain = heads.solve

    def solved(setup: Any, read: torch.Tensor, labels: torch.Tensor) -> None:
        seen.append((len(read), len(labels), int(labels.bincount().min())))
        plain(setup, read, labels)

    monkeypatch.setattr(heads, "solve", solved)
    for epochs in (0, 1):
        api.fit(run_values(str(epochs), train={"epochs": epochs}))
    assert seen == [(12, 12, 3)] * 2


def test_heads_that_only_training_determines_are_refused(run_values: Values) -> None:
    with pytest.raises(ConfigError, match=r"train.epochs: head 'mlp' cannot be computed without"):
        api.fit(run_values(train=NOTHING, head={"name": "mlp"}))


def test_the_second_run_reads_the_cache(run_values: Values) -> None:
    first, second = Recorder(), Recorder()
    one = api.fit(run_values("one", train=NOTHING), listeners=[first])
    two = api.fit(run_values("two", train=NOTHING), listeners=[second])
    assert first.data("engine")[0]["missing"] == first.data("engine")[0]["rows"] > 0
    assert second.data("engine")[0]["missing"] == 0 and not second.data("fill")
    assert one["metrics"] == two["metrics"]


@pytest.mark.parametrize("engine", [{"cache": "off"}, {"cut": "off"}])
def test_the_cache_does_not_change_the_network(run_values: Values, engine: dict[str, Any]) -> None:
    cached = api.fit(run_values("one", train=NOTHING))
    live = api.fit(run_values("two", train=NOTHING, engine=engine))
    one, two = (network(Path(r["run_dir"])) for r in (cached, live))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-3)


def test_a_run_without_epochs_that_was_stopped_can_be_resumed(
    run_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = api.fit(run_values("whole", train=NOTHING))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    values = run_values("stopped", train=NOTHING)
    with monkeypatch.context() as patch:
        patch.setattr(heads, "solve", stop)
        with pytest.raises(KeyboardInterrupt):
            api.fit(values)
    resumed = api.resume(values["run_dir"])
    assert resumed["metrics"] == whole["metrics"]
    again = api.resume(values["run_dir"])
    assert again["metrics"] == whole["metrics"]
    one, two = (network(Path(r["run_dir"])) for r in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- with training -------------------------------------------------------------------------------


def test_training_starts_from_the_closed_form(run_values: Values) -> None:
    solved = api.fit(run_values("solved", train=NOTHING))
    watch = Recorder()
    api.fit(run_values("trained", train={"epochs": 1}), listeners=[watch])
    start = solved["metrics"]["best"]["recall@1"]
    text = f"the head in closed form, before any training: recall@1 {start:.3f}"
    assert {"text": text, "routine": True} in watch.data("notice")


def test_the_closed_form_is_read_from_the_rows_that_the_first_phase_caches(
    run_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: list[str] = []
    plain = loop.Scorer.embedded

    def embedded(self: Any, name: str, *rest: Any) -> Any:
        live.append(name)
        return plain(self, name, *rest)

    monkeypatch.setattr(loop.Scorer, "embedded", embedded)
    weights = []
    for cache in ("always", "off"):
        live.clear()
        values = run_values(
            cache, train={"epochs": 1}, freeze="freeze-all", engine={"cache": cache}
        )
        api.fit(values)
        assert (SOLVE in live) is (cache == "off")
        root = Path(values["run_dir"]) / "checkpoints"
        weights.append(checkpoint.load_network(root / begin.FIRST).model["head.0.weight"])
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-3)


def test_a_head_that_the_first_phase_freezes_is_computed_before_it(run_values: Values) -> None:
    def only_the_last_stage(stages: Any, progress: Any) -> siamkit.FreezePlan:
        return siamkit.FreezePlan.of(stages, [stages[-2].name], head=False)

    watch = Recorder()
    values = run_values(train={"epochs": 1})
    solved = api.fit(run_values("solved", train=NOTHING))
    result = api.fit(values, freeze=only_the_last_stage, listeners=[watch])
    start = solved["metrics"]["best"]["recall@1"]
    assert f"the head in closed form, before any training: recall@1 {start:.3f}" in watch.notices
    assert result["epochs"] == 1


def test_cached_and_live_training_agree(run_values: Values) -> None:
    results = [
        api.fit(run_values(cache, train={"epochs": 3}, engine={"cache": cache, "dtype": "float32"}))
        for cache in ("always", "off")
    ]
    cached, live = (r["history"] for r in results)
    for one, two in zip(cached, live, strict=True):
        assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-3)


def test_a_training_that_loses_keeps_the_network_from_before(run_values: Values) -> None:
    watch = Recorder()
    values = run_values(train={"epochs": 2}, optimizer={"lr": 500.0}, freeze="full")
    result = api.fit(values, listeners=[watch])
    solved = api.fit(run_values("solved", train=NOTHING))
    assert result["metrics"]["best"]["epoch"] == 0
    assert result["metrics"]["best"]["recall@1"] >= max(e["recall@1"] for e in result["history"])
    (text,) = [t for t in watch.notices if t.startswith("the training did not help")]
    assert "lr" in text and "freeze-all" in text
    one, two = network(Path(result["run_dir"])), network(Path(solved["run_dir"]))
    assert all(torch.allclose(one[n], two[n], atol=1e-3) for n in two if not n.startswith("loss"))


def test_a_refitted_head_is_kept_only_if_it_is_better(
    run_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = run_values(train={"epochs": 2}, freeze="full")
    plain = loop.Scorer.untrained
    for better in (True, False):
        values["run_dir"] = f"{values['run_dir']}-{better}"
        calls = iter(range(2))

        def measured(self: Any, name: str, read: Any) -> Any:
            before, after = plain(self, name, read)
            if next(calls):  # noqa: B023
                after = {**after, "recall@1": 2.0 if better else -1.0}  # noqa: B023
            return before, after

        monkeypatch.setattr(loop.Scorer, "untrained", measured)
        watch = Recorder()
        result = api.fit(values, listeners=[watch])
        run = Path(values["run_dir"])
        name = OpenRun(run, siamkit.api.entries.registries).best.name
        assert name.endswith(loop.REFIT) is better
        assert (result["metrics"]["best"]["recall@1"] == 2.0) is better
        assert any("the head was computed in closed form again" in t for t in watch.notices)


def test_a_frozen_backbone_needs_no_second_closed_form(run_values: Values) -> None:
    watch = Recorder()
    api.fit(run_values(train={"epochs": 1}, freeze="freeze-all"), listeners=[watch])
    assert not any("again" in text for text in watch.notices)


# --- a head that is computed after each epoch ----------------------------------------------------

COMPUTED = {**HEAD, "trained": False}


def closed_form_of(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the head's embeddings of what it reads of the training images, kept and expected."""
    opened = OpenRun(run, siamkit.api.entries.registries)
    net = api.load_embedder(run, device="cpu", workers=0).net
    train = load_data(opened.config.data, opened.config.train.seed).train
    dataset = ViewDataset(train, EvalView(net.preprocessing), 0)
    with torch.no_grad():
        read = net.extractor(torch.stack([dataset[i, 0] for i in range(len(train))]))
        state = net.head.closed_form(read, torch.tensor(train.labels))
        kept = net.head(read)
        net.head.load_state_dict(dict(state))
        return kept, net.head(read)


@pytest.mark.parametrize("cache", ["always", "off"])
def test_a_head_that_is_not_trained_is_the_closed_form_of_the_best_epochs_backbone(
    run_values: Values, cache: str
) -> None:
    watch = Recorder()
    engine = {"cache": cache, "dtype": "float32"}
    values = run_values(head=COMPUTED, train={"epochs": 3}, engine=engine, optimizer={"lr": 0.05})
    result = api.fit(values, listeners=[watch])
    run = Path(values["run_dir"])
    kept, expected = closed_form_of(run)
    torch.testing.assert_close(kept.abs(), expected.abs(), rtol=1e-3, atol=1e-3)
    (start,) = (text for text in watch.notices if text.startswith("the head in closed form"))
    assert start.endswith(". It is computed anew after each epoch")
    assert not any("again" in text for text in watch.notices)
    assert [change["stage"] for change in watch.data("phase_start")[0]["changes"]][-1] != "head"
    solved = api.fit(run_values("solved", head=HEAD, train=NOTHING))
    before, after = network(Path(solved["run_dir"])), network(run, "last")
    assert not torch.allclose(before["head.0.weight"], after["head.0.weight"], rtol=1e-2)
    assert len(result["phases"]) == 1


def test_a_computed_head_needs_no_pass_through_the_whole_network(
    run_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: list[str] = []
    plain = loop.Scorer.embedded

    def embedded(self: Any, name: str, *rest: Any) -> Any:
        live.append(name)
        return plain(self, name, *rest)

    monkeypatch.setattr(loop.Scorer, "embedded", embedded)
    api.fit(run_values(head=COMPUTED, train={"epochs": 2}, engine={"cache": "always"}))
    assert SOLVE not in live


def test_a_rate_is_found_without_computing_the_head(
    run_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    solved: list[str] = []
    plain = range_test.solve
    monkeypatch.setattr(range_test, "solve", lambda *given: solved.append("") or plain(*given))
    for head, needed in ((HEAD, True), (COMPUTED, False)):
        solved.clear()
        values = run_values(head=head, freeze="full")
        del values["run_dir"]
        api.find_lr(values, steps=20)
        assert bool(solved) is needed


def test_a_resumed_run_computes_the_same_heads(
    run_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"head": COMPUTED, "train": {"epochs": 3}, "freeze": "full"}
    whole = api.fit(run_values("whole", **values))

    class Stop(Exception):
        pass

    def stopping(event: siamkit.Event) -> None:
        if event.name == "epoch_end" and event.data["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        api.fit(run_values("stopped", **values), listeners=[stopping])
    resumed = api.resume(run_values("stopped")["run_dir"])
    assert resumed["metrics"] == whole["metrics"]
    one, two = (network(Path(r["run_dir"]), "last") for r in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("loss", ["proxy-anchor", {"name": "supcon", "memory": 64}])
def test_a_loss_with_vectors_of_its_own_has_the_width_of_the_features(
    run_values: Values, loss: Any
) -> None:
    result = api.fit(run_values(head=COMPUTED, train={"epochs": 1}, loss=loss))
    assert result["history"][0]["train_loss"] > 0


def test_a_computed_head_is_read_in_float32_in_mixed_precision(run_values: Values) -> None:
    for stages in (1, 3):
        head = {**COMPUTED, "stages": stages}
        train = {"epochs": 1, "precision": "bf16"}
        api.fit(run_values(str(stages), head=head, train=train))
        kept, expected = closed_form_of(Path(run_values(str(stages))["run_dir"]))
        assert torch.nn.functional.cosine_similarity(kept.abs(), expected.abs()).min() > 0.9


@pytest.mark.parametrize(
    ("trained", "policy", "computed"),
    [(None, "full", True), (None, "freeze-all", False), (None, "stages", True),
     (True, "full", False), (False, "full", True)],
)  # fmt: skip
def test_the_head_is_computed_where_the_policy_trains_the_backbone_without_it(
    run_values: Values, trained: bool | None, policy: str, computed: bool
) -> None:
    found = api.inspect(run_values(head={**HEAD, "trained": trained}, freeze=policy))
    assert found["head"]["computed"] is computed


@pytest.mark.parametrize(
    ("head", "policy", "message"),
    [("mlp", "full", "head 'mlp' has no closed form"),
     ("multistage", "freeze-all", "policy 'freeze-all' does not train the backbone")],
)  # fmt: skip
def test_a_head_that_cannot_be_computed_is_refused(
    run_values: Values, head: str, policy: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"head.trained: .*{message}"):
        api.inspect(run_values(head={"name": head, "trained": False}, freeze=policy))


# --- with other commands -------------------------------------------------------------------------


def test_a_range_test_measures_the_loss_of_what_is_trained(run_values: Values) -> None:
    """That of the backbone's own features, for which a loss with proxies is made."""
    values = run_values(
        head=COMPUTED, freeze="full", loss={"name": "proxy-anchor"}, train={"batch_size": 8}
    )
    found = siamkit.find_lr(values, steps=20)
    assert found["lr"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["triplet", "proxy-anchor"])
def test_a_run_with_a_computed_head_is_pruned(
    run_values: Values, tmp_path: Path, loss: str
) -> None:
    pytest.importorskip("torch_pruning")
    values = run_values(head=COMPUTED, loss={"name": loss}, train={"epochs": 1})
    api.fit(values)
    result = siamkit.prune(
        values["run_dir"], ratio=0.2, finetune_epochs=1, run_dir=tmp_path / "pruned"
    )
    assert result.after["flops"] < 0.9 * result.before["flops"]
    kept, expected = closed_form_of(tmp_path / "pruned")
    torch.testing.assert_close(kept.abs(), expected.abs(), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_stages_that_the_head_reads_stay_as_wide_if_the_run_is_pruned(
    run_values: Values, tmp_path: Path
) -> None:
    pytest.importorskip("torch_pruning")
    values = run_values(train=NOTHING)
    api.fit(values)
    before = api.load_model(values["run_dir"])
    result = siamkit.prune(
        values["run_dir"], ratio=0.2, finetune_epochs=1, run_dir=tmp_path / "pruned"
    )
    after = api.load_model(tmp_path / "pruned")
    assert result.after["flops"] < 0.9 * result.before["flops"]
    assert after.reader.width == before.reader.width and after.head.reads == before.head.reads
    with pytest.raises(
        ConfigError, match="part: nothing trains in the fine-tuning, because the run"
    ):
        siamkit.prune(values["run_dir"], tmp_path / "other", part="trainable")
    assert not (tmp_path / "other").exists()
    assert siamkit.evaluate(tmp_path / "pruned").retrieval["recall@1"] == result.after["recall@1"]


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_the_exported_network_is_one_graph_with_the_same_embeddings(
    run_values: Values, tmp_path: Path, form: str
) -> None:
    values = run_values(train=NOTHING)
    api.fit(values)
    result = siamkit.export(values["run_dir"], tmp_path / form, format=form)
    assert result["cosine"] > 0.99999
    if form == "torch":
        loaded = siamkit.from_pretrained(tmp_path / form)
        assert len(loaded.head.reads) == HEAD["stages"] - 1
    else:
        assert [p.name for p in (tmp_path / form).glob("*.onnx")] == ["model.onnx"]


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_resumed_run_is_bit_equal_also_with_a_refitted_head(
    run_values: Values, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    plain = loop.Scorer.untrained

    def measured(self: Any, name: str, read: Any) -> Any:
        before, after = plain(self, name, read)
        if self.state.history:  # the refitted head is the best
            after = {**after, "recall@1": 2.0}
        return before, after

    monkeypatch.setattr(loop.Scorer, "untrained", measured)
    sections: dict[str, Any] = {"train": {"epochs": 2}, "freeze": {"name": "stages", "warmup": 1}}
    whole = api.fit(run_values("whole", **sections))
    seen: list[str] = []

    def kill(event: siamkit.Event) -> None:
        if event.name == "checkpoint":
            seen.append(event.name)
            if len(seen) == at:
                raise Killed

    values = run_values("killed", **sections)
    with pytest.raises(Killed):
        api.fit(values, listeners=[kill])
    resumed = api.resume(values["run_dir"])
    assert resumed["metrics"] == whole["metrics"]
    assert whole["metrics"]["best"]["recall@1"] == 2.0
    one, two = (network(Path(r["run_dir"])) for r in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert resumed["calibration"]["threshold"] == whole["calibration"]["threshold"]


# --- decisions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "start", "best"),
    [
        ([0.5, 0.7], 0.6, 1),
        ([0.5, 0.7], 0.7, 1),  # what was trained wins a tie
        ([0.5, 0.7], 0.8, BEFORE),
        ([], 0.1, BEFORE),
        ([0.5], None, 0),
        ([], None, None),
    ],
)
def test_the_best_network_may_be_the_one_before_training(history, start, best):
    metrics = [{"recall@1": value} for value in history]
    assert best_of(metrics, {} if start is None else {"recall@1": start}, "recall@1") == best


def test_a_run_says_what_to_try_only_if_training_lost():
    state = RunState(history=[{"recall@1": 0.4}], start={"recall@1": 0.5}, best_epoch=BEFORE)
    assert "0.500" in str(lost(state, "recall@1")) and "0.400" in str(lost(state, "recall@1"))
    state.best_epoch = 0
    assert lost(state, "recall@1") is None
    assert lost(RunState(best_epoch=BEFORE), "recall@1") is None


@pytest.mark.parametrize(("kept", "words"), [(True, "it is kept"), (False, "not used")])
def test_the_verdict_on_a_refitted_head_is_said(kept: bool, words: str):
    state = RunState(history=[{"recall@1": 0.4}], refit={"recall@1": 0.3}, refitted=kept)
    text = refit_text(state, 0, 0.45, "recall@1")
    assert all(part in text for part in (words, "0.450", "0.300", "0.400", "epoch 1"))


def test_what_may_still_be_the_best_is_kept(run_values: Values) -> None:
    values = run_values(train={"epochs": 3, "keep_checkpoints": 1})
    root = Path(values["run_dir"]) / "checkpoints"
    found: list[bool] = []

    def look(event: siamkit.Event) -> None:
        if event.name == "checkpoint" and event.data["epoch"]:
            state = checkpoint.load_state(checkpoint.newest_first(root)[0]).state
            names = {folder.name for folder in checkpoint.newest_first(root)}
            found.append({state["best_checkpoint"], state["trained_checkpoint"]} <= names)

    api.fit(values, listeners=[look])
    assert len(found) >= 3 and all(found)


def test_pairs_determine_no_head_without_training() -> None:
    setup: Any = SimpleNamespace(
        config=SimpleNamespace(
            train=SimpleNamespace(epochs=0), head=SimpleNamespace(name="multistage")
        ),
        net=SimpleNamespace(head=torch.nn.Linear(1, 1)),
    )  # fmt: skip
    splits: Any = SimpleNamespace(train=SimpleNamespace(tuples=()))
    with pytest.raises(ConfigError, match=r"train\.epochs: .*and the data is pairs or triplets"):
        require_solvable(setup, splits)
    setup.net.head = torch.nn.Identity()  # nothing is to be determined
    require_solvable(setup, splits)
    setup.net.head, setup.config.train.epochs = torch.nn.Linear(1, 1), 1
    require_solvable(setup, splits)
