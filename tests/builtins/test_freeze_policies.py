from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.builtins import freeze_policies as builtin
from siamkit.errors import ConfigError
from siamkit.interfaces import HEAD, Progress, Stage
from siamkit.registry import Entry

ENTRIES: dict[str, Entry] = {}
builtin.siamkit_register_freeze_policies(
    lambda name, build, options: ENTRIES.update({name: Entry(name, build, options)})
)
REQUIRED = {"regex": {"patterns": ["weight"]}}


def block(name):
    prefix = f"backbone.{name}"
    names = [f"{prefix}.conv.weight", f"{prefix}.bn.weight", f"{prefix}.bn.bias"]
    return Stage(name, tuple(names), (prefix,), prefix, frozenset(names[1:]))


def stage(name, blocks=2):
    parts = tuple(block(f"{name}.{i}") for i in range(blocks))
    return Stage(
        name,
        tuple(p for b in parts for p in b.parameters),
        tuple(m for b in parts for m in b.modules),
        parts[-1].output,
        frozenset(n for b in parts for n in b.norms),
        parts,
    )


HEAD_STAGE = Stage(HEAD, ("head.0.weight", "head.0.bias"), ("head",), "head")
BODY = (block("stem"), *(stage(f"layer{i}") for i in range(1, 5)))
STAGES = (*BODY, HEAD_STAGE)
NAMES = [s.name for s in STAGES]


def make(name, **options):
    entry = ENTRIES[name]
    return entry.build(entry.validate(REQUIRED.get(name, {}) | options, "freeze"))


def plan(policy, epoch=0, *, stages=STAGES, epochs=12, metrics=()):
    history = tuple({"recall@1": m} for m in metrics)
    return policy.plan(stages, Progress(epoch, epochs, history=history))


def trained(plan, stages=STAGES):
    """Names of the stages that train as a whole; a partly trained one is marked."""
    names = []
    for s in stages:
        share = len(plan.trainable & set(s.parameters)) / len(s.parameters)
        names += [s.name] if share == 1 else [f"{s.name}~"] if share else []
    return names


def run(policy, epochs=12, stages=STAGES, metrics=()):
    return [
        trained(plan(policy, e, stages=stages, epochs=epochs, metrics=metrics[:e]), stages)
        for e in range(epochs)
    ]


def test_all_are_registered_and_documented():
    assert list(ENTRIES) == [
        "freeze-all", "unfreeze-blocks", "stages", "gradual-unfreeze", "lp-ft", "surgical",
        "norm-only", "bitfit", "regex", "full",
    ]  # fmt: skip
    for entry in ENTRIES.values():
        for name, field in entry.options.model_fields.items():
            assert field.description, f"{entry.name}.{name}"
            assert name not in ("name", "kind")


# --- what holds for all --------------------------------------------------------------------------


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(ENTRIES)),
    epochs=st.integers(1, 14),
    depth=st.integers(1, 6),
    head=st.booleans(),
    metrics=st.lists(st.floats(0, 1), min_size=14, max_size=14),
)
def test_every_plan_is_pure_and_valid(name, epochs, depth, head, metrics):
    stages = [*(stage(f"s{i}") for i in range(depth)), *([HEAD_STAGE] if head else [])]
    before = list(stages)
    policy = make(name)
    known = {p for s in stages for p in s.parameters}
    forwards = [plan(policy, e, stages=stages, metrics=metrics[:e]) for e in range(epochs)]
    backwards = [
        plan(make(name), e, stages=stages, metrics=metrics[:e]) for e in reversed(range(epochs))
    ]
    assert forwards == backwards[::-1]
    assert stages == before
    for p in forwards:
        assert p.trainable <= known
        assert set(p.lr_mult) <= {s.name for s in stages}
        assert all(math.isfinite(m) and m > 0 for m in p.lr_mult.values())
        assert p.lr_mult.get(HEAD, 1.0) == 1.0
        assert not head or set(HEAD_STAGE.parameters) <= p.trainable
        assert p.trainable or name == "freeze-all", "a phase without a head must train something"


@pytest.mark.parametrize("name", ENTRIES)
def test_prolonging_a_run_leaves_its_first_phases_as_they_were(name):
    for epoch in range(3):
        assert plan(make(name), epoch, epochs=3) == plan(make(name), epoch, epochs=30)


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - {"freeze-all"}))
def test_rates_come_from_stage_order_whether_a_stage_is_frozen_or_not(name):
    rates = {tuple(plan(make(name), e).lr_mult.items()) for e in range(12)}
    assert len(rates) == 1
    assert set(dict(rates.pop())) == set(NAMES) - {HEAD}


@pytest.mark.parametrize("name", sorted(set(ENTRIES) - {"freeze-all"}))
def test_norm_mode_and_rate_are_options(name):
    p = plan(make(name, norm="train", lr_mult=0.25), 11)
    assert p.norm == "train"
    assert p.lr_mult["layer4"] == 0.25
    assert plan(make(name)).norm == "affine"


# --- one by one ----------------------------------------------------------------------------------


def test_freeze_all_trains_the_head_alone():
    assert run(make("freeze-all"), 3) == [["head"]] * 3
    assert run(make("freeze-all"), 1, BODY) == [[]]


def test_unfreeze_blocks_trains_the_last_n_from_the_start():
    assert run(make("unfreeze-blocks"), 2) == [["layer3", "layer4", "head"]] * 2
    assert run(make("unfreeze-blocks", n=9), 1) == [NAMES]


def test_unfreeze_blocks_takes_names_of_stages_and_blocks():
    policy = make("unfreeze-blocks", names=["stem", "layer4.1"])
    assert run(policy, 1) == [["stem", "layer4~", "head"]]
    assert plan(policy).trainable == {
        *BODY[0].parameters, *BODY[4].blocks[1].parameters, *HEAD_STAGE.parameters
    }  # fmt: skip


def test_n_counts_blocks_where_the_policy_is_given_blocks():
    blocks = tuple(b for s in BODY for b in (s.blocks or (s,)))
    assert run(make("unfreeze-blocks", n=3), 1, blocks) == [["layer3.1", "layer4.0", "layer4.1"]]


@pytest.mark.parametrize("name", ["unfreeze-blocks", "surgical"])
def test_an_unknown_stage_lists_those_that_exist(name):
    with pytest.raises(ConfigError, match=r"'layer5'.*stem, layer1.*did you mean 'layer"):
        plan(make(name, names=["layer5"]))


def test_stages_is_the_two_step_recipe():
    warm, tuned = ["head"], ["layer3", "layer4", "head"]
    assert run(make("stages"), 6) == [warm, warm, tuned, tuned, tuned, tuned]
    p = plan(make("stages"), 2)
    assert p.lr_mult["layer3"] == p.lr_mult["layer4"] == 0.1
    assert run(make("stages", warmup=0, n=1), 2) == [["layer4", "head"]] * 2


@pytest.mark.parametrize("epochs", [1, 2])
def test_stages_in_a_run_no_longer_than_its_warmup_trains_the_head(epochs):
    assert run(make("stages"), epochs) == [["head"]] * epochs


@pytest.mark.parametrize("name", ["stages", "lp-ft", "gradual-unfreeze"])
def test_a_phase_of_the_head_alone_is_skipped_where_there_is_no_head(name):
    assert all(run(make(name), 6, BODY))


def test_gradual_unfreeze_opens_one_stage_after_another_from_the_top():
    phases = run(make("gradual-unfreeze", every=2), 12)
    assert phases[0] == phases[1] == ["head"]
    assert phases[2] == phases[3] == ["layer4", "head"]
    assert phases[4] == ["layer3", "layer4", "head"]
    assert phases[10] == phases[11] == NAMES


def test_gradual_unfreeze_from_the_bottom_and_without_a_head_phase():
    phases = run(make("gradual-unfreeze", direction="bottom", head_first=False), 3)
    assert phases == [
        ["stem", "head"],
        ["stem", "layer1", "head"],
        ["stem", "layer1", "layer2", "head"],
    ]


def test_gradual_unfreeze_with_a_window_freezes_earlier_stages_again():
    phases = run(make("gradual-unfreeze", window=2), 8)
    assert phases == [
        ["head"],
        ["layer4", "head"],
        ["layer3", "layer4", "head"],
        ["layer2", "layer3", "head"],
        ["layer1", "layer2", "head"],
        ["stem", "layer1", "head"],
        ["stem", "layer1", "head"],
        ["stem", "layer1", "head"],
    ]


def test_gradual_unfreeze_decays_the_rate_with_depth():
    p = plan(make("gradual-unfreeze", lr_mult=0.5, decay=0.5), 1)
    assert dict(p.lr_mult) == {
        "layer4": 0.5, "layer3": 0.25, "layer2": 0.125, "layer1": 0.0625, "stem": 0.03125
    }  # fmt: skip


def test_gradual_unfreeze_on_plateaus():
    policy = make("gradual-unfreeze", trigger="plateau", patience=2)
    assert policy.metric_driven
    assert not make("gradual-unfreeze").metric_driven
    #          best best stall stall(1) best stall stall(2)
    metrics = [0.1, 0.2, 0.2, 0.2, 0.3, 0.3, 0.25, 0.5]
    assert run(policy, 8, metrics=metrics) == [
        *[["head"]] * 4,
        *[["layer4", "head"]] * 3,
        ["layer3", "layer4", "head"],
    ]
    assert run(policy, 4, metrics=[0.1, 0.2, 0.3, 0.4]) == [["head"]] * 4
    strict = make("gradual-unfreeze", trigger="plateau", patience=2, min_delta=0.2)
    assert run(strict, 4, metrics=[0.1, 0.2, 0.3, 0.4])[3] == ["layer4", "head"]


def test_lp_ft_probes_then_trains_everything():
    assert run(make("lp-ft", probe=2), 4) == [["head"], ["head"], NAMES, NAMES]


def test_surgical_trains_the_first_stage_or_those_named():
    assert run(make("surgical"), 1) == [["stem", "head"]]
    assert run(make("surgical", names=["layer2"]), 1) == [["layer2", "head"]]


def test_norm_only_trains_scale_and_shift():
    p = plan(make("norm-only"))
    backbone = {n for n in p.trainable if n not in HEAD_STAGE.parameters}
    assert backbone == {n for s in BODY for n in s.norms}
    assert p.lr_mult["layer4"] == 1.0


def test_bitfit_trains_biases_and_no_tables_of_them():
    odd = Stage("odd", ("b.q_bias", "b.relative_position_bias_table", "b.bias.weight", "b.bias"))
    p = plan(make("bitfit"), stages=(odd, HEAD_STAGE))
    assert p.trainable == {"b.q_bias", "b.bias", *HEAD_STAGE.parameters}


@pytest.mark.parametrize("name", ["norm-only", "bitfit"])
def test_a_policy_that_finds_nothing_to_train_says_so(name):
    bare = (Stage("conv", ("backbone.conv.weight",)), HEAD_STAGE)
    with pytest.raises(ConfigError, match=rf"backbone has no .*'{name}' would train nothing in it"):
        plan(make(name), stages=bare)


def test_regex_trains_what_any_pattern_matches_and_the_head():
    p = plan(make("regex", patterns=[r"layer4\..*conv", r"stem\.bn\.bias$"]))
    assert p.trainable == {
        "backbone.layer4.0.conv.weight", "backbone.layer4.1.conv.weight", "backbone.stem.bn.bias",
        *HEAD_STAGE.parameters,
    }  # fmt: skip


def test_each_pattern_must_match():
    with pytest.raises(ConfigError) as caught:
        plan(make("regex", patterns=["layer4", "layer9"]))
    message = str(caught.value)
    assert message.startswith("freeze.patterns: the pattern matches no parameter, got 'layer9'")
    assert "backbone.stem.conv.weight" in message
    assert f"and {3 + 4 * 6 + 2 - 8} more" in message
    assert "siamkit.inspect(parameters=True)" in message


def test_a_pattern_of_norms_that_are_frozen_is_refused():
    assert plan(make("regex", patterns=["bn"], norm="affine")).trainable > HEAD_STAGE.norms
    with pytest.raises(ConfigError, match=r"only parameters of norm layers.* got 'bn'"):
        plan(make("regex", patterns=["conv", "bn"], norm="frozen"))
    plan(make("regex", patterns=["layer4"], norm="frozen"))  # norms and others


def test_patterns_may_look_around():
    p = plan(make("regex", patterns=[r"^(?!.*bn).*stem"]))
    assert p.trainable == {"backbone.stem.conv.weight", *HEAD_STAGE.parameters}


def test_full_trains_everything_with_layerwise_decay():
    policy = make("full", lr_mult=1.0, decay=0.5)
    assert run(policy, 2) == [NAMES] * 2
    rates = plan(policy).lr_mult
    assert [rates[n] for n in NAMES[:-1]] == [0.0625, 0.125, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unfreeze-blocks", {"n": 0}, r"freeze\.n: must be greater than or equal to 1, got 0"),
        ("stages", {"warm_up": 2}, "did you mean 'warmup'"),
        ("full", {"decay": 1.5}, r"freeze\.decay: must be less than or equal to 1"),
        ("full", {"lr_mult": 0}, r"freeze\.lr_mult: must be greater than 0"),
        ("full", {"norm": "eval"}, r"freeze\.norm: must be 'frozen', 'affine' or 'train'"),
        ("norm-only", {"norm": "frozen"}, r"freeze\.norm: must be 'affine' or 'train'"),
        ("regex", {"patterns": ["layer["]}, r"freeze\.patterns\.0: not a regular expression"),
        (
            "regex",
            {"patterns": ["((a{1000}){1000}){1000}"]},
            r"freeze\.patterns\.0: the pattern is",
        ),
        ("regex", {"patterns": []}, r"freeze\.patterns"),
        ("freeze-all", {"n": 1}, "unknown key"),
    ],
)
def test_bad_options_say_what_is_allowed(name, options, message):
    with pytest.raises(ConfigError, match=message):
        make(name, **options)


def test_regex_needs_patterns():
    with pytest.raises(ConfigError, match=r"freeze\.patterns"):
        ENTRIES["regex"].validate({}, "freeze")
