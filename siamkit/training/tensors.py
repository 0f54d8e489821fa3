"""The tensors of a run: reads them from its modules by name, and writes them back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError, NonFiniteError, PluginError
from siamkit.model.undisturbed import Snapshot
from siamkit.model.weights import load_exactly, load_net_tensors
from siamkit.training.build import Setup
from siamkit.training.step import advice


def model_tensors(setup: Setup) -> dict[str, Tensor]:
    """Return the network's state by name, and the loss's state with the prefix ``loss.``.

    Raises:
        ConfigError: A part of the state is no plain tensor, so that no checkpoint can hold it.
        PluginError: The network or the loss has other tensors than when the run started.
    """
    loss = {f"loss.{name}": t for name, t in setup.loss.state_dict().items()}
    tensors = {**setup.net.state_dict(), **loss}
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.is_quantized or value.layout != torch.strided:
            raise ConfigError(
                "is part of the network's state, but is no dense tensor, so no checkpoint can hold "
                "it",
                where=name,
                got=type(value),
                hint="quantise the network after the training, and keep other state in plain "
                "attributes instead of get_extra_state",
            )
    if setup.tensors is None:
        setup.tensors = frozenset(tensors)
    elif changed := sorted(setup.tensors ^ tensors.keys()):
        raise PluginError(
            "appeared or disappeared during training, so a rebuilt network could not load this "
            "state, and it was not saved",
            where=", ".join(changed[:5]),
            hint="register buffers and parameters in __init__, not in forward",
        )
    return tensors


def load_model_tensors(setup: Setup, tensors: Mapping[str, Tensor]) -> None:
    """Restore the tensors that :func:`model_tensors` returned. All names and shapes must match.

    Raises:
        CheckpointError: The tensors do not fit the network or the loss.
    """
    where = "the checkpoint"
    own = {k.removeprefix("loss."): v for k, v in tensors.items() if k.startswith("loss.")}
    load_exactly(setup.loss, own, f"{where}: loss")
    load_net_tensors(setup.net, tensors, where)


Plain = bool | int | float | str | None


@dataclass(frozen=True)
class LossAttributes:
    """The plain attributes of a loss that changed in training, by module and attribute.

    Losses of other packages keep state there, such as the position in a memory of embeddings, or a
    running histogram. It is not in the ``state_dict``.

    Attributes:
        values: Numbers, flags, texts and None, which a run's state holds.
        tensors: Dense tensors, which a checkpoint holds beside the optimizer's. Their names begin
            with :data:`_OWN`.
        others: The names of all else, such as lists, which no checkpoint holds.
    """

    values: dict[str, Plain]
    tensors: dict[str, Tensor]
    others: tuple[str, ...]

    @property
    def notices(self) -> list[str]:
        """A notice about what no checkpoint holds; an empty list if there is nothing."""
        if not self.others:
            return []
        which = ", ".join(name.removeprefix(".") for name in self.others[:5])
        return [
            f"the loss changes {which}, which no checkpoint holds: if later steps depend on it, a "
            "resumed run differs from one that was not stopped. Keep it in tensors or numbers"
        ]


_OWN = "loss attribute::"


def loss_attributes(loss: nn.Module, before: Snapshot) -> LossAttributes:
    """Return the plain attributes of a loss that changed.

    Args:
        loss: The loss.
        before: A snapshot of its modules as they were built, with the contents of attributes.
    """
    paths = {module: path for path, module in loss.named_modules()}
    changed = {
        f"{paths[module]}.{name}": vars(module).get(name)
        for module, name in before.changed()
        if name not in module._buffers
    }
    values = {name: value for name, value in changed.items() if _is_plain(value)}
    tensors = {
        f"{_OWN}{name}": value.detach()
        for name, value in changed.items()
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
    }
    held = values.keys() | {name.removeprefix(_OWN) for name in tensors}
    return LossAttributes(values, tensors, tuple(sorted(changed.keys() - held)))


def _is_plain(value: object) -> bool:
    finite = isinstance(value, float) and math.isfinite(value)
    return finite or value is None or isinstance(value, bool | int | str)


def load_loss_attributes(
    loss: nn.Module,
    values: Mapping[str, Plain],
    tensors: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Restore what :func:`loss_attributes` returned.

    Args:
        loss: The loss.
        values: The numbers, flags and texts.
        tensors: The tensors of the checkpoint beside the model's.
        device: The device of the tensors.
    """
    modules = dict(loss.named_modules())
    own = {
        name.removeprefix(_OWN): tensor.to(device, copy=True)
        for name, tensor in tensors.items()
        if name.startswith(_OWN)
    }
    for name, value in {**values, **own}.items():
        path, _, attribute = name.rpartition(".")
        setattr(modules[path], attribute, value)


def require_finite(tensors: Mapping[str, Tensor], precision: str) -> None:
    """Check that no tensor holds NaN or infinity.

    A buffer can hold NaN although every loss was finite.

    Args:
        tensors: The tensors by name.
        precision: The numeric type of the run, for the message.

    Raises:
        NonFiniteError: A tensor holds NaN or infinity; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(
                f"{name} holds NaN or infinity, so this state was not saved",
                hint=f"the previous checkpoint is intact; {advice(precision)}",
            )
