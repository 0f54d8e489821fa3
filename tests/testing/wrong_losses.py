"""Wrong losses. Each is a function of embeddings, labels and tuples with one mistake."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mutant import Mutant
from torch import nn

from siamkit.errors import ConfigError
from siamkit.interfaces import Loss, Pairs, Triplets


def distances(x):
    return (x[:, None] - x[None]).square().sum(-1).clamp(min=1e-12).sqrt()  # [N, N]


def masks(labels):
    same = labels[:, None] == labels[None]
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


def mean(values, mask):
    return (values * mask).sum() / mask.sum().clamp(min=1)


def by_labels(x, labels, margin=1.0):
    """The contrastive loss of all pairs: right."""
    d = distances(x)
    same, other = masks(labels)
    return mean(d.square(), same) + mean((margin - d).clamp(min=0).square(), other)


def by_pairs(x, pairs, margin=1.0):
    d = (x[pairs.first] - x[pairs.second]).square().sum(-1).clamp(min=1e-12).sqrt()
    same = pairs.same
    return mean(d.square(), same) + mean((margin - d).clamp(min=0).square(), ~same) + 0 * x.sum()


def by_triplets(x, t, margin=0.5):
    p = (x[t.anchor] - x[t.positive]).square().sum(-1)
    n = (x[t.anchor] - x[t.negative]).square().sum(-1)
    return (p - n + margin).clamp(min=0).sum() / max(len(p), 1) + 0 * x.sum()


def loss(labels=by_labels, pairs=by_pairs, triplets=by_triplets, *, init=None):
    """Return the build of a loss; a form that is None is refused with ConfigError."""

    class Made(Loss):
        def __init__(self, context):
            super().__init__()
            self.context = context
            if init:
                init(self, context)

        def forward(self, embeddings, given, tuples=None):
            forms = {Pairs: pairs, Triplets: triplets}
            form = labels if tuples is None else forms[type(tuples)]
            if form is None:
                raise ConfigError("loss 'made' cannot use these tuples")
            told = given if tuples is None else tuples
            wants = form.__code__.co_varnames[0] == "self"
            return form(self, embeddings, told) if wants else form(embeddings, told)

    return lambda options, context: Made(context)


def labelled(function, **more):
    return loss(function, None, None, **more)


# --- by labels -----------------------------------------------------------------------------------


def swapped_hinge(x, labels):
    d = distances(x)
    same, other = masks(labels)
    return mean(d.square(), other) + mean((1 - d).clamp(min=0).square(), same)


def similarity_as_distance(x, labels):
    s = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    same, other = masks(labels)
    return (mean(s, same) - mean(s, other) + 0.2).clamp(min=0) + 0 * x.sum()


def negative(x, labels):
    return -by_labels(x, labels)


def ignores_labels(x, labels):
    d = distances(x)
    return mean((1 - d).clamp(min=0).square(), ~torch.eye(len(x), dtype=torch.bool))


def simclr_halves(x, labels):
    half = len(x) // 2
    logits = x[:half] @ x[half : 2 * half].T / 0.1
    return F.cross_entropy(logits, torch.arange(half)) + 0 * x.sum()


def four_of_each(x, labels):
    groups = x.view(-1, 4, x.shape[1])
    centres = groups.mean(1, keepdim=True)
    return (groups - centres).square().mean() - 0.1 * centres.var(0).mean()


def arccosine(x, labels):
    s = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    angle = torch.acos(s)
    same, other = masks(labels)
    return mean(angle, same) - mean(angle, other)


def logarithm(x, labels):
    s = F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    same, other = masks(labels)
    return mean(-torch.log((1 + s) / 2), same) + mean(-torch.log((1 - s) / 2), other)


def exponent(x, labels):
    s = x @ x.T / 0.07
    same, _ = masks(labels)
    weights = s.exp()
    return -(torch.log((weights * same).sum(1) + 1) - torch.log(weights.sum(1) + 1)).mean()


def divides(x, labels):
    d = distances(x)
    same, other = masks(labels)
    return (d * same).sum() / same.sum() - (d * other).sum() / other.sum()


def item(x, labels):
    return torch.tensor(by_labels(x, labels).item(), requires_grad=True)


def python_number(x, labels):
    return float(by_labels(x, labels))


def dictionary(x, labels):
    return {"loss": by_labels(x, labels)}


def one_long(x, labels):
    return by_labels(x, labels)[None]


def shifts_labels(x, labels):
    labels -= labels.min() - 1
    return by_labels(x, labels)


def on_cuda(x, labels):
    return by_labels(x, labels.to("cuda"))


def random_negatives(x, labels):
    d = distances(x)
    same, other = masks(labels)
    other = other & (torch.rand(other.shape) < 0.5)
    return mean(d.square(), same) + mean((1 - d).clamp(min=0).square(), other)


def early_return(x, labels):
    same, _ = masks(labels)
    if not same.any():
        return torch.zeros(())
    return by_labels(x, labels)


# --- with state ----------------------------------------------------------------------------------


def memory(self, x, labels):
    value = by_labels(x, labels) if self.last is None else by_labels(x, labels) + 0.1 * self.last
    self.last = value.detach()
    return value


def moving_centre(self, x, labels):
    with torch.no_grad():
        self.centre.mul_(0.9).add_(0.1 * x.mean(0))
    return by_labels(x - self.centre, labels)


def lazy_proxies(self, x, labels):
    if not hasattr(self, "proxies"):
        self.proxies = nn.Parameter(F.normalize(torch.randn(len(labels.unique()), x.shape[1])))
    return F.cross_entropy(x @ self.proxies.T / 0.1, labels % len(self.proxies))


def proxies(self, x, labels):
    return F.cross_entropy(x @ F.normalize(self.proxies, dim=1).T / 0.1, labels)


def with_proxies(classes=None, dim=None, kind=nn.Parameter):
    def init(self, context):
        shape = classes or context.num_classes, dim or context.embedding_dim
        self.proxies = kind(F.normalize(torch.randn(shape), dim=1))

    return init


class WrongSign(torch.autograd.Function):
    """A mean of squares whose hand-written backward has the wrong sign."""

    @staticmethod
    def forward(ctx, x, weights):
        ctx.save_for_backward(x, weights)
        return (x.square() * weights).sum()

    @staticmethod
    def backward(ctx, grad):
        x, weights = ctx.saved_tensors
        return -2 * grad * x * weights, None


def wrong_backward(x, labels):
    d = distances(x)
    same, other = masks(labels)
    value = WrongSign.apply(d, same.float() / same.sum().clamp(min=1))
    return value + WrongSign.apply((1 - d).clamp(min=0), other.float() / other.sum().clamp(min=1))


def penalty(x, labels):
    value = by_labels(x, labels)
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    return value + 0.01 * grad.square().sum()


# --- tuples --------------------------------------------------------------------------------------


def penalised_pairs(x, pairs):
    value = by_pairs(x, pairs)
    if not len(pairs.first):
        return value
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    return value + 0.01 * grad.square().sum()


def swapped_triplets(x, t):
    return by_triplets(x, Triplets(t.anchor, t.negative, t.positive))


def rotated_triplets(x, t):
    return by_triplets(x, Triplets(t.negative, t.anchor, t.positive))


def inverted_pairs(x, pairs):
    return by_pairs(x, Pairs(pairs.first, pairs.second, ~pairs.same))


def signed_pairs(x, pairs):
    s = F.cosine_similarity(x[pairs.first], x[pairs.second])
    y = torch.where(pairs.same, 1.0, -1.0)
    return (y * s).sum() / max(len(s), 1) + 0 * x.sum()


def first_with_first(x, pairs):
    return by_pairs(x, Pairs(pairs.first, pairs.first, pairs.same))


def positions_as_rows(x, pairs):
    n = len(pairs.first)
    index = torch.arange(n)
    return by_pairs(x, Pairs(index, index + n, pairs.same))


def no_negative(x, t):
    p = (x[t.anchor] - x[t.positive]).square().sum(-1)
    return p.sum() / max(len(p), 1) + 0 * x.sum()


def mean_of_none(x, t):
    p = (x[t.anchor] - x[t.positive]).square().sum(-1)
    n = (x[t.anchor] - x[t.negative]).square().sum(-1)
    return (p - n + 0.5).clamp(min=0).mean()


def uses_labels(x, pairs):
    return by_labels(x, None)


def flips_same(x, pairs):
    value = by_pairs(x, pairs)
    pairs.same.logical_not_()
    return value


TABLE = [
    ("swapped-hinge", labelled(swapped_hinge),
     "pushes images of one class apart and pulls the others together", "separate classes"),
    ("similarity-as-distance", labelled(similarity_as_distance),
     "a similarity where a distance is meant", "separate classes"),
    ("negative", labelled(negative), "the wrong sign: higher is better", "separate classes"),
    ("ignores-labels", labelled(ignores_labels), "pushes everything apart", "separate classes"),
    ("simclr-halves", labelled(simclr_halves),
     "takes the batch for two views of the same images", "order"),
    ("four-of-each", labelled(four_of_each), "assumes four images of each class in a row", ""),
    ("arccosine", labelled(arccosine), "the arc cosine has no slope at its ends", "finite"),
    ("logarithm", labelled(logarithm), "the logarithm of zero", "finite"),
    ("exponent", labelled(exponent), "overflows for embeddings that are not normalised", "length"),
    ("divides", labelled(divides), "divides by the number of pairs, which may be zero", "finite"),
    ("item", labelled(item), "loses the graph by .item()", "connected"),
    ("python-number", labelled(python_number), "returns a Python number", "scalar"),
    ("dictionary", labelled(dictionary), "returns a dictionary", "scalar"),
    ("one-long", labelled(one_long), "returns a vector of one", "scalar"),
    ("shifts-labels", labelled(shifts_labels), "changes the labels", "labels"),
    ("on-cuda", labelled(on_cuda), "moves labels to CUDA", "raised"),
    ("random-negatives", labelled(random_negatives), "draws its negatives", "same value"),
    ("early-return", labelled(early_return), "returns a loose zero where there are no pairs",
     "connected"),
    ("memory", labelled(memory, init=lambda self, c: setattr(self, "last", None)),
     "adds what it gave before", "same value"),
    ("moving-centre", labelled(moving_centre, init=lambda self, c: self.register_buffer(
        "centre", torch.zeros(c.embedding_dim))), "moves with every call", "same value"),
    ("lazy-proxies", labelled(lazy_proxies), "makes its parameters in the first forward",
     "proxies"),
    ("plain-proxies", labelled(proxies, init=with_proxies(
        kind=lambda t: t.requires_grad_())), "keeps its proxies in a plain tensor", "proxies"),
    ("ten-classes", labelled(proxies, init=with_proxies(classes=10)),
     "has ten proxies, whatever the classes", "classes"),
    ("eight-wide", labelled(proxies, init=with_proxies(dim=8)),
     "assumes the width of the embedding", "dimensions"),
    ("wrong-backward", labelled(wrong_backward), "a hand-written backward of the wrong sign",
     "separate classes"),
    ("swapped-triplets", loss(triplets=swapped_triplets), "swaps positive and negative",
     "farther"),
    ("rotated-triplets", loss(triplets=rotated_triplets),
     "takes (negative, anchor, positive) for (anchor, positive, negative)", "negative"),
    ("inverted-pairs", loss(pairs=inverted_pairs), "takes same for different", "nearer"),
    ("signed-pairs", loss(pairs=signed_pairs), "the wrong sign in similarities of pairs",
     "nearer"),
    ("first-with-first", loss(pairs=first_with_first), "compares each image with itself",
     "pairs"),
    ("positions-as-rows", loss(pairs=positions_as_rows), "ignores the indices of the pairs",
     "pairs"),
    ("no-negative", loss(triplets=no_negative), "never looks at the negative", "negative"),
    ("mean-of-none", loss(triplets=mean_of_none), "the mean of no triplets", "no triplets"),
    ("uses-labels", loss(pairs=uses_labels), "needs labels beside the pairs", "ConfigError"),
    ("flips-same", loss(pairs=flips_same), "changes the pairs", "pairs"),
    ("penalty", loss(pairs=penalised_pairs),
     "asks for a gradient in its forward, which is also run without", "no_grad"),
    ("exits", labelled(lambda x, labels: exit(1)), "ends the program", "SystemExit"),
    ("no-tuples", lambda options, context: type(
        "Old", (Loss,), {"forward": lambda self, x, labels: by_labels(x, labels)})(),
     "forward lacks its third argument", "tuples"),
]  # fmt: skip

MUTANTS = [
    Mutant(name, "losses", build, wrong, says or "order") for name, build, wrong, says in TABLE
]

UNCAUGHT = [
    Mutant("summed", "losses", labelled(lambda x, labels: 16 * by_labels(x, labels)),
           "a sum where a mean is meant: only the rate that suits it differs", ""),
]  # fmt: skip

RIGHT = {
    "all-forms": loss(),
    "labels": labelled(by_labels),
    "proxies": labelled(proxies, init=with_proxies()),
}
