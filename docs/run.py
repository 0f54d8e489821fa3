"""Run the console and Python blocks of pages, and compare their output with what the pages show.

    python docs/run.py docs/howto/pairs.md      print where the page differs from what is printed
    SIAMKIT_WESNOTH10=DIR python docs/run.py docs/howto/compare-sprites.md

The blocks of a page run in order, in one folder and one Python namespace:

- a ``console`` block has a command after each ``$``, and below it what it prints;
- a ``text`` block right after a ``console`` or ``python`` block is its output, stdout and stderr;
- a ``yaml`` or ``csv`` block is written to the file that the paragraph above it names.

:mod:`compare` has the rules of the comparison. A training whose output no page shows is cut short.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "docs") not in sys.path:
    sys.path.append(str(ROOT / "docs"))
from compare import difference  # noqa: E402

PAGES = (ROOT / "README.md", ROOT / "docs/tutorial.md", *sorted((ROOT / "docs/howto").glob("*.md")))
HOME = "/home/me"
"""The folder that the pages' commands run in, as the pages show it."""

NOT_RUN = {
    r"pip install": "changes the installation",
    r"\.venv": "changes the installation",
    r"pytest": "is this very suite",
    r"tensorboard": "serves until it is stopped",
    r"push_to_hub": "needs the hub",
}
"""Patterns of commands and Python blocks that are not run, and why."""

CANNOT_BE_PROVOKED = ("error: small: the feature cache needs",)
"""The beginnings of shown messages that only a full disk causes."""

BEFORE = {
    "prune.md": (
        "siamkit train photos --backbone efficientnet-lite0 --image-size 64 --epochs 2 "
        "--run-dir runs/a",
    ),
    "export.md": (
        "siamkit train sample --backbone efficientnet-lite0 --image-size 64 --epochs 3 "
        "--run-dir runs/emoji",
    ),
    "reproduce.md": ("siamkit train photos --run-dir runs/a",),
    "runtime.md": (
        "siamkit train sample --backbone efficientnet-lite0 --image-size 64 --epochs 3 "
        "--run-dir runs/emoji",
    ),
    "search.md": (
        "python examples/logo_pairs.py logos",
        "siamkit train logos/pairs.csv --backbone efficientnet-lite0 --image-size 64 "
        "--loss contrastive --lr 5e-4 --epochs 6 --run-dir runs/logos",
    ),
    "share.md": (
        "siamkit train sample --backbone efficientnet-lite0 --image-size 64 --run-dir runs/emoji",
    ),
}
"""The commands that a reader of a page has run before."""

SHORT = "--epochs 1 --image-size 32"
"""The flags added to a training whose output is not shown; flags after them override them."""

RANDOM = "--backbone timm:test_resnet --no-pretrained"
"""The flags added where no backbone is named, since the default's weights come from the hub."""


# --- what the pages' readers have -----------------------------------------------------------------


def _classes(count: int) -> Callable[[Path], None]:
    def write(target: Path) -> None:
        from siamkit.data.sample import sample_dir

        for folder in sorted(p for p in sample_dir().iterdir() if p.is_dir())[:count]:
            shutil.copytree(folder, target / folder.name)

    return write


def _image(name: str) -> Callable[[Path], None]:
    def write(target: Path) -> None:
        from siamkit.data.sample import sample_dir

        shutil.copy(sample_dir() / "1f331-seedling" / name, target)

    return write


def _scans(target: Path) -> None:
    _classes(6)(target)
    rows = [f"{path.relative_to(target)},{path.parent.name}" for path in target.glob("*/*.png")]
    target.with_suffix(".csv").write_text("\n".join(["file,patient", *sorted(rows), ""]))


def _weights(target: Path) -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("resnet50").state_dict(), target)


NEEDS = {"compare-sprites.md": "SIAMKIT_WESNOTH10"}
"""The pages with images that siamkit does not have, and the variable that names their folder."""


def _sprites(target: Path) -> None:
    target.symlink_to(Path(os.environ[NEEDS["compare-sprites.md"]]).resolve())


OWNED: dict[str, Callable[[Path], None]] = {
    "wesnoth10": _sprites,
    "photos": _classes(12),
    "my_photos": _classes(20),
    "scans": _scans,
    "noto.png": _image("noto.png"),
    "twemoji.png": _image("twemoji.png"),
    "resnet50.safetensors": _weights,
    "examples": lambda target: target.symlink_to(ROOT / "examples"),
}
"""The files and folders that pages use but do not make, each with the function that makes it."""


# --- pages --------------------------------------------------------------------------------------


@dataclass
class Step:
    """Something that a page tells its reader to do.

    Attributes:
        line: The line of the step in the page.
        kind: ``console``, ``python``, or ``file``.
        source: The command, the code, or the content of the file.
        expected: The output that the page shows; None if it shows none. For ``file``, its name.
    """

    line: int
    kind: str
    source: str
    expected: str | None = None


_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"`([\w-]+\.(?:yaml|csv))`")


def steps(text: str) -> list[Step]:
    """Return the steps of a page.

    Raises:
        ValueError: A ``text`` block follows no command. Folders, tables and charts belong into
            ``tree``, ``csv`` and ``chart`` blocks.
    """
    result: list[Step] = []
    end, before = 0, ""
    for block in _BLOCK.finditer(text):
        language, content = block[2], re.sub(rf"^{block[1]}", "", block[3], flags=re.MULTILINE)
        between = text[end : block.start()]
        line = text.count("\n", 0, block.start()) + 1
        if language == "console":
            result += _commands(content, line)
        elif language == "python":
            result.append(Step(line + 1, "python", content))
        elif language == "text":
            if not content.startswith(CANNOT_BE_PROVOKED):
                if between.strip() or before not in ("console", "python"):
                    raise ValueError(f"line {line}: no command prints this text")
                result[-1].expected = (result[-1].expected or "") + content
        elif language in ("yaml", "csv"):
            paragraph = between.rstrip().rpartition("\n\n")[2]
            if named := _FILE.search(paragraph):
                result.append(Step(line, "file", content, named[1]))
        end, before = block.end(), language
    return result


def _commands(content: str, line: int) -> Iterator[Step]:
    for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
        lines = part.replace("\\\n", " ").splitlines(keepends=True)
        yield Step(line, "console", lines[0].strip(), "".join(lines[1:]) or None)


# --- running ------------------------------------------------------------------------------------


def differences(page: Path, folder: Path) -> Iterator[str]:
    """Run a page in a folder, and yield each step whose output differs from the page."""
    todo = steps(page.read_text(encoding="utf-8"))
    text = "\n".join([*BEFORE.get(page.name, ()), *(step.source for step in todo)])
    made = {step.expected for step in todo if step.kind == "file"}
    for name, write in OWNED.items():
        if re.search(rf"(?<![\w/-]){re.escape(name)}(?![\w-])", text) and name not in made:
            write(folder / name)
    names: dict[str, Any] = {"__name__": "page"}
    with contextlib.chdir(folder):
        for command in BEFORE.get(page.name, ()):
            _run(Step(0, "console", command), folder, names)
        for step in todo:
            if any(
                re.search(pattern, step.source) for pattern in NOT_RUN if "&&" not in step.source
            ):
                continue
            printed, failed = _run(step, folder, names)
            place = f"{page.name}:{step.line}: {step.source.strip().splitlines()[0]}"
            if failed and not (step.expected or "").startswith("error:"):
                yield f"{place}\nfailed:\n{printed}"
            elif step.kind != "file" and step.expected is not None:
                missing = difference(step.expected, printed)
                if missing is not None:
                    yield f"{place}\nthe page shows:\n{missing}\nprinted:\n{printed}"


def _run(step: Step, folder: Path, names: dict[str, Any]) -> tuple[str, bool]:
    """Return what a step prints, and whether it fails."""
    if step.kind == "file":
        Path(str(step.expected)).write_text(step.source, encoding="utf-8")
        return "", False
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        failed = _python(step, names) if step.kind == "python" else _console(step)
    return stream.getvalue().replace(str(folder), HOME), failed


def _python(step: Step, names: dict[str, Any]) -> bool:
    try:
        exec(compile("\n" * (step.line - 1) + step.source, "page", "exec"), names)
    except Exception:
        traceback.print_exc()
        return True
    return False


def _console(step: Step) -> bool:
    from siamkit.cli.app import main

    parts = [part.strip() for part in step.source.split("&&")]
    for part in parts:
        if any(re.search(pattern, part) for pattern in NOT_RUN):
            continue
        command = part if step.expected else shortened(part)
        if command.startswith("siamkit ") and not re.search(r"[|><;$`]", command):
            if main(shlex.split(command)[1:]):
                return True
            continue
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", command], env={**os.environ, "PATH": path}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        sys.stdout.write(done.stdout)
        if done.returncode:
            return True
    return False


def shortened(command: str) -> str:
    """Return a command with its training cut short."""
    named = re.search(r"--(backbone|config|resume)\b", command)
    flags = SHORT if named else f"{SHORT} {RANDOM}"
    if "--resume" in command:
        return command
    return re.sub(r"siamkit train( (?!-)\S+)?", rf"\g<0> {flags}", command)


def main(argv: list[str]) -> int:
    """Run pages, print their differences, and return the exit code."""
    code = 0
    pages = [page for page in PAGES if NEEDS.get(page.name, "PATH") in os.environ]
    for page in [Path(name).resolve() for name in argv] or pages:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = f"{folder}/.cache"
            for text in differences(page, Path(folder)):
                print(f"--- {text}")
                code = 1
    return code


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", BROWSER="true")
    sys.exit(main(sys.argv[1:]))
