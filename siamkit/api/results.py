"""The results of the functions behind the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from siamkit.portable.calibration import Calibration
from siamkit.report.comparison import comparison
from siamkit.report.console import summary
from siamkit.report.data import data_report
from siamkit.report.evaluation import evaluation
from siamkit.report.export import exported
from siamkit.report.inspection import inspection
from siamkit.report.lr_find import rate_report
from siamkit.report.pruning import pruning
from siamkit.showing import RichRepr

Json = Mapping[str, Any]
Metrics = Mapping[str, float]


class Result(RichRepr, Mapping[str, Any]):
    """A result: a mapping with the ``--json`` output of the command.

    Subclasses also offer values as attributes. A terminal or a notebook shows the result as the
    command's tables.

    Args:
        values: The ``--json`` output of the command.
    """

    def __init__(self, values: Json) -> None:
        self._values = dict(values)

    def to_json(self) -> dict[str, Any]:
        """Return the ``--json`` output of the command, without its schema."""
        return dict(self._values)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class TrainingResult(Result):
    """The result of :func:`siamkit.fit` and :func:`siamkit.resume`."""

    @property
    def run_dir(self) -> Path:
        """The run's directory."""
        return Path(self["run_dir"])

    @property
    def epochs(self) -> int:
        """The number of trained epochs."""
        return int(self["epochs"])

    @property
    def phases(self) -> Sequence[Json]:
        """The phases of the run: spans of epochs in which the same parameters trained."""
        return list(self["phases"])

    @property
    def metrics(self) -> Mapping[str, Metrics]:
        """Held-out metrics: ``untrained``, ``best``, ``last``, and ``test`` for a test split."""
        return dict(self["metrics"])

    @property
    def history(self) -> Sequence[Metrics]:
        """The metrics of each epoch."""
        return list(self["history"])

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping ended the run."""
        return bool(self["stopped_early"])

    @property
    def calibration(self) -> Calibration | None:
        """The verification threshold; None if the held-out images do not allow fitting one."""
        values = self["calibration"]
        return None if values is None else Calibration.from_json(values)

    def __rich__(self) -> RenderableType:
        return summary(self._values)


class EvaluationResult(Result):
    """The result of :func:`siamkit.evaluate`."""

    @property
    def retrieval(self) -> Json | None:
        """Recall@k, MAP@R and R-precision, with their chance levels."""
        return _part(self, "retrieval")

    @property
    def verification(self) -> Json | None:
        """AUC, EER and TAR@FAR, with intervals."""
        return _part(self, "verification")

    @property
    def few_shot(self) -> Sequence[Json]:
        """The accuracy of each few-shot task."""
        return list(self["few_shot"] or ())

    @property
    def notices(self) -> Sequence[str]:
        """The notices for the user."""
        return list(self["notices"])

    def __rich__(self) -> RenderableType:
        return evaluation(self._values)


class ExportResult(Result):
    """The result of :func:`siamkit.export`."""

    @property
    def output(self) -> Path:
        """The folder of the exported model."""
        return Path(self["output"])

    @property
    def quality(self) -> Sequence[Json]:
        """The quality table: metrics, size and speed of the network in torch and as exported."""
        return list(self["quality"])

    @property
    def notices(self) -> Sequence[str]:
        """The notices for the user."""
        return list(self["notices"])

    def __rich__(self) -> RenderableType:
        return exported(self._values)


class InspectionResult(Result):
    """The result of :func:`siamkit.inspect`."""

    @property
    def phases(self) -> Sequence[Json]:
        """The phases, each with its stages, its cost and the end of its frozen part."""
        return list(self["phases"])

    @property
    def notices(self) -> Sequence[str]:
        """The notices for the user."""
        return list(self["notices"])

    def __rich__(self) -> RenderableType:
        return inspection(self._values)


class RateResult(Result):
    """The result of :func:`siamkit.find_lr`."""

    @property
    def lr(self) -> float | None:
        """The suggested rate of the head; None if the loss suggests no rate."""
        value = self["lr"]
        return None if value is None else float(value)

    @property
    def reason(self) -> str:
        """How the rate was found, or why none is suggested."""
        return str(self["reason"])

    @property
    def interval(self) -> tuple[float, float] | None:
        """The lowest and the highest rate that a repeat alone suggests; None if ``lr`` is None."""
        return None if self["low"] is None else (float(self["low"]), float(self["high"]))

    @property
    def rates(self) -> Sequence[float]:
        """The rates that the longest repeat tried, from low to high."""
        return list(self["rates"])

    @property
    def loss(self) -> Sequence[float]:
        """The loss before the first step and after each rate: the mean of all repeats.

        The values end where the first repeat ended.
        """
        return list(self["loss"])

    @property
    def notices(self) -> Sequence[str]:
        """The notices for the user."""
        return list(self["notices"])

    def __rich__(self) -> RenderableType:
        return rate_report(self._values)


class PruningResult(Result):
    """The result of :func:`siamkit.prune`."""

    @property
    def run_dir(self) -> Path:
        """The new run's directory."""
        return Path(self["run_dir"])

    @property
    def before(self) -> Json:
        """The size, the speed and the quality of the run that was pruned."""
        return dict(self["before"])

    @property
    def after(self) -> Json:
        """The size, the speed and the quality of the new run."""
        return dict(self["after"])

    @property
    def notices(self) -> Sequence[str]:
        """The notices for the user."""
        return list(self["notices"])

    def __rich__(self) -> RenderableType:
        return pruning(self._values)


class ComparisonResult(Result):
    """The result of :func:`siamkit.compare`."""

    @property
    def best(self) -> str:
        """The name of the best arm."""
        return str(self["best"])

    @property
    def verdict(self) -> Sequence[str]:
        """The verdict, as sentences."""
        return list(self["verdict"])

    @property
    def arms(self) -> Sequence[Json]:
        """The rows of the table, the best arm first."""
        return list(self["arms"])

    @property
    def config(self) -> Path:
        """The config of the best arm, for ``fit(config=...)``."""
        return Path(self["config"])

    @property
    def report(self) -> Path:
        """The HTML page."""
        return Path(self["report"])

    @property
    def notices(self) -> Sequence[str]:
        """The notices for the user."""
        return list(self["notices"])

    def __rich__(self) -> RenderableType:
        return comparison(self._values)


class DataResult(Result):
    """The result of :func:`siamkit.check_data`."""

    def __rich__(self) -> RenderableType:
        return data_report(self._values)


def _part(result: Result, key: str) -> Json | None:
    values = result[key]
    return None if values is None else dict(values)
