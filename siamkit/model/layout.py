"""Output layouts: name the axes of a module's output, so that it can be pooled to features.

A layout is a string with one letter per axis: ``N`` for the images, ``C`` for the channels, and any
other letters for the rest. Examples are ``NC``, ``NCHW``, ``NHWC``, ``NLC`` (tokens), ``NCL`` (a
sequence of channels) and ``LNC``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from siamkit.errors import PluginError, did_you_mean

Select = str | int | Callable[[Any], Any]
"""The part of an output to use: a key or an attribute, an index, or a function of the output."""

WAYS = (
    "one tensor [N, D]; or a layout= such as 'NCHW', 'NHWC', 'NLC' or 'NCL'; and a select= (a key, "
    "an index or a function) if the forward returns several tensors"
)
"""The outputs that a backbone may have, for messages."""

_INFERRED = {(3, 1): "NCL", (3, 2): "NLC", (4, 1): "NCHW", (4, 2): "NHCW", (4, 3): "NHWC"}

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm,
)  # fmt: skip
_CHANNELS_LAST = (nn.LayerNorm, nn.RMSNorm)


def check_layout(layout: Any) -> str:
    """Return a layout after checking it.

    Raises:
        PluginError: The layout is not a string of different letters that include ``N`` and ``C``.
    """
    fits = isinstance(layout, str) and layout.isalpha() and {"N", "C"} <= set(layout)
    if not fits or len(set(layout)) != len(layout):
        raise PluginError(
            "a layout must be a string with one letter per axis: N for the images, C for the "
            "channels, any other letters for axes that are averaged",
            where="layout",
            got=layout,
            allowed="'NC', 'NCHW', 'NHWC', 'NLC', 'NCL' and the like",
        )
    return str(layout)


def pool(output: Tensor, layout: str) -> Tensor:
    """Return the means ``[N, C]`` of ``output`` over all axes except the images and the channels.

    Raises:
        PluginError: The output has another number of axes than the layout.
    """
    if output.ndim != len(layout):
        raise PluginError(
            f"the layout has {len(layout)} axes, but the output has {output.ndim}",
            where="layout",
            got=layout,
            of=f"output {list(output.shape)}",
        )
    averaged = tuple(axis for axis, letter in enumerate(layout) if letter not in "NC")
    features = output.mean(dim=averaged) if averaged else output
    return features if layout.index("N") < layout.index("C") else features.T


def select_from(output: Any, select: Select | None) -> Tensor:
    """Return the tensor of a forward's output that ``select`` names.

    Args:
        output: A tensor, mapping, sequence, dataclass or ``ModelOutput`` of transformers.
        select: A key, an attribute, an index or a function of the output; None if the output is
            one tensor.

    Raises:
        PluginError: The output has no such part, the part is not a tensor, or the output has parts
            and none is selected. The message lists the parts.
    """
    if select is None:
        chosen = output
    elif callable(select):
        chosen = select(output)
    elif isinstance(output, Tensor):
        raise PluginError(
            "the forward returns one tensor, which has no parts to select by a key or an index",
            where="select",
            got=select,
            of=f"output {list(output.shape)}",
            hint="leave select out, or pass a function of the output",
        )
    else:
        chosen = _part(output, select)
    if not isinstance(chosen, Tensor):
        raise PluginError(
            "a backbone's forward must return features",
            got=type(chosen).__name__,
            allowed=WAYS if select is None else "a select= that returns one tensor",
            hint=f"the output has the parts {_listed(chosen)}" if _parts(chosen) else None,
        )
    return chosen


def infer_layout(shapes: Sequence[Sequence[int]], *, square: bool) -> str | None:
    """Return the layout of an output, given its shapes at several image sizes.

    The channels' axis is the one whose length does not depend on the image size. If no length does
    (a fixed grid, or only one size), the channels' axis is the only axis longer than one, or the
    axis beside a square grid.

    Args:
        shapes: The output's shape at each image size. The first is for the size that will be used.
        square: Whether the first image is square.

    Returns:
        The layout; None if it is not clear which axis holds the channels.
    """
    first = tuple(shapes[0])
    axes = range(1, len(first))
    if len(first) == 2:
        return "NC"
    if len(first) not in (3, 4) or any(len(shape) != len(first) for shape in shapes):
        return None
    fixed = [a for a in axes if all(shape[a] == first[a] for shape in shapes)]
    if len(fixed) == len(axes):
        fixed = [a for a in axes if first[a] > 1] or [1]
        if square and len(first) == 4 and len(fixed) > 1:
            high, middle, last = first[1:]
            odd = [1] if middle == last != high else [3] if high == middle != last else []
            fixed = odd or fixed
    return _INFERRED[len(first), fixed[0]] if len(fixed) == 1 else None


def layout_of_layer(layer: nn.Module, ndim: int) -> str | None:
    """Return the layout of the output of a torch layer, or None if the layer does not define it.

    In the output of a convolution, batch norm or group norm, the channels are the second axis. In
    the output of a layer norm over one axis, they are the last axis.
    """
    if isinstance(layer, _CHANNELS_LAST) and len(layer.normalized_shape) == 1:
        return _INFERRED.get((ndim, ndim - 1))
    return _INFERRED.get((ndim, 1)) if isinstance(layer, _CHANNELS_FIRST) else None


def _part(output: Any, select: Any) -> Any:
    parts = _parts(output)
    if isinstance(select, int) and not isinstance(select, bool):
        try:
            return output[select]
        except (IndexError, KeyError, TypeError):
            pass
    elif select in parts:
        return parts[select]
    raise PluginError(
        f"the output, a {type(output).__name__}, has no such part",
        where="select",
        got=select,
        allowed=_listed(output),
        hint=did_you_mean(str(select), map(str, parts)) or None,
    )


def _parts(output: Any) -> dict[Any, Any]:
    if isinstance(output, Mapping):
        return dict(output)
    if dataclasses.is_dataclass(output):
        return {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    if hasattr(output, "_asdict"):  # a named tuple
        return dict(output._asdict())
    if isinstance(output, Sequence) and not isinstance(output, str):
        return dict(enumerate(output))
    return {}


def _listed(output: Any) -> str:
    return ", ".join(
        f"{key!r} ({list(v.shape) if isinstance(v, Tensor) else type(v).__name__})"
        for key, v in _parts(output).items()
    )
