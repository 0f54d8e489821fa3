"""Every loss against a plain-loop oracle, and the contract of ``siamkit.interfaces.Loss``."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from siamkit.builtins import losses as builtin
from siamkit.errors import ConfigError
from siamkit.interfaces import LossContext, Pairs, Triplets
from siamkit.registry import Entry

ENTRIES: dict[str, Entry] = {}
builtin.siamkit_register_losses(
    lambda name, build, options: ENTRIES.update({name: Entry(name, build, options)})
)
PAIR = ["contrastive", "multi-similarity"]
TRIPLET = ["triplet", "supcon", "ntxent", "circle"]
CLASS = ["proxy-anchor", "arcface"]
DTYPES = [torch.float32, torch.float64]


def make(name, *, dim=6, classes=4, **options):
    entry = ENTRIES[name]
    torch.manual_seed(0)
    return entry.build(entry.validate(options, "loss"), LossContext(dim, classes))


def batch(labels=(0, 0, 0, 1, 1, 2, 2, 3), dim=6, dtype=torch.float32, seed=0, scale=0.6):
    generator = torch.Generator().manual_seed(seed)
    embeddings = scale * torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    return embeddings.to(dtype).requires_grad_(), torch.tensor(labels)


# --- oracles: loops over plain floats ------------------------------------------------------------


def euclidean(a, b):
    return math.dist(a.tolist(), b.tolist())


def squared(a, b):
    return euclidean(a, b) ** 2


def similarity(a, b):
    return cosine_similarity(a.double(), b.double(), dim=0).item()


def cosine(a, b):
    return 1 - similarity(a, b)


MEASURES = {"euclidean": euclidean, "squared-euclidean": squared, "cosine": cosine}


def others(labels, i):
    n = range(len(labels))
    return (
        [j for j in n if j != i and labels[j] == labels[i]],
        [j for j in n if labels[j] != labels[i]],
    )


def all_triplets(labels):
    found = [(a, *others(labels, a)) for a in range(len(labels))]
    return [(a, p, n) for a, positives, negatives in found for p in positives for n in negatives]


def mined(x, labels, mining, margin, d):
    triplets = all_triplets(labels)
    if mining == "all":
        return triplets
    if mining == "semihard":
        return [
            (a, p, n)
            for a, p, n in triplets
            if d(x[a], x[p]) < d(x[a], x[n]) <= d(x[a], x[p]) + margin
        ]
    hard = []
    for a in range(len(labels)):
        positives, negatives = others(labels, a)
        if positives and negatives:
            hard.append(
                (
                    a,
                    max(positives, key=lambda p: d(x[a], x[p])),
                    min(negatives, key=lambda n: d(x[a], x[n])),
                )
            )
    return hard


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def mean_nonzero(values):
    return mean(value for value in values if value > 0)


def triplet_oracle(x, triplets, margin, d, swap=False, smooth=False):
    terms = []
    for a, p, n in triplets:
        negative = min(d(x[a], x[n]), d(x[p], x[n])) if swap else d(x[a], x[n])
        violation = d(x[a], x[p]) - negative + margin
        terms.append(math.log1p(math.exp(violation)) if smooth else max(violation, 0.0))
    return mean_nonzero(terms)


def contrastive_oracle(x, pairs, pos_margin, neg_margin, d):
    positive = [max(d(x[i], x[j]) - pos_margin, 0.0) for i, j, same in pairs if same]
    negative = [max(neg_margin - d(x[i], x[j]), 0.0) for i, j, same in pairs if not same]
    return mean_nonzero(positive) + mean_nonzero(negative)


def labelled_pairs(labels):
    n = range(len(labels))
    return [(i, j, labels[i] == labels[j]) for i in n for j in n if i != j]


def rows_of(pairs, n):
    """The positives and the negatives of each anchor."""
    rows = [([], []) for _ in range(n)]
    for i, j, same in pairs:
        rows[i][0 if same else 1].append(j)
    return rows


def ms_mined(x, labels, epsilon):
    pairs = []
    for i in range(len(labels)):
        positives, negatives = others(labels, i)
        if not positives or not negatives:
            continue
        nearest_negative = max(similarity(x[i], x[j]) for j in negatives)
        farthest_positive = min(similarity(x[i], x[j]) for j in positives)
        pairs += [
            (i, j, True) for j in positives if similarity(x[i], x[j]) - epsilon < nearest_negative
        ]
        pairs += [
            (i, j, False) for j in negatives if similarity(x[i], x[j]) + epsilon > farthest_positive
        ]
    return pairs


def ms_oracle(x, pairs, alpha, beta, base):
    terms = []
    for i, (positives, negatives) in enumerate(rows_of(pairs, len(x))):
        pos = sum(math.exp(-alpha * (similarity(x[i], x[j]) - base)) for j in positives)
        neg = sum(math.exp(beta * (similarity(x[i], x[j]) - base)) for j in negatives)
        terms.append(math.log1p(pos) / alpha + math.log1p(neg) / beta)
    return mean(terms)


def supcon_oracle(x, rows, temperature):
    terms = []
    for i, (positives, negatives) in enumerate(rows):
        if positives:
            s = {j: similarity(x[i], x[j]) / temperature for j in positives + negatives}
            total = math.log(sum(math.exp(v) for v in s.values()))
            terms.append(-mean(s[j] - total for j in positives))
    return mean_nonzero(terms)


def ntxent_oracle(x, rows, temperature):
    terms = []
    for i, (positives, negatives) in enumerate(rows):
        other = sum(math.exp(similarity(x[i], x[j]) / temperature) for j in negatives)
        for j in positives:
            own = math.exp(similarity(x[i], x[j]) / temperature)
            terms.append(-math.log(own / (own + other)))
    return mean(terms)


def circle_oracle(x, rows, m, gamma):
    terms = []
    for i, (positives, negatives) in enumerate(rows):
        if positives and negatives:
            pos = [similarity(x[i], x[j]) for j in positives]
            neg = [similarity(x[i], x[j]) for j in negatives]
            p = sum(math.exp(-gamma * max(1 + m - s, 0) * (s - (1 - m))) for s in pos)
            n = sum(math.exp(gamma * max(s + m, 0) * (s - m)) for s in neg)
            terms.append(math.log1p(p * n))
    return mean_nonzero(terms)


def proxy_anchor_oracle(x, labels, proxies, margin, alpha):
    pos = neg = 0.0
    for c, proxy in enumerate(proxies):
        s = [similarity(e, proxy) for e in x]
        pos += math.log1p(
            sum(math.exp(-alpha * (v - margin)) for v, y in zip(s, labels, strict=True) if y == c)
        )
        neg += math.log1p(
            sum(math.exp(alpha * (v + margin)) for v, y in zip(s, labels, strict=True) if y != c)
        )
    return pos / len(set(labels)) + neg / len(proxies)


def arcface_oracle(x, labels, classes, margin, scale):
    margin = math.radians(margin)
    terms = []
    for e, y in zip(x, labels, strict=True):
        logits = [similarity(e, w) for w in classes]
        angle = math.acos(logits[y])
        turned = angle <= math.pi - margin
        logits[y] = math.cos(angle + margin) if turned else logits[y] - margin * math.sin(margin)
        total = sum(math.exp(scale * v) for v in logits)
        terms.append(math.log(total) - scale * logits[y])
    return mean(terms)


# --- against the oracles -------------------------------------------------------------------------


def close(actual, expected):
    rtol = 1e-9 if actual.dtype == torch.float64 else 2e-4
    assert actual.shape == ()
    assert actual.item() == pytest.approx(expected, rel=rtol, abs=1e-6)
    assert expected > 0, "the case would prove nothing"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distance", MEASURES)
@pytest.mark.parametrize("mining", ["all", "hard", "semihard"])
@pytest.mark.parametrize("form", [{}, {"swap": True}, {"smooth": True}])
def test_triplet(dtype, distance, mining, form):
    x, labels = batch(dtype=dtype)
    d, margin = MEASURES[distance], 0.4
    triplets = mined(x, labels.tolist(), mining, margin, d)
    assert triplets
    actual = make("triplet", distance=distance, mining=mining, margin=margin, **form)(x, labels)
    close(actual, triplet_oracle(x, triplets, margin, d, **form))


@pytest.mark.parametrize("mining", ["hard", "semihard"])
@pytest.mark.parametrize("distance", MEASURES)
@pytest.mark.parametrize("seed", range(5))
def test_mining_picks_what_brute_force_picks(mining, distance, seed):
    x, labels = batch(labels=[0] * 4 + [1] * 3 + [2] * 2 + [3], dtype=torch.float64, seed=seed)
    loss = make("triplet", mining=mining, distance=distance, margin=0.5)
    found = {tuple(t) for t in torch.stack(loss.miner(x, labels), dim=1).tolist()}
    assert found == set(mined(x, labels.tolist(), mining, 0.5, MEASURES[distance]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_contrastive(dtype, distance):
    x, labels = batch(dtype=dtype)
    actual = make("contrastive", pos_margin=0.3, neg_margin=1.4, distance=distance)(x, labels)
    pairs = labelled_pairs(labels.tolist())
    close(actual, contrastive_oracle(x, pairs, 0.3, 1.4, MEASURES[distance]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epsilon", [None, 0.0, 0.1])
def test_multi_similarity(dtype, epsilon):
    x, labels = batch(dtype=dtype)
    plain = labels.tolist()
    pairs = labelled_pairs(plain) if epsilon is None else ms_mined(x, plain, epsilon)
    assert pairs
    close(make("multi-similarity", epsilon=epsilon)(x, labels), ms_oracle(x, pairs, 2, 50, 0.5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "options", "oracle"),
    [
        ("supcon", {"temperature": 0.2}, lambda x, rows: supcon_oracle(x, rows, 0.2)),
        ("ntxent", {"temperature": 0.2}, lambda x, rows: ntxent_oracle(x, rows, 0.2)),
        (
            "circle",
            {"margin": 0.25, "scale": 16.0},
            lambda x, rows: circle_oracle(x, rows, 0.25, 16.0),
        ),
    ],
)
def test_losses_of_an_anchor_with_its_positives_and_negatives(name, options, oracle, dtype):
    x, labels = batch(dtype=dtype)
    rows = rows_of(labelled_pairs(labels.tolist()), len(x))
    close(make(name, **options)(x, labels), oracle(x, rows))
    # The same through explicit triplets: every triplet of the batch says what its labels say, but
    # for the last image, which is alone in its class and so no triplet's anchor.
    triplets = Triplets(*torch.tensor(all_triplets(labels.tolist())).T)
    assert rows[-1][0] == []
    close(make(name, **options)(x, None, triplets), oracle(x, rows))


@pytest.mark.parametrize("dtype", DTYPES)
def test_proxy_anchor(dtype):
    x, labels = batch(labels=(0, 0, 1, 1, 3), dtype=dtype)
    loss = make("proxy-anchor").to(dtype)
    close(
        loss(x, labels), proxy_anchor_oracle(x, labels.tolist(), loss.criterion.proxies, 0.1, 32.0)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_arcface(dtype):
    x, labels = batch(dtype=dtype)
    loss = make("arcface", margin=20.0, scale=8.0).to(dtype)
    with torch.no_grad():  # opposite to its class vector, where the margin turns past pi
        x[0] = -loss.criterion.W[:, 0] + 0.01
    close(loss(x, labels), arcface_oracle(x, labels.tolist(), loss.criterion.W.T, 20.0, 8.0))


# --- explicit tuples -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("same", [[1, 0, 1, 0], [1], [0], [1, 0]])
def test_contrastive_from_pairs(dtype, distance, same):
    first, _ = batch(labels=same, dtype=dtype)
    second, _ = batch(labels=same, dtype=dtype, seed=1, scale=0.3)
    loss = make("contrastive", distance=distance, neg_margin=1.9)
    pairs = [(i, i + len(same), bool(s)) for i, s in enumerate(same)]
    expected = contrastive_oracle(torch.cat([first, second]), pairs, 0, 1.9, MEASURES[distance])
    close(loss.from_pairs(first, second, torch.tensor(same)), expected)
    close(loss.from_pairs(second, first, torch.tensor(same)), expected)


@pytest.mark.parametrize("same", [[1, 0, 1, 0], [1], [0]])
def test_multi_similarity_from_pairs(same):
    first, _ = batch(labels=same, dtype=torch.float64)
    second, _ = batch(labels=same, dtype=torch.float64, seed=1)
    n = len(same)
    both = torch.cat([first, second])
    pairs = [(i, i + n, bool(s)) for i, s in enumerate(same)]
    pairs += [(j, i, s) for i, j, s in pairs]
    close(
        make("multi-similarity").from_pairs(first, second, torch.tensor(same)),
        ms_oracle(both, pairs, 2, 50, 0.5),
    )


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("mining", ["all", "hard", "semihard"])
def test_triplet_from_triplets_uses_all_of_them(count, mining):
    a, p, n = (batch(labels=[0] * count, dtype=torch.float64, seed=s)[0] for s in range(3))
    triplets = [(i, i + count, i + 2 * count) for i in range(count)]
    expected = triplet_oracle(torch.cat([a, p, n]), triplets, 3.0, euclidean)
    close(make("triplet", margin=3.0, mining=mining).from_triplets(a, p, n), expected)


@pytest.mark.parametrize("count", [1, 4])
def test_triplets_become_pairs_for_the_losses_of_pairs(count):
    a, p, n = (batch(labels=[0] * count, dtype=torch.float64, seed=s)[0] for s in range(3))
    x = torch.cat([a, p, n])
    pairs = [(i, i + count, True) for i in range(count)]
    pairs += [(i, i + 2 * count, False) for i in range(count)]
    close(
        make("contrastive", neg_margin=3.0).from_triplets(a, p, n),
        contrastive_oracle(x, pairs, 0, 3.0, euclidean),
    )
    close(make("multi-similarity").from_triplets(a, p, n), ms_oracle(x, pairs, 2, 50, 0.5))


@pytest.mark.parametrize("name", TRIPLET)
def test_pairs_are_refused_where_they_would_give_zero_in_silence(name):
    x, _ = batch()
    with pytest.raises(ConfigError, match=f"loss '{name}' cannot use explicit pairs.*contrastive"):
        make(name).from_pairs(x[:4], x[4:], torch.tensor([1, 0, 1, 0]))


@pytest.mark.parametrize("name", CLASS)
def test_explicit_tuples_are_refused_where_labels_are_needed(name):
    x, _ = batch()
    with pytest.raises(ConfigError, match=f"loss '{name}' cannot use explicit.*needs labels"):
        make(name).from_pairs(x[:4], x[4:], torch.tensor([1, 0, 1, 0]))
    with pytest.raises(ConfigError, match="needs labels"):
        make(name).from_triplets(x[:2], x[2:4], x[4:6])


@pytest.mark.parametrize("name", ENTRIES)
def test_neither_labels_nor_tuples_is_an_error(name):
    with pytest.raises(ConfigError, match="neither labels nor tuples"):
        make(name)(batch()[0], None)


# --- the contract --------------------------------------------------------------------------------


def gradients(loss, x):
    loss.backward()
    return x.grad


@pytest.mark.parametrize("name", PAIR + TRIPLET)
@pytest.mark.parametrize("mining", ["all", "hard", "semihard"])
def test_nothing_mined_gives_a_connected_zero(name, mining):
    options = {"mining": mining} if name == "triplet" else {}
    empty = torch.zeros(0, dtype=torch.long)
    nothing = {
        "each image alone in one class": ([0], None),
        "empty triplets": (None, Triplets(empty, empty, empty)),
    }
    if name in PAIR:
        nothing["empty pairs"] = (None, Pairs(empty, empty, empty.bool()))
    for what, (labels, tuples) in nothing.items():
        x, y = batch(labels=labels if labels is not None else (0, 1))
        loss = make(name, **options)(x, y if labels is not None else None, tuples)
        assert loss.item() == 0, what
        assert torch.equal(gradients(loss, x), torch.zeros_like(x)), what


def test_easy_triplets_give_a_connected_zero():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.01], [9.0, 0.0], [9.0, 0.01]], requires_grad=True)
    for mining in ("all", "hard", "semihard"):
        loss = make("triplet", mining=mining)(x, torch.tensor([0, 0, 1, 1]))
        assert loss.item() == 0
        assert torch.equal(gradients(loss, x), torch.zeros_like(x))
        x.grad = None


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_identical_embeddings_give_finite_gradients(name, scale):
    x = (scale * torch.ones(6, 6)).requires_grad_()
    loss = make(name)(x, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert torch.isfinite(loss)
    assert torch.isfinite(gradients(loss, x)).all()


@pytest.mark.parametrize("mining", ["all", "hard", "semihard"])
@pytest.mark.parametrize("distance", MEASURES)
def test_identical_embeddings_give_finite_gradients_in_each_form(mining, distance):
    x = torch.ones(40, 6, requires_grad=True)  # more than 25: cdist takes another way there
    loss = make("triplet", mining=mining, distance=distance)(x, torch.arange(40) // 4)
    assert torch.isfinite(gradients(loss, x)).all()


@pytest.mark.parametrize("torch_until_2_13", [False, True])
def test_arcface_stays_finite_on_its_class_vector(torch_until_2_13, monkeypatch):
    if torch_until_2_13:  # where clamp's slope is one at its bounds, too
        clamp = torch.clamp
        monkeypatch.setattr(torch, "clamp", lambda x, *ends: x + (clamp(x, *ends) - x).detach())
    loss = make("arcface")
    with torch.no_grad():
        loss.criterion.W.copy_(torch.eye(6)[:, :4])  # so that the cosine is exactly one
    x = torch.eye(6)[:4].requires_grad_()
    value = loss(x, torch.arange(4))
    assert torch.isfinite(gradients(value, x)).all()
    assert torch.isfinite(loss.criterion.W.grad).all()


@pytest.mark.parametrize("name", ENTRIES)
def test_every_loss_teaches_the_embeddings(name):
    x, labels = batch()
    options = {"mining": "all"} if name == "triplet" else {}
    grad = gradients(make(name, **options)(x, labels), x)
    assert torch.isfinite(grad).all()
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("name", ENTRIES)
def test_autocast_does_not_cost_precision(name):
    x, labels = batch()
    loss = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        under = loss(x, labels)
        half = loss(x.bfloat16(), labels)
    assert under.dtype == half.dtype == torch.float32
    assert torch.equal(under, loss(x, labels))
    assert torch.equal(half, loss(x.bfloat16().float(), labels))


@pytest.mark.parametrize("name", CLASS)
def test_class_losses_own_parameters_whose_type_and_storage_never_change(name):
    loss = make(name, dim=6, classes=4)
    [(parameter_name, parameter)] = loss.named_parameters()
    assert parameter_name in ("criterion.proxies", "criterion.W")
    assert parameter.numel() == 24
    pointer = parameter.data_ptr()
    x, labels = batch(dtype=torch.float64)
    loss(x, labels).backward()
    assert parameter.dtype == torch.float32
    assert parameter.data_ptr() == pointer
    assert parameter.grad.abs().sum() > 0
    assert next(loss.parameters()) is parameter


@pytest.mark.parametrize("name", PAIR + TRIPLET)
def test_other_losses_own_nothing(name):
    assert not list(make(name).parameters())
    assert not make(name).state_dict()


def test_margins_see_embeddings_as_they_are():
    x = torch.tensor([[0.0, 3.0], [0.0, 5.0], [4.0, 3.0]])
    labels = torch.tensor([0, 0, 1])
    # Anchor 0: d_ap = 2, d_an = 4; anchor 1: d_ap = 2, d_an = sqrt(20).
    loss = make("triplet", margin=3.0, mining="all", dim=2)(x, labels)
    assert loss.item() == pytest.approx((1.0 + (2 - 20**0.5 + 3)) / 2)


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("triplet", {"margin": -1.0}, r"loss\.margin: must be greater than 0, got -1\.0"),
        ("triplet", {"mining": "hardest"}, r"loss\.mining: must be 'all', 'hard' or 'semihard'"),
        ("triplet", {"margins": 1.0}, "did you mean 'margin'"),
        ("contrastive", {"pos_margin": 1.0}, "pos_margin must be less than neg_margin"),
        ("supcon", {"temperature": 0.0}, r"loss\.temperature: must be greater than or equal"),
        ("arcface", {"margin": 90.0}, r"loss\.margin: must be less than 90"),
    ],
)
def test_bad_options_say_what_is_allowed(name, options, message):
    with pytest.raises(ConfigError, match=message):
        ENTRIES[name].validate(options, "loss")


def test_the_coldest_temperature_still_teaches_the_hardest_positive():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.01], [1.0, -0.01]], requires_grad=True)
    triplets = Triplets(*(torch.tensor([i]) for i in range(3)))
    loss = make("ntxent", temperature=0.025, dim=2)(x, None, triplets)
    assert loss.item() == pytest.approx(80, rel=0.01)
    assert gradients(loss, x)[0].abs().sum() > 0.1


def test_options_are_documented():
    for entry in ENTRIES.values():
        for name, field in entry.options.model_fields.items():
            assert field.description, f"{entry.name}.{name}"
