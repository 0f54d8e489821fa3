"""Candidates with a head in closed form, for backbones of few stages and unreadable ones."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from siamkit.comparison.arms import without_training
from siamkit.comparison.candidates import candidates
from siamkit.comparison.heads import readable
from siamkit.comparison.unit import config_of
from siamkit.training.build import build


def fitted(backbone: Any, fixed: tuple[str, ...] = (), **sections: Any) -> tuple[Any, Any, Any]:
    from siamkit.api.configuring import resolved_call

    given = {"data": {"path": ".", "image_size": 32}, "backbone": backbone, **sections}
    base, known, _ = resolved_call(None, given)
    return readable(candidates(fixed), base, known), base, known


RESNET = {"name": "timm:test_resnet", "pretrained": False}


def test_candidates_stay_as_they_are_if_the_backbone_has_enough_stages() -> None:
    arms, _, _ = fitted(RESNET)
    assert arms == candidates(())


def test_a_short_backbone_is_read_from_its_first_stage(short: nn.Module) -> None:
    arms, base, known = fitted(short)
    assert [arm.name for arm in arms] == [arm.name for arm in candidates(())]
    for arm in (*arms, *without_training()):
        setup = build(config_of(base, known, arm), known, 2)
        if arm.values["head.name"] not in ("residual", "identity"):
            assert setup.config.head.options == {"stages": 2, "dim": 10, "method": "wccn"}


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"engine": {"prefix": "int8"}, "backbone": RESNET},
        {"train": {"grad_checkpointing": True}, "backbone": RESNET},
    ],
)
def test_no_closed_form_is_tried_where_stages_cannot_be_read(
    unreadable: nn.Module, sections: dict[str, Any]
) -> None:
    arms, _, _ = fitted(**{"backbone": unreadable, **sections})
    assert {arm.values["head.name"] for arm in arms} == {"residual"}


def test_the_users_own_head_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamkit.comparison.heads.create_net", None)
    arms, _, _ = fitted(RESNET, fixed=("head.name",))
    assert arms == candidates({"head.name"})


def test_the_closed_form_replaces_a_head_with_options(short: nn.Module) -> None:
    _, base, known = fitted(short, head={"name": "mlp", "hidden": 16, "dim": 4})
    (closed,) = (arm for arm in without_training(base.head.name) if arm.name == "closed form")
    assert build(config_of(base, known, closed), known, 2).config.head.name == "multistage"
    _, base, known = fitted(RESNET, head={"name": "multistage", "stages": 2, "method": "lda"})
    (closed,) = (arm for arm in without_training(base.head.name) if arm.name == "closed form")
    head = build(config_of(base, known, closed), known, 2).config.head
    assert (head.options["stages"], head.options["method"]) == (2, "lda")
