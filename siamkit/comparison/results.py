"""Results of single runs, as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from siamkit.comparison.intervals import Totals
from siamkit.evaluation.retrieval import ClassRetrieval


@dataclass(frozen=True)
class ArmResult:
    """The result of one run of an arm.

    Attributes:
        val: Each metric's totals by class, on the images that chose the best epoch.
        test: The same on the held-out fold.
        seconds: The time of the run, without ``filling``; the time of all that were tuned.
        filling: The seconds in which features were computed and stored, for all arms.
        evaluating: The seconds of the evaluation after the epochs, which are a part of ``seconds``.
        epochs: The number of trained epochs.
        best_epoch: The best epoch, from 1; 0 for the network before the first step.
        steps: The number of optimizer steps.
        images: The number of training images seen, counted once for each time.
        phases: Spans of epochs with the stages that train in them.
        tuned: The values that the validation images chose.
        notices: The notices of the run.
        failed: Why the run failed; None if it did not.
        mendable: Whether the machine or a plugin may be the cause, which the user can mend.
        planned: The number of epochs to train, of which the patience may have left out some.
    """

    val: Mapping[str, Totals] = field(default_factory=dict)
    test: Mapping[str, Totals] = field(default_factory=dict)
    seconds: float = 0.0
    filling: float = 0.0
    evaluating: float = 0.0
    epochs: int = 0
    best_epoch: int = 0
    steps: int = 0
    images: int = 0
    phases: tuple[Mapping[str, Any], ...] = ()
    tuned: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    failed: str | None = None
    mendable: bool = False
    planned: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ArmResult:
        """Return the result that :meth:`to_json` described."""
        sets = {part: _totals(values[part]) for part in ("val", "test")}
        phases, notices = tuple(values["phases"]), tuple(values["notices"])
        return cls(**{**values, **sets, "phases": phases, "notices": notices})


def totals_of(found: Mapping[str, ClassRetrieval]) -> dict[str, Totals]:
    """Return the totals by class of each metric."""
    metrics = next(iter(found.values())).totals
    return {
        metric: {name: (one.queries, one.totals[metric]) for name, one in found.items()}
        for metric in metrics
    }


def _totals(stored: Mapping[str, Any]) -> dict[str, Totals]:
    return {
        metric: {name: (int(count), float(total)) for name, (count, total) in by_class.items()}
        for metric, by_class in stored.items()
    }
