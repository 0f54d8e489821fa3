"""Messages name Python's arguments in Python, and flags on the command line."""

import ast
import re
from pathlib import Path

import pytest
import typer

import siamkit
from siamkit import spelling
from siamkit.api.arguments import read
from siamkit.api.entries import registries
from siamkit.cli import app
from siamkit.cli.flag_keys import KEYS, flag_of
from siamkit.errors import SiamkitError
from siamkit.spelling import argument, command, setting, settings

FLAG = re.compile(r"(?<![\w-])--[a-z]|'siamkit [a-z]")

OF_THE_COMMAND_LINE = ("cli", "config/layers.py", "report", "testing", "spelling.py")
"""Modules whose texts are about the command line itself."""

HELP = {"config/sections.py", "builtins/backbones.py"}
"""Modules with help texts, in ``description=`` and ``summary=``."""

CASES = [
    (lambda: setting("optimizer.lr"), "lr", "--lr"),
    (lambda: setting("optimizer.lr", 0.1), "lr=0.1", "--lr 0.1"),
    (lambda: setting("run_dir"), "run_dir", "--run-dir"),
    (lambda: setting("head.name", "mlp"), "head='mlp'", "--head mlp"),
    (lambda: setting("loss.margin", 0.2), "loss={'margin': 0.2}", "--set loss.margin=0.2"),
    (lambda: setting("loss.margin"), "loss={'margin': ...}", "--set loss.margin"),
    (lambda: setting("data.augment.blur", 0), "data={'augment': {'blur': 0}}",
     "--set data.augment.blur=0"),
    (lambda: setting("backbone.weights", "FILE"), "backbone={'weights': FILE}", "--weights FILE"),
    (lambda: setting("backbone.pretrained", False), "backbone={'pretrained': False}",
     "--no-pretrained"),
    (lambda: setting("engine.cache", "off"), "engine={'cache': 'off'}", "--cache off"),
    (lambda: settings({"freeze.name": "full", "freeze.norm": "train"}),
     "freeze={'name': 'full', 'norm': 'train'}", "--freeze-policy full --set freeze.norm=train"),
    (lambda: settings({"train.epochs": 3, "train.monitor": "map@r", "train.seed": 1}),
     "epochs=3, seed=1, train={'monitor': 'map@r'}",
     "--epochs 3 --set train.monitor=map@r --seed 1"),
    (lambda: argument("output"), "output", "--output"),
    (lambda: argument("force", True), "force=True", "--force"),
    (lambda: argument("jobs", 1), "jobs=1", "--jobs 1"),
    (lambda: argument("output", "my data/x"), "output='my data/x'", "--output 'my data/x'"),
    (lambda: setting("data.root", "a;b"), "data={'root': 'a;b'}", "--root 'a;b'"),
    (lambda: setting("freeze.stages", ["a", "b"]), "freeze={'stages': ['a', 'b']}",
     "--set freeze.stages=[a,b]"),
    (lambda: command("report", output="my x.html"), "siamkit.write_report(output='my x.html')",
     "'siamkit report --output 'my x.html''"),
    (lambda: argument("jobs", 0), "jobs=0", "--jobs 0"),
    (lambda: argument("run_dir", flag="--run"), "run_dir", "--run"),
    (lambda: command("train --resume", Path("a b")), "siamkit.resume('a b')",
     "'siamkit train --resume 'a b''"),
    (lambda: command("calibrate", "RUN"), "siamkit.calibrate(RUN)", "'siamkit calibrate RUN'"),
    (lambda: command("inspect", parameters=True), "siamkit.inspect(parameters=True)",
     "'siamkit inspect --parameters'"),
    (lambda: command("plugins"), "'siamkit plugins'", "'siamkit plugins'"),
    (lambda: command("cache prune", max_gb="N"), "'siamkit cache prune --max-gb N'",
     "'siamkit cache prune --max-gb N'"),
]  # fmt: skip


@pytest.mark.parametrize("spell, python, line", CASES)
def test_a_name_is_spelled_by_where_it_is_read(spell, python, line):
    assert spell() == python
    with spelling.command_line(flag_of):
        assert spell() == line
    assert spell() == python


def test_each_flag_of_a_run_is_an_argument_of_fit():
    known = registries()
    for name, key in KEYS.items():
        text = spelling.python_argument(key)
        section = text.partition("=")[0]
        given = {"x": "y"} if "=" in text else "y"
        read({section: given}, known)  # raises for an argument that fit does not have
        assert flag_of(key) in (f"--{name.replace('_', '-')}", "DATA")


@pytest.mark.parametrize("words", spelling.FUNCTIONS)
def test_each_command_with_a_function_exists_on_both_sides(words):
    assert spelling.FUNCTIONS[words] in siamkit.__all__
    verb, *rest = words.split()
    root = typer.main.get_command(app.app)
    with root.make_context("siamkit", [verb], resilient_parsing=True) as context:
        found = root.get_command(context, verb)
    assert found is not None
    options = {name for parameter in found.params for name in parameter.opts}
    for word in rest:
        assert word in options or word in getattr(found, "commands", {}) or verb == "list"


def _texts(path: Path) -> list[tuple[int, str]]:
    """Return a module's texts for people: no docstrings, no help."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            left_out.add(id(node.value))
        if isinstance(node, ast.keyword) and node.arg in ("description", "summary"):
            left_out |= {id(inner) for inner in ast.walk(node)}
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "argument", "command", "setting", "settings",
        ):  # fmt: skip
            left_out |= {id(inner) for inner in ast.walk(node)}
    return [
        (node.lineno, node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        and id(node) not in left_out
    ]  # fmt: skip


PORTABLE = "portable/"
"""siamkit-runtime packs this room. It names siamkit's commands, which are those of another program
there, and has no part in how siamkit spells its own."""


def test_no_message_spells_a_flag_or_a_command_itself():
    root = Path(siamkit.__file__).parent
    wrong = [
        f"{path.relative_to(root)}:{line}: {text}"
        for path in sorted(root.rglob("*.py"))
        if not path.relative_to(root).as_posix().startswith((*OF_THE_COMMAND_LINE, PORTABLE))
        for line, text in _texts(path)
        if FLAG.search(text)
        and not (path.relative_to(root).as_posix() in HELP and "description" in text)
    ]
    assert not wrong, "\n".join(wrong)


def test_that_check_can_fail(tmp_path):
    module = tmp_path / "module.py"
    module.write_text('"""--lr"""\nhint = "lower it (--lr)"\nother = command("x --resume")\n')
    assert [(2, "lower it (--lr)")] == [t for t in _texts(module) if FLAG.search(t[1])]


PROVOKED = {
    "pretrained": lambda where: siamkit.create_model("tinyconv-that-is-unknown"),
    "head": lambda where: siamkit.create_model("resnet50", head="mpl", pretrained=False),
    "weights": lambda where: siamkit.create_model("resnet50", weights=where / "none.pth"),
    "run": lambda where: siamkit.load_model(where),
    "resume": lambda where: siamkit.resume(where),
    "index": lambda where: siamkit.load_index(where),
    "policy": lambda where: siamkit.create_policy("stagse"),
    "run-dir": lambda where: siamkit.fit(
        data="sample", backbone={"name": "resnet50", "pretrained": False}, image_size=64,
        run_dir=Path(__file__).parent,
    ),
    "data": lambda where: siamkit.fit(data=where / "none"),
    "value": lambda where: siamkit.fit(data="sample", lr=-1.0),
    "nested": lambda where: siamkit.fit(data="sample", loss={"name": "triplet", "margin": -1}),
    "argument": lambda where: siamkit.fit(data="sample", learning_rate=0.1),
    "check": lambda where: siamkit.check_data(where / "none"),
}  # fmt: skip


@pytest.mark.parametrize("provoke", PROVOKED.values(), ids=PROVOKED.keys())
def test_errors_in_python_name_no_flag(provoke, tmp_path):
    with pytest.raises(SiamkitError) as caught:
        provoke(tmp_path)
    text = re.sub(r"'siamkit (plugins|cache [a-z]+|list backbones --timm PATTERN)[^']*'", "", str(
        caught.value
    ))  # fmt: skip
    assert not FLAG.search(text), text


def test_the_command_line_names_flags(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = ["train", "sample", "--no-pretrained", "--image-size", "64", "--run-dir", str(tmp_path)]
    assert app.main(line) != 0
    assert "another --run-dir" in capsys.readouterr().err
    assert setting("run_dir") == "run_dir"


PYTHON = re.compile(
    r"siamkit\.[a-z_]+\(|\b[a-z_]+=(?:True|False|None|\.\.\.)|\b(?!print)[a-z_]{3,}\(\)"
)
"""What a message that a command may print does not have: a call, or an argument of Python."""

ONLY_IN_PYTHON = {
    "api/cards.py": "a model card is written in Python",
    "api/configuring.py": "a config as an argument",
    "api/evaluating.py": "embeddings as arguments",
    "api/models.py": "networks as arguments",
    "api/runs.py": "objects as arguments",
    "engine/sources.py": "what an author of a loop calls",
    "freezing/hold.py": "modules in Python",
    "inference/embedder.py": "methods, and the repr, of an embedder",
    "model/pretrained": "saved networks are written and opened in Python",
    "plugins.py": "names that a process registers",
    "registration.py": "entries that a plugin registers",
    "registry.py": "objects that a run was given",
    "training/step.py": "what a loss function must return, for its author",
    "testing": "the conformance kit",
    "report/html": "scripts",
}
"""Modules with messages that only users of Python see, and why."""


def test_no_message_of_a_command_spells_a_call_or_an_argument_of_python():
    root = Path(siamkit.__file__).parent
    wrong = [
        f"{path.relative_to(root)}:{line}: {text}"
        for path in sorted(root.rglob("*.py"))
        if not path.relative_to(root).as_posix().startswith(tuple(ONLY_IN_PYTHON))
        for line, text in _texts(path)
        if " " in text and PYTHON.search(text)
    ]
    assert not wrong, "\n".join(wrong)


def test_what_only_works_before_a_run_is_spelled_as_it_was_typed(run_values, tmp_path, capsys):
    siamkit.fit(run_values(train={"epochs": 1}))
    with pytest.raises(SiamkitError, match="measure=True works only before a run"):
        siamkit.inspect(str(tmp_path / "run"), measure=True)
    assert app.main(["inspect", str(tmp_path / "run"), "--measure"]) == 2
    assert "--measure works only before a run" in capsys.readouterr().err
