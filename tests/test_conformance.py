"""The conformance kit over every registered name of every kind."""

from __future__ import annotations

import pytest

from siamkit import plugins, testing

# Entries whose options have no defaults.
OPTIONS = {"regex": {"patterns": [r"norm|bn", r"head"]}}

# The other ways that a built-in may be set up.
VARIANTS = [
    *[
        (testing.check_loss, "triplet", {"mining": mining, "distance": distance, "margin": 0.5})
        for mining in ("all", "hard", "semihard")
        for distance in ("euclidean", "squared-euclidean", "cosine")
    ],
    (testing.check_loss, "triplet", {"mining": "all", "swap": True, "smooth": True}),
    (testing.check_loss, "contrastive", {"distance": "cosine"}),
    (testing.check_loss, "multi-similarity", {"epsilon": None}),
    (testing.check_freeze_policy, "gradual-unfreeze", {"trigger": "plateau", "window": 1}),
    (testing.check_freeze_policy, "gradual-unfreeze", {"direction": "bottom", "every": 2}),
    (testing.check_freeze_policy, "full", {"decay": 0.5, "norm": "train"}),
    *[
        (testing.check_scheduler, name, {"warmup": 1.5})
        for name in ("constant", "cosine", "linear", "step", "one-cycle", "plateau")
    ],
]


def test_everything_that_siamkit_registers_is_checked():
    assert {"resnet50"} <= set(testing.registered("backbones"))
    assert set(testing.registered("freeze_policies", "siamkit")) == {
        "freeze-all", "unfreeze-blocks", "stages", "gradual-unfreeze", "lp-ft", "surgical",
        "norm-only", "bitfit", "regex", "full",
    }  # fmt: skip
    assert set(testing.registered("losses", "siamkit")) == {
        "triplet", "contrastive", "multi-similarity", "supcon", "ntxent", "circle",
        "proxy-anchor", "arcface",
    }  # fmt: skip
    assert set(testing.registered("schedulers", "siamkit")) == {
        "constant", "cosine", "linear", "step", "one-cycle", "plateau",
    }  # fmt: skip
    assert set(testing.registered("trackers", "siamkit")) == {"tensorboard"}


def test_every_plugin_loads():
    assert [info for info in plugins.get().infos if info.error] == []


# Families that differ in what a stage is, and in what may lie outside of all modules.
@pytest.mark.parametrize(
    "name",
    [*testing.registered("backbones"), "timm:resnet10t", "timm:vit_tiny_patch16_224"],
)
def test_backbones(name):
    testing.check_backbone(name, image_size=64)


@pytest.mark.parametrize("name", testing.registered("freeze_policies"))
def test_freeze_policies(name):
    testing.check_freeze_policy(name, OPTIONS.get(name))


@pytest.mark.parametrize("name", testing.registered("losses"))
def test_losses(name):
    testing.check_loss(name)


@pytest.mark.parametrize("name", testing.registered("heads"))
def test_heads(name):
    testing.check_head(name)


@pytest.mark.parametrize("name", testing.registered("optimizers"))
def test_optimizers(name):
    testing.check_optimizer(name)


@pytest.mark.parametrize("name", testing.registered("schedulers"))
def test_schedulers(name):
    testing.check_scheduler(name)


@pytest.mark.parametrize("name", testing.registered("trackers"))
def test_trackers(name):
    testing.check_tracker(name)


@pytest.mark.parametrize(("check", "name", "options"), VARIANTS)
def test_variants(check, name, options):
    check(name, options)
