"""The frontier: the tensors that cross a boundary, found by following one forward.

The network's own ``forward`` runs on black images while :class:`Dataflow` follows it. This shows
the output of each frozen module, the parts of it that the rest of the network depends on, the
tensors that are changed in place, and whether the code branches on values of the images. At most
boundaries, one tensor crosses. Several cross if branches, skip connections or tuples bypass the
last frozen module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from siamkit.engine.boundary import Boundary
from siamkit.engine.calls import Call, intercepting, targets_of
from siamkit.engine.dataflow import Dataflow, Label
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
from siamkit.errors import SiamkitError
from siamkit.model.device import layout_of
from siamkit.model.names import named_modules, named_parameters
from siamkit.model.trace import evaluating
from siamkit.model.undisturbed import attributes, undisturbed

_IMAGE = "image"
_KNOWN = (Tensor, int, float, str, type(None), torch.Size, torch.dtype, torch.device)


@dataclass(frozen=True)
class Port:
    """A tensor that crosses the boundary.

    Attributes:
        call: The call that returns it; None for the images themselves.
        leaf: Its position in the call's output.
        shape: Its shape.
        dtype: Its type.
        written: Whether later operations change it in place.
        layout: Its memory layout. Dropout draws values in the order of the memory.
    """

    call: Call | None
    leaf: int
    shape: Shape
    dtype: torch.dtype
    written: bool
    layout: torch.memory_format = torch.contiguous_format


@dataclass(frozen=True)
class Frontier:
    """The tensors that cross a boundary, and templates of all outputs before it.

    Attributes:
        ports: The tensors that activations hold, in execution order.
        outputs: The template of the output of each call before the boundary.
        image: The template of the network's input.
        buffers: Names of the buffers that the ports depend on.
        image_written: Whether code before the boundary changes the images in place.
    """

    ports: tuple[Port, ...]
    outputs: Mapping[Call, tuple[TreeSpec, tuple[Leaf, ...]]]
    image: Leaf
    buffers: frozenset[str]
    image_written: bool

    @property
    def is_plain(self) -> bool:
        """Whether the activations are the only tensor that crosses, unchanged."""
        return len(self.ports) == 1 and self.ports[0].shape.is_plain

    @property
    def last(self) -> Call | None:
        """The last call that must be computed."""
        return next((p.call for p in reversed(self.ports) if p.call is not None), None)

    def pack(self, tensors: Mapping[int, Tensor]) -> Tensor:
        """Return the tensors of the ports as activations ``[N, ...]``, in one tensor."""
        if self.is_plain:
            return tensors[0]
        rows = [port.shape.rows(tensors[at]) for at, port in enumerate(self.ports)]
        return torch.cat(rows, 1) if len(rows) > 1 else rows[0]

    def unpack(self, activations: Tensor) -> dict[int, Tensor]:
        """Undo :meth:`pack`. Tensors that are changed in place are copies."""
        if self.is_plain:
            parts = [activations]
        else:
            rows = activations.split([port.shape.values for port in self.ports], 1)
            parts = [p.shape.unrow(r) for p, r in zip(self.ports, rows, strict=True)]
        result = {}
        for at, (port, part) in enumerate(zip(self.ports, parts, strict=True)):
            cast = part.to(port.dtype)
            if cast.ndim == 4:
                cast = cast.contiguous(memory_format=port.layout)
            shared = cast.untyped_storage().data_ptr() == activations.untyped_storage().data_ptr()
            result[at] = cast.clone() if port.written and shared else cast
        return result

    def describe(self) -> str:
        """Return the content of a row of activations as text."""
        return ", ".join(
            f"{port.call or 'the images'} {list(port.shape.of(1))}" for port in self.ports
        )


@dataclass(frozen=True)
class Recording:
    """The outputs of a network's frozen modules in an ordinary forward.

    Attributes:
        images: The number of images.
        calls: The output of each call, in execution order.
    """

    images: int
    calls: dict[Call, Any] = field(default_factory=dict)

    def forward(self, net: nn.Module, names: Sequence[str], images: Tensor) -> Any:
        """Return the network's output for images, and record the named modules' outputs."""

        def note(call: Call, compute: Any) -> Any:
            output = compute()
            leaves = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
            if not any(leaf.requires_grad for leaf in leaves):
                self.calls[call] = tree_map_only(Tensor, Tensor.detach, output)
            return output

        with intercepting(net, targets_of(net, names), note):
            return net(images)


def find_frontier(net: nn.Module, boundary: Boundary, images: Tensor, seen: Recording) -> Frontier:
    """Return the frontier of a boundary.

    Args:
        net: The network, with a plan applied.
        boundary: The boundary.
        images: Images ``[N, C, H, W]``; only their shape and type matter.
        seen: A forward with another number of images than :data:`TRACED`.

    Raises:
        SiamkitError: The network cannot be cut there; the message says why.
    """
    black = images.new_zeros(TRACED, *images.shape[1:])
    flow = Dataflow()
    record = _Record(boundary.module, flow)
    names = boundary.names
    with undisturbed(net), evaluating(net), torch.enable_grad(), record.watching(net, names), flow:
        _mark_state(net, flow)
        flow.mark(black, _IMAGE)
        with intercepting(net, targets_of(net, names), record.note):
            result = net(black)
    _require_known(result)
    last = record.last()
    image_written = _IMAGE in flow.written
    calls = _before(record.calls, last)
    again = _before(seen.calls, last)
    if calls.keys() != again.keys():
        raise SiamkitError("the set of modules that run depends on the number of images")
    counts = (TRACED, seen.images)
    outputs = {c: _Output.between(c, value, again[c], counts, flow) for c, value in calls.items()}
    use = _Use(net, boundary, outputs, black)
    for training in (True, False):
        use.run(training)
    return _frontier(last, outputs, use, black, image_written)


def _before(calls: Mapping[Call, Any], last: Call) -> dict[Call, Any]:
    """Return the calls up to the last one; none if it did not run."""
    names = list(calls)
    return {call: calls[call] for call in names[: names.index(last) + 1]} if last in calls else {}


@dataclass
class _Record:
    """The calls of the modules before a boundary, in execution order.

    Attributes:
        module: The boundary's module.
        flow: Follows the forward.
        calls: The output of each call that does not depend on a parameter that trains.
        trained: Whether a module that trains has started.
        ends: The calls at which the prefix may end, each with the number of values read before.
        reason: The reason why the prefix cannot end at this boundary.
    """

    module: str
    flow: Dataflow
    calls: dict[Call, Any] = field(default_factory=dict)
    trained: bool = False
    ends: list[tuple[Call, int]] = field(default_factory=list)
    reason: str = "it does not run in a forward"

    def note(self, call: Call, compute: Any) -> Any:
        output = compute()
        leaves = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
        labels = self.flow.labels(leaves)
        trains = sorted(name for label in labels if (name := _state(label, "parameter")))
        if self.trained:
            self.reason = "it runs after a module that trains"
        elif trains or any(leaf.requires_grad for leaf in leaves):
            named = (
                f" ({', '.join(trains[:3])})" if trains else ", or the forward asks for gradients"
            )
            self.reason = f"its output depends on parameters that train{named}"
        else:
            self.calls[call] = _copied(output)
            if call.module == self.module:
                self.ends.append((call, len(self.flow.reads)))
        return output

    @contextmanager
    def watching(self, net: nn.Module, names: Sequence[str]) -> Iterator[None]:
        """Notice when the first module that trains starts.

        Modules around those of the prefix start before them and do not count. Labels follow their
        own parameters, such as class tokens.
        """

        def start(*_: Any) -> None:
            self.trained = True

        handles = [
            m.register_forward_pre_hook(start)
            for name, m in named_modules(net)
            if any(p.requires_grad for p in m.parameters(recurse=False))
            and not any(n.startswith(f"{name}.") for n in names)
            and name
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def last(self) -> Call:
        """Return the boundary's last call.

        Raises:
            SiamkitError: There is none, or the code before it branches on values of the images.
        """
        if not self.ends:
            raise SiamkitError(self.reason)
        last, reads = self.ends[-1]
        for labels, place in self.flow.reads[:reads]:
            if _IMAGE in labels:
                raise SiamkitError(f"the forward branches on values of its images ({place})")
        return last


@dataclass(frozen=True)
class _Output:
    """The output of a call: its structure, its leaves, and their values for two images."""

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
    if _IMAGE not in labels:
        if not any(shape.counts):
            return Unchanged(traced)
        if axis is not None:
            first, second = traced.chunk(TRACED, axis)
            if torch.equal(first, second):
                return Repeated(first, axis)
    return Blank(shape, traced.dtype, traced.device)


class _Use:
    """The outputs before a boundary that the rest of a forward uses.

    Attributes:
        used: The used leaves of calls, and the image if it is used.
        written: Those that are changed in place.
    """

    def __init__(
        self, net: nn.Module, boundary: Boundary, outputs: Mapping[Call, _Output], image: Tensor
    ) -> None:
        self._net, self._boundary, self._outputs, self._image = net, boundary, outputs, image
        self.used: set[Label] = set()
        self.written: set[Label] = set()

    def run(self, training: bool) -> None:
        """Run the part of the network after the boundary."""
        flow = Dataflow()
        image = self._image.clone()
        flow.mark(image, _IMAGE)
        answers = {}
        for call, output in self._outputs.items():
            values = [_copied(value) for value in output.values]
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
    written = _IMAGE in use.written
    picture: Leaf = Blank(shape, image.dtype, image.device, written)
    if _IMAGE in use.used:
        picture = Given(0)
        ports.append(Port(None, 0, shape, image.dtype, written))
    for call, output in outputs.items():
        leaves: list[Leaf] = []
        for at, leaf in enumerate(output.leaves):
            used, changed = ((call, at) in names for names in (use.used, use.written))
            if used:
                buffers |= {b for label in output.labels[at] if (b := _state(label, "buffer"))}
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


def _mark_state(net: nn.Module, flow: Dataflow) -> None:
    for name, parameter in named_parameters(net):
        if parameter.requires_grad:
            flow.mark(parameter, ("parameter", name))
    for name, buffer in net.named_buffers():
        flow.mark(buffer, ("buffer", name))


def _state(label: Label, kind: str) -> str | None:
    return label[1] if isinstance(label, tuple) and label[0] == kind else None


_copied = partial(tree_map_only, Tensor, lambda tensor: tensor.detach().clone())
