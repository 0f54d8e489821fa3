"""Any ``nn.Module`` as a backbone: features ``[N, D]``, stages, and how to prepare its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Literal

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from siamkit.errors import PluginError, SiamkitError
from siamkit.interfaces import Backbone, BackboneContext, Preprocessing, Stage
from siamkit.model.layout import Select, check_layout, pool, select_from
from siamkit.model.names import unwrap
from siamkit.model.probe import pixels, probe, why_it_failed
from siamkit.model.stages import blocks_of, discover_stages
from siamkit.model.trace import autocasting, blank, dtype_of

PREFIX = "model."
"""What stands before the wrapped module's own names in the backbone's."""


class WrappedBackbone(Backbone):
    """A module that isn't a :class:`Backbone`, made one.

    Its forward may give features ``[N, D]``, or more axes that are averaged. Which axis is the
    channels' is shown by a second forward at another image size, where the module allows one: it is
    the one whose length stays. What that leaves open, the module must say: by ``layout`` and
    ``select``, here or as its attributes.

    Attributes:
        model: The wrapped module, taken out of ``torch.compile`` and ``DistributedDataParallel``,
            which siamkit applies itself where they pay.
        layout: The layout of its output.
        select: Which part of its output is taken, where it gives several.

    Args:
        model: From images ``[N, C, H, W]`` to features.
        preprocessing: How its images must be prepared.
        layout: The axes of its output, such as ``NHWC`` (:mod:`siamkit.model.layout`).
        select: Which part of its output to take, where it gives several: a key, an index or a
            function of the output.

    Raises:
        PluginError: The forward gives something else than features, their width depends on the
            image size, or their layout is not clear.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        layout: str | None = None,
        select: Select | None = None,
    ) -> None:
        super().__init__()
        model = unwrap(model)
        self.model = model
        self._preprocessing = preprocessing
        self.select: Select | None = (
            select if select is not None else _stated(model, "select", (str, int))
        )
        stated = layout if layout is not None else _stated(model, "layout", (str,))
        self._stages: tuple[Stage, ...] | None = None
        # Probed, as num_features is not the width on MobileNetV3, MobileNetV4 and VGG.
        self.layout, self._embedding_dim = probe(
            self._output,
            self.model,
            preprocessing,
            None if stated is None else check_layout(stated),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the features ``[N, D]`` of ``images [N, C, H, W]``.

        Weights of half precision get images of theirs, and their features come back in float32.

        Raises:
            PluginError: The output is not what it was when the module was wrapped.
        """
        features = pool(self._output(images), self.layout)
        # Comparing a size would fix it to the example's where a forward is captured.
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # type: ignore
            self._check(features, images)
        return features.float() if _is_half(features) and not autocasting(features) else features

    def _output(self, images: Tensor) -> Tensor:
        """Return what the module gives for ``images``, in the type of its weights."""
        dtype = dtype_of(self.model)
        if dtype is not None and images.is_floating_point() and not autocasting(images):
            images = images.to(dtype)
        return select_from(self.model(images), self.select)

    def _check(self, features: Tensor, images: Tensor) -> None:
        expected = [images.shape[0], self._embedding_dim]
        if list(features.shape) != expected:
            raise PluginError(
                "a backbone's features must be as many as its images, and of one width",
                got=f"shape {list(features.shape)}",
                allowed=f"{expected} for {images.shape[0]} images of {pixels(images.shape[-2:])}",
            )

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
            example = blank(self.model, self._preprocessing.channels, self._preprocessing.size)
            self._stages = tuple(_prefixed(s) for s in discover_stages(self.model, example))
        return blocks_of(self._stages) if granularity == "block" else self._stages


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
        raise why_it_failed(unwrap(module), preprocessing, context, error) from error


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


def _stated(module: nn.Module, name: str, kinds: tuple[type, ...]) -> Any:
    """Return what a module says of its output; an attribute of another kind means another thing."""
    value = getattr(module, name, None)
    return value if isinstance(value, kinds) or callable(value) else None


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)
