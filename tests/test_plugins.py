"""Plugins load alone: whatever one does wrong, the others work and it is said."""

import importlib.metadata
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from pydantic import RootModel
from torch import nn

import siamkit
from siamkit import hookspecs, plugins
from siamkit.errors import ConfigError, PluginError
from siamkit.interfaces import Options
from siamkit.plugins import Selection, load


@dataclass
class Distribution:
    name: str
    version: str = "1.0"


class EntryPoint:
    """An entry point whose module is made here; ``raises`` happens while it is imported."""

    def __init__(self, name: str, dist: str | None, raises: BaseException | None = None, **hooks):
        self.name = name
        self.dist = None if dist is None else Distribution(dist)
        self.raises = raises
        self.module = types.ModuleType(name)
        for hook, function in hooks.items():
            setattr(self.module, hook, siamkit.hookimpl(function))

    def load(self) -> Any:
        if self.raises:
            raise self.raises
        return self.module


def backbones(*names: str, **more: Any):
    def siamkit_register_backbones(register):
        for name in names:
            register(name, lambda options, context: None, **more)

    return {"siamkit_register_backbones": siamkit_register_backbones}


CORE = EntryPoint("builtins", "siamkit", **backbones("resnet50"))
GOOD = EntryPoint("good", "siamkit-good", **backbones("tinyconv"))


def error_of(loaded: plugins.Plugins, name: str) -> str:
    return next(info.error for info in loaded.infos if info.name == name) or ""


def test_everything_that_loads_is_registered_with_its_origin():
    loaded = load([GOOD, CORE])
    assert loaded.backbones.names() == ["resnet50", "tinyconv"]
    assert loaded.backbones.get("tinyconv").distribution == "siamkit-good"
    assert [i.registers for i in loaded.infos] == [
        {"backbones": ("resnet50",)}, {"backbones": ("tinyconv",)},
    ]  # fmt: skip


def test_the_order_does_not_depend_on_how_they_were_found():
    others = [EntryPoint(n, f"d-{n}") for n in "cab"]
    for found in ([*others, CORE], [CORE, *reversed(others)]):
        assert [i.name for i in load(found).infos] == ["builtins", "a", "b", "c"]


@pytest.mark.parametrize(
    ("raises", "told"),
    [
        (ImportError("no module named 'missing'"), "ImportError: no module named 'missing'"),
        (SystemExit(3), "SystemExit(3) while loading"),
        (RuntimeError("boom"), "RuntimeError: boom"),
        (GeneratorExit("gone"), "GeneratorExit: gone"),
    ],
)
def test_a_plugin_that_fails_to_import_hurts_nobody_else(raises, told):
    loaded = load([CORE, EntryPoint("bad", "siamkit-bad", raises=raises), GOOD])
    assert error_of(loaded, "bad") == told
    assert loaded.backbones.names() == ["resnet50", "tinyconv"]
    with pytest.raises(ConfigError, match=r"plugin 'bad' \(siamkit-bad\) failed to load"):
        loaded.backbones.get("unknown")


def test_ctrl_c_while_loading_is_not_swallowed():
    with pytest.raises(KeyboardInterrupt):
        load([EntryPoint("slow", "siamkit-slow", raises=KeyboardInterrupt())])


def test_a_misspelt_hook_is_refused_with_the_nearest():
    bad = EntryPoint("bad", "siamkit-bad", siamkit_register_backbone=lambda register: None)
    loaded = load([CORE, bad, GOOD])
    assert "got 'siamkit_register_backbone'" in error_of(loaded, "bad")
    assert "did you mean 'siamkit_register_backbones'?" in error_of(loaded, "bad")
    assert loaded.backbones.names() == ["resnet50", "tinyconv"]


def test_a_hook_with_arguments_that_do_not_exist_is_refused():
    bad = EntryPoint("bad", "siamkit-bad", siamkit_register_backbones=lambda registry: None)
    loaded = load([CORE, bad, GOOD])
    assert "registry" in error_of(loaded, "bad")
    assert loaded.backbones.names() == ["resnet50", "tinyconv"]


def test_a_wrapper_that_cannot_wrap_is_refused_in_the_words_of_pluggy():
    bad = EntryPoint("bad", "d")
    hook = siamkit.hookimpl(wrapper=True)(lambda register: None)
    bad.module.siamkit_register_backbones = hook
    loaded = load([CORE, bad, GOOD])
    assert "not a generator function" in error_of(loaded, "bad")


def test_a_hook_that_fails_halfway_registers_nothing():
    def siamkit_register_backbones(register):
        register("half", print)
        raise SystemExit("bye")

    bad = EntryPoint("bad", "d", siamkit_register_backbones=siamkit_register_backbones)
    loaded = load([bad, GOOD])
    assert loaded.backbones.names() == ["tinyconv"]
    assert error_of(loaded, "bad") == "SystemExit(bye) while loading"


def test_a_second_entry_point_to_a_module_fails_and_leaves_the_first_alone():
    seen = []
    first = EntryPoint("a", "d", siamkit_event=lambda event: seen.append(event), **backbones("x"))
    second = EntryPoint("b", "d")
    second.module = first.module
    loaded = load([second, first])
    assert error_of(loaded, "a") == ""
    assert error_of(loaded, "b") == "PluginError: the module is already loaded as plugin 'd:a'"
    loaded.manager.hook.siamkit_event(event=siamkit.Event("step"))
    assert len(seen) == 1
    assert loaded.backbones.names() == ["x"]


def test_what_a_plugin_prints_while_it_loads_goes_to_stderr(capsys):
    class Loud(EntryPoint):
        def load(self):
            print("imported")
            return super().load()

    def siamkit_register_backbones(register):
        print("registering")

    load([Loud("loud", "d", siamkit_register_backbones=siamkit_register_backbones)])
    assert capsys.readouterr() == ("", "imported\nregistering\n")


def test_a_failed_plugin_gets_no_events():
    seen = []
    hooks = {"siamkit_event": lambda event: seen.append(event), "siamkit_oops": lambda: None}
    loaded = load([EntryPoint("bad", "d", **hooks)])
    loaded.manager.hook.siamkit_event(event=siamkit.Event("step"))
    assert seen == []


@pytest.mark.parametrize("name", ["Bad", "a b", "", "-x", "a:b", "[/bold]", "ö"])
def test_names_that_could_not_be_typed_are_refused(name):
    loaded = load([EntryPoint("bad", "d", **backbones(name))])
    assert "this name cannot be registered" in error_of(loaded, "bad")


def test_one_plugin_registering_a_name_twice_is_refused():
    loaded = load([EntryPoint("bad", "d", **backbones("x", "x")), GOOD])
    assert "'x' is registered twice" in error_of(loaded, "bad")


def test_build_must_be_callable():
    def siamkit_register_losses(register):
        register("x", "not a function")

    bad = EntryPoint("bad", "d", siamkit_register_losses=siamkit_register_losses)
    assert "build of 'x' must be callable" in error_of(load([bad]), "bad")


def losses(*arguments, **keywords):
    def siamkit_register_losses(register):
        register(*arguments, **keywords)

    return {"siamkit_register_losses": siamkit_register_losses}


class Single(RootModel[int]):
    """Options without a name."""


class Calling(Options):
    call: Callable[[int], int] = abs


class Named(Options):
    name: str = "x"


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((3, print), {}, "this name cannot be registered, got 3"),
        (("x",), {}, "build of 'x' must be callable"),
        (("x", lambda options: None), {}, r"'x' takes the wrong arguments.*got 'build\(options\)'"),
        (("x", lambda options, context, more: None), {}, r"allowed: build\(options, context\)"),
        (("x", lambda *, options, context: None), {}, "takes the wrong arguments"),
        (("x", print), {"options": {"margin": 1}}, "options of 'x' must be a pydantic model"),
        (("x", print), {"options": ()}, "options of 'x' must be a pydantic model"),
        (("x", print), {"options": Options()}, "not an instance of it.*options=Options"),
        (("x", print), {"options": Single}, "cannot hold one value without a name.*derive a class"),
        (("x", print), {"options": Named}, "cannot hold an option called 'name'.*another name"),
        (("x", print), {"options": Calling}, "options of 'x' cannot be written as JSON, which "),
        (("x", nn.Identity()), {}, "must be a function that returns a module, not a module, got"),
        (("x", print), {"optoins": Options}, "no argument 'optoins'.*did you mean 'options'"),
        (("x", print), {"summary": None}, "summary of 'x' must be text"),
        (("x", print), {"pretrained": 1}, "pretrained of 'x' must be True or False, got 1"),
    ],
)
def test_wrong_arguments_of_register_are_the_plugins_own_problem(arguments, keywords, message):
    loaded = load([CORE, GOOD, EntryPoint("bad", "d", **losses(*arguments, **keywords))])
    assert re.search(message, error_of(loaded, "bad"), re.DOTALL)
    assert loaded.losses.names() == []
    assert loaded.backbones.names() == ["resnet50", "tinyconv"]


def test_arguments_may_be_named_and_builds_may_be_anything_that_fits():
    class Built:
        """Built by its class."""

        def __init__(self, options, context, extra=None): ...

    for build in (Built, dict, print, partial(print, end="")):
        loaded = load([EntryPoint("p", "d", **losses(name="x", build=build))])
        assert error_of(loaded, "p") == ""
    assert load([EntryPoint("p", "d", **losses("x", Built))]).losses.get("x").summary


def test_register_may_not_be_called_later():
    kept = []
    hooks = {"siamkit_register_losses": lambda register: kept.append(register)}
    loaded = load([EntryPoint("late", "d-late", **hooks)])
    with pytest.raises(PluginError, match="d-late registered 'x' after its hook had returned"):
        kept[0]("x", print)
    assert loaded.losses.names() == []


def plain(name, **values):
    """An entry point to a module that decorates nothing."""
    ep = EntryPoint(name, "d")
    for key, value in values.items():
        setattr(ep.module, key, value)
        if callable(value):
            value.__module__ = name
    return ep


def pointing_to(thing):
    ep = EntryPoint("bad", "d")
    ep.module = thing
    return ep


class Hooks:
    @siamkit.hookimpl
    def siamkit_event(self, event): ...


@pytest.mark.parametrize(
    ("entry_point", "message"),
    [
        (plain("bad"), "the entry point names a module that implements no hook"),
        (
            plain("bad", siamkit_register_losses=lambda register: None),
            "a hook is not decorated.*got 'siamkit_register_losses'.*@siamkit.hookimpl",
        ),
        (plain("bad", siamkit_evnet=lambda event: None), "a hook is not decorated"),
        (
            pointing_to(lambda register: None),
            "the entry point names an object of type function that implements no hook",
        ),
        (pointing_to(3), "the entry point names an object of type int that implements no hook"),
        (pointing_to(Hooks), "the entry point names a class.*got 'Hooks'"),
    ],
)
def test_a_plugin_that_would_do_nothing_says_so(entry_point, message):
    loaded = load([CORE, entry_point, GOOD])
    assert re.search(message, error_of(loaded, "bad"))
    assert loaded.backbones.names() == ["resnet50", "tinyconv"]


def test_an_object_with_hooks_is_a_plugin():
    assert load([pointing_to(Hooks())]).infos[0].hooks == ("siamkit_event",)


def test_an_imported_function_needs_no_decorator():
    ep = EntryPoint("p", "d", siamkit_event=lambda event: None)
    ep.module.siamkit_helper = re.compile
    assert error_of(load([ep]), "p") == ""


def test_two_entry_points_of_one_name_are_told():
    ones = [EntryPoint("a", "d", siamkit_event=lambda event: None) for _ in range(2)]
    first, second = load(ones).infos
    assert first.error is None
    assert "the distribution has two entry points named 'a'" in (second.error or "")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no-such-module", "malformed entry point, got 'x = no-such-module'"),
        ("a:", "malformed entry point"),
        ("", "malformed entry point"),
        ("no_such_module_at_all", "names a module that does not exist, got 'no_such_module_at"),
        ("siamkit:nothing", "AttributeError"),
    ],
)
def test_an_entry_point_that_names_nothing_is_told(value, message):
    ep = importlib.metadata.EntryPoint("x", value, "siamkit")
    loaded = load([CORE, ep])
    assert message in error_of(loaded, "x")
    assert loaded.backbones.names() == ["resnet50"]


def test_two_plugins_with_one_name_are_both_named_and_the_rest_works():
    rival = EntryPoint("rival", "siamkit-rival", **backbones("tinyconv", "other"))
    loaded = load([GOOD, rival])
    with pytest.raises(PluginError, match="siamkit-good and siamkit-rival"):
        loaded.backbones.get("tinyconv")
    assert loaded.backbones.get("other").distribution == "siamkit-rival"


def test_a_plugin_cannot_replace_a_built_in_in_silence():
    loaded = load([CORE, EntryPoint("rival", "siamkit-rival", **backbones("resnet50"))])
    with pytest.raises(PluginError, match="siamkit and siamkit-rival"):
        loaded.backbones.get("resnet50")


def test_the_summary_is_the_docstrings_first_line_unless_given():
    def build(options):
        """Cuts at stages.

        More.
        """

    def siamkit_register_freeze_policies(register):
        register("a", build)
        register("b", build, summary="Mine.")

    hooks = {"siamkit_register_freeze_policies": siamkit_register_freeze_policies}
    registry = load([EntryPoint("p", "d", **hooks)]).freeze_policies
    assert [e.summary for e in registry] == ["Cuts at stages.", "Mine."]


def test_options_are_kept_with_the_entry():
    class Own(Options):
        width: int = 3

    entry = load([EntryPoint("p", "d", **backbones("x", options=Own))]).backbones.get("x")
    assert entry.validate({}, "").width == 3


def test_other_hooks_are_listed():
    plugin = EntryPoint("p", "d", siamkit_event=lambda event: None, **backbones("x"))
    (info,) = load([plugin]).infos
    assert info.hooks == ("siamkit_event",)


def test_a_plugin_without_a_distribution_loads():
    (info,) = load([EntryPoint("loose", None, **backbones("x"))]).infos
    assert (info.distribution, info.version, info.error) == ("unknown", "unknown", None)


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (Selection(), ["resnet50", "tinyconv", "x"]),
        (Selection(only=frozenset()), ["resnet50"]),
        (Selection(only=frozenset({"good"})), ["resnet50", "tinyconv"]),
        (Selection(only=frozenset({"d-other"})), ["resnet50", "x"]),
        (Selection(without=frozenset({"siamkit-good"})), ["resnet50", "x"]),
        (Selection(without=frozenset({"Siamkit_good"})), ["resnet50", "x"]),
        (Selection(only=frozenset({"d.Other"})), ["resnet50", "x"]),
        (Selection(without=frozenset({"siamkit", "builtins"})), ["resnet50", "tinyconv", "x"]),
    ],
)
def test_a_selection_narrows_down_third_parties_alone(selection, names):
    other = EntryPoint("other", "d-other", **backbones("x"))
    assert load([CORE, GOOD, other], selection).backbones.names() == names


def test_a_plugin_left_out_is_not_even_imported():
    bomb = EntryPoint("bomb", "d", raises=AssertionError("was imported"))
    assert load([bomb], Selection(without=frozenset({"bomb"}))).infos == ()


def test_leaving_out_a_plugin_that_is_not_installed_is_told_with_the_plugins():
    loaded = load([CORE, GOOD], Selection(without=frozenset({"goood"})))
    assert re.search("no plugin has this name.*did you mean 'good'", error_of(loaded, "goood"))
    assert loaded.backbones.names() == ["resnet50", "tinyconv"]
    with pytest.raises(ConfigError) as caught:
        loaded.backbones.get("x")
    assert "goood" not in str(caught.value)  # no plugin failed to load


def test_leaving_out_all_plugins_names_none(monkeypatch):
    monkeypatch.setenv("SIAMKIT_DISABLE_PLUGINS", "all")
    assert [i.name for i in load([CORE, GOOD], Selection.from_environment()).infos] == ["builtins"]


def test_asking_for_a_plugin_that_is_not_installed_is_an_error():
    with pytest.raises(PluginError, match=r"no plugin 'goood' is installed.*did you mean 'good'"):
        load([CORE, GOOD], Selection(only=frozenset({"goood"})))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", Selection()),
        ("a, b,", Selection(without=frozenset({"a", "b"}))),
        ("all", Selection(only=frozenset(), without=frozenset({"all"}))),
    ],
)
def test_the_environment_disables_plugins(monkeypatch, value, expected):
    monkeypatch.setenv("SIAMKIT_DISABLE_PLUGINS", value)
    assert Selection.from_environment() == expected


# --- what this process registers ---


@pytest.fixture
def here(monkeypatch):
    """Load a few plugins only, and return the ``register`` of this process for losses."""
    monkeypatch.setattr(plugins, "find", lambda: ([CORE, GOOD], []))
    plugins.get.cache_clear()
    yield partial(plugins.register, "losses")
    plugins.get.cache_clear()


def build(options, context):
    """A loss."""


def test_an_entry_of_this_process_stays_when_plugins_are_loaded_again(here):
    here("mine", build)
    for _ in range(2):
        entry = plugins.get().losses.get("mine")
        assert (entry.build, entry.distribution, entry.summary) == (
            build,
            "this process",
            "A loss.",
        )
        plugins.get.cache_clear()
    plugins.select(Selection(only=frozenset()))
    try:
        assert plugins.get().losses.names() == ["mine"]
    finally:
        plugins.select(Selection.from_environment())


def test_an_entry_of_this_process_is_replaced_only_if_asked(here):
    here("mine", build)
    with pytest.raises(PluginError, match="'mine' is registered already by this process; choose"):
        here("mine", print)
    assert plugins.get().losses.get("mine").build is build
    here("mine", print, replace=True)
    assert plugins.get().losses.get("mine").build is print
    here("new", print, replace=True)
    assert plugins.get().losses.names() == ["mine", "new"]


def test_a_plugins_entry_is_never_replaced(here):
    with pytest.raises(PluginError, match="backbone 'tinyconv' is registered by siamkit-good; ch"):
        plugins.register("backbones", "tinyconv", build, replace=True)
    assert plugins.get().backbones.get("tinyconv").distribution == "siamkit-good"


def test_a_wrong_argument_registers_nothing(here):
    with pytest.raises(PluginError, match="replace of 'mine' must be True or False, got 1"):
        here("mine", build, replace=1)
    with pytest.raises(PluginError, match="build of 'mine' must be callable"):
        here("mine", None)
    assert plugins.get().losses.names() == []


# --- what is installed ---


GOOD_POINTS = "[siamkit]\ngood = siamkit_good\n"
MALFORMED = "[siamkit]\nno value\n"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Make a distribution look installed; ``sys.path`` has ``site-a`` before ``site-b``."""
    for site in ("site-b", "site-a"):
        (tmp_path / site).mkdir()
        monkeypatch.syspath_prepend(str(tmp_path / site))

    def put(name: str, points: str | bytes, version: str | None = "1.0", site: str = "site-a"):
        info = tmp_path / site / f"{name.replace('-', '_')}-{version or 0}.dist-info"
        info.mkdir()
        if version is not None:
            (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        raw = points if isinstance(points, bytes) else points.encode()
        (info / "entry_points.txt").write_bytes(raw)

    return put


def found(name: str) -> list[Any]:
    return [ep for ep in plugins.find()[0] if ep.name == name]


@pytest.mark.parametrize("malformed", [MALFORMED, MALFORMED.encode() + b"\xff = x\n"])
def test_a_malformed_distribution_fails_alone(installed, malformed):
    installed("siamkit-bad", malformed)
    installed("siamkit-good", GOOD_POINTS)
    (bad,) = plugins.find()[1]
    assert (bad.name, bad.distribution, bad.version) == ("siamkit-bad", "siamkit-bad", "1.0")
    assert bad.error.startswith("malformed entry_points.txt: ")
    assert [ep.dist.name for ep in found("good")] == ["siamkit-good"]
    loaded = load([CORE], malformed=[bad])
    assert [i.name for i in loaded.infos] == ["builtins", "siamkit-bad"]
    with pytest.raises(ConfigError, match=r"plugin 'siamkit-bad' \(siamkit-bad\) failed to load"):
        loaded.backbones.get("unknown")


def test_a_malformed_distribution_can_be_left_out_and_chosen(installed):
    installed("siamkit-bad", MALFORMED)
    malformed = plugins.find()[1]
    without, only = (frozenset({"siamkit-bad"}),) * 2
    assert load([CORE], Selection(without=without), malformed).infos[1:] == ()
    assert load([CORE], Selection(only=only), malformed).infos[1:] == tuple(malformed)


@pytest.mark.parametrize("text", ["[console_scripts]\nno value\n", b"[other]\n\xff\n", "siamkit"])
def test_a_malformed_distribution_of_others_is_none_of_our_business(installed, text):
    installed("other", text)
    installed("siamkit-good", GOOD_POINTS)
    assert plugins.find()[1] == []
    assert len(found("good")) == 1


def test_of_two_copies_of_a_distribution_the_first_on_the_path_counts(installed, monkeypatch):
    installed("siamkit-good", GOOD_POINTS, "2.0", "site-a")
    installed("siamkit_good", GOOD_POINTS, "1.0", "site-b")
    assert [ep.dist.version for ep in found("good")] == ["2.0"]
    monkeypatch.setattr(sys, "path", [*sys.path, *sys.path])
    assert [ep.dist.version for ep in found("good")] == ["2.0"]


def test_a_newer_copy_without_entry_points_hides_an_older_one_that_has_some(installed):
    installed("siamkit-good", "", "2.0", "site-a")
    installed("siamkit-good", GOOD_POINTS, "1.0", "site-b")
    assert found("good") == []


def test_a_distribution_without_metadata_is_unknown(installed, monkeypatch):
    installed("siamkit-good", GOOD_POINTS, None)
    monkeypatch.setattr(sys, "path", [*sys.path, *sys.path])
    (point,) = found("good")
    module = types.ModuleType("siamkit_good")
    module.siamkit_event = siamkit.hookimpl(lambda event: None)
    monkeypatch.setitem(sys.modules, "siamkit_good", module)
    (info,) = load([point]).infos
    assert (info.distribution, info.version, info.error) == ("unknown", "unknown", None)


def test_a_distribution_in_a_folder_of_another_name_is_found(installed, tmp_path):
    installed("siamkit-good", GOOD_POINTS)
    folder = tmp_path / "site-a"
    (folder / "siamkit_good-1.0.dist-info").rename(folder / "other-1.0.dist-info")
    assert [ep.dist.name for ep in found("good")] == ["siamkit-good"]


def test_siamkits_own_entry_points_are_found():
    assert "siamkit" in {ep.dist.name for ep in plugins.find()[0]}


def test_every_hook_is_documented_and_prefixed():
    hooks = [n for n in vars(hookspecs) if n.startswith("siamkit_")]
    assert len(hooks) == 9
    assert all(getattr(hookspecs, name).__doc__ for name in hooks)


def test_loading_leaves_no_trace_in_the_import_system():
    before = set(sys.modules)
    load([CORE, GOOD])
    assert set(sys.modules) == before
