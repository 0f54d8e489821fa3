"""Output layouts: which axis of a module's output is the channels', and the mean over the others.

A layout is a string with a letter for each axis: ``N`` for the images, ``C`` for the channels, and
any others: ``NC``, ``NCHW``, ``NHWC``, ``NLC`` (tokens), ``NCL`` (a sequence of channels), ``LNC``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from siamkit.errors import PluginError, did_you_mean

Select = str | int | Callable[[Any], Any]
"""Which part of an output to take: a key or an attribute, an index, or a function of it."""

WAYS = (
    "one tensor [N, D], or a layout= such as 'NCHW', 'NHWC', 'NLC' or 'NCL', and a select= (a key, "
    "an index or a function) where the forward gives several"
)

_INFERRED = {(3, 1): "NCL", (3, 2): "NLC", (4, 1): "NCHW", (4, 2): "NHCW", (4, 3): "NHWC"}

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm,
)  # fmt: skip
_CHANNELS_LAST = (nn.LayerNorm, nn.RMSNorm)


def check_layout(layout: Any) -> str:
    """Return ``layout`` if it is one.

    Raises:
        PluginError: It is no string, or has not one ``N``, one ``C`` and each other letter once.
    """
    fits = isinstance(layout, str) and layout.isalpha() and {"N", "C"} <= set(layout)
    if not fits or len(set(layout)) != len(layout):
        raise PluginError(
            "a layout is a string with one letter for each axis: N for the images, C for the "
            "channels, any others for what is averaged",
            where="layout",
            got=layout,
            allowed="'NC', 'NCHW', 'NHWC', 'NLC', 'NCL' and the like",
        )
    return str(layout)


def pool(output: Tensor, layout: str) -> Tensor:
    """Return the means ``[N, C]`` of ``output`` over the axes that are neither images nor channels.

    Raises:
        PluginError: The output has another number of axes.
    """
    if output.ndim != len(layout):
        raise PluginError(
            f"the layout has {len(layout)} axes, the output {output.ndim}",
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
        select: A key or an attribute, an index, a function, or None for the only tensor.

    Raises:
        PluginError: There is no such part, or it is no tensor; or there are several and none is
            selected. The message lists them.
    """
    if select is None:
        chosen = output
    elif callable(select):
        chosen = select(output)
    elif isinstance(output, Tensor):
        raise PluginError(
            "the forward gives one tensor, so there is nothing to select by a key or an index",
            where="select",
            got=select,
            of=f"output {list(output.shape)}",
            hint="leave select out, or give a function of the output",
        )
    else:
        chosen = _part(output, select)
    if not isinstance(chosen, Tensor):
        raise PluginError(
            "a backbone's forward must give features",
            got=type(chosen).__name__,
            allowed=WAYS if select is None else "a select= that leads to one tensor",
            hint=f"it has {_listed(chosen)}" if _parts(chosen) else None,
        )
    return chosen


def infer_layout(shapes: Sequence[Sequence[int]], *, square: bool) -> str | None:
    """Return the layout of an output by its shapes at several image sizes, or None. Pure.

    The channels' axis is the one whose length never changes. Where nothing changes (a fixed grid,
    or one size alone) it is the only axis longer than one, or the odd one beside a square grid.

    Args:
        shapes: A shape for each size, the first one that of the size that will be used.
        square: Whether the first image is as high as it is wide.
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
    """Return the layout that a layer of torch gives its output, where it decides the channels.

    A convolution, batch norm or group norm has them second, a layer norm over one axis last.
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
