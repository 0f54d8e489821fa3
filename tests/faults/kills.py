"""SIGKILL at random moments of every command that takes time, then the same command again.

The result must equal that of an undisturbed run, bit for bit.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from processes import ACTIVITIES, COMMAND, Ended, Programs, Trap
from records import Record
from subjects import SUBJECTS, Subject, differences, make_images, outcome, write_config

COMMANDS = ("evaluate", "calibrate", "report", "embed", "index")


class Kills:
    """Kills runs and commands, and compares the results with those of undisturbed runs."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self.folder, self.programs = folder, programs
        self.images = make_images(folder / "images")
        self._whole: dict[Subject, tuple[Path, dict[str, Any], dict[str, Any]]] = {}

    def whole(self, subject: Subject) -> tuple[Path, dict[str, Any], dict[str, Any]]:
        """Return the undisturbed run, its outcome, and the calls of each activity in it."""
        if subject not in self._whole:
            place = self.folder / f"whole-{len(self._whole)}"
            place.mkdir()
            config = write_config(subject, self.images, place / "config.yaml")
            calls = place / "calls.json"
            args = ["train", "--config", config, "--run-dir", place / "run", "--report", "--json"]
            ended = self.programs.run(args, place / "cache", record=calls)
            assert ended.code == 0, ended.err
            found = outcome(place / "run"), json.loads(calls.read_text())
            self._whole[subject] = (place / "run", *found)
        return self._whole[subject]

    def case(self, number: int, seed: int) -> Record:
        """Kill a run once or twice, finish it, and compare it with the undisturbed run."""
        rng = random.Random(f"{seed} {number}")
        subject = SUBJECTS[number % len(SUBJECTS)]
        _, expected, calls = self.whole(subject)
        wanted = [name for name in ACTIVITIES if calls.get(name)]
        activity = wanted[number % len(wanted)]
        place = self.folder / "killed"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        config = write_config(subject, self.images, place / "config.yaml")
        args = [
            "train",
            "--config",
            config,
            "--run-dir",
            place / "run",
            "--resume",
            "auto",
            "--json",
        ]
        if every := rng.choice([None, "1steps", "2steps"]):
            args += ["--checkpoint-every", every]
        args += ["--report"] if activity == "writing the report" else ["--no-report"]
        traps = [_trap(rng, activity, calls[activity])]
        if rng.random() < 0.4:
            again = rng.choice(["training", "saving", "evaluating"])
            traps.append(_trap(rng, again, calls[again][:2]))
        killed, problem, found = 0, None, ""
        for trap in [*traps, None]:
            ended = self.programs.run(args, place / "cache", trap=trap)
            if ended.was_killed:
                killed += 1
                continue
            problem = ended.problem or (
                None if ended.code == 0 else f"exit {ended.code}: {ended.err}"
            )
            if problem or trap is None:
                break
        if problem is None:
            changed = differences(outcome(place / "run"), expected)
            found = f"differs in {', '.join(changed[:5])}" if changed else "bit-equal"
            problem = found if changed else None
        if problem is None and activity == "writing the report":
            text = (place / "run/report.html").read_text()
            problem = None if text.rstrip().endswith("</html>") else "the report is incomplete"
        what = f"{subject.name}: killed {' and '.join(map(str, traps))}; resumed"
        return Record(
            "kill", f"{seed}/{number}", activity, what, found or str(problem), problem, killed
        )

    def command_case(self, number: int, seed: int) -> Record:
        """Kill a command that uses a finished run, repeat the command, and compare its output."""
        rng = random.Random(f"command {seed} {number}")
        name = COMMANDS[number // 8 % len(COMMANDS)]
        whole, expected, _ = self.whole(SUBJECTS[0])
        place = self.folder / "command"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        right = self._used(name, whole, place / "right", None)
        run = shutil.copytree(whole, place / "run")
        killed = 0
        for _ in range(1 + (rng.random() < 0.3)):
            seconds = rng.uniform(0, 1.2) ** 2
            ended = self._use(name, run, place / "mine", seconds)
            killed += ended.was_killed
        mine = self._used(name, run, place / "mine", None)
        changed = differences(outcome(run), expected) if name != "calibrate" else []
        problem = "what it prints differs" if mine != right else None
        problem = problem or (f"the run differs in {changed[:3]}" if changed else None)
        what = f"{name}: killed at a random moment, repeated"
        return Record("kill", f"{seed}/{number}", name, what, problem or "equal", problem, killed)

    def _used(self, name: str, run: Path, out: Path, seconds: float | None) -> Any:
        ended = self._use(name, run, out, seconds)
        assert ended.code == 0, f"{name}: exit {ended.code}: {ended.err}"
        text = ended.out.replace(str(run), "RUN").replace(str(out), "OUT")
        files = sorted(p for p in out.rglob("*") if p.is_file()) if out.is_dir() else []
        content = [(p.name, p.read_bytes()) for p in files if p.suffix == ".npy"]
        return _plain(json.loads(text)), content

    def _use(self, name: str, run: Path, out: Path, seconds: float | None) -> Ended:
        out.mkdir(exist_ok=True)
        more: dict[str, list[object]] = {
            "embed": [self.images, "-o", out / "e.npy", "--workers", "0", "--force"],
            "index": [self.images, "-o", out / "index", "--workers", "0", "--force"],
            "report": ["-o", out / "report.html"],
        }
        trap = None if seconds is None else Trap(COMMAND, 0, seconds=seconds)
        args = [name, run, *more.get(name, []), "--json"]
        return self.programs.run(args, self.folder / "no-cache", trap=trap)


def _trap(rng: random.Random, activity: str, calls: list[tuple[float, int]]) -> Trap:
    call = rng.randrange(len(calls))
    seconds, operations = calls[call]
    if operations and rng.random() < 0.6:
        return Trap(activity, call, operation=rng.randrange(operations))
    return Trap(activity, call, seconds=rng.uniform(0, seconds))


def _plain(value: Any) -> Any:
    """Return JSON values without those that differ between two runs of the same command."""
    if isinstance(value, dict):
        left_out = {"seconds", "images_per_second", "made", "time", "created"}
        return {k: _plain(v) for k, v in value.items() if k not in left_out}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def cases(kills: Kills, count: int, seed: int) -> Iterator[tuple[str, Callable[[], Record]]]:
    """Yield the name of each case, and a function that runs it; every eighth kills a command."""
    for number in range(count):
        if number % 8 == 7:
            yield str(number), partial(kills.command_case, number, seed)
        else:
            yield str(number), partial(kills.case, number, seed)
