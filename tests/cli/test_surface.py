"""The command line's surface is a promise: a change here is a change for users."""

import shlex

import pytest
import typer

from siamkit.cli.app import app, main
from siamkit.cli.flag_keys import KEYS
from siamkit.cli.output import restored_stdout
from siamkit.config import RunConfig

RUN = [
    "DATA", "--backbone", "--pretrained/--no-pretrained", "--weights", "--head", "--image-size",
    "--in-chans", "--freeze-policy", "--loss", "--optimizer", "--scheduler", "--epochs",
    "--batch-size", "--micro-batch", "--accumulation", "--lr", "--seed", "--device", "--threads",
    "--checkpoint-every", "--keep", "--augment", "--views", "--cache",
    "--fast", "--far", "--root", "--path-column", "--label-column", "--run-dir",
    "--report/--no-report", "--track", "--workers", "--preset", "--config", "--set",
]  # fmt: skip

SURFACE = {
    "siamkit": ["--no-plugins", "--plugin", "--debug", "--version -V", "--install-completion",
                "--show-completion"],
    "siamkit train": [*RUN, "--resume", "--strict", "--recipe", "--budget",
                      "--quiet -q", "--json"],
    "siamkit inspect": [*RUN, "--parameters", "--measure", "--json"],
    "siamkit compare": [
        *RUN, "--policies", "--losses", "--heads", "--backbones", "--vary", "--tune", "--folds",
        "--seeds", "--metric", "--equal", "--budget", "--output -o", "--jobs",
        "--quiet -q", "--json",
    ],
    "siamkit lr-find": [*RUN, "--phase", "--epoch", "--steps", "--from", "--to", "--output -o",
                        "--json"],
    "siamkit evaluate": ["RUN", "DATA", "--root", "--last", "--seed", "--device", "--threads",
                         "--json"],
    "siamkit calibrate": [
        "RUN", "DATA", "--root", "--target", "--far", "--seed", "--device", "--threads", "--json",
    ],
    "siamkit verify": ["RUN", "A", "B", "--pairs", "--output -o", "--device", "--threads",
                       "--json"],
    "siamkit prune": [
        "RUN", "--run-dir -o", "--ratio", "--finetune-epochs", "--part", "--iterations",
        "--freeze-policy", "--lr", "--device", "--threads", "--set", "--quiet -q", "--json",
    ],
    "siamkit report": ["RUN", "--output -o", "--open/--no-open", "--json"],
    "siamkit embed": ["RUN", "IMAGES", "--output -o", "--batch-size", "--last", "--device",
                      "--threads", "--workers", "--force", "--json"],
    "siamkit index": ["RUN", "GALLERY", "--output -o", "--kind", "--batch-size", "--last",
                      "--device", "--threads", "--workers", "--force", "--json"],
    "siamkit search": ["INDEX", "QUERY", "-k", "--run", "--exact", "--device", "--threads",
                       "--json"],
    "siamkit export": ["RUN", "--output -o", "--format", "--quantize", "--license", "--seed",
                       "--threads", "--force", "--json"],
    "siamkit data": [],
    "siamkit data check": ["DATA", "--root", "--path-column", "--label-column", "--set", "--seed",
                           "--strict", "--model", "--output -o", "--device", "--json"],
    "siamkit data show": [*RUN, "--output -o", "--images", "--draws", "--json"],
    "siamkit list": ["KIND", "NAME", "--timm", "--json"],
    "siamkit plugins": ["--json"],
    "siamkit config": [],
    "siamkit config show": [*RUN, "--json"],
    "siamkit config validate": ["FILE", "--json"],
    "siamkit config schema": ["--json"],
    "siamkit cache": [],
    "siamkit cache list": ["--cache-dir", "--json"],
    "siamkit cache prune": ["--max-gb", "--older-than", "--cache-dir", "--json"],
    "siamkit cache clear": ["--yes -y", "--cache-dir", "--json"],
}  # fmt: skip


def spelled(parameter) -> str:
    if parameter.param_type_name == "argument":
        return parameter.metavar.strip("[]")
    names = " ".join(sorted(parameter.opts, reverse=False))
    return "/".join([names, *parameter.secondary_opts])


def walk(command, path: str):
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{path} {name}")


def test_the_commands_and_their_options_are_these():
    found = {
        path: [spelled(p) for p in command.params]
        for path, command in walk(typer.main.get_command(app), "siamkit")
    }
    assert found == SURFACE


def test_every_command_and_option_has_a_help_text():
    for path, command in walk(typer.main.get_command(app), "siamkit"):
        assert command.help, path
        for parameter in command.params:
            assert parameter.help, f"{path} {spelled(parameter)}"


def test_the_lines_of_a_help_text_break_where_the_terminal_ends():
    for path, command in walk(typer.main.get_command(app), "siamkit"):
        assert "\n" not in command.help.replace("\n\n", ""), path


def test_the_short_flag_shows_the_version(capsys):
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.startswith("siamkit ")


LEAVES = {
    path: command
    for path, command in walk(typer.main.get_command(app), "siamkit")
    if not getattr(command, "commands", None)
}


@pytest.mark.parametrize("path", LEAVES)
def test_each_command_shows_two_examples_of_itself(path):
    examples = (LEAVES[path].epilog or "").split("\n\n")
    assert len(examples) == 2
    for example in examples:
        assert example.startswith(f"$ {path}")
        words = shlex.split(example.partition(" > ")[0])[len(path.split()) + 1 :]
        with restored_stdout():
            LEAVES[path].make_context(path, words)


def test_each_flag_says_its_default():
    values = RunConfig().to_values()
    helps = {p.name: p.help for p in LEAVES["siamkit train"].params}
    for name, key in KEYS.items():
        default = values
        for part in key.split("."):
            default = default[part]
        if isinstance(default, str | int | float) and not isinstance(default, bool):
            assert f"Default: {default}." in helps[name], name
        elif default is None and name not in ("weights", "far", "root"):
            assert "Default: " in helps[name], name


OPTIONAL = (
    "pairs", "out", "file", "run", "epoch", "weights", "preset", "config", "set", "track", "target",
    "far", "timm", "license", "max_gb", "older_than", "resume",
)  # fmt: skip
"""Options that add something; without them, the command leaves it out."""


@pytest.mark.parametrize("path", LEAVES)
def test_the_help_of_each_command_says_the_default_of_each_option(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert main([*path.split()[1:], "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for parameter in LEAVES[path].params:
        if parameter.param_type_name != "option" or not takes_a_value(parameter):
            continue
        if parameter.hidden:  # the command refuses it
            continue
        line = next(line for line in lines if parameter.opts[0] in line.split()[:3])
        if parameter.default is not None:
            assert f"[default: {parameter.default}]" in line, line
        elif not parameter.required and parameter.name not in OPTIONAL:
            assert "Default: " in line, line


def takes_a_value(parameter) -> bool:
    return not (getattr(parameter, "is_flag", False) or parameter.name.endswith("_completion"))


EMPTY = {
    f"{path} {spelled(parameter)}": (path, command, parameter)
    for path, command in walk(typer.main.get_command(app), "siamkit")
    for parameter in command.params
    if takes_a_value(parameter)
}


@pytest.mark.parametrize("which", EMPTY)
def test_no_argument_and_no_option_takes_an_empty_value(which, capsys):
    """An unset shell variable as a path would be the current folder, with all that is in it."""
    path, command, parameter = EMPTY[which]
    words, name = path.split()[1:], spelled(parameter).split()[0]
    if parameter.param_type_name == "argument":
        earlier = command.params[: command.params.index(parameter)]
        forms = [[*("x" for p in earlier if p.param_type_name == "argument"), ""]]
    else:
        forms = [[name, ""], [f"{name}="]] if name.startswith("--") else [[name, ""]]
    for form in forms:
        assert main([*words, *form]) == 2
        assert f"error: {name}: must not be empty" in capsys.readouterr().err
