"""The outlook of a choice of a recipe: what comes next, and how long it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from siamkit.comparison.arms import Arm
from siamkit.comparison.pace import FEWEST, Pace, longest
from siamkit.data.images import ImageSet

MOST = 1.2
"""How many times the budget the command may take, by the estimate, if it could do with less."""


@dataclass(frozen=True)
class Outlook:
    """The next steps of the choice of a recipe, and how long they take.

    Attributes:
        budget: Seconds for the comparison and the training together.
        expected: Estimated seconds of both.
        arms: The number of recipes that are compared, 0 if none are; None while it is not known.
        of: The number of recipes that could be compared.
        trained: The recipe that is trained if none are compared; None if the time is too short for
            a training, too.
    """

    budget: float
    expected: float = 0.0
    arms: int | None = None
    of: int = 0
    trained: str | None = None


@dataclass(frozen=True)
class Alone:
    """The training of one recipe that no trial has told about.

    Attributes:
        arm: The most promising recipe that can be trained.
        pace: The pace of its training on all training images, by a few steps on a part of them.
        images: All training images.
        steps: Optimizer steps per epoch.
        needed: Whether a recipe is trained whatever that takes, because no network without training
            may be chosen.
    """

    arm: Arm
    pace: Pace
    images: ImageSet
    steps: int
    needed: bool

    @property
    def least(self) -> float:
        """Seconds of the shortest training."""
        return self.pace.of(math.ceil(FEWEST / self.steps), self.steps)

    def outlook(self, budget: float, passed: float, of: int) -> Outlook:
        """Return the outlook if no recipes are compared.

        Args:
            budget: The budget in seconds.
            passed: Seconds since the command began.
            of: The number of candidates.
        """
        if not self.needed and passed + self.least > MOST * budget:
            return Outlook(budget, passed + self.pace.start, 0, of)
        return Outlook(budget, self._expected(budget, passed, passed), 0, of, self.arm.name)

    def outlook_with_trials(
        self, budget: float, least: float, most: float, arms: int, of: int
    ) -> Outlook:
        """Return the outlook if recipes are compared.

        Args:
            budget: The budget in seconds.
            least: Seconds from the beginning to the end of the first round of the trials.
            most: Seconds from the beginning to the end of all rounds.
            arms: The number of recipes that are compared.
            of: The number of candidates.
        """
        return Outlook(budget, self._expected(budget, least, most), arms, of, self.arm.name)

    def _expected(self, budget: float, least: float, most: float) -> float:
        """Return the seconds of the command, of which ``least`` to ``most`` are the trials'."""
        return max(min(budget, most + longest(self.pace, self.steps)), least + self.least)
