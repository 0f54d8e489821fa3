"""The documentation is held to the code: signatures, names, commands, configurations, links."""

import inspect
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import siamkit
from siamkit import api, errors, interfaces
from siamkit.cli.app import app
from siamkit.cli.output import restored_stdout
from siamkit.cli.run_flags import RunFlags
from siamkit.config import yaml_text
from siamkit.training.state import RunState

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("*/siamkit-*/README.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(language: str) -> list[Any]:
    result = []
    for page in PAGES:
        found = (m[2] for m in BLOCK.finditer(read(page)) if m[1] == language)
        for number, text in enumerate(found):
            result.append(pytest.param(text, id=f"{named(page)}-{number}"))
    return result


def test_every_event_is_documented():
    names = re.findall(r"``(\w+)``", inspect.getdoc(interfaces.Event).split("data:")[0])
    text = read(DOCS / "reference/events.md")
    assert len(names) == 13
    assert [name for name in names if f"\n| `{name}` |" not in text] == []


def test_every_public_name_is_documented():
    text = read(DOCS / "reference/python.md")
    for name in siamkit.__all__:
        assert f"`{name}`" in text or f"`siamkit.{name}`" in text, name


def test_the_exit_codes_are_those_of_the_exceptions():
    text = read(DOCS / "reference/exit-codes.md")
    for error in (errors.SiamkitError, *errors.SiamkitError.__subclasses__()):
        if error.__module__ != errors.__name__:
            continue  # caught within siamkit
        code = "130 or 143" if error is errors.Interrupted else error.exit_code
        assert f"| {code} | `{error.__name__}` |" in text


def test_the_run_directorys_files_are_documented(tmp_path):
    from siamkit.runs.directory import RunDir

    text = read(DOCS / "reference/run-directory.md")
    for path in vars(RunDir(tmp_path)).values():
        assert path == tmp_path or f"`{path.name}" in text
    assert {"history", "untrained", "stopped_early"} <= RunState().to_json().keys()


# --- what stands in code blocks ------------------------------------------------------------------


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_compile(code):
    compile(code, "<docs>", "exec")


@pytest.mark.parametrize("text", blocks("toml"))
def test_toml_blocks_parse(text):
    assert tomllib.loads(text)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_blocks_are_valid_configurations(text, packaged_backbones):
    assert api.load_config(packaged_backbones(yaml_text.load(text)))


@pytest.fixture
def packaged_backbones() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that replaces a backbone from a plugin that isn't installed here."""

    def replaced(values: dict[str, Any]) -> dict[str, Any]:
        backbone = values.get("backbone", "resnet50")
        name = backbone if isinstance(backbone, str) else backbone["name"]
        known = name in api.list_backbones() or name.startswith("timm:")
        return values if known else {**values, "backbone": "resnet50"}

    return replaced


def commands(text: str) -> Iterator[str]:
    """Yield every siamkit command line in console blocks and in inline code."""
    for match in BLOCK.finditer(text):
        if match[1] in ("console", "bash", "sh"):
            for line in match[2].replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|;", line.removeprefix("$ ")):
                    part = part.strip().removeprefix("do ").partition(" > ")[0]
                    if part.startswith("siamkit "):
                        yield part
    prose = BLOCK.sub("", text)
    yield from (" ".join(m.split()) for m in re.findall(r"(?<!`)`(siamkit [^`]+)`", prose))


def parse(line: str) -> Any:
    """Return the context of the parsed command line; an unknown option or command raises."""
    with restored_stdout():  # '--json' redirects it
        words = [word.replace("$seed", "0") for word in shlex.split(line)[1:]]
        command: Any = typer.main.get_command(app)
        path = "siamkit"
        while getattr(command, "commands", None):
            while words and words[0] in ("--debug", "--no-plugins"):
                words.pop(0)
            name = words.pop(0)
            assert name in command.commands, f"{path} has no command {name!r}"
            command, path = command.commands[name], f"{path} {name}"
        return command.make_context(path, words)


LINES = sorted({(named(page), line) for page in PAGES for line in commands(read(page))})


@pytest.mark.parametrize(("page", "line"), LINES)
def test_command_lines_parse(page, line):
    # A command alone is a mention, and 'siamkit train DATA ...' leaves out what doesn't matter.
    line = line.removesuffix("...").strip()
    if line not in MENTIONS:
        parse(line)


def walk(command: Any, path: str) -> Iterator[str]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{path} {name}")


MENTIONS = {
    *walk(typer.main.get_command(app), "siamkit"), "siamkit -V", "siamkit --install-completion"
}  # fmt: skip


def test_there_are_command_lines_and_wrong_ones_are_noticed():
    assert len(LINES) > 30
    for wrong in ("siamkit trian", "siamkit train --epoch 3", "siamkit train --epochs three"):
        with pytest.raises((Exception, SystemExit)):
            parse(wrong)


SETS = [c for c in LINES if "--set " in c[1] and not re.search(r"=[A-Z]|OPTION", c[1])]


@pytest.mark.parametrize(("page", "line"), SETS)
def test_what_is_given_with_set_arrives(page, line):
    names = {field.name for field in fields(RunFlags)}
    given = {key: value for key, value in parse(line).params.items() if key in names}
    given["backbone"] = None if given["backbone"] not in api.list_backbones() else given["backbone"]
    given["config"] = None  # an earlier run's, which is not there
    resolved = RunFlags(**given).load().to_values()
    for text in given["set"]:
        key, _, value = text.partition("=")
        found: Any = resolved
        for part in key.split("."):
            found = found[part]
        assert found == yaml_text.load(value), text


# --- links ---------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_lead_somewhere(page):
    prose = BLOCK.sub("", read(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_every_page_is_reached_from_the_index():
    index = read(DOCS / "index.md")
    linked = {(DOCS / t).resolve() for t in re.findall(r"\]\(([^)#\s]+)", index)}
    assert [p for p in DOCS.rglob("*.md") if p.name != "index.md" and p not in linked] == []


# --- examples that run ---------------------------------------------------------------------------


def example(page: str, beginning: str) -> str:
    for match in BLOCK.finditer(read(ROOT / page)):
        if match[1] == "python" and match[2].startswith(beginning):
            return match[2]
    raise AssertionError(f"{page} has no such example")


def test_the_readmes_python_example_runs(monkeypatch, capsys):
    def fit(**arguments):
        inspect.signature(actual).bind(**arguments)
        arguments["data"] = {"image_size": arguments.pop("image_size")}
        return SimpleNamespace(run_dir="run", config=api.load_config(arguments))

    actual = siamkit.fit
    monkeypatch.setattr(siamkit, "fit", fit, raising=False)
    monkeypatch.setattr(siamkit, "load_model", lambda run_dir: run_dir, raising=False)
    names: dict[str, Any] = {}
    exec(example("README.md", "import torch, siamkit"), names)
    assert names["a"].shape == names["b"].shape == (2, 2048)
    assert names["result"].config.freeze.options["n"] == 3
    assert capsys.readouterr().out.splitlines()[0].startswith("0 2 ")


def test_the_readmes_objects_train(image_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").symlink_to(image_folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    code = example("README.md", "from pathlib import Path\n\nimport siamkit")
    assert len([line for line in code.splitlines() if line and "import" not in line]) <= 10
    exec(code, names)
    phases = [(p["first_epoch"], p["last_epoch"]) for p in names["result"].phases]
    assert phases == [(1, 2), (3, 4)]
    trained = [p["trainable_parameters"] for p in names["result"].phases]
    assert trained[1] - trained[0] == 64 * 32 * 9 + 64  # the second convolution
    printed = capsys.readouterr().out
    assert "untrained" in printed and "retrieval: " in printed


@pytest.mark.slow
def test_the_objects_of_the_howto_train_and_resume(image_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").symlink_to(image_folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "objects"}
    for match in BLOCK.finditer(read(DOCS / "howto/objects.md")):
        if match[1] == "python":
            exec(match[2], names)
    assert (tmp_path / "runs/own/config.yaml").exists()
    assert names["embeddings"].shape == (48, 32 + 64)
    assert names["net"].embedding_dim == 64
    assert "torch.Size([48, 96])" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "options", "epochs"),
    [("README.md", {}, 2), ("docs/howto/policy-plugin.md", {}, 4)],
)
def test_the_example_policies_keep_the_contract(page, options, epochs):
    beginning = (
        "import siamkit\n\n\nclass" if page == "README.md" else "import siamkit\nfrom pydantic"
    )
    names: dict[str, Any] = {}
    exec(example(page, beginning), names)
    found: dict[str, Any] = {}
    names["siamkit_register_freeze_policies"](
        lambda name, build, **more: found.update({name: (build, more)})
    )
    ((build, more),) = found.values()
    net = siamkit.create_model("timm:resnet10t", pretrained=False, image_size=32)
    policy = build(more["options"](**options) if "options" in more else None)
    phases = siamkit.phases(net, policy, epochs=epochs)
    assert len(phases) == epochs
    assert more.get("summary") or build.__doc__


def test_the_example_backbone_builds(monkeypatch):
    from siamkit.model.build import build_backbone
    from siamkit.registry import Entry

    names: dict[str, Any] = {}
    exec(example("docs/howto/backbone-plugin.md", "import siamkit"), names)
    found: dict[str, Any] = {}
    names["siamkit_register_backbones"](
        lambda name, build, options: found.update(entry=Entry(name, build, options))
    )
    entry = found["entry"]
    context = siamkit.BackboneContext(entry.name, in_chans=1, image_size=32)
    backbone = build_backbone(entry, entry.options(width=8), context).backbone
    assert backbone.embedding_dim == 16
    assert len(backbone.stages()) == 2


def test_the_plans_of_the_policy_howto_are_printed(capsys):
    exec(example("docs/howto/policy-plugin.md", "import siamkit\n\nnet = "), {})
    assert [line[:3] for line in capsys.readouterr().out.splitlines()] == ["0 2", "2 8"]


@pytest.mark.slow
def test_the_loop_howto_runs(image_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").symlink_to(image_folder)
    monkeypatch.chdir(tmp_path)
    page = DOCS / "howto/loop.md"
    names: dict[str, Any] = {"__name__": "loop"}
    for match in BLOCK.finditer(read(page)):
        if match[1] == "python":
            exec(match[2], names)
    assert names["result"].cut.boundary.name == "layer3" and len(names["rows"]) == 48
    assert names["cache"].kernel_name is not None
    assert "torch.Size([48, 8])" in capsys.readouterr().out
