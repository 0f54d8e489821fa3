"""The wrapped backbone: any ``nn.Module`` with features ``[N, D]``, stages and preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    """A wrapper around a module that is not a :class:`Backbone`.

    The module's forward returns features ``[N, D]``, or a tensor with more axes. Such a tensor is
    averaged over all axes except the images and the channels. Forwards at several image sizes show
    which axis holds the channels: its length does not depend on the image size. If this is not
    clear, the layout must be stated, as an argument or as an attribute ``layout`` of the module. If
    the forward returns several tensors, the one to use must be stated as an argument or an
    attribute ``select``.

    Attributes:
        model: The wrapped module, without ``torch.compile`` and ``DistributedDataParallel``
            wrappers.
        layout: The layout of the module's output.
        channels_last: Whether the module accepts images in the memory layout channels_last.
        select: Which part of the module's output is used; None if the output is one tensor.

    Args:
        model: A module that maps images ``[N, C, H, W]`` to features.
        preprocessing: How the module wants images to be prepared.
        layout: The axes of the module's output, such as ``NHWC`` (:mod:`siamkit.model.layout`).
            None to use the module's attribute ``layout``, or to find the axes if it has none.
        select: The part of the module's output to use, if there are several: a key, an index or a
            function of the output. None to use the module's attribute ``select``, if it has one.

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
            select if select is not None else _stated(model, "select", (str, int, Callable))
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
        """Return the features ``[N, D]`` of images ``[N, C, H, W]``.

        Images are converted to the type of the weights. Features of half precision are converted
        to float32. Neither is converted under autocast.

        Raises:
            PluginError: The output's shape differs from that of the first forward.
        """
        features = pool(self._output(images), self.layout)
        # When a forward is captured, comparing a size would fix it to the example's size.
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # type: ignore
            self._check(features, images)
        return features.float() if _is_half(features) and not autocasting(features) else features

    def _output(self, images: Tensor) -> Tensor:
        """Return the module's output for ``images`` in the type of the module's weights."""
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
        """How the wrapped module wants images to be prepared."""
        return self._preprocessing

    def stages(self, granularity: Literal["stage", "block"] = "stage") -> Sequence[Stage]:
        """Return the discovered stages, or the blocks of all stages in one sequence."""
        if self._stages is None:
            example = blank(self.model, self._preprocessing.channels, self._preprocessing.size)
            self._stages = tuple(_prefixed(s) for s in discover_stages(self.model, example))
        return blocks_of(self._stages) if granularity == "block" else self._stages


def as_backbone(module: Any, context: BackboneContext) -> Backbone:
    """Return the result of a plugin's ``build`` as a backbone; a :class:`Backbone` unchanged.

    The preprocessing is that of :func:`preprocessing_of`.

    Raises:
        PluginError: The result is not a module, or the module's forward does not return features.
        ConfigError: The module's forward fails on images of the requested size or channels.
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
    """Return the preprocessing for ``module``, with the channels and image size of ``context``.

    It is based on the module's attribute ``preprocessing``; without one, on the module's timm data
    config; without both, on ImageNet's statistics.
    """
    own = _stated(module, "preprocessing", (Preprocessing,))
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
    """Fit statistics to another number of channels, by their mean over channels.

    With fewer channels than ``values``, every channel gets the mean. With more, the additional
    channels get it.
    """
    if channels == len(values):
        return values
    mean = fmean(values)
    if channels < len(values):
        return (mean,) * channels
    return values + (mean,) * (channels - len(values))


def _prefixed(stage: Stage) -> Stage:
    """Add :data:`PREFIX` to every name in ``stage``. The name '' is the wrapped module itself."""
    stage = stage.prefixed(PREFIX)
    bare = PREFIX.removesuffix(".")
    return replace(
        stage,
        modules=tuple(bare if name == PREFIX else name for name in stage.modules),
        output=bare if stage.output == PREFIX else stage.output,
    )


def _stated(module: nn.Module, name: str, kinds: tuple[Any, ...]) -> Any:
    """Return the attribute ``name`` of a module; None if it has another meaning in this module.

    Raises:
        PluginError: It is a list or a mapping, which can only be meant for siamkit.
    """
    value = getattr(module, name, None)
    if isinstance(value, list | tuple | Mapping):
        allowed = {"layout": "a text such as 'NCHW'", "select": "a key, an index or a function",
                   "preprocessing": "a siamkit.Preprocessing"}  # fmt: skip
        raise PluginError(
            f"the attribute {name} has the wrong type",
            where=type(module).__name__, got=value, allowed=allowed[name],
        )  # fmt: skip
    return value if isinstance(value, kinds) and not isinstance(value, nn.Module) else None


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)
