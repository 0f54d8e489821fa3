"""The freezing proof: shows by fingerprints that no frozen tensor changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from siamkit.errors import FrozenDriftError
from siamkit.model.fingerprint import fingerprint
from siamkit.model.names import named_tensors
from siamkit.words import plural


def fingerprints(net: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Return the fingerprints of the parameters and buffers with these plain names, by name.

    Wrappers (``torch.compile``, ``DistributedDataParallel``) do not change names or fingerprints.
    """
    tensors = named_tensors(net)
    return {name: fingerprint(tensors[name]) for name in sorted(names)}


def verify(net: nn.Module, expected: Mapping[str, str], when: str) -> None:
    """Check that no fingerprinted tensor changed, and that each is still there.

    Args:
        net: The network.
        expected: The fingerprints taken when the tensors were frozen.
        when: The time of the check, for the message, such as ``the end of epoch 3``.

    Raises:
        FrozenDriftError: A tensor changed or is gone. The message names the first five of them.
    """
    require_unchanged(named_tensors(net), expected, when)


def require_unchanged(
    tensors: Mapping[str, Tensor], expected: Mapping[str, str], when: str
) -> None:
    """Check tensors by name; see :func:`verify`."""
    drifted = [
        name
        for name, digest in expected.items()
        if name not in tensors or fingerprint(tensors[name]) != digest
    ]
    if drifted:
        gone = any(name not in tensors for name in drifted)
        more = f" and {len(drifted) - 5} more" if len(drifted) > 5 else ""
        raise FrozenDriftError(
            f"{plural(len(drifted), 'frozen tensor')} had changed at {when}: "
            f"{', '.join(drifted[:5])}{more}",
            hint="the network no longer has a tensor of each name, so a module was replaced or "
            "parametrised while it was frozen"
            if gone
            else "a plugin, a hook, a module's forward, or a module's change to train or eval mode,"
            " such as one that merges weights, writes to frozen tensors",
        )
