"""The default head: a closed form over several stages, or where that fails, a residual."""

from __future__ import annotations

from siamkit.config import CLOSED_FORM, HeadConfig, RunConfig, named_head
from siamkit.errors import ConfigError
from siamkit.interfaces import Backbone, StageOptions
from siamkit.model.reading import StageReader, outputs_of
from siamkit.registry import Registry

WITHOUT = "residual"
"""The default head where no closed form is possible. It starts at the features."""


def default_head(config: RunConfig, registry: Registry, backbone: Backbone) -> HeadConfig:
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
    # An int8 prefix has one output. Recomputed stages may not run as a whole.
    unread = config.engine.prefix == "int8" or config.train.grad_checkpointing
    if unread and config.train.epochs:
        return named_head(WITHOUT, config.head, registry)
    options = registry.get(CLOSED_FORM).options()
    assert isinstance(options, StageOptions)
    stages = min(options.stages, len(backbone.stages()))
    try:
        width = StageReader(backbone, outputs_of(backbone, stages)).width
    except ConfigError:
        if not config.train.epochs:
            raise
        return named_head(WITHOUT, config.head, registry)
    dim = min(options.model_dump()["dim"], width)
    return named_head(CLOSED_FORM, config.head, registry, stages=stages, dim=dim)
