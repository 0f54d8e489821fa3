"""The optimizer: one for the whole run, over named groups by stage and weight decay.

The optimizer holds every parameter from the start. A frozen parameter has no gradient, so it costs
nothing. So a parameter's momentum survives phases in which the parameter is frozen, the groups of a
checkpoint always match, and no scheduler meets a new group.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.config import OptimizerConfig
from siamkit.errors import PluginError, calling
from siamkit.freezing.allocations import Allocations, Bytes
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.grouping import norm_parameters
from siamkit.model.names import named_modules, named_parameters

LOSS = "loss"
"""The group of a loss's own parameters, and the prefix of their names."""


def no_decay(net: nn.Module) -> frozenset[str]:
    """Return the names of the parameters without weight decay.

    They are the vectors (biases), the norm layers, of which some have a value for each position of
    their input, and the parameters that the architecture itself exempts, such as position
    embeddings.
    """
    names = {name for name, p in named_parameters(net) if p.ndim <= 1} | norm_parameters(net)
    for prefix, module in named_modules(net):
        exempt = getattr(module, "no_weight_decay", None)
        if callable(exempt):
            names |= {f"{prefix}.{name}" for name in exempt()}
    return frozenset(names)


def named_groups(
    config: OptimizerConfig, net: nn.Module, loss: nn.Module, stages: Sequence[Stage]
) -> list[dict[str, Any]]:
    """Return the parameter groups of the run's optimizer.

    Args:
        config: The learning rate and the weight decay.
        net: The network.
        loss: The loss; its parameters, if any, form a group of their own without decay.
        stages: The network's stages.

    Returns:
        For each stage, a group of the parameters with weight decay and a group of those without, if
        there are any. Each group has a ``name``, its ``stage``, the ``names`` of its parameters,
        ``params``, ``lr`` and ``weight_decay``.
    """
    parameters = {
        **dict(named_parameters(net)),
        **{f"{LOSS}.{name}": p for name, p in named_parameters(loss)},
    }
    undecayed = no_decay(net)
    groups: list[dict[str, Any]] = []
    for stage in stages:
        decayed = [name for name in stage.parameters if name not in undecayed]
        others = [name for name in stage.parameters if name in undecayed]
        for decay, names in ((True, decayed), (False, others)):
            if names:
                groups.append(_group(stage.name, decay, names, parameters, config))
    own = [name for name in parameters if name.startswith(f"{LOSS}.")]
    if own:
        groups.append(_group(LOSS, False, own, parameters, config))
    return groups


def _group(
    stage: str,
    decay: bool,
    names: list[str],
    parameters: Mapping[str, nn.Parameter],
    config: OptimizerConfig,
) -> dict[str, Any]:
    return {
        "name": f"{stage}/{'decay' if decay else 'no_decay'}",
        "stage": stage,
        "names": names,
        "params": [parameters[name] for name in names],
        "lr": config.rate,
        "weight_decay": config.weight_decay if decay else 0.0,
    }


def require_groups(
    optimizer: torch.optim.Optimizer, groups: Sequence[Mapping[str, Any]], whose: str
) -> None:
    """Check that a plugin's optimizer kept the parameter groups that it was built with.

    Raises:
        PluginError: A parameter is missing or added, or a group lost its stage or its names.
    """
    wanted = {name: id(p) for g in groups for name, p in zip(g["names"], g["params"], strict=True)}
    owned: dict[str, int] = {}
    for group in optimizer.param_groups:
        names = group.get("names", ())
        if "stage" not in group or len(names) != len(group["params"]):
            raise PluginError(
                f"{whose}: a parameter group lost its key 'stage' or 'names'",
                hint="pass the groups on unchanged: rates and checkpoints use these keys",
            )
        owned.update(zip(names, map(id, group["params"]), strict=True))
    if owned != wanted:
        missing, extra = sorted(wanted.keys() - owned.keys()), sorted(owned.keys() - wanted.keys())
        raise PluginError(
            f"{whose}: the optimizer does not own every parameter exactly once",
            got=f"without {missing[0]}" if missing else f"with {extra[0]}" if extra else None,
            hint="frozen parameters must belong to the optimizer too: they cost nothing without a "
            "gradient, and a later phase may unfreeze them",
        )


@dataclass(frozen=True)
class UpdateMemory:
    """The memory of an optimizer.

    Attributes:
        state: Its state for the parameters that train.
        temporary: The most that an update needs beyond the state, the parameters and the gradients.
    """

    state: Bytes
    temporary: Bytes


def update_memory(optimizer: torch.optim.Optimizer) -> UpdateMemory:
    """Return the memory of an optimizer for the parameters that train now.

    A new optimizer of the same class updates parameters of the same shapes, without data, twice.
    """
    on_cuda = any(p.is_cuda for group in optimizer.param_groups for p in group["params"])
    groups = []
    for group in optimizer.param_groups:
        own = {key: value for key, value in group.items() if key not in ("params", "names")}
        # As torch chooses on CUDA by itself.
        own |= {"foreach": True} if on_cuda and own.get("foreach", True) is None else {}
        trained = [p for p in group["params"] if p.requires_grad]
        copies = [nn.Parameter(torch.empty_like(p, device="meta")) for p in trained]
        groups.append({**own, "params": copies, "names": [str(i) for i in range(len(copies))]})
    everything: list[Tensor] = [p for group in groups for p in group["params"]]
    for parameter in everything:
        parameter.grad = torch.empty_like(parameter)
    kind: Any = type(optimizer)
    try:
        with Allocations() as made:
            trial = kind(groups)
            trial.step()
        state = made.now
        with Allocations() as made:
            trial.step()
    except Exception:  # its constructor may need more arguments, or its update reads values
        state = Bytes.of(*everything) * state_size(optimizer)
        return UpdateMemory(state, Bytes.of(*everything[:1]))
    return UpdateMemory(state, made.peak)


def state_size(optimizer: torch.optim.Optimizer) -> int:
    """Return how many values the optimizer keeps for each value that it trains.

    The number is measured on a step of a new optimizer of the same class over a small parameter.
    """
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.ones(2, 2)
    first = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("params", "names")}
    try:
        kind: Any = type(optimizer)
        trial = kind([{**first, "params": [parameter], "names": ["trial"]}])
        trial.step()
    except Exception:  # its constructor may need more arguments; 2, as for Adam, is most common
        return 2
    state = trial.state.get(parameter, {})
    sizes = [v.numel() for v in state.values() if isinstance(v, Tensor) and v.ndim]
    return -(-sum(sizes) // parameter.numel())


def rates(
    config: OptimizerConfig,
    plan: FreezePlan,
    scale: float,
    warmups: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the learning rates of ``loss`` and of every stage with a multiplier or a warm-up.

    Args:
        config: The base rate.
        plan: The plan, with the stages' multipliers.
        scale: The scheduler's multiplier.
        warmups: A further multiplier for each stage that was just unfrozen.
    """
    result = {stage: config.rate * mult * scale for stage, mult in plan.lr_mult.items()}
    for stage, ramp in (warmups or {}).items():
        result[stage] = result.get(stage, config.rate * scale) * ramp
    result[LOSS] = config.rate * config.loss_lr_mult * scale
    return result


def set_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float], default: float) -> None:
    """Set each group's rate to its stage's rate, or to ``default`` if ``rates`` has none."""
    for group in optimizer.param_groups:
        group["lr"] = rates.get(group["stage"], default)


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as a flat dict: ``parameter name::key``.

    Plain values, such as a count of steps, are JSON in the bytes of one more tensor. They come from
    the state of each parameter, and from the groups, where some optimizers count their steps.

    Raises:
        PluginError: The optimizer keeps a value that is neither a tensor nor plain, or keeps state
            elsewhere than in ``optimizer.state``, as a wrapper of another optimizer does.
    """
    _require_own_state(optimizer)
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
        own = group["name"], _changing(optimizer, group)
        for owner, state in [own, *zip(group["names"], states, strict=True)]:
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{owner}::{key}"] = value
                elif _is_plain(value):
                    plain.setdefault(owner, {})[key] = value
                else:
                    raise PluginError(
                        f"the optimizer {type(optimizer).__name__} keeps state that cannot be saved"
                        f", so the run could not be resumed: {key!r} of {owner}",
                        got=type(value).__name__,
                        allowed="a tensor, a number, a text, None, or a list",
                    )
    if plain:
        tensors[_PLAIN] = torch.tensor(list(json.dumps(plain).encode()), dtype=torch.uint8)
    return tensors


def _require_own_state(optimizer: torch.optim.Optimizer) -> None:
    """Check that the state of an optimizer's ``state_dict`` is that of its parameters.

    Raises:
        PluginError: There is more.
    """
    kind = type(optimizer).__name__
    with calling(f"optimizer {kind}", "failed to give its state"):
        known = optimizer.state_dict()["state"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    own = {number: optimizer.state.get(p, {}).keys() for number, p in enumerate(parameters)}
    for number, state in known.items():
        keys = state.keys() if isinstance(state, Mapping) else {number}
        if elsewhere := sorted(map(str, keys - own.get(number, set()))):
            raise PluginError(
                f"the optimizer {kind} keeps state that cannot be saved, so the run could not be "
                "resumed: its state_dict holds more than optimizer.state",
                got=", ".join(elsewhere),
                allowed="state of each parameter in optimizer.state",
                hint="a wrapper of another optimizer must share its state: "
                "self.state = base_optimizer.state",
            )


_PLAIN = "::plain"
_GROUP_KEYS = {"params", "names", "name", "stage", "lr", "weight_decay"}
"""The keys of a group that the config and the schedule set again when a run resumes."""


def _changing(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a group that the optimizer has changed.

    They are tensors, and numbers unlike its defaults. Flags depend on the device, such as
    ``fused``, so a run that resumes keeps its own.
    """
    return {
        key: value
        for key, value in group.items()
        if key not in _GROUP_KEYS
        and (isinstance(value, Tensor) or _is_number(value) or _are_numbers(value))
        and (isinstance(value, Tensor) or optimizer.defaults.get(key) != value)
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: object) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_number, value))


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that :func:`state_tensors` returned, matching parameters by name."""
    by_name: dict[str, dict[str, Any]] = {}
    for full, value in tensors.items():
        if full == _PLAIN:
            for name, values in json.loads(bytes(value.tolist())).items():
                by_name.setdefault(name, {}).update(values)
        else:
            name, _, key = full.rpartition("::")
            by_name.setdefault(name, {})[key] = value
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for key, value in by_name.get(group["name"], {}).items():
            group[key] = _like(group.get(key), value)
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in by_name.get(name, {}).items():
                optimizer.state[parameter][key] = _restored(value, key, parameter, group)


def _like(before: object, value: Any) -> Any:
    """Return a restored value of a group with the device or type of the value that it replaces."""
    if isinstance(value, Tensor):
        return value.to(before.device if isinstance(before, Tensor) else "cpu", copy=True)
    return tuple(value) if isinstance(before, tuple) else value


def _restored(value: Any, key: str, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape and key != "step":
        # Use the parameter's memory layout, as the optimizer itself does.
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    # torch counts steps on the CPU, and so does it expect them, unless the update is fused or
    # captured. All other state is where its parameter is. The value is always copied: a
    # memory-mapped tensor would keep its deleted file on the disk.
    on_cpu = key == "step" and not (group.get("fused") or group.get("capturable"))
    return value.to(value.device if on_cpu else parameter.device, copy=True)
