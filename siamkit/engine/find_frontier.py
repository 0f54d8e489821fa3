"""The search for a frontier: the tensors that cross from a frozen prefix to the rest of a network.

The network's own ``forward`` runs on black images while
:class:`~siamkit.engine.dataflow.Dataflow` follows it. This shows the outputs of the frozen modules,
the parts of these outputs that the rest of the network depends on, the tensors that are changed in
place, and whether the code branches on values of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from siamkit.engine.boundary import Boundary
from siamkit.engine.calls import Call, intercepting, targets_of
from siamkit.engine.dataflow import Dataflow, Label
from siamkit.engine.frontier import Frontier, Port
from siamkit.engine.outputs import (
    TRACED,
    Blank,
    Count,
    Given,
    Leaf,
    Repeated,
    Shape,
    Unchanged,
)
from siamkit.engine.recording import (
    IMAGE,
    Recording,
    TracedCalls,
    calls_until,
    copied,
    mark_state,
    state_of,
)
from siamkit.errors import SiamkitError
from siamkit.model.device import layout_of
from siamkit.model.trace import evaluating
from siamkit.model.undisturbed import attributes, undisturbed

_KNOWN = (Tensor, int, float, str, type(None), torch.Size, torch.dtype, torch.device)


def find_frontier(net: nn.Module, boundary: Boundary, images: Tensor, seen: Recording) -> Frontier:
    """Return the frontier of a boundary: the tensors that cross it.

    Args:
        net: The network, with a plan applied.
        boundary: The boundary.
        images: Images ``[N, C, H, W]``; only their shape and type matter.
        seen: The frozen modules' outputs in a forward on another number of images than
            :data:`TRACED`.

    Raises:
        SiamkitError: The network cannot be cut at the boundary; the message says why.
    """
    black = images.new_zeros(TRACED, *images.shape[1:])
    flow = Dataflow()
    record = TracedCalls(boundary.module, flow)
    names = boundary.names
    with undisturbed(net), evaluating(net), torch.enable_grad(), record.watching(net, names), flow:
        mark_state(net, flow)
        flow.mark(black, IMAGE)
        with intercepting(net, targets_of(net, names), record.note):
            result = net(black)
    _require_known(result)
    last = record.last()
    image_written = IMAGE in flow.written
    calls = calls_until(record.calls, last)
    again = calls_until(seen.calls, last)
    if calls.keys() != again.keys():
        raise SiamkitError("which modules the network runs depends on the number of images")
    counts = (TRACED, seen.images)
    outputs = {c: _Output.between(c, value, again[c], counts, flow) for c, value in calls.items()}
    use = _Use(net, boundary, outputs, black)
    for training in (True, False):
        use.run(training)
    return _frontier(last, outputs, use, black, image_written)


@dataclass(frozen=True)
class _Output:
    """The output of a module call.

    Attributes:
        spec: The nesting of the output: tuples, lists and dicts.
        leaves: The template of each value in the output.
        values: The values in the output for :data:`TRACED` images.
        labels: The marked tensors that each value depends on.
    """

    spec: TreeSpec
    leaves: tuple[Leaf, ...]
    values: tuple[Any, ...]
    labels: tuple[frozenset[Label], ...]

    @classmethod
    def between(
        cls, call: Call, traced: Any, other: Any, counts: tuple[int, int], flow: Dataflow
    ) -> _Output:
        values, spec = tree_flatten(traced)
        others, structure = tree_flatten(other)
        if spec != structure:
            raise SiamkitError(f"the structure of {call}'s output depends on the number of images")
        labels = tuple(flow.labels([value]) for value in values)
        try:
            leaves = tuple(
                _leaf(one, two, counts, label)
                for one, two, label in zip(values, others, labels, strict=True)
            )
        except SiamkitError as error:
            raise SiamkitError(f"{call}: {error}") from error
        return cls(spec, leaves, tuple(values), labels)


def _leaf(traced: Any, other: Any, counts: tuple[int, int], labels: frozenset[Label]) -> Leaf:
    if not isinstance(traced, Tensor):
        if isinstance(traced, int) and not isinstance(traced, bool) and (traced, other) == counts:
            return Count()
        if isinstance(traced, int | float | str) and traced != other:
            raise SiamkitError(
                f"it returns {traced} for {counts[0]} images and {other} for {counts[1]}"
            )
        return Unchanged(traced)
    if traced.ndim != other.ndim:
        raise SiamkitError("its number of dimensions depends on the number of images")
    shape = Shape.between(traced.shape, other.shape, counts)
    axis = shape.axis
    if IMAGE not in labels:
        if not any(shape.counts):
            return Unchanged(traced)
        if axis is not None:
            first, second = traced.chunk(TRACED, axis)
            if torch.equal(first, second):
                return Repeated(first, axis)
    return Blank(shape, traced.dtype, traced.device)


class _Use:
    """Finds the outputs before a boundary that the rest of a forward uses.

    Attributes:
        used: The labels of the leaves that are used, and of the image if it is used.
        written: The labels of the leaves and the image that are changed in place.
    """

    def __init__(
        self, net: nn.Module, boundary: Boundary, outputs: Mapping[Call, _Output], image: Tensor
    ) -> None:
        self._net, self._boundary, self._outputs, self._image = net, boundary, outputs, image
        self.used: set[Label] = set()
        self.written: set[Label] = set()

    def run(self, training: bool) -> None:
        """Run the part of the network after the boundary, and record what it uses."""
        flow = Dataflow()
        image = self._image.clone()
        flow.mark(image, IMAGE)
        answers = {}
        for call, output in self._outputs.items():
            values = [copied(value) for value in output.values]
            for at, value in enumerate(values):
                if isinstance(value, Tensor):
                    flow.mark(value, (call, at))
            answers[call] = tree_unflatten(values, output.spec)

        def answer(call: Call, compute: Any) -> Any:
            return answers[call] if call in answers else compute()

        net = self._net
        mode = nullcontext() if training else evaluating(net)
        targets = targets_of(net, self._boundary.names)
        with undisturbed(net), mode, intercepting(net, targets, answer):
            with flow:
                result = net(image)
            kept = [attributes(module) for module in net.modules()]
            self.used |= flow.labels([result, *net.buffers(), *kept])
        self.used |= {label for labels, _ in flow.reads for label in labels}
        self.written |= flow.written


def _frontier(
    last: Call, outputs: Mapping[Call, _Output], use: _Use, image: Tensor, image_written: bool
) -> Frontier:
    ports: list[Port] = []
    buffers: set[str] = set()
    given: dict[Call, tuple[TreeSpec, tuple[Leaf, ...]]] = {}
    shape = Shape((1, *image.shape[1:]), (True, *[False] * (image.ndim - 1)))
    written = IMAGE in use.written
    picture: Leaf = Blank(shape, image.dtype, image.device, written)
    if IMAGE in use.used:
        picture = Given(0)
        ports.append(Port(None, 0, shape, image.dtype, written))
    for call, output in outputs.items():
        leaves: list[Leaf] = []
        for at, leaf in enumerate(output.leaves):
            used, changed = ((call, at) in names for names in (use.used, use.written))
            if used:
                buffers |= {b for label in output.labels[at] if (b := state_of(label, "buffer"))}
            if isinstance(leaf, Blank) and used:
                _require_rows(call, leaf)
                leaves.append(Given(len(ports)))
                layout = layout_of(output.values[at])
                ports.append(Port(call, at, leaf.shape, leaf.dtype, changed, layout))
            elif changed and isinstance(leaf, Blank | Unchanged | Repeated):
                leaves.append(replace(leaf, written=True))
            else:
                leaves.append(leaf)
        given[call] = (output.spec, tuple(leaves))
    if not any(port.call == last for port in ports):
        for leaf in outputs[last].leaves:
            if isinstance(leaf, Unchanged) and not isinstance(leaf.value, _KNOWN):
                kind = type(leaf.value).__name__
                raise SiamkitError(f"it returns a {kind}, whose tensors cannot be found")
        raise SiamkitError("the rest of the network does not use its output")
    return Frontier(tuple(ports), given, picture, frozenset(buffers), image_written)


def _require_rows(call: Call, leaf: Blank) -> None:
    if leaf.shape.axis is None:
        raise SiamkitError(
            f"{call} returns a tensor of shape {list(leaf.shape.of(TRACED))} for {TRACED} "
            "images, which has no separate part for each image"
        )
    if not leaf.dtype.is_floating_point:
        kind = str(leaf.dtype).removeprefix("torch.")
        raise SiamkitError(f"{call} returns {kind} values, which activations cannot hold")


def _require_known(result: Any) -> None:
    for leaf in tree_flatten(result)[0]:
        if not isinstance(leaf, _KNOWN):
            raise SiamkitError(
                f"the network returns a {type(leaf).__name__}, whose tensors cannot be compared"
            )
