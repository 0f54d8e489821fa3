"""The default head: a closed form over several stages, or where that fails, a residual."""

from __future__ import annotations

from dataclasses import dataclass

from siamkit.config import CLOSED_FORM, HeadConfig, RunConfig, named_head
from siamkit.errors import ConfigError
from siamkit.interfaces import Backbone, StageOptions
from siamkit.model.reading import StageReader, outputs_of
from siamkit.registry import Registry

WITHOUT = "residual"
"""The default head where no closed form is possible. It starts at the features."""


WITHOUT_CLASSES = "pairs and triplets name no classes, which a closed form needs"
"""Why a run on pairs or triplets gets another head."""


@dataclass(frozen=True)
class DefaultHead:
    """The head of a config that names none.

    Attributes:
        head: The section of the head.
        why: Why it is not the closed form; None if it is.
    """

    head: HeadConfig
    why: str | None = None


def fallback_text(why: str | None) -> tuple[str, ...]:
    """Return the notice about a head that is not the usual default; nothing without a reason."""
    if why is None:
        return ()
    return (f"the head is {WITHOUT!r} instead of the default {CLOSED_FORM!r}: {why}",)


def default_head(config: RunConfig, registry: Registry, backbone: Backbone) -> DefaultHead:
    """Return the head for a backbone and images with labels, if the config names none.

    A backbone with fewer stages than the head would read is read from its first one. Embeddings are
    never wider than what the head reads: a linear map gives no more directions.

    Args:
        config: The config.
        registry: The registry of heads.
        backbone: The backbone.

    Raises:
        ConfigError: The run has no epochs, so it needs a head in closed form, and the stages of the
            backbone cannot be read.
    """
    without = named_head(WITHOUT, config.head, registry)
    if config.train.epochs and (unread := _unread(config)):
        return DefaultHead(without, unread)
    options = registry.get(CLOSED_FORM).options()
    assert isinstance(options, StageOptions)
    stages = min(options.stages, len(backbone.stages()))
    try:
        width = StageReader(backbone, outputs_of(backbone, stages)).width
    except ConfigError as error:
        if not config.train.epochs:
            raise
        return DefaultHead(without, error.what)
    dim = min(options.model_dump()["dim"], width)
    return DefaultHead(named_head(CLOSED_FORM, config.head, registry, stages=stages, dim=dim))


def _unread(config: RunConfig) -> str | None:
    """Return why a config allows no head that reads several stages; None if it does."""
    if config.engine.prefix == "int8":
        return "a part in int8 gives one output, not those of its stages"
    if config.train.grad_checkpointing:
        return "stages whose activations are recomputed may not run as a whole"
    return None
