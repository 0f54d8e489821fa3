from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from siamkit.engine.dataflow import Dataflow

OPERATIONS = {
    "arithmetic": (lambda a, b: a + b, "ab"),
    "one": (lambda a, b: a * 2, "a"),
    "views": (lambda a, b: a[1:].T.reshape(-1), "a"),
    "lists": (lambda a, b: torch.cat([a, b]), "ab"),
    "keywords": (lambda a, b: torch.add(input=a, other=b), "ab"),
    "masks": (lambda a, b: torch.zeros(4, 4).masked_fill(b > 0, 1), "b"),
    "indices": (lambda a, b: torch.arange(4)[a.argmax(1)], "a"),
    "shapes": (lambda a, b: torch.zeros_like(a) + b.new_ones(a.shape), ""),
    "sizes": (lambda a, b: torch.ones(a.shape[0]), ""),
    "functional": (lambda a, b: F.scaled_dot_product_attention(a, a, b), "ab"),
    "detached": (lambda a, b: a.detach() * 1, "a"),
    "in place": (lambda a, b: torch.zeros(4, 4).add_(b), "b"),
    "through a view": (lambda a, b: _written_through_a_view(b), "b"),
    "unused": (lambda a, b: (a * b, torch.ones(2))[1], ""),
}


def _written_through_a_view(b):
    target = torch.zeros(6, 4)
    target[:4].copy_(b)
    return target.sum()


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_a_result_depends_on(name):
    operation, expected = OPERATIONS[name]
    a, b = torch.randn(4, 4), torch.randn(4, 4)
    flow = Dataflow()
    flow.mark(a, "a")
    flow.mark(b, "b")
    with flow:
        result = operation(a, b)
    assert flow.labels(result) == set(expected)
    assert not flow.written


READS = {
    "item": lambda a: a.sum().item(),
    "if": lambda a: bool(a.mean() > 0),
    "equal": lambda a: torch.equal(a, a + 1),
    "numpy": lambda a: a.numpy(),
    "asarray": lambda a: np.asarray(a),
    "tolist": lambda a: a.tolist(),
    "float": lambda a: float(a[0, 0]),
}


@pytest.mark.parametrize("name", READS)
def test_values_that_python_reads_are_noted_with_the_line(name):
    a = torch.randn(4, 4)
    flow = Dataflow()
    flow.mark(a, "a")
    with flow:
        READS[name](torch.ones(2, 2))
        assert flow.reads == []
        READS[name](a)
    labels, place = flow.reads[0]
    assert labels == {"a"} and place.startswith("test_dataflow.py, line ")


def test_writing_to_a_marked_tensor_is_noted():
    a, b = torch.randn(4), torch.randn(4)
    flow = Dataflow()
    flow.mark(a, "a")
    flow.mark(b, "b")
    with flow:
        a[1:].mul_(2)
        b + 1
    assert flow.written == {"a"}


def test_nothing_is_followed_outside():
    a = torch.randn(4)
    flow = Dataflow()
    flow.mark(a, "a")
    with flow:
        pass
    assert flow.labels(a + 1) == frozenset() and flow.labels(a) == {"a"}


def test_sparse_tensors_are_followed_too():
    sparse, flow = torch.eye(4).to_sparse(), Dataflow()
    flow.mark(sparse, "s")
    assert flow.labels([sparse, torch.ones(1)]) == {"s"} and not flow.labels(torch.ones(1))
