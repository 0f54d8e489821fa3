"""The freezing proof: fingerprints that show that no frozen tensor changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from siamkit.errors import ConfigError, FrozenDriftError
from siamkit.model.names import named_tensors
from siamkit.words import plural


def fingerprint(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's dtype, shape and values, independent of its memory layout.

    Raises:
        ConfigError: The tensor has no values yet.
    """
    if tensor.is_meta or is_lazy(tensor):
        raise ConfigError(
            "a parameter has no values yet, so its freezing cannot be verified",
            got="a tensor on the meta device" if tensor.is_meta else "a parameter of a lazy module",
            hint="load the weights or run the network once before applying a freeze plan",
        )
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype}{tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprints(net: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Return the fingerprint of each named parameter or buffer, by its plain name.

    They are the same whether the network is wrapped (``torch.compile``,
    ``DistributedDataParallel``) or not.
    """
    tensors = named_tensors(net)
    return {name: fingerprint(tensors[name]) for name in sorted(names)}


def verify(net: nn.Module, expected: Mapping[str, str], when: str) -> None:
    """Check that no fingerprinted tensor changed.

    Args:
        net: The network.
        expected: The fingerprints taken when the tensors were frozen.
        when: The time of the check, for the message, such as ``epoch 3``.

    Raises:
        FrozenDriftError: A tensor changed; the message names it.
    """
    tensors = named_tensors(net)
    drifted = [name for name, digest in expected.items() if fingerprint(tensors[name]) != digest]
    if drifted:
        more = f" and {len(drifted) - 5} more" if len(drifted) > 5 else ""
        raise FrozenDriftError(
            f"{plural(len(drifted), 'frozen tensor')} changed by {when}: "
            f"{', '.join(drifted[:5])}{more}",
            hint="a plugin or a module's forward writes to frozen tensors; "
            "the run stopped before saving them",
        )
