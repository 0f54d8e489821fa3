"""The prefix guard: checks that a frozen prefix is still the one that computed its cached rows."""

from __future__ import annotations

from torch import Tensor

from siamkit.engine.cutting import Cut
from siamkit.engine.identity import prefix_fingerprints
from siamkit.errors import ConfigError
from siamkit.freezing import proof
from siamkit.freezing.controller import FreezeController
from siamkit.model.names import Names, join, named_modules

_ANEW = "call siamkit.engine.cut under the current plan, and open a new FeatureCache"


class FrozenPrefix:
    """Checks at little cost, for each batch, that a prefix has not changed.

    After a new plan, fingerprints are compared. Under the same plan, torch counts the writes to
    each tensor, and only tensors with new writes are hashed.

    Args:
        controller: The controller that applied the plan before the cut.
        cut: The cut network.

    Raises:
        ConfigError: The controller and the cut have different networks, no plan was applied, or the
            plan trains a part of the prefix.
    """

    def __init__(self, controller: FreezeController, cut: Cut) -> None:
        if cut.net is not controller.net:
            raise ConfigError(
                "the cut and the controller have different networks", where="controller",
                got=type(controller.net).__name__,
                hint="pass the controller of the network that was cut",
            )  # fmt: skip
        if controller.plan is None:
            raise ConfigError(
                "no plan was applied", where="controller",
                hint="call controller.apply(plan) before you cut the network",
            )  # fmt: skip
        plain = Names.of(cut.net)
        trains = [
            plain[name]
            for name, parameter in cut.net.named_parameters(remove_duplicate=False)
            if plain[name] in cut.boundary.parameters and parameter.requires_grad
        ]
        if trains:
            raise ConfigError(
                "the plan that was applied after the cut trains a part of the prefix",
                where="cut", got=trains[0], hint=_ANEW,
            )  # fmt: skip
        self._controller, self._cut = controller, cut
        self._seen = controller.fingerprints
        self._expected = prefix_fingerprints(controller, cut)
        self._places = {
            join(prefix, name): (members, name)
            for prefix, module in named_modules(controller.net)
            for members in (module._parameters, module._buffers)
            for name in members
            if join(prefix, name) in self._expected
        }
        self._state = {name: self._now(name) for name in self._expected}

    def require(self) -> None:
        """Check that the prefix has not changed.

        Raises:
            ConfigError: A plan was applied that doesn't freeze the same prefix, or the prefix had
                other weights or buffers when it was applied.
            FrozenDriftError: A frozen tensor changed.
        """
        controller = self._controller
        if controller.fingerprints is not self._seen:
            if prefix_fingerprints(controller, self._cut) != self._expected:
                raise ConfigError(
                    "another plan was applied: it does not freeze the whole prefix (up to "
                    f"{self._cut.boundary.name!r}), or the prefix no longer has the weights that "
                    "computed the cached rows",
                    hint=_ANEW,
                )
            self._seen = controller.fingerprints
        written = [name for name in self._state if self._is_written(name)]
        if written:
            expected = {name: self._expected[name] for name in written}
            proof.verify(controller.net, expected, "this read of the feature cache")
            self._state.update((name, self._now(name)) for name in written)

    def _is_written(self, name: str) -> bool:
        tensor, writes = self._state[name]
        now, writes_now = self._now(name)
        return now is not tensor or writes_now != writes

    def _now(self, name: str) -> tuple[Tensor, int]:
        """Return a tensor, and torch's count of the writes to it."""
        members, key = self._places[name]
        tensor = members[key]
        assert tensor is not None
        return tensor, 0 if tensor.is_inference() else tensor._version
