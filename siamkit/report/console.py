"""The console log of a run: a listener that prints its events as lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from siamkit.report import units
from siamkit.report.calibration import calibration_line
from siamkit.report.comparison import recipe_line
from siamkit.report.engine import engine_text
from siamkit.report.gains import verdict
from siamkit.report.lr_find import rate_line
from siamkit.report.progress import Pace, TransientBar
from siamkit.report.terminal import cells, make_table, styled, whole
from siamkit.words import plural, short_count

if TYPE_CHECKING:
    from siamkit.interfaces import Event

Json = Mapping[str, Any]

_A_WHILE = 3.0  # seconds
_LABEL = 7  # columns of the names before the facts of a run


class ConsoleListener:
    """Prints one line per epoch, one table per phase, and the progress of the run.

    On a terminal, a progress bar shows the throughput and the time left. Elsewhere, a line shows
    them every ``interval`` seconds. Epoch 0 is the untrained backbone, without the head.

    Use it as a context manager, which removes the bar at the end, also after an error.

    Args:
        console: The console to print to; one of :func:`siamkit.report.terminal.make_console`.
        interval: Seconds between two progress lines, if there is no bar.
        clock: A monotonic clock, in seconds.
    """

    def __init__(
        self,
        console: Console,
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._interval = interval
        self._clock = clock
        self._epochs = 0
        self._monitor = ""
        self._steps, self._between, self._filling = Pace(), Pace(), Pace()
        self._latest: tuple[float, Json] | None = None  # the previous step: its time, its data
        self._filled = (0.0, 0)
        self._last_line = -float("inf")
        self._bar = TransientBar(console)

    def __call__(self, event: Event) -> None:
        """Print the text of ``event``; unknown events print nothing."""
        handler = getattr(self, f"_on_{event.name}", None)
        if handler is not None:
            handler(event.data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the progress bar from the terminal."""
        self._bar.close()

    # --- the run -----------------------------------------------------------------------------

    def _on_run_start(self, data: Json) -> None:
        self._epochs = data["epochs"]
        self._monitor = data["config"]["train"]["monitor"]
        names = {key: part["name"] for key, part in data["config"].items() if _has_name(part)}
        images, start = data["data"], data.get("finished_epochs", 0)
        resumed = f", resumed after epoch {start}" if start else ""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=_LABEL)
        rows = [
            ("model", ", ".join(f"{key} {name}" for key, name in names.items())),
            ("weights", data.get("weights", "")),
            ("data", f"train {images['train']}, val {images['val']}: {images['how']}"),
            (
                "length",
                f"{self._length(data['steps_per_epoch'])} on {data['device']}{resumed}",
            ),
            (
                "metrics",
                f"on held-out images after each epoch; gap: {self._monitor} on training images "
                "minus held-out"
                if self._epochs
                else "on held-out images",
            ),
        ]
        if chosen := data.get("recipe"):
            rows.insert(1, ("recipe", recipe_line(chosen)))
        if found := data.get("lr_find"):
            rows.insert(2, ("rate", rate_line(found)))
        for name, value in rows:
            grid.add_row(styled(name, "bold"), *cells(value))
        label = styled(f"{'run':{_LABEL}}  ", "bold")
        self._console.print(whole(label, data["run_dir"]), crop=False)
        self._console.print(grid)
        for notice in data["notices"]:
            self._on_notice({"text": notice})

    def _on_notice(self, data: Json) -> None:
        self._console.print(Text.assemble(("notice: ", "yellow"), styled(data["text"])))

    def _on_lr_find(self, data: Json) -> None:
        done, total = data["done"], data["total"]
        if not done:
            text = "the learning rate is auto: a range test comes before the training"
            self._on_notice({"text": text})
        if done == total:
            self.close()
        elif self._console.is_terminal:
            self._bar.show("range test", done, total, "")
        elif (now := self._clock()) - self._last_line >= self._interval:
            self._last_line = now
            self._console.print(f"range test: step {done} of {total}")

    def _on_untrained(self, data: Json) -> None:
        self._console.print(
            Text.assemble(styled(f"{self._epoch(0)}  "), f"untrained: {metrics_text(data)}")
        )

    def _on_phase_start(self, data: Json) -> None:
        trains, total = data["trainable_parameters"], data["parameters"]
        title = (
            f"from epoch {data['epoch']}: {short_count(trains)} of {short_count(total)} "
            f"parameters train ({units.percent(trains / max(total, 1))})"
        )
        reason = f"; {data['reason']}" if data["reason"] else ""
        self._console.print(styled(title + reason, "bold"))
        if data["changes"]:
            self._console.print(_changes(data["changes"]))
        if self._console.is_terminal:  # until the event ``engine`` says how the phase is computed
            self._bar.show("measuring", 0, 1, "how to compute the frozen part")

    def _on_engine(self, data: Json) -> None:
        self.close()
        self._steps, self._latest = Pace(), None  # the pace changes with the phase
        self._console.print(styled(engine_text(data), "dim"))

    def _on_fill(self, data: Json) -> None:
        now, done, total = self._clock(), data["done"], data["total"]
        state = units.per_second(done / max(data["seconds"], 1e-9))
        seconds, before = self._filled if self._filled[1] < done else (0.0, 0)
        self._filled = (data["seconds"], done) if done < total else (0.0, 0)
        if not before:
            self._filling = Pace()
        if done > before:
            self._filling.add((data["seconds"] - seconds) / (done - before))
        if done < total:
            state += f"  {units.left(*self._filling.ahead(total - done))}"
        if done < total and self._console.is_terminal:
            self._bar.show("cache", done, total, state)
            return
        if done == total:
            self.close()
        # Each epoch may add a few features. Only if that takes a while does it get a line.
        finished = done == total and data["seconds"] >= _A_WHILE
        if finished or (done < total and now - self._last_line >= self._interval):
            self._last_line = now
            self._console.print(f"cache: {done} of {plural(total, 'feature')} computed  {state}")

    def _on_early_stop(self, data: Json) -> None:
        self._console.print(
            f"stopped early after epoch {data['epoch']}: no improvement since epoch "
            f"{data['best_epoch']}"
        )

    def _on_run_end(self, data: Json) -> None:
        self.close()

    # --- epochs and steps ----------------------------------------------------------------------

    def _length(self, steps: int) -> str:
        if not self._epochs:
            return "no training,"
        return f"{plural(self._epochs, 'epoch')} of {plural(steps, 'step')}"

    def _epoch(self, number: int) -> str:
        width = len(str(self._epochs))
        return f"epoch {number:>{width}}/{self._epochs}"

    def _on_epoch_end(self, data: Json) -> None:
        train, val = data["train_metrics"], data["metrics"]
        line = Text(f"{self._epoch(data['epoch'])}  loss {_loss(data['train_loss'])}  ")
        line.append(metrics_text(val))
        if self._monitor in train:
            line.append(f"  gap {train[self._monitor] - val[self._monitor]:+.3f}")
        line.append(f"  {units.duration(data['seconds'])}")
        if data["best"]:
            line.append("  best", style="bold green")
        self._console.print(line)

    def _on_step(self, data: Json) -> None:
        now, step, steps = self._clock(), data["step"], data["steps"]
        if self._latest is not None:
            since, before = self._latest
            # Between epochs, the held-out images are evaluated and a checkpoint is saved.
            pace = self._steps if before["epoch"] == data["epoch"] else self._between
            pace.add(now - since)
        self._latest = (now, data)
        rate = units.per_second(data["images_per_second"])
        ahead = f"  {self._left(steps - step, data['epoch'])}" if len(self._steps) else ""
        state = f"loss {_loss(data['loss'])}  {rate}{ahead}"
        epoch = self._epoch(data["epoch"])
        if self._console.is_terminal:
            self._bar.show(epoch, step, steps, state)
        elif now - self._last_line >= self._interval:
            self._last_line = now
            position = f"step {data['epoch_step']}/{data['epoch_steps']}"
            self._console.print(f"{epoch}  {position}  lr {units.rate(data['lr'])}  {state}")

    def _left(self, steps: int, epoch: int) -> str:
        """Return the time that is left, at the pace of this phase's latest steps."""
        epochs = self._epochs - epoch if len(self._between) else 0
        parts = self._steps.ahead(steps - epochs), self._between.ahead(epochs)
        return units.left(*map(sum, zip(*parts, strict=True)))


def metrics_text(metrics: Json) -> str:
    """Return every metric with its value: ``recall@1 0.812  map@r 0.634``."""
    return "  ".join(
        f"{name} {value:.3f}" for name, value in metrics.items() if isinstance(value, float)
    )


def _loss(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.01 or not value else f"{value:.2e}"


def _changes(changes: list[Json]) -> Table:
    table = make_table("stage", "parameters", "was", "now", "norm", "rate",
                       numbers=("parameters", "rate"))  # fmt: skip
    for change in changes:
        trains = bool(change["trainable"])
        table.add_row(
            styled(change["stage"]),
            *cells(short_count(change["parameters"])),
            styled(_state(change["was"], change["parameters"]), "dim"),
            styled(_state(change["trainable"], change["parameters"]), "green" if trains else ""),
            *cells(change["norm"] or "-", units.rate(change["lr"]) if trains else "-"),
        )
    return table


def _state(trainable: int | bool | None, parameters: int) -> str:
    """Return how much of a stage trains; ``trainable`` is a number of parameters, or a bool."""
    if not trainable:
        return "-" if trainable is None else "frozen"
    if trainable is True or trainable == parameters:
        return "trains"
    return f"{short_count(int(trainable))} train"


def summary(result: Json) -> RenderableType:
    """Return the last table of a run: untrained, best and last epoch, and the threshold."""
    metrics = result["metrics"]
    names = [name for name, value in metrics["untrained"].items() if isinstance(value, float)]
    title = f"{plural(result['epochs'], 'epoch')}, written to {result['run_dir']}"
    table = make_table("held-out", *names, numbers=tuple(names))
    rows = [(key, key, metrics[key], metrics["untrained"]) for key in ("untrained", "best", "last")]
    if test := metrics.get("test"):
        rows += [
            (key, f"test, {key}", test[key], test["untrained"]) for key in ("untrained", "best")
        ]
    for key, label, row, before in rows:
        epoch = f" (epoch {row['epoch']})" if "epoch" in row else ""
        table.add_row(
            styled(label + epoch, "bold" if key == "best" else ""),
            *(_against(n, row[n], None if key == "untrained" else before[n]) for n in names),
        )
    if calibration := result.get("calibration"):
        return Group(whole(styled(title, "bold")), table, calibration_line(calibration))
    return Group(whole(styled(title, "bold")), table)


def _against(name: str, value: float, before: float | None) -> Text:
    """Return a metric with its change: gains green, losses red."""
    if before is None:
        return styled(f"{value:.3f}")
    change = round(value - before, 3) + 0.0  # no minus sign before a zero
    colour = {"loss": "red", "gain": "green"}.get(verdict(name, change), "")
    return Text.assemble(styled(f"{value:.3f} "), styled(f"({change:+.3f})", colour))


def _has_name(part: object) -> bool:
    return isinstance(part, Mapping) and "name" in part
