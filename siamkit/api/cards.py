"""The sections of a run's model card: the data, the training, the figures and the threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from siamkit.config import RunConfig
from siamkit.errors import CheckpointError
from siamkit.evaluation.summary import summarize
from siamkit.model.pretrained.card import CardSection
from siamkit.portable.calibration import Calibration, Rate
from siamkit.runs.held_out import HeldOut
from siamkit.runs.log import Log

_PARTS = {"val": "validation", "test": "test"}
_TARGETS = {
    "eer": "equal rates of false accepts and false rejects",
    "far": "a false accept rate of {far}",
    "accuracy": "the best accuracy, with same and different pairs weighted equally",
}


@dataclass(frozen=True)
class CardFacts:
    """The contents of the model card of a run.

    Attributes:
        config: The run's config.
        weights: The weights that the run started from, in words.
        data: The value ``data`` of the event ``run_start``: the numbers of images, and the split.
        calibration: The run's threshold; None without one.
        held: The held-out images and their embeddings; None if the run has not ended.
        epoch: The best epoch, from 0.
    """

    config: RunConfig
    weights: str
    data: Mapping[str, Any]
    calibration: Calibration | None
    held: HeldOut | None
    epoch: int

    @classmethod
    def of(
        cls,
        log: Log,
        events: Path,
        config: RunConfig,
        calibration: Calibration | None,
        held: HeldOut | None,
        epoch: int,
    ) -> CardFacts:
        """Return the facts of a run, without the paths of the machine that it ran on.

        Args:
            log: The run's events.
            events: The file of these events, for errors.
            config: The run's config.
            calibration: The run's threshold; None without one.
            held: The held-out images and their embeddings; None if the run has not ended.
            epoch: The best epoch, from 0.

        Raises:
            CheckpointError: The event log doesn't begin with the run's start.
        """
        start = _start(log, events)
        if calibration is not None:
            # Only the data's name: its path is of no use to others, and may be private.
            data = Path(calibration.provenance.data).name
            provenance = replace(calibration.provenance, data=data, notices=())
            calibration = replace(calibration, provenance=provenance)
        return cls(config, start["weights"], start["data"], calibration, held, epoch)


def _start(log: Log, events: Path) -> dict[str, Any]:
    """Return the event of the run's first start."""
    first = log.events[0] if log.events else {}
    if first.get("event") == "run_start" and {"weights", "data"} <= first.keys():
        return first
    raise CheckpointError(
        "has no valid run_start event at its beginning, so the model card cannot describe the data",
        where=str(events),
        hint="siamkit.load_model(RUN).save_pretrained(FOLDER) saves the network alone",
    )


def sections_of(facts: CardFacts) -> list[CardSection]:
    """Return the sections of a run's card."""
    sections = [_data(facts), _training(facts)]
    if facts.held is None:
        sections.append(
            CardSection("Figures", ["The run has not ended, so it has no figures yet."])
        )
    else:
        sections.append(_figures(facts, facts.held))
    if facts.calibration is not None:
        sections.append(_threshold(facts.calibration))
    return sections


def _data(facts: CardFacts) -> CardSection:
    data = facts.data
    rows = [
        (part, str(data[key]))
        for part, key in (("training", "train"), ("validation", "val"), ("test", "test"))
        if data.get(key)
    ]
    name = Path(facts.config.data.path).name or "the data"
    return CardSection("Data", [f"`{name}`, split: {data['how']}."], ("part", "images"), rows)


def _training(facts: CardFacts) -> CardSection:
    config = facts.config
    size = config.data.image_size
    rows = [
        ("freeze policy", f"`{config.freeze.name}`"),
        ("loss", f"`{config.loss.name}`"),
        ("optimizer", f"`{config.optimizer.name}`, rate {config.optimizer.rate:g}"),
        ("epochs", f"{config.train.epochs}; this is the network of epoch {facts.epoch + 1}"),
        ("batch", f"{config.train.batch_size} images, {config.train.images_per_class} per class"),
        ("image size", "the backbone's own" if size is None else f"{size} pixels"),
        ("seed", str(config.train.seed)),
    ]
    return CardSection("Training", header=("", ""), rows=rows)


def _figures(facts: CardFacts, held: HeldOut) -> CardSection:
    threshold = None if facts.calibration is None else facts.calibration.threshold
    found = summarize(held.embeddings, held.images, threshold=threshold)
    part = _PARTS.get(held.part, held.part)
    lines = [f"On the {found['images']} {part} images, of {found['classes']} classes."]
    if held.part == "val":
        lines.append(
            "The best epoch was chosen by these images, so the metrics are slightly optimistic."
        )
    lines.append(
        "The 95 % intervals come from resampling classes. An empty cell means: no interval."
    )
    rows: list[Sequence[str]] = []
    retrieval, verification = found["retrieval"], found["verification"]
    for key in ("recall@1", "recall@5", "map@r"):
        if retrieval and retrieval.get(key) is not None:
            rows.append((key, _share(retrieval[key]), "", _share(retrieval["chance"].get(key))))
    chances = {"auc": 0.5, "eer": 0.5}
    for key, value in (verification or {}).items():
        if key in chances or key.startswith("tar@far"):
            ends = (verification.get("intervals") or {}).get(key)
            interval = "" if ends is None else f"{_share(ends[0])} to {_share(ends[1])}"
            if value is not None:
                chance = chances.get(key, _rate_of(key))
                rows.append((key, _share(value), interval, _share(chance)))
    if triplets := found["triplets"]:
        rows += [
            (f"triplets: {key}", _share(value), "", "")
            for key, value in triplets.items()
            if isinstance(value, float)
        ]
    return CardSection("Figures", lines, ("metric", "value", "95 % interval", "chance"), rows)


def _rate_of(key: str) -> float | None:
    """Return the false accept rate in a metric's name, such as 0.01 for ``tar@far=0.01``.

    This is the metric's chance level: a guess accepts same and different pairs equally often.
    """
    try:
        return float(key.partition("=")[2])
    except ValueError:
        return None


def _threshold(calibration: Calibration) -> CardSection:
    made = calibration.provenance
    target = _TARGETS[calibration.target].format(far=calibration.far_asked)
    pairs = f"{made.same} same and {made.different} different pairs"
    lines = [
        "Two images show the same class if their cosine similarity is at least "
        f"{calibration.threshold:.6g}.",
        f"Fitted for {target}, on {pairs} of {made.images} images of {made.identities} classes "
        f"({_PARTS.get(made.part, made.part)} images). The intervals predict the rates on "
        "the same number of unseen classes.",
    ]
    rows = [
        _rate("false accepts (FAR)", calibration.far),
        _rate("false rejects (FRR)", calibration.frr),
    ]
    return CardSection("Threshold", lines, ("rate", "value", "95 % prediction interval"), rows)


def _rate(name: str, rate: Rate) -> Sequence[str]:
    return name, _share(rate.rate), f"{_share(rate.low)} to {_share(rate.high)}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
