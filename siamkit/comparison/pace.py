"""The pace of runs, and the lengths of trials and trainings that fit into a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

FEWEST = 24
"""The fewest optimizer steps of a trial."""
_TRIED, _FINAL = 150, 400
"""The most optimizer steps of a trial, and of the training."""


@dataclass(frozen=True)
class Pace:
    """How long runs take.

    Attributes:
        start: Seconds of a run without its epochs.
        step: Seconds of an optimizer step.
        evaluation: Seconds of the evaluation after an epoch.
    """

    start: float
    step: float
    evaluation: float

    def of(self, epochs: int, steps: int) -> float:
        """Return the seconds of a run.

        Args:
            epochs: The number of epochs.
            steps: Optimizer steps per epoch.
        """
        return self.start + epochs * (steps * self.step + self.evaluation)

    def within(self, seconds: float, steps: int) -> int:
        """Return how many epochs fit into a time; 0 or less if not one does."""
        return math.floor((seconds - self.start) / (steps * self.step + self.evaluation))


@dataclass(frozen=True)
class Lengths:
    """How long the trials are, and how many of the candidates are tried.

    Attributes:
        epochs: The epochs of a trial; 0 if there are none.
        arms: The number of candidates; 0 if there are no trials.
    """

    epochs: int
    arms: int


def trial_lengths(pace: Pace, seconds: float, arms: int, steps: int) -> Lengths:
    """Return the length of the trials, such that a round of them fits into a time.

    If the time is too short for all candidates, fewer of them are tried. There are no trials if it
    is too short for two: with nothing to compare, the time is better spent on the training.

    Args:
        pace: The pace of the slowest candidate.
        seconds: The time for the round.
        arms: The number of candidates.
        steps: Optimizer steps per epoch.
    """
    fewest, most = (max(1, math.ceil(n / steps)) for n in (FEWEST, _TRIED))
    for number in range(arms, 1, -1):
        epochs = pace.within(seconds / number, steps)
        if epochs >= fewest:
            return Lengths(min(epochs, most), number)
    return Lengths(0, 0)


def training_epochs(pace: Pace, seconds: float, steps: int) -> int:
    """Return the epochs of the training, such that it fits into a time; 1 if none does.

    Args:
        pace: The pace of the recipe.
        seconds: The time.
        steps: Optimizer steps per epoch.
    """
    most = math.ceil(_FINAL / steps)
    return max(1, min(pace.within(seconds, steps), most))


def longest(pace: Pace, steps: int) -> float:
    """Return the seconds of the longest training, whatever the budget.

    Args:
        pace: The pace of the recipe.
        steps: Optimizer steps per epoch.
    """
    return pace.of(math.ceil(_FINAL / steps), steps)
