"""The conformance kit against plugins that are wrong as real ones are: how many it catches."""

from __future__ import annotations

import re
import sys
import warnings

import pytest
import wrong_backbones
import wrong_heads
import wrong_losses
import wrong_plugins
import wrong_policies
import wrong_schedulers
import wrong_trackers

from siamkit import plugins, testing

MODULES = (
    wrong_backbones,
    wrong_heads,
    wrong_policies,
    wrong_losses,
    wrong_schedulers,
    wrong_trackers,
)
MUTANTS = [mutant for module in MODULES for mutant in module.MUTANTS]
UNCAUGHT = [mutant for module in MODULES for mutant in module.UNCAUGHT]
CHECKS = {
    "backbones": testing.check_backbone,
    "freeze_policies": testing.check_freeze_policy,
    "heads": testing.check_head,
    "losses": testing.check_loss,
    "optimizers": testing.check_optimizer,
    "schedulers": testing.check_scheduler,
    "trackers": testing.check_tracker,
}


def checked(register, mutant) -> str:
    """Return what the kit says of a mutant; nothing where it says nothing."""
    register(mutant.kind, mutant.build, options=mutant.options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            CHECKS[mutant.kind]("wrong", **mutant.check)
        except AssertionError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.kind}-{m.name}")
def test_the_kit_catches(register, mutant):
    said = checked(register, mutant)
    assert said, f"passed, though it {mutant.wrong}"
    assert "'wrong' of siamkit-wrong" in said, "the message must name the entry and its plugin"
    assert mutant.says in said
    expected, _, suffers = said.partition("; got ")
    assert "expected " in expected and ". " in suffers, "say what was expected, what a user suffers"


@pytest.mark.parametrize("mutant", UNCAUGHT, ids=lambda m: f"{m.kind}-{m.name}")
def test_the_kit_cannot_catch(register, mutant):
    assert not checked(register, mutant), "it can: move it among the mutants"


def test_there_are_enough_of_them():
    names = [(mutant.kind, mutant.name) for mutant in (*MUTANTS, *UNCAUGHT)]
    assert len(set(names)) == len(names)
    assert len(MUTANTS) >= 55 and len(MUTANTS) / len(names) > 0.9
    assert {mutant.kind for mutant in MUTANTS} == set(CHECKS)


@pytest.mark.parametrize("name", wrong_backbones.RIGHT)
def test_right_backbones_pass(register, name):
    register("backbones", wrong_backbones.RIGHT[name], "right")
    testing.check_backbone("right", image_size=64)


@pytest.mark.parametrize("name", wrong_losses.RIGHT)
def test_right_losses_pass(register, name):
    register("losses", wrong_losses.RIGHT[name], "right")
    testing.check_loss("right")


def test_a_right_tracker_passes(register):
    register("trackers", wrong_trackers.Log, "right")
    testing.check_tracker("right")


# --- distributions -------------------------------------------------------------------------------


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make a distribution ``siamkit-wrong`` of one module look installed."""
    monkeypatch.setattr(plugins, "_selection", None)
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(source: str, points: str = "[siamkit]\nwrong = siamkit_wrong_module\n") -> None:
        (tmp_path / "siamkit_wrong_module.py").write_text(source)
        info = tmp_path / "siamkit_wrong-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: siamkit-wrong\nVersion: 1\n")
        (info / "entry_points.txt").write_text(points)
        plugins.get.cache_clear()

    yield put
    sys.modules.pop("siamkit_wrong_module", None)
    plugins.get.cache_clear()


@pytest.mark.parametrize("name", wrong_plugins.MUTANTS)
def test_the_kit_catches_a_wrong_distribution(install, name):
    source, says = wrong_plugins.MUTANTS[name]
    install(source)
    with pytest.raises(AssertionError) as caught:
        testing.check_plugin("siamkit-wrong")
    assert says in str(caught.value) and "siamkit-wrong" in str(caught.value)
    # It hurts nobody else.
    testing.check_scheduler("constant")
    assert "triplet" in plugins.get().losses.names()


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("[siamkit]\nno value\n", "malformed entry_points.txt"),
        ("[siamkit]\nwrong = siamkit-wrong-module\n", "malformed entry point"),
        ("[siamkit]\nwrong = siamkit_wrong_modul\n", "a module that does not exist"),
        ("[siamkit]\nwrong = siamkit_wrong_module:plugin\n", "AttributeError"),
        ("[siamkit]\nwrong = siamkit_wrong_module:Constant\n", "implements no hook"),
        ("[siamkit]\na = siamkit_wrong_module\nb = siamkit_wrong_module\n", "already loaded"),
        ("[siamkit.plugins]\nwrong = siamkit_wrong_module\n", "an installed entry point in the g"),
    ],
)
def test_the_kit_catches_wrong_entry_points(install, points, says):
    install(wrong_plugins.RIGHT["scheduler"], points)
    with pytest.raises(AssertionError, match=re.escape(says)):
        testing.check_plugin("siamkit-wrong")
    testing.check_scheduler("constant")


@pytest.mark.parametrize("name", wrong_plugins.RIGHT)
def test_a_right_distribution_passes(install, name):
    install(wrong_plugins.RIGHT[name])
    testing.check_plugin("siamkit-wrong")
