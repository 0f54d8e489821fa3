"""The probe: runs a module on test images to find the layout and the width of the output."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError, PluginError, SiamkitError
from siamkit.interfaces import BackboneContext, Preprocessing
from siamkit.model.layout import WAYS, infer_layout, layout_of_layer, pool
from siamkit.model.repeatable import require_repeatable
from siamkit.model.trace import blank, eagerly, evaluating
from siamkit.registry import PYTHON
from siamkit.spelling import setting
from siamkit.words import plural

_Size = tuple[int, int]


def why_it_failed(
    module: nn.Module, preprocessing: Preprocessing, context: BackboneContext, error: Exception
) -> SiamkitError:
    """Return the error for a forward that failed on ``preprocessing``'s images.

    Images with other channels or of type uint8 are tried too, to name the kind that works.
    """
    channels, size = preprocessing.channels, preprocessing.size
    name = context.name.removeprefix(PYTHON)
    reason = f"the forward of backbone {name!r} failed on images {[1, channels, *size]}: {error}"
    weights = next((p for p in module.parameters() if p.ndim == 4), None)
    for other in dict.fromkeys([*([] if weights is None else [weights.shape[1]]), 1, 3, 4]):
        if other != channels and _runs(module, blank(module, other, size)):
            return ConfigError(
                f"{reason}. It accepts images with {plural(other, 'channel')}",
                where="data.in_chans",
                got=channels,
                hint=f"use {setting('data.in_chans', other)}, or build the backbone for "
                "context.in_chans channels",
            )
    if _runs(module, blank(module, channels, size).to(torch.uint8)):
        return PluginError(
            f"{reason}. It accepts images of type uint8",
            hint="make the forward accept floats; with the attribute preprocessing = "
            "siamkit.Preprocessing(mean=(0,) * 3, std=(1 / 255,) * 3), it gets values 0 to 255",
        )
    if context.image_size is not None and not isinstance(error, TypeError):
        return ConfigError(
            reason, where="data.image_size", hint="leave it out to use the backbone's default size"
        )
    return PluginError(reason)


def probe(
    run: Callable[[Tensor], Tensor],
    module: nn.Module,
    preprocessing: Preprocessing,
    layout: str | None,
) -> tuple[str, int, bool]:
    """Return the layout of a module's output, the width D, and whether channels_last is accepted.

    Args:
        run: Runs the module on images ``[1, C, H, W]``, and returns the output tensor.
        module: The module.
        preprocessing: How the module wants images to be prepared.
        layout: The layout that the user states; None to find the layout.

    Raises:
        PluginError: The layout is not clear, the width depends on the image size, or the features
            of an image depend on chance.
    """
    with evaluating(module), eagerly():
        outputs, layers, channels_last = _outputs(run, module, preprocessing)
    if layout is None:
        layout = _layout([(s, tuple(o.shape)) for s, o in outputs], layers)
    output = outputs[0][1]
    if not output.is_floating_point() or output.layout != torch.strided or not output.numel():
        raise PluginError(
            "a backbone's features must be a dense tensor of floating-point numbers, not empty",
            got=f"shape {list(output.shape)}, {output.dtype}, {output.layout}",
        )
    widths = [(s, pool(o, layout).shape[1]) for s, o in outputs]
    if len({width for _, width in widths}) > 1:
        raise PluginError(
            "the width of the backbone's features depends on the image size",
            got=_at_sizes(widths),
            allowed=WAYS,
            hint="average over the positions in the forward, or name the output's axes by layout=",
        )
    return layout, int(widths[0][1]), channels_last


def _outputs(
    run: Callable[[Tensor], Tensor], module: nn.Module, preprocessing: Preprocessing
) -> tuple[list[tuple[_Size, Tensor]], list[nn.Module], bool]:
    """Run a module at several image sizes.

    Returns:
        Each image size that the module accepts, with the output; the modules that returned the
        first output; and whether the module accepts images in channels_last at one of the sizes.
    """
    size, channels = preprocessing.size, preprocessing.channels
    with _noting_makers(module) as makers:
        output = require_repeatable(run, blank(module, channels, size), "features")
    outputs, channels_last = [(size, output)], False
    for other in other_sizes(size):
        image = blank(module, channels, other)
        # Forwards that use view() can fail in channels_last. Trying it here needs no extra forward.
        for layout in (torch.channels_last, torch.contiguous_format):
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs.append((other, run(image.contiguous(memory_format=layout))))
                channels_last |= layout is torch.channels_last
                break
        if len({tuple(o.shape) for _, o in outputs}) > 1 or (output.ndim == 2 and outputs[1:]):
            break
    if len(outputs) == 1:
        channels_last = _runs(
            module, blank(module, channels, size).contiguous(memory_format=torch.channels_last)
        )
    return outputs, makers.get(id(output), []), channels_last


def _layout(shapes: Sequence[tuple[_Size, tuple[int, ...]]], layers: Sequence[nn.Module]) -> str:
    """Return the layout of an output.

    Args:
        shapes: The output's shape at each image size.
        layers: The modules that returned the output. They are used if the shapes are not enough.
    """
    (size, shape), *_ = shapes
    if len(shape) < 2 or shape[0] != 1:
        raise PluginError(
            "a backbone's forward must return features",
            got=f"shape {list(shape)} for 1 image",
            allowed=WAYS,
        )
    layout = infer_layout([s for _, s in shapes], square=size[0] == size[1])
    if layout is None and len({s for _, s in shapes}) == 1:
        layout = next((named for m in layers if (named := layout_of_layer(m, len(shape)))), None)
    if layout is None:
        raise PluginError(
            "it is not clear which axis of the backbone's output holds the channels",
            got=_at_sizes([(size, list(shape)) for size, shape in shapes]),
            allowed=WAYS,
            hint="set the module's attribute layout, or pass layout=",
        )
    return layout


def other_sizes(size: _Size) -> list[_Size]:
    """Return other image sizes to compare: about half the size, and twice the size."""
    half = tuple(max(32, -(-side // 64) * 32) for side in size)
    double = tuple(2 * side for side in size)
    return [s for s in ((half[0], half[1]), (double[0], double[1])) if s != size]


@contextlib.contextmanager
def _noting_makers(module: nn.Module) -> Iterator[dict[int, list[nn.Module]]]:
    """Record in the block which modules return each tensor, by the tensor's id."""
    makers: dict[int, list[nn.Module]] = {}
    alive: list[Any] = []  # keeps every tensor alive, so that no id is used twice

    def note(m: nn.Module, _inputs: Any, output: Any) -> None:
        makers.setdefault(id(output), []).append(m)
        alive.append(output)

    handles = [
        m.register_forward_hook(note)
        for m in module.modules()
        if not isinstance(m, torch.jit.ScriptModule)
    ]
    try:
        yield makers
    finally:
        for handle in handles:
            handle.remove()


def _runs(module: nn.Module, images: Tensor) -> bool:
    try:
        with evaluating(module), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module(images)
    except Exception:  # the module's own code
        return False
    return True


def _at_sizes(values: Sequence[tuple[Sequence[int], Any]]) -> str:
    return ", ".join(f"{value} at {pixels(size)}" for size, value in values)


def pixels(size: Sequence[int]) -> str:
    """Return an image size as text, such as ``224 px`` or ``224x160 px``."""
    high, wide = size
    return f"{high} px" if high == wide else f"{high}x{wide} px"
