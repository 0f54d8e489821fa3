"""Damage to every kind of file of a run, an export, a cache, an index and a pretrained folder.

A command that reads the damaged file must end with an error of :mod:`siamkit.errors`, or give the
result for the undamaged file. Each command runs in a process of its own. A command that does not
end in time counts as hanging.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from kills import Kills, _plain
from processes import Trap
from records import Record
from subjects import Subject, differences, outcome, write_config

import siamkit
from siamkit.cli.app import main
from siamkit.cli.failures import as_siamkit_error
from siamkit.inference.embedder import Embedder
from siamkit.training import quantize

REFUSED = (3, 4, 7)
CONFIG = (2, 5)  # a damaged key, value or name in config.yaml is an error of the configuration
HANGS = 120  # seconds


def _bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _truncated(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(max(path.stat().st_size, 1)))


def _empty(path: Path, rng: random.Random) -> None:
    os.truncate(path, 0)


def _garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(max(path.stat().st_size, 16)))


def _missing(path: Path, rng: random.Random) -> None:
    path.unlink()


def _directory(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, rng: random.Random) -> None:
    """A link to the same content elsewhere: nothing is damaged."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    path.symlink_to(aside.name)


def _dangling(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _fifo(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _forbidden(path: Path, rng: random.Random) -> None:
    path.chmod(0)


POSITIONS: dict[str, Callable[[Path, random.Random], None]] = {
    "one bit": _bit,
    "truncated": _truncated,
    "empty": _empty,
    "garbage": _garbage,
    "missing": _missing,
    "a directory in its place": _directory,
    "a link to it": _link,
    "a dangling link": _dangling,
    "a FIFO": _fifo,
    "no permission": _forbidden,
}

Command = Callable[[Path, Path], list[object]]
"""Returns a command's arguments, given the damaged folder and a folder for the output."""


class Target:
    """A folder to be damaged, the commands that read it, and their undamaged results."""

    def __init__(
        self,
        name: str,
        whole: Path,
        commands: dict[str, Command],
        main: Callable[[list[str]], int] | None = None,
    ) -> None:
        self.name, self.whole, self.commands, self.main = name, whole, commands, main
        self.files = sorted(
            str(p.relative_to(whole))
            for p in whole.rglob("*")
            if p.is_file() and p.name not in (".lock", "report.html")
        )

    def pairs(self) -> list[tuple[str, str, str]]:
        """Return every file, position and command."""
        return [(f, p, c) for f in self.files for p in POSITIONS for c in self.commands]


def copied(source: Path, target: Path) -> Path:
    """Copy a folder with its hard links, so that damage to a file is damage to all its names."""
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


def targets(kills: Kills) -> list[Target]:
    """Make the folders to damage, with the commands that read each.

    They are a run, a pruned run, one with an int8 part, an interrupted run, an export, a
    pretrained folder, an index, a cache, and a comparison that lacks one result.
    """
    folder = kills.folder / "damage"
    folder.mkdir(exist_ok=True)
    images = kills.images
    subject = Subject("stages", True)
    whole, _, _ = kills.whole(subject)
    run = copied(whole, folder / "run")
    a, b = images / "class0/0.png", images / "class1/0.png"
    pruned, export = folder / "pruned", folder / "export"
    int8, comparison = folder / "int8", folder / "comparison"
    for args in (
        ["index", run, images, "-o", folder / "index", "--workers", "0"],
        ["prune", run, "--finetune-epochs", "1", "--run-dir", pruned, "--set", "report=false"],
        ["export", run, "-o", export],
    ):
        made = kills.programs.run(args, folder / "none")
        assert made.code == 0, made.err
    cache = copied(whole.parent / "cache", folder / "cache")
    config = write_config(subject, images, folder / "config.yaml")
    comparing = ["compare", "--config", config, "--policies", "freeze-all,full", "--folds", "2",
                 "--seeds", "1", "--epochs", "1"]  # fmt: skip
    for args, program in (
        (["train", "--config", config, "--fast", "--run-dir", int8], train_in_int8),
        ([*comparing, "-o", comparison], None),
    ):
        made = kills.programs.run(args, folder / "none", main=program)
        assert made.code == 0, made.err
    max((comparison / "results").iterdir()).unlink()  # so that the command has work to do
    pretrained = folder / "pretrained"
    siamkit.save_pretrained(run, pretrained)
    cpu = ["--device", "cpu"]
    reading: dict[str, Command] = {
        "evaluate": lambda at, out: ["evaluate", at, *cpu],
        "calibrate": lambda at, out: ["calibrate", at, *cpu],
        "verify": lambda at, out: ["verify", at, a, b, *cpu],
        "embed": lambda at, out: [
            "embed", at, images, "-o", out / "e.npy", "--workers", "0", *cpu],
        "inspect": lambda at, out: ["inspect", at],
        "report": lambda at, out: ["report", at, "-o", out / "r.html"],
        "resume": lambda at, out: ["train", "--resume", at, "--no-report"],
        "resume --strict": lambda at, out: ["train", "--resume", at, "--strict", "--no-report"],
    }  # fmt: skip
    return [
        Target("run", run, reading),
        Target("pruned run", pruned, {name: reading[name] for name in (
            "evaluate", "verify", "inspect", "report", "resume")}),
        # Not `embed`, whose kernel, so its last bits, depends on the speed at the time.
        Target("int8 run", int8, {name: reading[name] for name in (
            "evaluate", "verify", "inspect", "resume")}),
        Target("comparison", comparison, {
            "compare": lambda at, out: [*comparing, "-o", at],
        }),
        Target("export", export, {
            "verify": reading["verify"],
            "embed": lambda at, out: ["embed", at, images, "-o", out / "e.npy"],
        }),
        Target("interrupted run", _interrupted(kills, config, folder), {
            "resume": lambda at, out: ["train", "--resume", at, "--no-report"],
            "resume auto": lambda at, out: [
                "train", "--config", config, "--run-dir", at, "--resume", "auto"],
        }),
        Target("pretrained folder", pretrained, {
            "from_pretrained": lambda at, out: [at, a],
        }, load_pretrained),
        Target("index", folder / "index", {
            "search": lambda at, out: ["search", at, a, "--run", whole, *cpu],
        }),
        Target("cache", cache, {
            "train": lambda at, out: [
                "train", "--config", config, "--run-dir", out / "run",
                "--set", f"engine.cache_dir={at}"],
            "cache list": lambda at, out: ["cache", "list", "--cache-dir", at],
            "cache prune": lambda at, out: ["cache", "prune", "--max-gb", "1", "--cache-dir", at],
        }),
    ]  # fmt: skip


def _interrupted(kills: Kills, config: Path, folder: Path) -> Path:
    """Kill a run in its last epoch, so that it has three checkpoints."""
    run = folder / "interrupted"
    args = ["train", "--config", config, "--run-dir", run, "--set", "train.keep_checkpoints=3"]
    ended = kills.programs.run(args, folder / "none", trap=Trap("training", 7))
    assert ended.was_killed, ended.err
    return run


def train_in_int8(args: list[str]) -> int:
    """Run a command that does not mind whether int8 is faster for a tiny network."""
    quantize._require_faster = lambda speeds: None
    return main(args)


def load_pretrained(args: list[str]) -> int:
    """Print the embedding of an image by a pretrained folder's network."""
    try:
        embedder = Embedder(siamkit.from_pretrained(args[0]), kernel="eager")
        print(json.dumps({"embedding": embedder.embed([args[1]]).tolist()}))
    except BaseException as error:
        ours = as_siamkit_error(error)
        print(ours, file=sys.stderr)
        return ours.exit_code
    return 0


def kind_of(file: str) -> str:
    """Return the kind of a file: its path without the parts that vary, such as a shard's number."""
    path = Path(file)
    if path.name.startswith("shard-"):
        return "shard"
    return f"{path.parts[0]}/*/{path.name}" if len(path.parts) > 2 else path.name


class Damage:
    """Damages files one at a time, each in a fresh copy of the folder, and runs a command on it."""

    def __init__(self, kills: Kills, seed: int) -> None:
        self.kills, self.seed = kills, seed
        self.targets = {target.name: target for target in targets(kills)}
        self._right: dict[tuple[str, str], Any] = {}

    def draw(self, count: int) -> list[tuple[str, str, str, str]]:
        """Draw cases of a target, a file, a kind of damage and a command.

        All kinds of files and damage are drawn once before any comes again.
        """
        rng = random.Random(f"damage {self.seed}")
        every = [(t.name, *pair) for t in self.targets.values() for pair in t.pairs()]
        rng.shuffle(every)
        seen: dict[tuple[str, ...], int] = {}
        ranked = []
        for case in every:
            key = case[0], kind_of(case[1]), case[2]
            seen[key] = seen.get(key, 0) + 1
            ranked.append((seen[key], case))
        ranked.sort(key=lambda item: item[0])
        return [case for _, case in ranked[:count]]

    def right(self, target: Target, command: str) -> Any:
        """Return what a command gives for the undamaged folder."""
        key = target.name, command
        if key not in self._right:
            self._right[key] = self._attempt(target, command, None, None, random.Random(0))
            assert self._right[key][0] == 0, self._right[key]
        return self._right[key]

    def case(self, name: str, target: str, file: str, position: str, command: str) -> Record:
        """Damage one file, run one command, and judge its result."""
        of = self.targets[target]
        right = self.right(of, command)
        rng = random.Random(f"{self.seed} {name}")
        code, result, err = self._attempt(of, command, file, POSITIONS[position], rng)
        happened, problem = _judged(command, file, code, result, right[1], err)
        what = f"{command} with {target}/{file}: {position}"
        group = f"{target}: {kind_of(file)}"
        return Record("damage", f"{self.seed}/{name}", group, what, happened, problem)

    def _attempt(
        self,
        target: Target,
        command: str,
        file: str | None,
        damage: Callable[[Path, random.Random], None] | None,
        rng: random.Random,
    ) -> tuple[int, Any, str]:
        place = self.kills.folder / "attempt"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        at, out = place / target.name, place / "out"
        copied(target.whole, at)
        out.mkdir()
        if file is not None and damage is not None:
            damage(at / file, rng)
        args = [*target.commands[command](at, out), "--json"]
        before = None
        if file is not None and damage is _forbidden and os.geteuid() == 0:
            before = obey_permissions
        try:
            ended = self.kills.programs.run(
                args, place / "cache", timeout=HANGS, before=before, main=target.main
            )
        except TimeoutError:
            return -1, None, "it hangs"
        err = ended.err
        if ended.code != 0:
            return ended.code, None, err + ended.out
        text = ended.out.replace(str(at), "AT").replace(str(out), "OUT")
        result = _plain(json.loads(text))
        if command == "compare":
            result = {
                row["name"]: (row["metrics"], row["interval"], row["to_best"])
                for row in result["arms"]
            }
        if command == "train":
            result = outcome(out / "run")
        if target.name == "interrupted run":
            result = outcome(at)
        if command == "embed":
            result["sha256"] = hashlib.sha256((out / "e.npy").read_bytes()).hexdigest()
        return 0, result, err


def _judged(
    command: str, file: str, code: int, result: Any, right: Any, err: str
) -> tuple[str, str | None]:
    """Return what happened, and the problem if it should not have happened; else None."""
    allowed = (*REFUSED, *CONFIG) if Path(file).name == "config.yaml" else REFUSED
    if code not in (0, *allowed) or "this is a bug" in err or "Traceback" in err:
        return f"exit {code}", f"exit {code}: {err[-400:]}"
    if code:
        return f"exit {code}", None
    if result == right:
        return "the undamaged result", None
    if command in ("report", "evaluate", "inspect") and result["notices"] != right["notices"]:
        return "it is left out, and a notice says so", None
    if command == "calibrate" and {**result, "previous": None} == {**right, "previous": None}:
        return "the same threshold is fitted again", None
    if command.startswith("cache "):  # it lists what there is
        return "it is listed", None
    return "another result", f"another result without a word: {_changed(result, right)}"


def obey_permissions() -> None:
    """Give up root's right to read and write every file, whatever its mode (Linux)."""
    version, overriding = 0x20080522, 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(version, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    libc = ctypes.CDLL(None, use_errno=True)
    for call, change in ((libc.capget, False), (libc.capset, True)):
        if change:
            sets[0] &= ~overriding
            sets[1] &= ~overriding
        if call(header, sets):
            raise OSError(ctypes.get_errno(), "capabilities")


def _changed(a: Any, b: Any) -> Any:
    return differences(a, b)[:6] if isinstance(a, dict) and isinstance(b, dict) else (a, b)


def cases(kills: Kills, count: int, seed: int) -> Iterator[tuple[str, Callable[[], Record]]]:
    """Yield the name of each case, and a function that runs the case."""
    if not count:
        return
    damage = Damage(kills, seed)
    for number, case in enumerate(damage.draw(count)):
        yield str(number), partial(damage.case, str(number), *case)
