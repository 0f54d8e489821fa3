"""Test images, which are embedded only before and after the training, and are cached too."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import siamkit
from siamkit.engine.cache.budget import list_stores
from siamkit.engine.execution import Engine
from siamkit.errors import ResourceError
from siamkit.runs.directory import RunDir
from siamkit.runs.held_out import HeldOut
from siamkit.training import fit as fitting
from siamkit.training import loop

Values = Callable[..., dict[str, Any]]


@pytest.fixture
def split_values(values_of: Values, image_folder: Path, tmp_path: Path) -> Values:
    folder = tmp_path / "split"
    for part, kinds in {"train": range(4), "val": (4, 5), "test": (6, 7)}.items():
        for kind in kinds:
            shutil.copytree(image_folder / f"class{kind}", folder / part / f"class{kind}")

    def values(name: str, **sections: Any) -> dict[str, Any]:
        data = {"path": str(folder), "views": 1}
        freeze = {"name": "freeze-all"}
        given = {"data": data, "freeze": freeze, "report": False, "engine": {"cache": "always"}}
        return values_of(tmp_path / name, **given | sections)

    return values


def embeddings(run: Path) -> Any:
    held = HeldOut.load(RunDir(run), "test")
    assert held is not None
    return held.embeddings


def fills(events: list[siamkit.Event]) -> int:
    return sum(
        e.data["total"] for e in events if e.name == "fill" and e.data["done"] == e.data["total"]
    )


def test_cached_test_images_give_the_figures_of_live_ones(split_values: Values) -> None:
    cached = siamkit.fit(split_values("cached"))
    live = siamkit.fit(split_values("live", engine={"cache": "off", "cut": "off"}))
    for name in ("untrained", "best"):
        assert cached.metrics["test"][name] == pytest.approx(live.metrics["test"][name], abs=1e-6)
    np.testing.assert_allclose(
        embeddings(cached.run_dir), embeddings(live.run_dir), atol=1e-4, rtol=1e-3
    )


def test_a_second_run_computes_no_test_image_again(split_values: Values) -> None:
    events: list[siamkit.Event] = []
    siamkit.fit(split_values("a"), listeners=[events.append])
    # 4 classes of 6 train, in one view and as they are; 12 images are held out, 12 are for tests.
    first = fills(events)
    assert first >= 24 + 12 + 12
    events.clear()
    siamkit.fit(split_values("b", loss={"name": "contrastive"}), listeners=[events.append])
    assert fills(events) == 0


@pytest.mark.parametrize("fails", [True, False])
def test_without_room_or_with_rows_that_differ_they_are_embedded_live(
    split_values: Values, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    cached = siamkit.fit(split_values("cached"))

    def stock(*_: object) -> str:
        if fails:
            raise ResourceError("the disk is full")
        return "the disk is full"

    monkeypatch.setattr(Engine, "stock", stock)
    events: list[siamkit.Event] = []
    result = siamkit.fit(split_values("full"), listeners=[events.append])
    notices = [event.data["text"] for event in events if event.name == "notice"]
    assert "the test images are embedded without the cache: the disk is full" in notices
    for name in ("untrained", "best"):
        assert result.metrics["test"][name] == pytest.approx(cached.metrics["test"][name], abs=1e-6)


def test_the_cache_does_not_exceed_its_size_for_them(split_values: Values, tmp_path: Path) -> None:
    def run(name: str, **engine: Any) -> tuple[list[str], int, Any]:
        events: list[siamkit.Event] = []
        where = {"cache": "always", "cache_dir": str(tmp_path / f"cache-{name}"), **engine}
        result = siamkit.fit(split_values(name, engine=where), listeners=[events.append])
        notices = [event.data["text"] for event in events if event.name == "notice"]
        size = sum(store.bytes for store in list_stores(tmp_path / f"cache-{name}"))
        return notices, size, result.metrics["test"]

    _, whole, metrics = run("whole")
    notices, size, same = run("small", cache_gb=(whole - 1) / 1e9)
    assert size < whole
    (told,) = [text for text in notices if "without the cache" in text]  # said once
    assert re.match(
        r"the test images are embedded without the cache: 12 new rows need .* of the", told
    )
    for name in ("untrained", "best"):
        assert same[name] == pytest.approx(metrics[name], abs=1e-6)


def test_a_run_that_is_resumed_at_its_end_embeds_them_alike(
    split_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = siamkit.fit(split_values("whole"))

    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "embed_held_out", killed)
        with pytest.raises(Killed):
            siamkit.fit(split_values("again"))
    again = siamkit.resume(split_values("again")["run_dir"])
    np.testing.assert_array_equal(embeddings(again.run_dir), embeddings(whole.run_dir))
    assert again.metrics["test"] == whole.metrics["test"]


@pytest.mark.parametrize("head", [{"name": "identity"}, {"name": "multistage", "dim": 4}])
def test_a_network_without_training_is_measured_on_them(
    split_values: Values, head: dict[str, Any]
) -> None:
    result = siamkit.fit(split_values("run", head=head, train={"epochs": 0}))
    measured = result.metrics["test"]
    if head["name"] == "identity":
        assert measured["best"] == measured["untrained"]
    assert 0 <= measured["best"]["recall@1"] <= 1


@pytest.mark.slow
def test_rows_of_another_network_do_not_enter_the_cache(
    split_values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best network may have another frozen part than the last phase, whose rows are cached."""
    given: dict[str, Any] = {
        "freeze": {"name": "gradual-unfreeze", "direction": "bottom", "window": 1},
        "engine": {"cache": "always", "dtype": "float32"}, "scheduler": {"name": "constant"},
        "optimizer": {"lr": 0.05}, "train": {"epochs": 5},
    }  # fmt: skip

    def trained(name: str, best: int, **sections: Any) -> Any:
        def chosen(history: Any, *_: Any) -> int:
            return min(best, len(history) - 1)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "best_epoch", chosen)
            patch.setattr(loop, "best_of", chosen)
            result = siamkit.fit(split_values(name, **{**given, **sections}))
        assert result.metrics["best"]["epoch"] == best + 1
        return embeddings(result.run_dir)

    early = trained("early", 1)  # its frozen part is not the one of the last phase
    late = trained("late", 4)
    live = trained("live", 4, engine={"cache": "off", "cut": "off"})
    assert abs(early - live).max() > 0.1
    np.testing.assert_allclose(late, live, atol=2e-3, rtol=1e-2)
