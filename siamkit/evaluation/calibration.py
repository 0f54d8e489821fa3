"""A calibration: turns a score into a decision and a probability, and says how far to trust them.

Made by :func:`siamkit.evaluation.calibrating.calibrate`, kept with a run as JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from scipy.special import expit

from siamkit.errors import CheckpointError
from siamkit.evaluation.prediction import Rate
from siamkit.files import write_json
from siamkit.spelling import command

FORMAT = 1

Target = Literal["eer", "far", "accuracy"]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Verdict:
    """Whether two images show the same.

    Attributes:
        same: Whether the score is at or above the threshold.
        score: The cosine similarity, in [-1, 1].
        threshold: That of the calibration.
        probability: That they show the same, if as many pairs do as don't.
    """

    same: bool
    score: float
    threshold: float
    probability: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


@dataclass(frozen=True)
class Provenance:
    """What a calibration was fitted on.

    Attributes:
        data: The path of the data.
        part: Which part of it.
        digest: The SHA-256 of the images' keys, labels and file sizes.
        images: Images.
        identities: Classes.
        same: Same pairs.
        different: Different pairs.
        all_pairs: Whether these are all the pairs there are.
        checkpoint: The name of the checkpoint whose network scored them.
        epoch: Its epoch, from 0.
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
    epoch: Count
    siamkit: str


@dataclass(frozen=True)
class Calibration:
    """A threshold and a map from scores to probabilities.

    Attributes:
        target: What the threshold was fitted for.
        far_asked: The rate of false accepts that was asked for, where that is the target.
        threshold: A pair is the same if its score is at or above it.
        far: The rate of false accepts at it, and what to expect of other identities.
        frr: The same of false rejects.
        slope: Of the log-odds over the score; greater than 0.
        intercept: The log-odds at a score of 0.
        provenance: What it was fitted on.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    target: Target
    far_asked: float | None
    threshold: float
    far: Rate
    frr: Rate
    slope: Annotated[float, Field(gt=0)]
    intercept: float
    provenance: Provenance

    def decide(self, score: float) -> bool:
        """Return whether a pair of this score is taken for the same."""
        return score >= self.threshold

    def probability(self, score: float) -> float:
        """Return the probability that a pair of this score is the same; it rises with the score.

        It is that among as many same pairs as different ones. Where a share ``s`` of the pairs that
        you see are the same, the odds are those of this probability times ``s / (1 - s)``.
        """
        return float(expit(self.slope * score + self.intercept))

    def verdict(self, score: float) -> Verdict:
        """Return the decision on a pair of this score, and what it rests on."""
        return Verdict(self.decide(score), score, self.threshold, self.probability(score))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, which :meth:`from_json` reads."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, values: Any, where: str = "calibration") -> Self:
        """Read what :meth:`to_json` returned.

        Args:
            values: The JSON values.
            where: Where they are from, for messages.

        Raises:
            CheckpointError: They are something else, or of another format.
        """
        if not isinstance(values, dict) or "format" not in values:
            raise CheckpointError("is no calibration", where=where, hint=_hint())
        if values["format"] != FORMAT:
            raise CheckpointError(
                "unknown format of calibration", where=where, got=values["format"],
                allowed=str(FORMAT), hint=_hint(),
            )  # fmt: skip
        fields = {key: value for key, value in values.items() if key != "format"}
        try:
            return TypeAdapter(cls).validate_python(fields)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in problem["loc"])
            raise CheckpointError(
                f"the file is damaged: {key}: {problem['msg']}", where=where, hint=_hint()
            ) from None

    def save(self, path: Path) -> None:
        """Write it to a file, in the place of an earlier one.

        Raises:
            ResourceError: The disk is full or not writable.
        """
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: The file is missing, damaged or something else.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError("no such file", where=str(path), hint=_hint()) from None
        except (OSError, ValueError):
            raise CheckpointError("the file is damaged", where=str(path), hint=_hint()) from None
        return cls.from_json(values, str(path))


def _hint() -> str:
    return f"{command('calibrate', 'RUN')} writes a new one"
