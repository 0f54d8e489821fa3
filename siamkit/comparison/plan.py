"""The plan of a comparison: its arms, and the runs that each arm trains."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from siamkit.comparison.arms import Arm

EQUAL = ("images", "time")
"""What is the same for all arms: the images that they see, or the time that they take."""

METRICS = ("recall@1", "map@r")
"""The metrics that arms can be compared by: means over queries."""


@dataclass(frozen=True)
class Round:
    """One run of each arm: with the same seed, on the same training and held-out classes.

    Attributes:
        seed: The seed of the run and of the folds.
        fold: The number of the held-out fold, from 0.
    """

    seed: int
    fold: int

    @property
    def name(self) -> str:
        """The name in files."""
        return f"seed-{self.seed}-fold-{self.fold}"


@dataclass(frozen=True)
class Plan:
    """The plan of a comparison.

    Attributes:
        arms: The arms.
        folds: The number of parts of the data; each part is held out in turn.
        seeds: The seeds. Each divides the data into other folds.
        metric: The metric to compare; one of :data:`METRICS`.
        tuned: The values to try in each run, by dotted key. The validation images choose.
        budget: Seconds that all runs may take together; None for no limit.
        equal: What is the same for all arms; one of :data:`EQUAL`.
        own: The user's values, by dotted key, of the sections whose choice is tuned.
    """

    arms: tuple[Arm, ...]
    folds: int = 3
    seeds: tuple[int, ...] = (0, 1, 2)
    metric: str = "recall@1"
    tuned: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    budget: float | None = None
    equal: str = "images"
    own: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rounds(self) -> tuple[Round, ...]:
        """All rounds, in order."""
        return tuple(itertools.starmap(Round, itertools.product(self.seeds, range(self.folds))))

    @property
    def variants(self) -> list[dict[str, Any]]:
        """The combinations of tuned values that each run of a trained arm tries."""
        return [
            dict(zip(self.tuned, values, strict=True))
            for values in itertools.product(*self.tuned.values())
        ]

    def variants_of(self, arm: Arm) -> list[dict[str, Any]]:
        """The values that a run of an arm tries; one empty combination if nothing is tuned."""
        return self.variants if arm.trains else [{}]

    def to_json(self) -> dict[str, Any]:
        """Return what decides the results of the comparison, as JSON values."""
        return {
            "arms": [
                {"name": arm.name, "values": dict(arm.values), "trains": arm.trains}
                for arm in self.arms
            ],
            "folds": self.folds,
            "seeds": list(self.seeds),
            "metric": self.metric,
            "equal": self.equal,
            "tuned": {key: list(values) for key, values in self.tuned.items()},
            "own": dict(self.own),
        }
