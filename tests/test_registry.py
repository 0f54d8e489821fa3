from typing import Literal

import pytest
from pydantic import Field

from siamkit.errors import ConfigError, PluginError
from siamkit.interfaces import Options
from siamkit.registry import (
    HERE,
    KINDS,
    Entry,
    Provider,
    Registry,
    canonical,
    new_registries,
    whose,
)


class Margin(Options):
    margin: float = Field(0.2, gt=0)
    mining: Literal["all", "hard"] = "all"
    views: int | tuple[int, int] = 1


@pytest.fixture
def losses() -> Registry:
    registry = Registry("loss", "list losses")
    registry.add(Entry("triplet", print, Margin, "Triplets.", distribution="siamkit"))
    registry.add(Entry("contrastive", print, distribution="siamkit"))
    return registry


def message(call, *args, **kwargs) -> str:
    with pytest.raises((ConfigError, PluginError)) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_entries_come_sorted(losses):
    assert losses.names() == [e.name for e in losses] == ["contrastive", "triplet"]


def test_a_prefix_entry_answers_for_every_name_it_begins():
    registry = Registry("backbone", "list backbones")
    registry.add(Entry("timm:", print))
    assert registry.get("timm:convnext_tiny.fb_in22k").name == "timm:"
    with pytest.raises(ConfigError):
        registry.get("timm")


def test_an_unknown_name_gets_the_nearest_and_the_command_that_lists_them(losses):
    assert message(losses.get, "tripplet") == (
        "unknown loss 'tripplet'; did you mean 'triplet'? siamkit.list_losses() lists them"
    )
    assert message(losses.get, "zzz") == "unknown loss 'zzz'; siamkit.list_losses() lists them"


def test_an_unknown_name_may_lack_its_prefix():
    registry = Registry("backbone", "list backbones")
    registry.add(Entry("timm:", print))
    registry.add(Entry("resnet50", print))
    assert "did you mean 'resnet50' or 'timm:resnet18'? " in message(registry.get, "resnet18")
    assert "'zzz'; did you mean 'timm:zzz'? " in message(registry.get, "zzz")
    assert "'other:zzz'; siamkit.list" in message(registry.get, "other:zzz")


def test_an_unknown_name_says_which_plugins_failed(losses):
    losses.failures = lambda: ["'extra' (siamkit-extra)"]
    assert "plugin 'extra' (siamkit-extra) failed to load" in message(losses.get, "mine")


def test_a_name_claimed_twice_is_unusable_and_names_both(losses):
    losses.add(Entry("triplet", print, distribution="siamkit-extra"))
    text = message(losses.get, "triplet")
    assert "registered by siamkit and siamkit-extra" in text
    assert losses.get("contrastive").name == "contrastive"


def test_a_third_claim_is_named_too(losses):
    for other in ("one", "two"):
        losses.add(Entry("triplet", print, distribution=other))
    assert "siamkit and one and two" in message(losses.get, "triplet")


def test_a_bad_option_value_names_the_place_the_value_and_the_entry(losses):
    entry = losses.get("triplet")
    assert message(entry.validate, {"margin": -1.0}, "run.yaml: loss", kind="loss") == (
        "run.yaml: loss.margin: must be greater than 0, got -1.0 (loss 'triplet')"
    )


def test_a_bad_choice_gets_the_nearest(losses):
    text = message(losses.get("triplet").validate, {"mining": "hrad"}, "loss")
    assert text == (
        "loss.mining: must be 'all' or 'hard', got 'hrad' ('triplet'); did you mean 'hard'?"
    )


def test_an_unknown_option_gets_the_nearest_and_what_exists(losses):
    text = message(losses.get("triplet").validate, {"margni": 1}, "loss", kind="loss")
    assert text == (
        "loss.margni: unknown key (loss 'triplet'), allowed: margin, mining, views; "
        "did you mean 'margin'?"
    )


def test_an_entry_without_options_takes_none(losses):
    assert "allowed: none" in message(losses.get("contrastive").validate, {"a": 1}, "loss")


def test_a_union_is_one_problem_on_the_users_key(losses):
    text = message(losses.get("triplet").validate, {"views": "x"}, "loss")
    assert text.startswith("loss.views: must be an integer, or a list, got 'x'")
    assert "\n" not in text


def test_every_problem_is_told_once(losses):
    with pytest.raises(ConfigError) as caught:
        losses.get("triplet").validate({"margin": 0, "mining": 3, "x": 1}, "loss", kind="loss")
    assert [p.where for p in caught.value.problems] == ["loss.margin", "loss.mining", "loss.x"]
    assert str(caught.value).count("loss.margin") == 1


def test_places_can_be_named_by_a_function(losses):
    text = message(losses.get("triplet").validate, {"margin": 0}, lambda key: f"<{key}>")
    assert text.startswith("<margin>: must be greater than 0")


def test_each_kind_has_a_registry_that_names_its_command():
    assert list(new_registries()) == list(KINDS)
    assert new_registries()["freeze_policies"].command == "list freeze-policies"
    assert new_registries()["freeze_policies"].kind == "freeze policy"


# --- where a name came from ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "text"),
    [
        (Provider("mine", "siamkit-none-such", "1.2"),
         "config.yaml: loss 'mine' came from distribution 'siamkit-none-such' 1.2, which is not "
         "installed here; pip install siamkit-none-such"),
        (Provider("mine", "siamkit-none-such", "unknown"),
         "config.yaml: loss 'mine' came from distribution 'siamkit-none-such', which is not "
         "installed here; pip install siamkit-none-such"),
        (Provider("mine", "pytest", "0.1"),
         f"config.yaml: loss 'mine' came from distribution 'pytest' 0.1; the installed version "
         f"{pytest.__version__} does not register it; 'siamkit plugins' shows whether it failed to "
         "load or was left out; otherwise, pip install pytest==0.1"),
        (Provider("mine", HERE, "unknown"),
         "config.yaml: loss 'mine' was registered by a Python process, not by a plugin; call "
         "siamkit.register_loss('mine', ...) first"),
    ],
)  # fmt: skip
def test_a_name_that_is_gone_says_where_it_came_from_and_what_to_do(provider, text):
    assert str(provider.missing("loss", "config.yaml")) == text
    assert "register_freeze_policy(" in str(Provider("a", HERE, "").missing("freeze policy", "x"))


def test_an_entry_knows_its_distribution_and_its_version():
    found = Entry("t:", print, distribution="pytest").provider("t:x")
    assert found == Provider("t:x", "pytest", pytest.__version__)
    assert Entry("t", print, distribution="none-such").provider("t").version == "unknown"


def test_names_of_distributions_are_normalised_as_packaging_does():
    assert canonical("Siamkit_My..plugin-") == "siamkit-my-plugin-"


def test_an_entry_is_named_with_its_kind_and_its_origin():
    assert whose("loss", "triplet", "siamkit") == "loss 'triplet' of siamkit"
    assert whose("loss", "python:a.B", "x") == "loss 'a.B' given in Python"


def test_an_object_of_a_run_must_be_passed_again():
    entry = Registry("freeze policy", "list freeze-policies").get("python:mine.Policy")
    assert message(entry.build, None) == (
        "freeze policy 'mine.Policy' was given as a Python object, which the run does not store; "
        "pass it again to the function that opens the run, such as siamkit.resume(RUN, freeze=...)"
    )
    assert entry.validate({"source": "abc"}, "freeze").source == "abc"
    assert message(entry.validate, {"source": "abc", "n": 1}, "freeze", kind="freeze policy") == (
        "freeze: takes no options: freeze policy 'mine.Policy' was given as an object; set them "
        "where the object is made"
    )
    assert message(entry.validate, {"b": 1, "a": 1}, lambda key: f"<{key}>").startswith("<a>: take")


def test_a_prefix_that_two_distributions_claim_is_unusable_with_all_its_names():
    registry = Registry("backbone", "list backbones")
    for distribution in ("one", "two"):
        registry.add(Entry("timm:", print, distribution=distribution))
    assert "backbone 'timm:' is registered by one and two" in message(registry.get, "timm:resnet50")
    registry.add(Entry("timm:resnet50", print))
    assert registry.get("timm:resnet50").name == "timm:resnet50"
