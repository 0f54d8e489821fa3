"""The optimizer: one for the whole run, over named groups by stage and weight decay.

The optimizer holds every parameter from the start. A frozen parameter has no gradient, so it costs
nothing. So a parameter's momentum survives phases in which the parameter is frozen, the groups of a
checkpoint always match, and no scheduler meets a new group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.config import OptimizerConfig
from siamkit.errors import PluginError
from siamkit.interfaces import FreezePlan, Stage
from siamkit.model.names import named_modules, named_parameters

LOSS = "loss"
"""The group of a loss's own parameters, and the prefix of their names."""


def no_decay(net: nn.Module) -> frozenset[str]:
    """Return the names of the parameters without weight decay.

    They are the vectors (biases, norm layers) and the parameters that the architecture itself
    exempts, such as position embeddings.
    """
    names = {name for name, p in named_parameters(net) if p.ndim <= 1}
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
        for decay in (True, False):
            names = [n for n in stage.parameters if (n not in undecayed) is decay]
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
        "lr": config.lr,
        "weight_decay": config.weight_decay if decay else 0.0,
    }


def require_groups(
    optimizer: torch.optim.Optimizer, groups: Sequence[Mapping[str, Any]], whose: str
) -> None:
    """Check that an optimizer kept its parameter groups.

    Raises:
        PluginError: A parameter is missing, or a group lost its stage or its names.
    """
    wanted = {name: id(p) for g in groups for name, p in zip(g["names"], g["params"], strict=True)}
    owned: dict[str, int] = {}
    for group in optimizer.param_groups:
        names = group.get("names", ())
        if "stage" not in group or len(names) != len(group["params"]):
            raise PluginError(
                f"{whose}: a group lost its 'stage' or the 'names' of its parameters",
                hint="pass the groups on unchanged: rates and checkpoints use these keys",
            )
        owned.update(zip(names, map(id, group["params"]), strict=True))
    if owned != wanted:
        missing = sorted(wanted.keys() - owned.keys()) or sorted(owned.keys() ^ wanted.keys())
        raise PluginError(
            f"{whose}: the optimizer does not own every parameter exactly once",
            got=f"without {missing[0]}" if missing else None,
            hint="frozen parameters must belong to the optimizer too: they cost nothing without a "
            "gradient, and a later phase may unfreeze them",
        )


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
    result = {stage: config.lr * mult * scale for stage, mult in plan.lr_mult.items()}
    for stage, ramp in (warmups or {}).items():
        result[stage] = result.get(stage, config.lr * scale) * ramp
    result[LOSS] = config.lr * config.loss_lr_mult * scale
    return result


def set_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float], default: float) -> None:
    """Set each group's rate to its stage's rate, or to ``default`` if ``rates`` has none."""
    for group in optimizer.param_groups:
        group["lr"] = rates.get(group["stage"], default)


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as a flat dict: ``parameter name::key``."""
    return {
        f"{name}::{key}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_state_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that :func:`state_tensors` returned, matching parameters by name."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        name, _, key = full.rpartition("::")
        by_name.setdefault(name, {})[key] = value
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in by_name.get(name, {}).items():
                if value.shape == parameter.shape and key != "step":
                    # Use the parameter's memory layout, as the optimizer itself does.
                    value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                else:
                    # A fused Adam counts its steps on the device. In either case, the tensor is
                    # copied: it may be memory-mapped, and would keep its file's disk space in use.
                    device = parameter.device if group.get("fused") else value.device
                    value = value.to(device, copy=True)
                optimizer.state[parameter][key] = value
