"""The tensors of a run: reads them from its modules by name, and writes them back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError, NonFiniteError, PluginError
from siamkit.model.names import join
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
class Attributes:
    """The plain attributes of the network and the loss that changed in training.

    Modules of other packages keep state there that is not in the ``state_dict``: the position in a
    memory of embeddings, a running histogram, or the number of steps so far. The name of each
    begins with :data:`NET` or :data:`LOSS`.

    Attributes:
        values: Numbers, flags, texts and None, which a run's state holds.
        tensors: Dense tensors, which a checkpoint holds beside the optimizer's. Their names begin
            with :data:`_OWN`.
        others: The names of all else, such as lists, which no checkpoint holds.
    """

    values: dict[str, Plain] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def owners(self) -> set[str]:
        """The names of the modules whose attributes a checkpoint holds."""
        return owners_of((*self.values, *self.tensors))

    @property
    def notices(self) -> list[str]:
        """A notice for the network and the loss each, about what no checkpoint holds."""
        told = []
        for root, whose in ((NET, "the network"), (LOSS, "the loss")):
            names = [n.removeprefix(f"{root}.") for n in self.others if n.startswith(f"{root}.")]
            if names:
                told.append(
                    f"{whose} changes {', '.join(names[:5])}, which no checkpoint holds: if later "
                    "steps depend on it, a resumed run differs from one that was not stopped. Keep "
                    "it in tensors or numbers"
                )
        return told


NET, LOSS = "net", "loss"
"""The first words of the names of the network's and of the loss's modules."""

_OWN = "attribute::"

_LARGEST = 1 << 26
"""The most bytes that the tensors of the network's attributes take in a checkpoint. More are
outputs that a module keeps, rather than state."""


def owners_of(names: Iterable[str]) -> set[str]:
    """Return the modules of the attributes among some names of a state or a checkpoint."""
    paths = (name.removeprefix(_OWN).rpartition(".")[0] for name in names)
    return {path for path in paths if path.partition(".")[0] in (NET, LOSS)}


def modules_by_name(net: nn.Module, loss: nn.Module) -> dict[str, nn.Module]:
    """Return all modules of a network and a loss, each by a name that the other cannot have."""
    return {
        join(root, name): module
        for root, top in ((NET, net), (LOSS, loss))
        for name, module in top.named_modules()
    }


def changed_attributes(modules: Mapping[str, nn.Module], before: Snapshot) -> Attributes:
    """Return the plain attributes of modules that changed.

    Of a module of the network, all are held or none: a number may be the key of a cache that no
    checkpoint holds.

    Args:
        modules: The modules by their names.
        before: A snapshot of the modules as they were built, with the contents of attributes. Other
            modules in it do not count.
    """
    names = {module: name for name, module in modules.items()}
    changed: dict[str, dict[str, Any]] = {}
    for module, attribute in before.changed():
        if module in names and not _is_recomputed(module, attribute):
            changed.setdefault(names[module], {})[attribute] = vars(module).get(attribute)
    found, room = Attributes(), _LARGEST
    others: list[str] = []
    for path, own in sorted(changed.items()):
        values = {name: value for name, value in own.items() if _is_plain(value)}
        tensors = {name: value.detach() for name, value in own.items() if _is_dense(value)}
        left = set(own) - values.keys() - tensors.keys()
        if not path.startswith(LOSS):
            size = sum(tensor.nbytes for tensor in tensors.values())
            if size > room:
                left |= tensors.keys()
            if left:
                values, tensors = {}, {}
            else:
                room -= size
        others += [f"{path}.{name}" for name in sorted(left)]
        found.values.update({f"{path}.{name}": value for name, value in values.items()})
        found.tensors.update({f"{_OWN}{path}.{name}": t for name, t in tensors.items()})
    return replace(found, others=tuple(others))


def _is_recomputed(module: nn.Module, attribute: str) -> bool:
    """Return whether an attribute is a buffer, or a weight that is computed before each forward.

    The weight norm and the spectral norm of torch before parametrisations, and pruning, do so.
    """
    origins = {f"{attribute}_v", f"{attribute}_orig"}
    return attribute in module._buffers or not origins.isdisjoint(module._parameters)


def _is_plain(value: object) -> bool:
    finite = isinstance(value, float) and math.isfinite(value)
    return finite or value is None or isinstance(value, bool | int | str)


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def load_attributes(
    modules: Mapping[str, nn.Module],
    values: Mapping[str, Plain],
    tensors: Mapping[str, Tensor],
    device: torch.device,
) -> None:
    """Restore what :func:`changed_attributes` returned.

    Args:
        modules: The modules by their names.
        values: The numbers, flags and texts.
        tensors: The tensors of the checkpoint beside the model's.
        device: The device of the tensors.
    """
    own = {
        name.removeprefix(_OWN): tensor.to(device, copy=True)
        for name, tensor in tensors.items()
        if name.startswith(_OWN)
    }
    for name, value in {**values, **own}.items():
        path, _, attribute = name.rpartition(".")
        before = vars(modules[path]).get(attribute)
        if isinstance(before, Tensor) and isinstance(value, Tensor) and _fits(value, before):
            before.detach().copy_(value)  # it may be a view of a parameter
        else:
            setattr(modules[path], attribute, value)


def _fits(value: Tensor, into: Tensor) -> bool:
    """Return whether a tensor can be copied into another one as it is."""
    alike = (into.shape, into.dtype) == (value.shape, value.dtype)
    return alike and _is_dense(into) and 0 not in into.stride()


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
