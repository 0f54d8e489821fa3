"""The values of options that are not given, and the numbers that options take."""

import pytest
import typer

from siamkit.cli.app import app

# All other options are off, or have no value.
DEFAULTS = {
    "compare": {"--folds": 3, "--seeds": 3, "--metric": "recall@1", "--equal": "images",
                "--jobs": 1},
    "lr-find": {"--steps": 100, "--from": 1e-7, "--to": 10.0},
    "evaluate": {"--seed": 0, "--device": "auto"},
    "calibrate": {"--seed": 0, "--device": "auto"},
    "verify": {"--device": "auto"},
    "prune": {"--ratio": 0.5, "--part": "all", "--iterations": 1},
    "embed": {"--batch-size": 64, "--device": "auto"},
    "index": {"--kind": "exact", "--batch-size": 64, "--device": "auto"},
    "search": {"-k": 10, "--device": "auto"},
    "export": {"--format": "onnx", "--seed": 0},
    "data check": {"--seed": 0, "--device": "auto"},
    "data show": {"--images": 8, "--draws": 5},
}  # fmt: skip
# The least and the largest number; the limits of other options are in the config.
LIMITS = {
    "--threads": (1, 1024), "--workers": (0, None), "--batch-size": (1, None), "--seed": (0, None),
    "--folds": (2, None), "--seeds": (1, None), "--jobs": (1, None), "-k": (1, None),
    "--finetune-epochs": (1, None), "--iterations": (1, None), "--images": (1, None),
    "--draws": (1, None), "--max-gb": (0, None), "--older-than": (0, None),
}  # fmt: skip


def walk(command, path=""):
    yield path, command.params
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{path} {name}".strip())


COMMANDS = dict(walk(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS)
def test_an_option_that_is_not_given_is_off_or_has_this_value(path):
    found = {p.opts[0]: p.default for p in COMMANDS[path]}
    values = {n: value for n, value in found.items() if value is not None and value is not False}
    assert values == DEFAULTS.get(path, {})


def test_numbers_have_these_limits():
    found = set()
    for parameters in COMMANDS.values():
        for parameter in parameters:
            # Typer's own options have the limits themselves, click's have them in their type.
            holder = parameter if hasattr(parameter, "min") else getattr(parameter, "type", None)
            limits = getattr(holder, "min", None), getattr(holder, "max", None)
            if limits != (None, None):
                found.add((parameter.opts[0], limits))
    assert found == set(LIMITS.items())
