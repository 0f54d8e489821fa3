from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siamkit.evaluation.retrieval import retrieval_metrics


def plain(embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Recall@1 and MAP@R by loops over the definition."""
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    hits, averages = [], []
    for q in range(len(labels)):
        others = [i for i in range(len(labels)) if i != q]
        ranked = sorted(others, key=lambda i: -float(unit[q] @ unit[i]))
        relevant = sum(int(labels[i] == labels[q]) for i in others)
        if not relevant:
            continue
        right = [bool(labels[i] == labels[q]) for i in ranked[:relevant]]
        hits.append(right[0])
        precision = [sum(right[: k + 1]) / (k + 1) for k in range(relevant) if right[k]]
        averages.append(sum(precision) / relevant)
    return {"recall@1": sum(hits) / len(hits), "map@r": sum(averages) / len(averages)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(2, 6), min_size=2, max_size=5))
def test_metrics_follow_their_definition(seed: int, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    embeddings = torch.randn(len(labels), 4, generator=generator) + labels[:, None] * 0.5
    assert retrieval_metrics(embeddings, labels) == pytest.approx(plain(embeddings, labels))


def test_a_class_with_one_image_is_no_query_but_can_be_found() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.95, 0.05], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 2])
    assert retrieval_metrics(embeddings, labels) == plain(embeddings, labels)
    assert retrieval_metrics(embeddings, labels)["recall@1"] == 0.0


def test_perfect_and_worst() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    assert retrieval_metrics(apart, labels) == {"recall@1": 1.0, "map@r": 1.0}
    assert retrieval_metrics(apart, torch.tensor([0, 1, 0, 1]))["recall@1"] == 0.0
