"""The value types of the plug-in interfaces."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from siamkit.errors import ConfigError
from siamkit.interfaces import FreezePlan, Loss, Pairs, Progress, Stage, StageOptions, Triplets

BLOCKS = (Stage("body.0", ("b", "b.norm")), Stage("body.1", ("c",)))
BODY = Stage(
    "body", ("b", "b.norm", "c"), ("body.0", "body.1"), "body.1", frozenset({"b.norm"}), BLOCKS
)
STAGES = (Stage("stem", ("a",)), BODY, Stage("head", ("h",)))


# --- stages and plans ----------------------------------------------------------------------------


def test_a_prefix_stands_before_every_name_of_a_stage_and_its_blocks():
    assert BODY.prefixed("net.") == Stage(
        "body",
        ("net.b", "net.b.norm", "net.c"),
        ("net.body.0", "net.body.1"),
        "net.body.1",
        frozenset({"net.b.norm"}),
        (Stage("body.0", ("net.b", "net.b.norm")), Stage("body.1", ("net.c",))),
    )
    assert Stage("stem", ("a",)).prefixed("net.").output is None


@pytest.mark.parametrize(
    ("train", "options", "trainable"),
    [
        ([], {}, "h"), ([], {"head": False}, ""), (["stem"], {}, "ah"), (["body.1"], {}, "ch"),
        (["body", "stem"], {"head": False}, ["a", "b", "b.norm", "c"]),
        (iter(["head"]), {"head": False}, "h"),
    ],
)  # fmt: skip
def test_a_plan_trains_stages_and_blocks_by_name(train, options, trainable):
    assert FreezePlan.of(STAGES, train, **options) == FreezePlan(frozenset(trainable))


def test_a_plan_of_a_network_without_a_head_trains_what_is_named():
    assert FreezePlan.of(STAGES[:2], ["stem"]).trainable == {"a"}


def test_a_plan_has_the_given_rates_and_norms():
    plan = FreezePlan.of(STAGES, ["stem"], lr_mult={"stem": 0.1}, norm="train")
    assert (plan.lr_mult, plan.norm) == ({"stem": 0.1}, "train")
    plain = FreezePlan.of(STAGES, ["stem"])
    assert (plain.lr_mult, plain.norm) == ({}, "affine")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("stem", r"train: must be names of stages or blocks, got 'stem'; write \['stem'\]"),
        (3, "train: must be names of stages or blocks, got <class 'int'>"),
        (["bdy"], "no stage or block has this name, got 'bdy', allowed: stem, body.0, body.1, "
                  "body, head; did you mean 'body'?"),
        ([BODY], "no stage or block has this name, got Stage"),
    ],
)  # fmt: skip
def test_what_names_no_stage_is_refused(train, message):
    with pytest.raises(ConfigError, match=message):
        FreezePlan.of(STAGES, train)


def test_a_plan_keeps_no_collection_that_its_author_may_change():
    names, rates = {"a"}, {"stem": 0.5}
    plan = FreezePlan(names, rates)  # type: ignore[arg-type]
    names.add("b")
    rates["stem"] = 1.0
    assert plan == FreezePlan(frozenset("a"), {"stem": 0.5})


@pytest.mark.parametrize(
    ("progress", "fraction"),
    [
        (Progress(1, 4), 0.25), (Progress(0, 0), 0.0), (Progress(1, 1), 1.0),
        (Progress(3, 4, step=3, steps=10), 0.3), (Progress(0, 4, step=0, steps=10), 0.0),
    ],
)  # fmt: skip
def test_progress_is_measured_in_steps_or_else_in_epochs(progress, fraction):
    assert progress.fraction == fraction


def test_progress_holds_copies_of_the_metrics():
    history = ({"recall@1": 0.5},)
    progress = Progress(1, 2, history=history)
    progress.history[0]["recall@1"] = 1.0
    assert history == ({"recall@1": 0.5},)


def test_the_monitored_metric_is_the_named_one():
    history = ({"recall@1": 0.5, "map@r": 0.25}, {"recall@1": 0.75, "map@r": 0.5})
    assert Progress(2, 4, history=history).monitored == (0.5, 0.75)
    assert Progress(2, 4, history=history, monitor="map@r").monitored == (0.25, 0.5)


def test_a_head_reads_one_to_64_stages():
    assert StageOptions().stages == 4
    assert [StageOptions(stages=n).stages for n in (1, 64)] == [1, 64]
    for wrong in (0, 65):
        with pytest.raises(ValidationError):
            StageOptions(stages=wrong)


# --- losses --------------------------------------------------------------------------------------


class Looking(Loss):
    """Keeps what it is called with."""

    def forward(self, embeddings, labels, tuples=None):
        self.seen = embeddings, labels, tuples
        return embeddings.sum()


def test_pairs_index_into_both_sides_as_one_batch():
    loss, first, second = Looking(), torch.eye(3), 2 * torch.eye(3)
    assert loss.from_pairs(first, second, torch.tensor([1, 0, 1])) == 9
    embeddings, labels, pairs = loss.seen
    assert labels is None and isinstance(pairs, Pairs)
    assert torch.equal(embeddings[pairs.first], first)
    assert torch.equal(embeddings[pairs.second], second)
    assert pairs.same.tolist() == [True, False, True] and pairs.same.dtype is torch.bool


def test_triplets_index_into_three_sides_as_one_batch():
    loss, sides = Looking(), [torch.eye(3) * n for n in (1, 2, 3)]
    assert loss.from_triplets(*sides) == 18
    embeddings, labels, triplets = loss.seen
    assert labels is None and isinstance(triplets, Triplets)
    for side, rows in zip(
        sides, (triplets.anchor, triplets.positive, triplets.negative), strict=True
    ):
        assert torch.equal(embeddings[rows], side)
