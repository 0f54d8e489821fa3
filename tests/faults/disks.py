"""Disks that are full: a file system of a few megabytes, or a limit on the size of files.

The disk becomes full while a run saves a checkpoint, fills its cache or writes its report. The
command must end with exit code 7 and leave earlier files intact. With more room, the same command
must finish the run with the result of an undisturbed one.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from functools import partial

from kills import Kills
from processes import Ended, can_mount
from records import Record
from subjects import Subject, differences, outcome, write_config

WHERE = ("run", "cache", "report")


def cases(kills: Kills, count: int, seed: int) -> Iterator[tuple[str, Callable[[], Record]]]:
    """Yield the name of each case, and a function that runs the case."""
    for number in range(count):
        yield str(number), partial(case, kills, number, seed)


def case(kills: Kills, number: int, seed: int) -> Record:
    """Let a small disk become full at a random point of a run, then repeat with enough room."""
    rng = random.Random(f"disk {seed} {number}")
    where = WHERE[number % len(WHERE)]
    subject = Subject("stages", True)
    whole, expected, _ = kills.whole(subject)
    place = kills.folder / "full"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    config = write_config(subject, kills.images, place / "config.yaml")
    run = shutil.copytree(whole, place / "run") if where == "report" else place / "run"
    sizes = {
        "run": sum(p.stat().st_size for p in (whole / "checkpoints").rglob("*") if p.is_file()),
        "cache": sum(p.stat().st_size for p in (whole.parent / "cache").rglob("*") if p.is_file()),
        "report": (whole / "report.html").stat().st_size,
    }
    largest = max((p.stat().st_size for p in whole.rglob("*.safetensors")), default=0)
    if where == "report":
        args: list[object] = ["report", run, "-o", place / "disk/report.html", "--json"]
    else:
        args = ["train", "--config", config, "--resume", "auto", "--no-report", "--json"]
        args += ["--run-dir", place / ("disk/run" if where == "run" else "run")]
        if where == "cache":
            args += ["--set", f"engine.cache_dir={place / 'disk'}"]
    size = int(sizes[where] * rng.uniform(0.1, 0.9))
    (place / "disk").mkdir()
    if can_mount():
        how = f"a tmpfs of {size >> 10} KiB"
        before = partial(mount_then_continue, str(place / "disk"), size)
    else:
        size = int(rng.uniform(0.1, 0.9) * (largest if where == "run" else sizes[where]))
        how = f"files of at most {size >> 10} KiB (RLIMIT_FSIZE: mounting is not permitted here)"
        before = partial(limit_files, size)
    full = kills.programs.run(args, place / "cache", before=before)
    problem = full.problem
    happened = f"exit {full.code}"
    if problem is None and full.code not in (0, 7):
        problem = f"exit {full.code}: {full.err[-400:]}"
    if problem is None and full.code == 7 and where == "cache":
        happened += ", the epochs before are there"
    if problem is None:
        again: Ended = kills.programs.run(args, place / "cache")
        problem = again.problem or (None if again.code == 0 else f"then {again.err[-400:]}")
        if problem is None and where != "report":
            mine = place / ("disk/run" if where == "run" else "run")
            if changed := differences(outcome(mine), expected):
                problem = f"then it differs in {changed[:5]}"
        happened += "; with room, the undisturbed result" if problem is None else ""
    what = f"the {where} on {how}"
    return Record("disk", f"{seed}/{number}", where, what, problem or happened, problem)


def mount_then_continue(folder: str, size: int) -> None:
    """Mount a small tmpfs over a folder, in a mount namespace of this process alone.

    Files written to the tmpfs are gone when the process ends, as if the disk had been replaced.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, new_mounts, private_recursive = 0x10000000, 0x00020000, 0x44000
    flags = new_mounts if os.geteuid() == 0 else user | new_mounts
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
    libc.mount(b"none", b"/", None, private_recursive, None)
    if libc.mount(b"none", folder.encode(), b"tmpfs", 0, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), "mount")


def limit_files(size: int) -> None:
    """Let no file of this process grow beyond ``size`` bytes: writing more fails with EFBIG.

    The signal SIGXFSZ, which would end the process, is ignored by Python.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
