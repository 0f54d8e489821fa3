"""The calibration of a network: turns a score into a decision and a probability.

:func:`siamkit.evaluation.calibrating.calibrate` makes the calibration, and a run stores the
calibration as JSON.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from ..errors import CheckpointError, ConfigError
from ..json_files import read_json, unsealed, write_sealed
from ..spelling import command
from .records import Invalid, Within, record

FORMAT = 2
_BELOW_HALF = math.nextafter(0.5, 0)

Target = Literal["eer", "far", "accuracy"]
Count = Annotated[int, Within(0)]
Share = Annotated[float, Within(0, 1)]

_MOST = 1 + 1e-6
"""The largest valid threshold: the largest cosine, 1, and room for rounding."""


@dataclass(frozen=True)
class Rate:
    """An error rate, and a 95 % prediction interval for the rate on as many unseen identities.

    Attributes:
        rate: The measured rate, in [0, 1].
        low: The lower end of the interval.
        high: The upper end of the interval.
    """

    rate: Share
    low: Share
    high: Share


@dataclass(frozen=True)
class Verdict:
    """The decision on two images.

    Attributes:
        same: Whether the images count as the same, which they do if the score is at or above the
            threshold.
        score: The cosine similarity, in [-1, 1].
        threshold: The threshold of the calibration.
        probability: The probability that both images show the same class, given that a share
            ``prior`` of all pairs does. It is at least 0.5 if ``same`` is true, and below 0.5
            otherwise.
        prior: The share of same pairs for which a pair with a score at the threshold is as likely
            same as different.
    """

    same: bool
    score: float
    threshold: float
    probability: float
    prior: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Provenance:
    """The images that a calibration was fitted on.

    Attributes:
        data: The path of the data.
        part: The split of the data that the images are from.
        digest: The :func:`siamkit.data.digest.digest` of the images.
        images: The number of images.
        identities: The number of classes.
        same: The number of same pairs.
        different: The number of different pairs.
        all_pairs: Whether the fit used all pairs, not a sample.
        checkpoint: The name of the checkpoint whose network scored the pairs.
        network: The SHA-256 of the network's files.
        epoch: The epoch of the checkpoint, from 1; 0 for the network before the first step.
        siamkit: The version of siamkit.
        notices: What is to be known about the images.
    """

    data: str
    part: str
    digest: str
    images: Count
    identities: Count
    same: Count
    different: Count
    all_pairs: bool
    checkpoint: str
    network: str
    epoch: Count
    siamkit: str
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """A threshold and a map from scores to probabilities.

    How likely a pair is the same depends on its score and on the share of same pairs in the data.
    There is exactly one share for which a pair with a score at the threshold is as likely same as
    different: :attr:`prior`. Probabilities are given for this share, so a verdict and its
    probability never contradict each other.

    Attributes:
        target: The criterion for choosing the threshold.
        far_asked: The requested false accept rate for the target ``far``; None for other targets.
        threshold: A pair counts as same if its score is at or above this threshold.
        far: The false accept rate at the threshold, with a 95 % prediction interval for as many
            unseen identities.
        frr: The false reject rate at the threshold, with the same kind of interval.
        slope: The change of the log-likelihood ratio per unit of score; greater than 0.
        intercept: The log-likelihood ratio at a score of 0. If half of all pairs show the same
            class, it is also the log-odds that a pair with a score of 0 does.
        provenance: The images, the checkpoint and the network that the calibration was fitted on.
    """

    target: Target
    far_asked: Annotated[float, Within(above=0, most=1)] | None
    threshold: Annotated[float, Within(-_MOST, _MOST)]
    far: Rate
    frr: Rate
    slope: Annotated[float, Within(above=0)]
    intercept: float
    provenance: Provenance

    def decide(self, score: float) -> bool:
        """Return whether a pair with this score counts as same."""
        return score >= self.threshold

    def probability(self, score: float, *, prior: float | None = None) -> float:
        """Return the probability that a pair with this score is the same.

        Args:
            score: The cosine similarity. Higher scores give higher probabilities.
            prior: The share of same pairs in the user's data. None stands for the attribute
                :attr:`prior`; then the probability is 0.5 or more exactly for the scores that
                :meth:`decide` accepts. With another share, the probability at the threshold is not
                0.5.

        Raises:
            ConfigError: The share is not between 0 and 1.
        """
        if prior is not None:
            if not 0 < prior < 1:
                raise ConfigError(
                    "must lie between 0 and 1", where="prior", got=prior, hint="such as 0.1"
                )
            odds = math.log(prior) - math.log1p(-prior)
            return _logistic(self.slope * score + self.intercept + odds)
        probability = _logistic(self.slope * (score - self.threshold))
        # A score just below the threshold can give 0.5, because of rounding.
        return probability if self.decide(score) else min(probability, _BELOW_HALF)

    @property
    def prior(self) -> float:
        """The share of same pairs for which the threshold is the break-even point.

        If the data has this share of same pairs, a pair with a score at the threshold is as likely
        same as different. A strict threshold suits data in which same pairs are rare.
        """
        return _logistic(-(self.slope * self.threshold + self.intercept))

    def verdict(self, score: float) -> Verdict:
        """Return the decision on a pair with this score, and the probability of a match."""
        return Verdict(
            self.decide(score), score, self.threshold, self.probability(score), self.prior
        )

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON values, which :meth:`from_json` reads."""
        values = asdict(self)
        values["provenance"]["notices"] = list(self.provenance.notices)
        return {"format": FORMAT, **values}

    @classmethod
    def from_json(cls, values: Any, where: str = "calibration", hint: str | None = None) -> Self:
        """Return the calibration from the values of :meth:`to_json`.

        Args:
            values: The JSON values.
            where: The source of the values, for messages.
            hint: The next step, for messages about values that cannot be used.

        Raises:
            CheckpointError: The values are not a calibration, or have another format.
        """
        hint = hint or _hint()
        if not isinstance(values, dict) or "format" not in values:
            raise CheckpointError("is not a calibration", where=where, hint=hint)
        if values["format"] != FORMAT:
            raise CheckpointError(
                "unknown calibration format", where=where, got=values["format"],
                allowed=str(FORMAT), hint=hint,
            )  # fmt: skip
        fields = {key: value for key, value in values.items() if key != "format"}
        try:
            return record(cls, fields)
        except Invalid as error:
            raise CheckpointError(f"the file is damaged: {error}", where=where, hint=hint) from None

    def save(self, path: Path) -> None:
        """Write the calibration to a file, replacing an earlier one.

        Raises:
            ResourceError: The disk is full or not writable.
        """
        write_sealed(path, self.to_json())

    @classmethod
    def load(cls, path: Path, hint: str | None = None) -> Self:
        """Read the calibration that :meth:`save` wrote.

        Args:
            path: The file.
            hint: The next step, for messages about a file that cannot be used.

        Raises:
            CheckpointError: The file is missing, damaged or edited, or not a calibration.
        """
        hint = hint or _hint()
        values = read_json(path, hint)
        if isinstance(values, dict) and values.get("format") == FORMAT:
            values = unsealed(values, str(path), hint)
        return cls.from_json(values, str(path), hint)


def _logistic(value: float) -> float:
    """Return 1 / (1 + exp(-value)), without an overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    power = math.exp(value)
    return power / (1 + power)


def _hint() -> str:
    return f"{command('calibrate', 'RUN')} writes a new one"
