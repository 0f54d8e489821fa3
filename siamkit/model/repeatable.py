"""The test that a module in eval mode gives the same output for the same input again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from siamkit.errors import PluginError
from siamkit.model.generators import generators_restored, generators_state

_ROUNDING = 1e-3
"""The relative difference that kernels which add up in another order explain."""


def require_repeatable(
    run: Callable[[Tensor], Tensor], example: Tensor, what: str, *, whose: str | None = None
) -> Any:
    """Return the output of a module in eval mode, which must not depend on chance.

    Only a module that draws from a global random generator is run again, so the test of others
    costs nothing.

    Args:
        run: Runs the module, which is in eval mode.
        example: The input.
        what: The name of the outputs, such as ``features``.
        whose: The module's name, for errors.

    Raises:
        PluginError: The module draws random numbers, and its output depends on them.
    """
    before = generators_state()
    output = run(example)
    if generators_state() == before:
        return output
    with generators_restored():
        # A blank input could hide the randomness: dropout of zeros gives zeros.
        places = torch.arange(example.numel(), dtype=torch.float64)
        wave = (1.5 + torch.sin(places * 0.61803)).reshape(example.shape).to(example)
        one, other = run(wave), run(wave)
    if isinstance(one, Tensor) and one.is_floating_point() and not _near(one, other):
        raise PluginError(
            f"must give the same {what} for the same images in eval mode, but draws random "
            "numbers, so the same image would get a different embedding each time",
            where=whose,
            hint="make its randomness depend on self.training, as in "
            "F.dropout(x, p, self.training)",
        )
    return output


def _near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    limit = _ROUNDING * float(other.abs().max().nan_to_num()) + 1e-6
    return not bool(((one - other).abs() > limit).any())
