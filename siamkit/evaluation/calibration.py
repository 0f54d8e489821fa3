"""The calibration of a network: turns a score into a decision and a probability.

:func:`siamkit.evaluation.calibrating.calibrate` makes it, and a run stores it as JSON.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from scipy.special import expit, logit

from siamkit.errors import CheckpointError, ConfigError
from siamkit.evaluation.prediction import Rate
from siamkit.json_files import read_json, unsealed, write_sealed
from siamkit.spelling import command

FORMAT = 2
_BELOW_HALF = math.nextafter(0.5, 0)

Target = Literal["eer", "far", "accuracy"]
Count = Annotated[int, Field(ge=0)]

_MOST = 1 + 1e-6
"""The largest cosine, by rounding; a threshold beyond it would not be one."""


@dataclass(frozen=True)
class Verdict:
    """The decision on two images.

    Attributes:
        same: The score is at or above the threshold.
        score: The cosine similarity, in [-1, 1].
        threshold: The threshold of the calibration.
        probability: The probability that both show the same class, if a share ``prior`` of all
            pairs does. It is 0.5 or more exactly if ``same`` is true.
        prior: The share of same pairs for which the threshold is the break-even point.
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
        part: The split of the data.
        digest: The SHA-256 of the images' keys, labels and contents.
        images: The number of images.
        identities: The number of classes.
        same: The number of same pairs.
        different: The number of different pairs.
        all_pairs: The fit used all pairs, not a sample.
        checkpoint: The name of the checkpoint whose network scored the pairs.
        network: The SHA-256 of that network's files.
        epoch: The epoch of the checkpoint, from 1.
        siamkit: The version of siamkit.
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


@dataclass(frozen=True)
class Calibration:
    """A threshold and a map from scores to probabilities.

    A threshold is the point where "same" and "different" are equally likely for exactly one share
    of same pairs, :attr:`prior`. Probabilities are those for this share, so a verdict and its
    probability never contradict each other.

    Attributes:
        target: The criterion of the threshold.
        far_asked: The requested false accept rate, for the target ``far``.
        threshold: A pair counts as same if its score is at or above it.
        far: The false accept rate at it, with its prediction for unseen identities.
        frr: The false reject rate at it, with its prediction for unseen identities.
        slope: The slope of the log-likelihood ratio over the score; greater than 0.
        intercept: The log-likelihood ratio at a score of 0: the log-odds if half of the pairs are
            the same.
        provenance: The images that it was fitted on.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    target: Target
    far_asked: Annotated[float, Field(gt=0, le=1)] | None
    threshold: Annotated[float, Field(ge=-_MOST, le=_MOST)]
    far: Rate
    frr: Rate
    slope: Annotated[float, Field(gt=0)]
    intercept: float
    provenance: Provenance

    def decide(self, score: float) -> bool:
        """Return whether a pair with this score counts as same."""
        return score >= self.threshold

    def probability(self, score: float, *, prior: float | None = None) -> float:
        """Return the probability that a pair with this score is the same; it rises with the score.

        It is 0.5 or more exactly if :meth:`decide` accepts the score.

        Args:
            score: The cosine similarity.
            prior: The share of same pairs among yours; None: :attr:`prior`, the share for which the
                threshold is the break-even point. With another share, the probability at the
                threshold is not 0.5.

        Raises:
            ConfigError: The share is not between 0 and 1.
        """
        if prior is not None:
            if not 0 < prior < 1:
                raise ConfigError(
                    "must lie between 0 and 1", where="prior", got=prior, hint="such as 0.1"
                )
            return float(expit(self.slope * score + self.intercept + logit(prior)))
        probability = float(expit(self.slope * (score - self.threshold)))
        # A difference can be too small for a change of the probability.
        return probability if self.decide(score) else min(probability, _BELOW_HALF)

    @property
    def prior(self) -> float:
        """The share of same pairs for which the threshold is the break-even point.

        A pair with exactly this score is then as likely the same as different. A strict threshold
        belongs to data in which same pairs are rare.
        """
        return float(expit(-(self.slope * self.threshold + self.intercept)))

    def verdict(self, score: float) -> Verdict:
        """Return the decision on a pair with this score, with its probability."""
        return Verdict(
            self.decide(score), score, self.threshold, self.probability(score), self.prior
        )

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as JSON values, which :meth:`from_json` reads."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Any, where: str = "calibration", hint: str | None = None) -> Self:
        """Return the calibration from the values of :meth:`to_json`.

        Args:
            values: The JSON values.
            where: Their source, for messages.
            hint: The next step if they cannot be used.

        Raises:
            CheckpointError: They are not a calibration, or have another format.
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
            return TypeAdapter(cls).validate_python(fields)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise CheckpointError(
                f"the file is damaged: {key}: {problem['msg']}", where=where, hint=hint
            ) from None

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
            hint: The next step if it cannot be used.

        Raises:
            CheckpointError: The file is missing, damaged or edited, or not a calibration.
        """
        hint = hint or _hint()
        values = read_json(path, hint)
        if isinstance(values, dict) and values.get("format") == FORMAT:
            values = unsealed(values, str(path), hint)
        return cls.from_json(values, str(path), hint)


def _hint() -> str:
    return f"{command('calibrate', 'RUN')} writes a new one"
