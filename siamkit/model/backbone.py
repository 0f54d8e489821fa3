"""The wrapped backbone: any ``nn.Module`` with features ``[N, D]``, stages and preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Literal

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from siamkit.errors import PluginError, SiamkitError
from siamkit.interfaces import Backbone, BackboneContext, Fit, Preprocessing, Stage
from siamkit.model.layout import Select, check_layout, pool, select_from
from siamkit.model.names import unwrap
from siamkit.model.probe import pixels, probe, why_it_failed
from siamkit.model.stages import blocks_of, discover_stages
from siamkit.model.trace import autocasting, blank, dtype_of

PREFIX = "model."
"""The prefix of the wrapped module's names in the backbone."""


class WrappedBackbone(Backbone):
    """Wraps a module that is not a :class:`Backbone`.

    The module's forward returns features ``[N, D]``, or a tensor with more axes, which are
    averaged. A second forward at another image size shows the channels' axis: its length stays the
    same. If this is not clear, the module must state its ``layout`` and ``select``, as arguments
    here or as its attributes.

    Attributes:
        model: The wrapped module, without ``torch.compile`` and ``DistributedDataParallel``
            wrappers.
        layout: The layout of its output.
        channels_last: Whether it accepts images in that memory layout.
        select: Which part of its output is taken, where it gives several.

    Args:
        model: Maps images ``[N, C, H, W]`` to features.
        preprocessing: The preparation of its images.
        layout: The axes of its output, such as ``NHWC`` (:mod:`siamkit.model.layout`).
        select: The part of its output to use, if it has several: a key, an index or a function of
            the output.

    Raises:
        PluginError: The forward does not return features, their width depends on the image size,
            or their layout is not clear.
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
        # Measured: num_features is not the width on MobileNetV3, MobileNetV4 and VGG.
        self.layout, self._embedding_dim, self.channels_last = probe(
            self._output,
            self.model,
            preprocessing,
            None if stated is None else check_layout(stated),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the features ``[N, D]`` of ``images [N, C, H, W]``.

        Images are converted to the type of the weights. Features of half precision are converted
        to float32.

        Raises:
            PluginError: The output's shape differs from that of the first forward.
        """
        features = pool(self._output(images), self.layout)
        # When a forward is captured, comparing a size would fix it to the example's size.
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # type: ignore
            self._check(features, images)
        return features.float() if _is_half(features) and not autocasting(features) else features

    def _output(self, images: Tensor) -> Tensor:
        """Return the module's output for ``images``, converted to the type of its weights."""
        dtype = dtype_of(self.model)
        if dtype is not None and images.is_floating_point() and not autocasting(images):
            images = images.to(dtype)
        if not self.channels_last:
            images = images.contiguous()
        return select_from(self.model(images), self.select)

    def _check(self, features: Tensor, images: Tensor) -> None:
        expected = [images.shape[0], self._embedding_dim]
        if list(features.shape) != expected:
            raise PluginError(
                "a backbone must return one feature vector per image, all of one width",
                got=f"shape {list(features.shape)}",
                allowed=f"{expected} for {images.shape[0]} images of {pixels(images.shape[-2:])}",
            )

    @property
    def embedding_dim(self) -> int:
        """The width D of the features, as measured by a forward pass."""
        return self._embedding_dim

    @property
    def preprocessing(self) -> Preprocessing:
        """The preparation of images."""
        return self._preprocessing

    def stages(self, granularity: Literal["stage", "block"] = "stage") -> Sequence[Stage]:
        """Return the discovered stages, or all their blocks in one sequence."""
        if self._stages is None:
            example = blank(self.model, self._preprocessing.channels, self._preprocessing.size)
            self._stages = tuple(_prefixed(s) for s in discover_stages(self.model, example))
        return blocks_of(self._stages) if granularity == "block" else self._stages


def as_backbone(module: Any, context: BackboneContext) -> Backbone:
    """Return the result of a plugin's ``build`` as a backbone; a :class:`Backbone` unchanged.

    The preprocessing is the module's attribute ``preprocessing``, else that of its timm data
    config, else ImageNet's, with the channels and the image size of ``context``.

    Raises:
        PluginError: The result is not a module, or its forward does not return features.
        ConfigError: Its forward fails on images of the requested size.
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
    """Return the preparation of images for ``module``, with the requested channels and size."""
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
            fit=_FITS.get(config.get("crop_mode", ""), "crop"),
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


CROP_MODES: dict[Fit, str] = {"crop": "center", "pad": "border", "squash": "squash"}
"""timm's names of the ways to fit an image."""

_FITS: dict[str, Fit] = {mode: fit for fit, mode in CROP_MODES.items()}


def _to_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Fit per-channel statistics: all channels, or only the additional ones, get the mean."""
    if channels == len(values):
        return values
    mean = fmean(values)
    if channels < len(values):
        return (mean,) * channels
    return values + (mean,) * (channels - len(values))


def _prefixed(stage: Stage) -> Stage:
    """Add :data:`PREFIX` to every name; '' is the wrapped module itself."""
    stage = stage.prefixed(PREFIX)
    bare = PREFIX.removesuffix(".")
    return replace(
        stage,
        modules=tuple(bare if name == PREFIX else name for name in stage.modules),
        output=bare if stage.output == PREFIX else stage.output,
    )


def _stated(module: nn.Module, name: str, kinds: tuple[type, ...]) -> Any:
    """Return a module's attribute about its output; None if it has another type."""
    value = getattr(module, name, None)
    return value if isinstance(value, kinds) or callable(value) else None


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)
