"""One optimizer for the whole run, over named groups: stage x weight decay.

Every parameter is in it from the start. A frozen one has no gradient, hence no state and no cost;
its momentum survives a phase in which it is frozen, the groups of a checkpoint always match, and
no scheduler ever meets a new group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from siamkit.config import OptimizerConfig
from siamkit.interfaces import FreezePlan, Loss, Stage
from siamkit.model.siamese import SiameseNet

_FUSED = ("cpu", "cuda")  # devices whose fused kernels we know

LOSS = "loss"
"""The group of a loss's own parameters, and the prefix of their names."""


def named_parameters(net: SiameseNet, loss: Loss) -> dict[str, nn.Parameter]:
    """Return every parameter of a run by name; those of the loss begin with ``loss.``."""
    own = {f"{LOSS}.{name}": p for name, p in loss.named_parameters()}
    return {**dict(net.named_parameters()), **own}


def no_decay(net: SiameseNet) -> frozenset[str]:
    """Return the names of the parameters without weight decay.

    Vectors (biases, norm layers) and what the architecture itself exempts, such as position
    embeddings.
    """
    names = {name for name, p in net.named_parameters() if p.ndim <= 1}
    for prefix, module in net.named_modules():
        exempt = getattr(module, "no_weight_decay", None)
        if callable(exempt):
            names |= {f"{prefix}.{name}" for name in exempt()}
    return frozenset(names)


def build_optimizer(
    config: OptimizerConfig, net: SiameseNet, loss: Loss, stages: Sequence[Stage]
) -> torch.optim.Optimizer:
    """Return the run's optimizer; each group has a ``name`` and the ``stage`` it belongs to.

    Args:
        config: Which optimizer, and its constants.
        net: The network.
        loss: The loss; its parameters, if any, form a group of their own without decay.
        stages: The network's stages.
    """
    parameters = named_parameters(net, loss)
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
    # One pass over each tensor, not one an operation: Adam takes a tenth of the time, which was
    # half of a step that trains a head alone.
    fused = all(p.device.type in _FUSED for p in parameters.values())
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, fused=fused)


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
        "weight_decay": config.weight_decay if decay else 0.0,
    }


def rates(
    config: OptimizerConfig,
    plan: FreezePlan,
    scale: float,
    warmups: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the learning rate of each stage the plan has a say in, and of ``loss``. Pure.

    Args:
        config: The base rate.
        plan: The stage multipliers; a stage left out has 1.0.
        scale: The scheduler's multiplier.
        warmups: A further multiplier for stages that were just unfrozen.
    """
    result = {stage: config.lr * mult * scale for stage, mult in plan.lr_mult.items()}
    for stage, ramp in (warmups or {}).items():
        result[stage] = result.get(stage, config.lr * scale) * ramp
    result[LOSS] = config.lr * config.loss_lr_mult * scale
    return result


def set_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float], default: float) -> None:
    """Set each group's rate to its stage's; ``default`` where ``rates`` has none."""
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
    """Put back what :func:`state_tensors` returned; parameters are matched by name."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        name, _, key = full.rpartition("::")
        by_name.setdefault(name, {})[key] = value
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in by_name.get(name, {}).items():
                if value.shape == parameter.shape and key != "step":
                    # In the parameter's memory layout, as the optimizer would have made it.
                    value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
                elif group["fused"]:
                    value = value.to(parameter.device)  # else Adam counts its steps on the CPU
                optimizer.state[parameter][key] = value
