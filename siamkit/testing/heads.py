"""The check of heads: widths, determinism, state and gradients."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from siamkit.model.generators import seeded
from siamkit.model.heads import Head, as_head
from siamkit.testing.common import Expect, Values, loose_leaves
from siamkit.testing.subjects import checked_entry, conformance

_WIDTHS = (16, 40)
_STOPS = "Training would stop there."
_DRIFTS = "A frozen head would change, which ends the run with a FrozenDriftError."


@conformance
def check_head(
    given: str | nn.Module, options: Values | None = None, *, in_features: int | None = None
) -> None:
    """Check a head: widths, determinism in evaluation, state, gradients.

    Args:
        given: The registered name, or a module from features ``[N, D]`` to embeddings. A module is
            copied.
        options: Option values of a named head, if the defaults are unsuitable.
        in_features: The width of the features to check with. None: several widths; for a module,
            the input width of its first linear layer.
    """
    entry, validated, expect = checked_entry("heads", given, options)
    for width in _widths(given, in_features):
        within = expect.within(f"{width} features")
        with seeded(0):
            with within.during("in build", "Users could not use it."):
                head = as_head(entry.build(validated, width), width, expect.subject)
            _check_embeddings(head, torch.randn(3, width), within)
            _check_gradients(head.train(), torch.randn(3, width), within)


def _widths(given: str | nn.Module, in_features: int | None) -> tuple[int, ...]:
    if in_features is None and isinstance(given, nn.Module):
        layers = (m for m in given.modules() if isinstance(m, nn.Linear))
        in_features = next((layer.in_features for layer in layers), None)
    return _WIDTHS if in_features is None else (in_features,)


def _forward(head: Head, features: Tensor, expect: Expect) -> Tensor:
    with expect.during(f"in a forward of {list(features.shape)}", _STOPS):
        embeddings = head(features)
    wanted = (len(features), head.embedding_dim)
    got = getattr(embeddings, "shape", type(embeddings))
    expect(isinstance(embeddings, Tensor) and embeddings.shape == wanted,
           f"embeddings {list(wanted)}", got, _STOPS)  # fmt: skip
    kind = embeddings.dtype
    expect(kind == torch.float32, "embeddings in float32, like the features", kind, _STOPS)
    return embeddings  # type: ignore[no-any-return]


def _check_embeddings(head: Head, features: Tensor, expect: Expect) -> None:
    before, state = features.clone(), copy.deepcopy(head.eval().state_dict())
    with torch.no_grad():
        embeddings = _forward(head, features, expect)
        again = _forward(head, features, expect)
        alone = _forward(head, features[1:2], expect.within("one image"))
    expect(
        torch.equal(features, before),
        "a forward that does not change the features in place",
        "changed features",
        "The cached features of the run would be damaged.",
    )
    expect(bool(embeddings.isfinite().all()), "finite embeddings", "NaN or infinity", _STOPS)
    expect(torch.equal(embeddings, again), "the same embeddings for the same features in eval mode",
           "other "
           "embeddings", "The same image would get a different embedding each time.")  # fmt: skip
    expect(torch.allclose(alone, embeddings[1:2], rtol=1e-3, atol=1e-5),
           "an embedding that does not depend on the other images in eval mode", alone,
           "An image's embedding would depend on the rest of its batch.")  # fmt: skip
    now = head.state_dict()
    changed = sorted(n for n in now if n not in state or not torch.equal(now[n], state[n]))
    expect(not changed, "a forward in eval mode that does not change weights and buffers", changed,
           _DRIFTS)  # fmt: skip


def _check_gradients(head: Head, features: Tensor, expect: Expect) -> None:
    features.requires_grad_()
    embeddings = _forward(head, features, expect.within("train mode"))
    expect(
        embeddings.requires_grad,
        "embeddings that gradients flow through",
        "detached embeddings",
        "Neither the head nor the backbone could be trained.",
    )
    with expect.during("in backward()", _STOPS):
        embeddings.square().mean().backward()
    loose = loose_leaves(embeddings, head, (features,))
    expect(not loose, "only registered parameters to receive gradients", f"{loose}, not registered",
           "They would be neither trained, frozen nor saved.")  # fmt: skip
    expect(features.grad is not None, "a gradient of the features", "none",
           "The backbone could not be trained.")  # fmt: skip
    idle = sorted(n for n, p in head.named_parameters() if p.grad is None)
    expect(not idle, "a gradient for each parameter", f"none for {idle}",
           "They would keep their random values.")  # fmt: skip
