"""Running a network up to its boundary and no further, without surgery on it."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor, nn

from siamkit.engine.boundary import Boundary
from siamkit.errors import SiamkitError
from siamkit.model.siamese import SiameseNet


class Prefix(nn.Module):
    """The part of a network before a boundary, as a module of its own.

    It runs the network's own ``forward`` and leaves it, by an exception, as soon as the boundary's
    output is there. That works in eager mode as well as when a forward is captured for a compiler.

    Args:
        net: The network. Its modules are used, not copied.
        boundary: Where to stop.
    """

    def __init__(self, net: SiameseNet, boundary: Boundary) -> None:
        super().__init__()
        self.net = net
        self._features = boundary.is_features
        self._module = boundary.module

    def forward(self, images: Tensor) -> Tensor:
        """Return the activations ``[N, ...]`` at the boundary of ``images [N, C, H, W]``.

        Raises:
            SiamkitError: The boundary's module never ran.
        """
        if self._features:
            features: Tensor = self.net.backbone(images)
            return features
        handle = self.net.get_submodule(self._module).register_forward_hook(_leave)
        try:
            self.net.backbone(images)
        except _Reached as reached:
            return reached.output  # type: ignore[no-any-return]
        finally:
            handle.remove()
        raise SiamkitError(f"the forward never reached {self._module!r}")


class _Reached(Exception):
    def __init__(self, output: Any) -> None:
        self.output = output


def _leave(_module: nn.Module, _inputs: Any, output: Any) -> NoReturn:
    raise _Reached(output)
