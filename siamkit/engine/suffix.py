"""Running only what comes after a boundary, without surgery on the network.

The network's own ``forward`` runs on one black image, but each module of the prefix returns what it
returned for that image once and for all, and the boundary's module returns the activations that are
given. So no frozen layer is computed, and whatever the forward does in between (class tokens,
position embeddings, reshapes) is done as ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from siamkit.engine.boundary import Boundary
from siamkit.errors import SiamkitError
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import blank, watch


class Suffix:
    """From activations at a boundary to embeddings, with gradients for what trains.

    Args:
        net: The network, with a plan applied that freezes everything before ``boundary``.
        boundary: Where the activations were taken.

    Raises:
        SiamkitError: The boundary's module doesn't run exactly once, or gives no tensor.
    """

    def __init__(self, net: SiameseNet, boundary: Boundary) -> None:
        self.net = net
        self.boundary = boundary
        preprocessing = net.backbone.preprocessing
        self._image = blank(net.backbone, preprocessing.channels, preprocessing.size)
        self._memory: Mapping[str, Any] = {}
        if not boundary.is_features:
            self._memory = _memorise(net, boundary, self._image)

    def __call__(self, activations: Tensor) -> Tensor:
        """Return the embeddings ``[N, E]`` of ``activations [N, ...]``."""
        if self.boundary.is_features:
            return self.net.project(activations)
        count = len(activations)
        answers = {name: _expanded(value, count) for name, value in self._memory.items()}
        with _answering(self.net, {**answers, self.boundary.module: activations}):
            embeddings: Tensor = self.net(_expanded(self._image, count))
            return embeddings


def _memorise(net: SiameseNet, boundary: Boundary, image: Tensor) -> dict[str, Any]:
    """Return the output for ``image`` of each module before the boundary that runs once."""
    outputs: dict[str, Any] = {}
    calls: Counter[str] = Counter()
    before: set[str] = set()

    def note(name: str, output: Any) -> None:
        calls[name] += 1
        outputs[name] = output
        if boundary.module not in calls or name == boundary.module:
            before.add(name)

    # In eval mode: only the prefix decides, and it is held there; a norm layer that trains further
    # down must neither see this image nor be asked for the variance of a single one.
    names = (*boundary.modules, boundary.module)
    watch(net, names, partial(net, image), note)
    if calls[boundary.module] != 1 or not isinstance(outputs[boundary.module], Tensor):
        raise SiamkitError(
            f"{boundary.module!r} runs {calls[boundary.module]} times in a forward"
            if calls[boundary.module] != 1
            else f"{boundary.module!r} gives a {type(outputs[boundary.module]).__name__}, not a "
            "tensor"
        )
    return {name: outputs[name] for name in before if calls[name] == 1}


@contextmanager
def _answering(net: nn.Module, answers: Mapping[str, Any]) -> Iterator[None]:
    """Let each named module answer with a value instead of computing."""
    modules = [(net.get_submodule(name), answer) for name, answer in answers.items()]
    own = [(module, vars(module).get("forward")) for module, _ in modules]
    for module, answer in modules:
        module.forward = partial(_answer, answer)
    try:
        yield
    finally:
        for module, forward in own:
            del module.forward
            if forward is not None:
                module.forward = forward


def _answer(value: Any, *_: Any, **__: Any) -> Any:
    return value


def _expanded(value: Any, count: int) -> Any:
    """Let one image's output stand for ``count`` images; costs no memory."""
    if isinstance(value, Tensor) and value.ndim and len(value) == 1:
        return value.expand(count, *value.shape[1:])
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_expanded(item, count) for item in value)
    return value
