"""Any ``nn.Module`` as a backbone: features ``[N, D]``, stages, and how to prepare its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Literal

from timm.data import resolve_model_data_config
from torch import Tensor, nn

from siamkit.errors import ConfigError, PluginError, SiamkitError
from siamkit.interfaces import Backbone, BackboneContext, Preprocessing, Stage
from siamkit.model.stages import blocks_of, discover_stages
from siamkit.model.trace import blank, evaluating

PREFIX = "model."
"""What stands before the wrapped module's own names in the backbone's."""


class WrappedBackbone(Backbone):
    """A module that isn't a :class:`Backbone`, made one.

    Attributes:
        model: The wrapped module. Its forward may give ``[N, D]``, a feature map ``[N, D, H, W]``
            (averaged over its pixels) or tokens ``[N, T, D]`` (averaged).

    Args:
        model: From images ``[N, C, H, W]`` to features.
        preprocessing: How its images must be prepared.

    Raises:
        PluginError: The forward fails, or gives something else than features.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self._preprocessing = preprocessing
        self._stages: tuple[Stage, ...] | None = None
        # Probed, as num_features is not the width on MobileNetV3, MobileNetV4 and VGG.
        with evaluating(self):
            self._embedding_dim = int(self(self._example()).shape[1])

    def forward(self, images: Tensor) -> Tensor:
        """Return the features ``[N, D]`` of ``images [N, C, H, W]``."""
        return _pool(self.model(images), len(images))

    @property
    def embedding_dim(self) -> int:
        """The width D of the features, as a forward gave it."""
        return self._embedding_dim

    @property
    def preprocessing(self) -> Preprocessing:
        """How images must be prepared."""
        return self._preprocessing

    def stages(self, granularity: Literal["stage", "block"] = "stage") -> Sequence[Stage]:
        """Return the stages that were discovered, or their blocks in one sequence."""
        if self._stages is None:
            found = discover_stages(self.model, self._example())
            self._stages = tuple(_prefixed(stage) for stage in found)
        return blocks_of(self._stages) if granularity == "block" else self._stages

    def _example(self) -> Tensor:
        return blank(self.model, self._preprocessing.channels, self._preprocessing.size)


def as_backbone(module: Any, context: BackboneContext) -> Backbone:
    """Return what a plugin's ``build`` returned as a backbone; a :class:`Backbone` unchanged.

    The preprocessing is the module's attribute ``preprocessing``, else that of its timm data
    config, else ImageNet's, with the channels and the image size of ``context``.

    Raises:
        PluginError: It is no module, or its forward does not give features.
        ConfigError: Its forward fails on images of the size that was asked for.
    """
    if isinstance(module, Backbone):
        return module
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"backbone {context.name!r}: build must return a torch.nn.Module",
            got=type(module).__name__,
        )
    preprocessing = preprocessing_of(module, context)
    try:
        return WrappedBackbone(module, preprocessing)
    except SiamkitError:
        raise
    except Exception as error:
        shape = [1, preprocessing.channels, *preprocessing.size]
        reason = f"the forward of backbone {context.name!r} failed on images {shape}: {error}"
        if context.image_size is not None:
            raise ConfigError(
                reason, where="data.image_size", hint="leave it out for the backbone's own size"
            ) from error
        raise PluginError(reason) from error


def preprocessing_of(module: nn.Module, context: BackboneContext) -> Preprocessing:
    """Return how the images of ``module`` must be prepared, by the channels and size asked for."""
    own: Any = getattr(module, "preprocessing", None)
    if isinstance(own, Preprocessing):
        base = own
    elif getattr(module, "pretrained_cfg", None):
        config = resolve_model_data_config(module)
        base = Preprocessing(
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            size=(int(config["input_size"][1]), int(config["input_size"][2])),
            interpolation=config["interpolation"],
            crop_pct=float(config["crop_pct"]),
        )
    else:
        base = Preprocessing()
    size = context.image_size
    return replace(
        base,
        mean=_to_channels(base.mean, context.in_chans),
        std=_to_channels(base.std, context.in_chans),
        size=base.size if size is None else (size, size),
    )


def _to_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Fit per-channel statistics: fewer channels get the mean; more of them are appended."""
    if channels == len(values):
        return values
    mean = fmean(values)
    if channels < len(values):
        return (mean,) * channels
    return values + (mean,) * (channels - len(values))


def _prefixed(stage: Stage) -> Stage:
    """Put :data:`PREFIX` before every name; '' is the wrapped module itself."""
    stage = stage.prefixed(PREFIX)
    bare = PREFIX.removesuffix(".")
    return replace(
        stage,
        modules=tuple(bare if name == PREFIX else name for name in stage.modules),
        output=bare if stage.output == PREFIX else stage.output,
    )


def _pool(features: Any, count: int) -> Tensor:
    if isinstance(features, Tensor) and features.ndim and len(features) == count:
        match features.ndim:
            case 2:
                return features
            case 3:
                return features.mean(dim=1)  # [N, T, D]
            case 4:
                return features.mean(dim=(2, 3))  # [N, D, H, W]
    if isinstance(features, Tensor):
        got = f"shape {list(features.shape)} for {count} images"
    else:
        got = type(features).__name__
    raise PluginError(
        "a backbone's forward must give features",
        got=got,
        allowed="[N, D], a feature map [N, D, H, W] or tokens [N, T, D]",
        hint="return one tensor, pooled, without the classifier",
    )
