"""Peak memory: predicts the most memory that an optimizer step needs.

The network runs on tensors without data (torch's fake tensors), so a batch of any size takes
seconds. A forward that reads values has no such form. It runs on few images instead, and the rest
is extrapolated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from siamkit.freezing.allocations import NOTHING, Allocations, Bytes
from siamkit.freezing.memory import Memory, kept_by_libraries
from siamkit.model.undisturbed import undisturbed

_FEW = 8
"""The number of images of the smaller trial with data. With fewer, gradients and not activations
may be the peak, which then grows less."""


@dataclass(frozen=True)
class Forward:
    """The forward pass of a step.

    Attributes:
        run: Maps the inputs of a pass to embeddings ``[N, E]``: a network, or a part of it.
        example: The inputs ``[1, ...]`` of one image.
        before: Runs on the images of each pass, without gradients, and gives the inputs; None if
            the inputs are loaded as they are.
        image: The image ``[1, C, H, W]`` that ``before`` takes.
    """

    run: Callable[[Tensor], Any]
    example: Tensor
    before: Callable[[Tensor], Any] | None = None
    image: Tensor | None = None


@dataclass(frozen=True)
class Passes:
    """The forward passes of a step.

    Attributes:
        images: The number of images in the largest pass. Each view of an image counts.
        count: The number of passes whose embeddings one loss compares.
        losses: The number of losses in the step, whose gradients add up.
    """

    images: int
    count: int = 1
    losses: int = 1


@dataclass(frozen=True)
class Costs:
    """The memory that a step needs outside of the network.

    Attributes:
        loss: The peak of the loss and its backward pass.
        loss_weights: The parameters and buffers of the loss.
        loss_gradients: The gradients of the loss's own parameters.
        state: The optimizer's state.
        update: The temporary tensors of the optimizer's update.
    """

    loss: Bytes = NOTHING
    loss_weights: Bytes = NOTHING
    loss_gradients: Bytes = NOTHING
    state: Bytes = NOTHING
    update: Bytes = NOTHING


def memory_of_step(
    net: nn.Module,
    forward: Forward,
    passes: Passes,
    costs: Costs,
    computing: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Memory:
    """Return the memory at the peak of an optimizer step.

    Args:
        net: The network whose parameters and buffers ``forward`` uses, with a plan applied.
        forward: The forward pass.
        passes: The passes of the step.
        costs: The costs of the loss and of the update.
        computing: Returns the context to compute in, such as autocast.
    """

    def trial(images: int, fake: bool) -> tuple[Bytes, Bytes]:
        # A batch norm in training mode refuses a single image, whose memory is not asked for then.
        tried = replace(passes, images=max(images, 2))
        return _trial(_Step(net, forward, computing), tried, costs, fake)

    try:
        gradients, others = trial(passes.images, True)
    except Exception:  # an operation that needs values, or that has no fake form
        few, more = trial(min(_FEW, passes.images), False), trial(2 * _FEW, False)
        steps = max(passes.images - _FEW, 0) / _FEW
        gradients, others = (a + (b - a) * steps for a, b in zip(few, more, strict=True))
    weights = Bytes.of(*net.parameters(), *net.buffers()) + costs.loss_weights
    return Memory(
        weights=weights.total,
        gradients=gradients.total,
        optimizer=costs.state.total,
        activations=others.total,
        libraries=kept_by_libraries(costs.state, gradients + others, forward.example.device),
    )


def memory_of_loss(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> Bytes:
    """Return the peak memory of a loss and its backward pass.

    The loss runs once, and is as before afterwards. Most losses choose pairs by value, so they have
    no form without data.

    Args:
        loss: The loss.
        embeddings: Embeddings ``[N, E]``.
        labels: Their labels ``[N]``.
    """
    leaf = embeddings.detach().requires_grad_()
    with undisturbed(loss), Allocations() as made:
        loss(leaf, labels).backward()
    peak: Bytes = made.peak
    return peak


def _trial(step: _Step, passes: Passes, costs: Costs, fake: bool) -> tuple[Bytes, Bytes]:
    """Return the memory of gradients and of all other tensors at the peak of a step."""
    with undisturbed(step.net), _prepared(step, fake) as (run, parameters):
        with Allocations() as made, made.watching(parameters):
            run(passes, costs, made)
    return made.gradients_at_peak, made.peak - made.gradients_at_peak


class _Step(nn.Module):
    """The passes of a step, as the stepper carries them out, and its update.

    Passes of the same kind need the same memory, so only one of each kind runs.
    """

    def __init__(
        self,
        net: nn.Module,
        forward: Forward,
        computing: Callable[[], AbstractContextManager[object]],
    ) -> None:
        super().__init__()
        self.net = net
        self._forward, self._computing = forward, computing

    def forward(self, passes: Passes, costs: Costs, made: Allocations) -> None:
        for first in (True, False)[: passes.losses]:
            self._loss(passes, costs, made, first)
        made.spike(costs.update)

    def _loss(self, passes: Passes, costs: Costs, made: Allocations, first: bool) -> None:
        inputs = _many(self._forward.example, passes.images)
        # The other inputs wait for their second pass, on a GPU in the memory of the host.
        waiting = Bytes.of(inputs) * ((passes.count - 1) * (inputs.device.type == "cpu"))
        made.hold(waiting)
        if self._forward.before is not None and self._forward.image is not None:
            with torch.no_grad(), self._computing():
                self._forward.before(_many(self._forward.image, passes.images))
        if passes.count > 1:
            with torch.no_grad():
                self._embed(inputs)
        output = self._embed(inputs)
        made.spike(costs.loss)
        if first:
            made.gradients += costs.loss_gradients
            made.hold(costs.loss_gradients)
        self._propagate(output)
        del output
        if passes.count > 1:  # from now on, gradients of an earlier pass exist
            self._propagate(self._embed(inputs))
        made.release(waiting)

    def _embed(self, inputs: Tensor) -> Tensor:
        with self._computing():
            output: Tensor = self._forward.run(inputs)
        return output

    @staticmethod
    def _propagate(output: Tensor) -> None:
        if output.requires_grad:
            output.backward(torch.ones_like(output))


def _many(example: Tensor, images: int) -> Tensor:
    """Return inputs like those of one image, for some images, without values of their own."""
    return example.new_empty(images, *example.shape[1:]).fill_(1)


@contextmanager
def _prepared(step: _Step, fake: bool) -> Iterator[tuple[Callable[..., None], list[Tensor]]]:
    """Yield a step and the parameters that it trains; those of a fake step are copies."""
    if not fake:
        yield step, [p for p in step.parameters() if p.requires_grad]
        return
    # A cut network keeps templates of outputs, which have data.
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        made: dict[int, Tensor] = {}
        state: dict[str, Tensor] = {}
        named = [
            *step.named_parameters(remove_duplicate=False),
            *step.named_buffers(remove_duplicate=False),
        ]
        for name, tensor in named:
            if id(tensor) not in made:
                made[id(tensor)] = mode.from_tensor(tensor)
            state[name] = made[id(tensor)]
        trained = [tensor for tensor in made.values() if tensor.requires_grad]
        yield lambda *inputs: torch.func.functional_call(step, state, inputs), trained
