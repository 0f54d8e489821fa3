"""What decides how a run is computed: its settings, and the image sets that it gets."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from siamkit import api
from siamkit.engine.settings import EngineSettings
from siamkit.training import loading
from siamkit.training.loading import PROBE, SECOND, SOLVE, TEST, TRAIN, VAL, decider_of

SETS: Any = {name: f"the set {name}" for name in (TRAIN, VAL, PROBE, SECOND)}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the arguments of the decider that a config gives."""
    monkeypatch.setattr(loading, "Decider", lambda *given: SimpleNamespace(
        inputs=given[1], late=given[2], visits=given[3], settings=given[4], identity=given[6]
    ))  # fmt: skip

    def make(sets: Any = SETS, computed: bool = False, **sections: Any) -> Any:
        values = {"data": {"path": "x"}, "backbone": "resnet50", "train": {"epochs": 2}, **sections}
        setup: Any = SimpleNamespace(
            config=api.load_config(values), controller=None, device=torch.device("cpu"),
            net=SimpleNamespace(
                preprocessing=SimpleNamespace(size=(32, 64)),
                head=SimpleNamespace(computed=computed),
            ),
        )  # fmt: skip
        return decider_of(setup, sets, 7, None)  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize(
    ("prefix", "kernel"), [("auto", "auto"), ("folded", "folded"), ("int8", "eager")]
)
def test_a_network_with_an_int8_part_runs_what_follows_it_as_it_is(
    made: Any, prefix: str, kernel: str
) -> None:
    assert made(engine={"prefix": prefix}).settings.kernel == kernel


@pytest.mark.parametrize(
    ("augment", "epochs", "views"), [("objects", 2, 3), ("none", 2, 1), ("objects", 0, 1)]
)
def test_views_differ_only_if_a_training_draws_them(
    made: Any, augment: str, epochs: int, views: int
) -> None:
    found = made(data={"path": "x", "augment": augment, "views": 3}, train={"epochs": epochs})
    assert found.settings.views == views


def test_the_settings_are_those_of_the_config(made: Any, tmp_path: Any) -> None:
    engine = {
        "cut": "off", "cache": "always", "cache_dir": str(tmp_path), "cache_gb": 0.25,
        "dtype": "bfloat16",
    }  # fmt: skip
    found = made(engine=engine)
    assert found.settings == EngineSettings(
        device=torch.device("cpu"), precision="fp32", cut="off", cache="always", root=tmp_path,
        budget=250_000_000, dtype=torch.bfloat16, kernel="auto", views=None,
    )  # fmt: skip
    assert found.visits == 7
    assert found.identity["backbone"] == "resnet50" and found.identity["image_size"] == [32, 64]


def test_test_images_and_those_of_a_closed_form_come_late(made: Any) -> None:
    assert made().inputs == SETS and made().late == {}
    found = made({**SETS, TEST: "tests", SOLVE: "solved"})
    assert found.inputs == SETS and found.late == {TEST: "tests", SOLVE: "solved"}


def test_images_of_a_head_that_is_computed_after_each_epoch_are_read_in_each(made: Any) -> None:
    found = made({**SETS, TEST: "tests", SOLVE: "solved"}, computed=True)
    assert found.inputs == {**SETS, SOLVE: "solved"} and found.late == {TEST: "tests"}


@pytest.mark.parametrize(("cache", "kept"), [("auto", "always"), ("off", "off")])
def test_a_run_without_epochs_reads_its_images_once_and_keeps_the_rows(
    made: Any, cache: str, kept: str
) -> None:
    common: dict[str, Any] = {"train": {"epochs": 0}, "engine": {"cache": cache}}
    found = made({**SETS, SOLVE: "solved"}, **common)
    assert found.inputs == {TRAIN: "solved", VAL: SETS[VAL]}
    assert found.settings.cache == kept
    assert made(**common).inputs == {TRAIN: SETS[VAL], VAL: SETS[VAL]}
    assert made(engine={"cache": cache}).settings.cache == cache
