"""The stage reader: runs a backbone, and returns the pooled outputs of several of its stages.

Early stages keep shapes, strokes and colours that the last stage has thrown away, so a head that
reads several stages often separates new classes better (Head2Toe, Evci et al. 2022).

The output of a stage is pooled by a module of its own, at once, while the backbone's forward goes
on. So the engine sees the pool as one more frozen module of the stage: where it cuts the network
after that stage, only the pooled vector crosses the cut, not the feature map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.interfaces import Backbone, Stage
from siamkit.model.layout import infer_layout, pool
from siamkit.model.names import submodule
from siamkit.model.probe import other_sizes
from siamkit.model.trace import blank, eagerly, evaluating
from siamkit.model.unit import unit
from siamkit.spelling import setting

READER = "reader"
"""The name of the reader in a network."""

_LOCKS: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
"""A lock per backbone: only one thread at a time may follow a backbone's forward."""


class UnreadStageError(ConfigError):
    """A stage that the head reads did not run in a forward.

    Args:
        stage: The name of the module that gives the stage's output.
    """

    def __init__(self, stage: str) -> None:
        super().__init__(
            f"the head reads the output of {stage!r}, which did not run in this forward: the "
            "backbone skips it for some batches, or in one of the modes train and eval",
            hint=f"use another head, such as {setting('head.name', 'residual')}",
        )
        self.stage = stage


class Pool(nn.Module):
    """Averages a stage's output over its positions, and L2-normalises the means.

    Args:
        layout: The axes of the output, such as ``NHWC`` (:mod:`siamkit.model.layout`).
    """

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, output: Tensor) -> Tensor:
        """Return the L2-normalised means ``[N, C]`` of a stage's output."""
        return unit(pool(output, self.layout).float())

    def extra_repr(self) -> str:
        """Return the layout, for the module's repr."""
        return self.layout


class StageReader(nn.Module):
    """Maps images ``[N, C, H, W]`` to the pooled outputs of a backbone's last stages ``[N, D]``.

    Each stage's part is L2-normalised. The parts lie side by side, the earliest stage first. The
    part of the last stage is the backbone's own features.

    Attributes:
        width: The width D of all parts together.

    Args:
        backbone: The backbone. The network that holds the reader owns it.
        outputs: Names of the modules whose outputs are read besides the features, in execution
            order; see :func:`outputs_of`.

    Raises:
        ConfigError: The output of a stage cannot be read.
    """

    def __init__(self, backbone: Backbone, outputs: Sequence[str]) -> None:
        super().__init__()
        # In a tuple, because the network's own name for it is ``backbone``.
        self._backbone = (backbone,)
        self._outputs = tuple(outputs)
        layouts, widths = _measured(backbone, self._outputs)
        self.pools = nn.ModuleList(Pool(layout) for layout in layouts)
        self.width = sum(widths) + backbone.embedding_dim

    def forward(self, images: Tensor) -> Tensor:
        """Return the parts of all stages ``[N, D]``, side by side.

        Raises:
            UnreadStageError: The backbone skipped one of the stages.
        """
        (backbone,) = self._backbone
        parts: dict[str, Tensor] = {}

        def note(name: str, output: Any) -> None:
            parts[name] = self.pools[self._outputs.index(name)](output)

        with _following(backbone, self._outputs, note):
            features = backbone(images)
        for name in self._outputs:
            if name not in parts:
                raise UnreadStageError(name)
        return torch.cat([*(parts[name] for name in self._outputs), unit(features.float())], 1)

    def own(self, read: Tensor) -> Tensor:
        """Return the backbone's part ``[N, D]`` of what the reader returned."""
        (backbone,) = self._backbone
        return read[:, -backbone.embedding_dim :]

    def stages(self, stages: Sequence[Stage]) -> tuple[Stage, ...]:
        """Return a network's stages of the backbone, with the reader's modules in them.

        Each pool belongs to the stage that it reads. The output of the last stage is the reader's.

        Args:
            stages: The stages of the backbone, with names as in the network.
        """
        pools = {f"backbone.{n}": f"{READER}.pools.{i}" for i, n in enumerate(self._outputs)}
        *before, last = stages
        held = [_adding(s, pools[s.output]) if s.output in pools else s for s in before]
        return (*held, _ending(_adding(last, READER), READER))


def outputs_of(backbone: Backbone, stages: int) -> tuple[str, ...]:
    """Return the modules that give the outputs of a backbone's last stages, without the last one.

    Args:
        backbone: The backbone.
        stages: The number of stages, counted from the last.

    Raises:
        ConfigError: The backbone has fewer stages or none, or no module gives the output of one.
    """
    if not backbone.stages():
        raise ConfigError(
            "the backbone has no parameters, and so no stages that a head could read",
            where="backbone",
        )
    before = [*backbone.stages()][:-1]
    if stages - 1 > len(before):
        raise ConfigError(
            "the backbone has fewer stages", where="head.stages", got=stages,
            allowed=f"1 to {len(before) + 1}",
        )  # fmt: skip
    wanted = before[len(before) - stages + 1 :]
    unknown = [stage.name for stage in wanted if stage.output is None]
    if unknown:
        raise ConfigError(
            f"stage {unknown[-1]!r} of this backbone has no module whose output can be read",
            hint=f"read fewer stages ({setting('head.stages', 1)}), or use another head",
        )
    return tuple(str(stage.output) for stage in wanted)


def stage_outputs(
    backbone: nn.Module, outputs: Sequence[str], images: Tensor
) -> tuple[Tensor, ...]:
    """Return the outputs of some modules of a backbone, not pooled, and after them its features.

    Args:
        backbone: The backbone.
        outputs: Names of the modules; see :func:`outputs_of`.
        images: ``[N, C, H, W]``.
    """
    found: dict[str, Tensor] = {}
    with _following(backbone, outputs, found.__setitem__):
        features: Tensor = backbone(images)
    return (*(found[name] for name in outputs), features)


def _measured(backbone: Backbone, outputs: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the layout and the width of each stage's output."""
    images = backbone.preprocessing

    def run(size: tuple[int, int], count: int) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}

        def note(name: str, output: Any) -> None:
            if isinstance(output, Tensor):
                found[name] = tuple(output.shape)

        with evaluating(backbone), eagerly(), _following(backbone, outputs, note):
            backbone(blank(backbone, images.channels, size).repeat(count, 1, 1, 1))
        return found

    runs = [run(images.size, 1)]
    for size in (*other_sizes(images.size), images.size):
        try:
            runs.append(run(size, 2))  # two images tell which axis is theirs
        except Exception:  # some backbones accept images of one size only
            continue
        break
    shapes = {name: [found[name] for found in runs if name in found] for name in outputs}
    square = images.size[0] == images.size[1]
    layouts = [_layout(name, shapes[name], square, backbone.embedding_dim) for name in outputs]
    widths = [shapes[name][0][of.index("C")] for name, of in zip(outputs, layouts, strict=True)]
    return layouts, widths


def _layout(name: str, shapes: list[tuple[int, ...]], square: bool, width: int) -> str:
    """Return the layout of a stage's output. A sequence of tokens may be as wide as the features.

    Raises:
        ConfigError: The output is no tensor, or it is not clear which axis holds the channels.
    """
    axis = _images_axis(shapes)
    layout = None if axis is None else _layout_without(axis, shapes, square, width)
    if layout is None:
        raise ConfigError(
            f"the output of {name!r} cannot be pooled: it must be one tensor, with the images on "
            "one axis, and the channels on an axis that does not depend on the image size",
            got=f"shape {list(shapes[0])}" if shapes else "no tensor",
            hint=f"read fewer stages ({setting('head.stages', 1)}), or use another head",
        )
    return layout


def _images_axis(shapes: list[tuple[int, ...]]) -> int | None:
    """Return the axis that holds the images, given the shapes for one image and for two.

    It is the second one in transformers whose tokens come first. There is none in an output that
    does not depend on the images, or that holds several windows of each image on the same axis.
    """
    if len(shapes) != 2 or len(shapes[0]) != len(shapes[1]):
        return None
    pairs = list(zip(*shapes, strict=True))
    return pairs.index((1, 2)) if (1, 2) in pairs else None


def _layout_without(
    axis: int, shapes: list[tuple[int, ...]], square: bool, width: int
) -> str | None:
    """Return the layout of an output with the images on an axis; None if that is not clear."""
    first, other = ([1, *shape[:axis], *shape[axis + 1 :]] for shape in shapes)
    layout = infer_layout([first, other], square=square)
    if layout is None and len(first) == 3 and first.count(width) == 1:
        layout = "NLC" if first[2] == width else "NCL"
    if layout is None or axis == 0:
        return layout
    return f"{layout[1 : axis + 1]}N{layout[axis + 1 :]}"


@contextmanager
def _following(backbone: nn.Module, names: Sequence[str], note: Any) -> Iterator[None]:
    """Within the block, call ``note`` with the name and the output of the named modules.

    The hooks are registered for one forward, so that the modules stay as the plugin made them.
    """

    def hook(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        note(name, output)

    with _LOCKS.setdefault(backbone, RLock()):
        handles = [
            submodule(backbone, name).register_forward_hook(partial(hook, name)) for name in names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _adding(stage: Stage, module: str) -> Stage:
    """Return a stage with one more module, which also belongs to the stage's last block."""
    blocks = (*stage.blocks[:-1], _adding(stage.blocks[-1], module)) if stage.blocks else ()
    return replace(stage, modules=(*stage.modules, module), blocks=blocks)


def _ending(stage: Stage, output: str) -> Stage:
    """Return a stage with another output, which is also that of the stage's last block."""
    blocks = (*stage.blocks[:-1], _ending(stage.blocks[-1], output)) if stage.blocks else ()
    return replace(stage, output=output, blocks=blocks)
