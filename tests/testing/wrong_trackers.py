"""Wrong trackers."""

from __future__ import annotations

import csv
import json
import sys
import threading
from pathlib import Path

from mutant import Mutant


class Log:
    """Appends events to ``RUN/log.jsonl``; this one is right."""

    def __init__(self, options):
        self.file = None

    def __call__(self, event):
        if event.name == "run_start":
            self.open(Path(event.data["run_dir"]) / "log.jsonl", event)
        if self.file is not None:
            self.file.write(json.dumps({"event": event.name, **event.data}) + "\n")

    def open(self, path, event):
        self.file = path.open("a")

    def close(self):
        if self.file is not None:
            self.file.close()


def tracker(**methods):
    return type("Log", (Log,), methods)


def opens_in_build(self, options):
    self.file = Path("log.jsonl").open("a")


def makes_a_folder(self, options):
    Log.__init__(self, options)
    Path("mlruns").mkdir(exist_ok=True)


def overwrites(self, path, event):
    self.file = path.open("w")


def rewrites(self, event):
    """Keeps all in memory and writes it at the end, so a resumed run loses what came before."""
    if event.name == "run_start":
        self.path, self.rows = Path(event.data["run_dir"]) / "metrics.csv", []
    if event.name == "epoch_end":
        self.rows.append(event.data["metrics"])
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)


def refuses_what_is_there(self, path, event):
    self.file = path.open("x")


def at(name, read):
    def call(self, event):
        if event.name == name:
            read(event.data)

    return call


KNOWN = ("notice", "run_start", "phase_start", "fill", "engine", "untrained", "step", "epoch_end",
         "checkpoint", "early_stop", "non_finite", "run_end")  # fmt: skip


def summary_at_the_end(self, event):
    if event.name == "run_start":
        self.file = True
    if event.name == "run_end":
        self.summary = event.data


def prints_the_summary(self):
    if self.file:
        print(self.summary, file=sys.stderr)


def leaves_a_thread(self, event):
    if event.name == "run_start":
        self.wait = threading.Event()
        threading.Thread(target=self.wait.wait, args=(3,)).start()


def keeps_the_first_step(self, event):
    if event.name == "step":
        self.first = getattr(self, "first", None) or event.data["step"]
        if event.data["step"] - self.first != event.data["epoch_step"] - 1:
            raise ValueError("steps must begin anew")


MUTANTS = [
    Mutant(name, "trackers", build, wrong, says)
    for name, build, wrong, says in [
        ("opens-in-build", tracker(__init__=opens_in_build),
         "opens its file before the run exists", "log.jsonl"),
        ("folder-in-build", tracker(__init__=makes_a_folder),
         "makes its folder before the run exists", "mlruns"),
        ("overwrites", tracker(open=overwrites),
         "opens its file anew, so a resumed run loses its first epochs", "resumed"),
        ("rewrites", tracker(__call__=rewrites, close=lambda self: None),
         "writes what it remembers, so a resumed run loses its first epochs", "resumed"),
        ("refuses", tracker(open=refuses_what_is_there),
         "refuses a run that has a log already", "FileExistsError"),
        ("accuracy", tracker(__call__=at("epoch_end", lambda data: data["metrics"]["accuracy"])),
         "reads a metric of another framework", "accuracy"),
        ("recall-alone", tracker(
            __call__=at("epoch_end", lambda data: data["metrics"]["recall@1"])),
         "reads recall@1, which pairs do not have", "recall@1"),
        ("learning-rate", tracker(__call__=at("step", lambda data: data["learning_rate"])),
         "reads a key that steps do not have", "learning_rate"),
        ("calibration", tracker(__call__=at("run_end", lambda data: data["calibration"]["auc"])),
         "assumes that a threshold was fitted", "NoneType"),
        ("best-alone", tracker(
            __call__=at("run_end", lambda data: data["metrics"]["test"]["best"])),
         "assumes that there are test images", "test"),
        ("needs-the-end", tracker(
            __call__=summary_at_the_end, close=prints_the_summary),
         "closes only runs that ended", "interrupted"),
        ("closes-nothing", tracker(close=lambda self: self.file.close()),
         "closes a file that it never opened", "never started"),
        ("unknown-event", tracker(__call__=lambda self, event: KNOWN.index(event.name)),
         "knows today's events alone", "something_new"),
        ("non-finite", tracker(__call__=at("non_finite", lambda data: data["value"])),
         "misreads the event of a loss that is NaN", "non_finite"),
        ("early-notice", tracker(__call__=lambda self, event: (
            setattr(self, "dir", event.data["run_dir"]) if event.name == "run_start"
            else event.name == "notice" and self.dir)),
         "fails at a notice before the run starts", "notice"),
        ("thread", tracker(__call__=leaves_a_thread),
         "leaves a thread behind, so the program never ends", "thread"),
        ("not-callable", lambda options: [], "returns a list", "a callable"),
        ("needs-login", lambda options: sys.exit("log in first"),
         "ends the program where it has no account", "SystemExit"),
        ("first-step", tracker(__call__=keeps_the_first_step),
         "assumes that steps count from zero in each epoch", "step"),
        ("no-argument", tracker(__call__=lambda self: None), "takes no event", "TypeError"),
    ]
]  # fmt: skip

UNCAUGHT = [
    Mutant("unflushed", "trackers", tracker(close=lambda self: None),
           "never closes its file: Python does at the end, so nothing is lost in the kit", ""),
]  # fmt: skip
