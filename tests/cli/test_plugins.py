"""Plugins as the command line meets them: installed, broken, at odds, left out."""

import sys

import pytest
import typer

BACKBONE = """
import siamkit
from torch import nn

@siamkit.hookimpl
def siamkit_register_backbones(register):
    register("{name}", lambda options, context: nn.Identity(), summary="Made for a test.")
"""

COMMAND = """
import siamkit

@siamkit.hookimpl
def siamkit_register_commands(app):
    @app.command()
    def {name}(times: int = 1):
        print("hello " * times)
"""


@pytest.fixture
def names(cli):
    def listed(*flags: str) -> list[str]:
        return [e["name"] for e in cli(*flags, "list", "backbones", "--json").json["entries"]]

    return listed


def test_an_installed_plugin_is_listed_with_what_it_registers(cli, install):
    install("siamkit-mine", BACKBONE.format(name="mine"))
    found = {p["name"]: p for p in cli("plugins", "--json").json["plugins"]}
    assert found["siamkit-mine"] == {
        "name": "siamkit-mine", "distribution": "siamkit-mine", "version": "1.2.3",
        "registers": {"backbones": ["mine"]}, "hooks": [], "problems": [], "error": None,
    }  # fmt: skip
    text = cli("plugins").out
    assert "siamkit-mine 1.2.3" in text and "backbones: mine" in text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "SystemExit(3) while loading"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_a_broken_plugin_hurts_nobody_and_says_why(cli, install, names, source, reason):
    install("siamkit-broken", source)
    install("siamkit-mine", BACKBONE.format(name="mine"))
    done = cli("plugins")
    assert done.code == 0
    assert "failed to load" in done.out and reason in done.out
    assert "mine" in names()


def test_an_unknown_name_points_at_the_plugin_that_failed(cli, install):
    install("siamkit-broken", "raise SystemExit(3)")
    done = cli("list", "backbones", "wanted")
    assert done.code == 2
    assert "plugin 'siamkit-broken' (siamkit-broken) failed to load" in done.err


def test_two_plugins_with_one_name_are_reported_and_refused_in_use(cli, install):
    for name in ("siamkit-one", "siamkit-two"):
        install(name, BACKBONE.format(name="mine"))
    assert cli("plugins", "--json").json["conflicts"] == [
        {"kind": "backbone", "name": "mine", "by": ["siamkit-one", "siamkit-two"]}
    ]
    done = cli("list", "backbones", "mine")
    assert done.code == 5
    assert "registered by siamkit-one and siamkit-two" in done.err


def test_plugins_can_be_left_out(cli, install, names, monkeypatch):
    install("siamkit-one", BACKBONE.format(name="one"))
    install("siamkit-two", BACKBONE.format(name="two"))
    assert {"one", "two"} <= set(names())
    assert not {"one", "two"} & set(names("--no-plugins"))
    assert {"one", "two"} & set(names("--plugin", "siamkit-two")) == {"two"}
    monkeypatch.setenv("SIAMKIT_DISABLE_PLUGINS", "siamkit-one")
    assert {"one", "two"} & set(names()) == {"two"}
    monkeypatch.setenv("SIAMKIT_DISABLE_PLUGINS", "all")
    assert not {"one", "two"} & set(names())


def test_a_choice_of_plugins_lasts_for_one_command(cli, install, names):
    install("siamkit-one", BACKBONE.format(name="one"))
    assert "one" not in names("--no-plugins")
    assert "one" in names()


def test_a_plugin_that_is_not_installed_cannot_be_chosen(cli):
    done = cli("--plugin", "siamkit-nope", "plugins")
    assert done.code == 5
    assert "no plugin 'siamkit-nope' is installed" in done.err


def test_a_plugin_may_add_a_command(cli, install):
    install("siamkit-hello", COMMAND.format(name="hello"))
    assert cli("hello", "--times", "2").out == "hello hello \n"
    assert "hello" not in cli("--help").out
    assert cli("--no-plugins", "hello").code == 2


def test_a_plugins_command_has_help_and_usage_errors(cli, install):
    install("siamkit-hello", COMMAND.format(name="hello"))
    assert "--times" in cli("hello", "--help").out
    done = cli("hello", "--tims", "2")
    assert done.code == 2
    assert "no such option '--tims'; did you mean '--times'?" in done.err


def test_a_plugin_cannot_replace_a_command_of_ours(cli, install):
    install("siamkit-rogue", COMMAND.format(name="plugins"))
    assert "distribution" in cli("plugins").out


def test_two_plugins_with_one_command_are_refused(cli, install):
    for name in ("siamkit-one", "siamkit-two"):
        install(name, COMMAND.format(name="hello"))
    done = cli("hello")
    assert done.code == 5
    assert "command 'hello' is registered by siamkit-one and siamkit-two" in done.err


def test_a_plugin_whose_commands_fail_hides_no_others(cli, install):
    broken = "import siamkit\n@siamkit.hookimpl\ndef siamkit_register_commands(app):\n    1 / 0\n"
    install("siamkit-broken", broken)
    install("siamkit-hello", COMMAND.format(name="hello"))
    assert cli("hello").out == "hello \n"
    done = cli("other")
    assert done.code == 5
    assert (
        "plugin 'siamkit-broken' of siamkit-broken: the commands cannot be loaded: ZeroDivisionErr"
        in done.err
    )
    (problem,) = next(
        p["problems"] for p in cli("plugins", "--json").json["plugins"]
        if p["name"] == "siamkit-broken"
    )  # fmt: skip
    assert problem == "the commands cannot be loaded: ZeroDivisionError: division by zero"
    text = " ".join(cli("plugins").out.split())
    assert "siamkit-broken (siamkit-broken): the commands cannot be loaded" in text


def test_our_own_commands_are_those_that_plugins_cannot_take():
    from siamkit.cli.app import app
    from siamkit.commands import VERBS

    assert sorted(typer.main.get_group(app).commands) == sorted(VERBS)


LIST_BREAKERS = {
    "options={'margin': 0.2}": "options of 'bad' must be a pydantic model",
    "options=Options()": "must be a class, not an object of it",
    "options=Odd": "options of 'bad' cannot be written as JSON",
    "options=Named": "cannot hold an option called 'name'",
    "option=Options": "has no argument 'option'",
    "summary=3": "summary of 'bad' must be text",
    "pretrained='yes'": "pretrained of 'bad' must be True or False",
}


@pytest.mark.parametrize(("argument", "reason"), LIST_BREAKERS.items())
def test_what_one_plugin_registers_wrongly_breaks_nobody_elses_list(cli, install, argument, reason):
    install(
        "siamkit-bad",
        f"""
from collections.abc import Callable
import siamkit
from siamkit import Options

class Odd(Options):
    call: Callable[[int], int] = abs

class Named(Options):
    name: str = "x"

def build(options, context):
    "A loss."

@siamkit.hookimpl
def siamkit_register_losses(register):
    register("fine", build)
    register("bad", build, {argument})
""",
    )
    (bad,) = (p for p in cli("plugins", "--json").json["plugins"] if p["name"] == "siamkit-bad")
    assert reason in bad["error"] and bad["distribution"] == "siamkit-bad"
    for command in (("list", "losses"), ("config", "schema"), ("list", "losses", "triplet")):
        done = cli(*command, "--json")
        assert done.code == 0, done.err
        assert '"fine"' not in done.out
    assert cli("list", "losses", "triplet").code == 0


def test_commands_that_would_not_run_as_their_author_thinks_are_told(cli, install):
    install(
        "siamkit-rogue",
        """
import siamkit

@siamkit.hookimpl
def siamkit_register_commands(app):
    @app.callback()
    def main(verbose: bool = False): ...

    @app.command()
    def train(): ...

    @app.command("hello")
    def one(): ...

    @app.command("hello")
    def two(): ...
""",
    )
    done = cli("plugins", "--json").json
    (rogue,) = (p for p in done["plugins"] if p["name"] == "siamkit-rogue")
    assert rogue["registers"]["commands"] == ["train", "hello"]
    assert rogue["problems"] == [
        "command 'hello' is added 2 times: only the last one runs",
        "command 'train' is siamkit's own, which runs instead: rename it",
        "the callback on app never runs: add options to the commands themselves",
    ]
    assert done["conflicts"] == [
        {"kind": "command", "name": "train", "by": ["siamkit", "siamkit-rogue"]}
    ]
    assert "siamkit's own command is used" in cli("plugins").out


def test_two_plugins_with_one_command_are_listed(cli, install):
    for name in ("siamkit-one", "siamkit-two"):
        install(name, COMMAND.format(name="hello"))
    assert cli("plugins", "--json").json["conflicts"] == [
        {"kind": "command", "name": "hello", "by": ["siamkit-one", "siamkit-two"]}
    ]


LOUD = """
import siamkit
from torch import nn

print("at import")

def build(options, context):
    print("in build")
    {action}
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

@siamkit.hookimpl
def siamkit_register_backbones(register):
    print("while registering")
    register("loud", build)

@siamkit.hookimpl
def siamkit_register_commands(app):
    print("while adding commands")

@siamkit.hookimpl
def siamkit_event(event):
    print("at", event.name)
"""


def test_what_plugins_print_does_not_get_into_the_json_object(cli, install, images, tmp_path):
    install("siamkit-loud", LOUD.format(action=""))
    assert cli("plugins", "--json").json["schema"] == "siamkit.plugins/1"
    assert cli("no-such-verb", "--json").json["schema"] == "siamkit.error/1"
    flags = ["--backbone", "loud", "--image-size", "32", "--head", "linear", "--workers", "0"]
    flags += ["--freeze-policy", "freeze-all"]
    done = cli("inspect", images, *flags, "--json")
    assert done.json["schema"] == "siamkit.inspect/1"
    assert "in build" in done.err
    flags += ["--epochs", "1", "--batch-size", "8", "--run-dir", tmp_path / "run"]
    done = cli("train", images, *flags, "--json")
    assert done.json["schema"] == "siamkit.train/1"
    assert "at run_end" in done.err


def test_stdout_is_itself_again_after_a_command_with_json(cli, install, capsys):
    before = sys.stdout
    cli("plugins", "--json")
    cli("train", "--json", "a", "b")
    assert sys.stdout is before
    install("siamkit-hello", COMMAND.format(name="hello"))
    assert cli("hello").out == "hello \n"


def test_a_plugins_command_may_print_json_of_its_own(cli, install):
    source = COMMAND.format(name="hello").replace("times: int = 1", "json: bool = False")
    install("siamkit-hello", source.replace('"hello " * times', "'{}'"))
    assert cli("hello", "--json").out == "{}\n"


def test_a_backbone_that_ends_the_program_is_told(cli, install):
    install("siamkit-loud", LOUD.format(action="raise SystemExit(3)"))
    done = cli("inspect", "--backbone", "loud", "--json")
    assert done.code == done.json["error"]["exit_code"] == 5
    assert "'loud' of siamkit-loud failed to build: SystemExit: 3" in done.err


def test_a_malformed_distribution_stops_no_command_and_is_listed(cli, install, names, tmp_path):
    install("siamkit-mine", BACKBONE.format(name="mine"))
    install("siamkit-bad", "")
    info = tmp_path / "site" / "siamkit_bad-1.2.3.dist-info"
    (info / "entry_points.txt").write_text("[siamkit]\nno value\n")
    assert "mine" in names()
    done = cli("plugins")
    assert done.code == 0
    assert "siamkit-bad 1.2.3" in done.out and "malformed entry_points.txt" in done.out
