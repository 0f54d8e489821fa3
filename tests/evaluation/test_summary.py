from __future__ import annotations

import json

import pytest
import torch

from siamkit.errors import DataError
from siamkit.evaluation.retrieval import retrieval
from siamkit.evaluation.summary import summarize


def clustered(classes, images, spread=0.8, dim=16):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(images)
    centres = torch.randn(classes, dim, generator=generator)
    return centres[labels] + spread * torch.randn(len(labels), dim, generator=generator), labels


def test_everything_is_there_and_is_json():
    embeddings, labels = clustered(30, 8)
    found = summarize(embeddings, labels)
    assert json.loads(json.dumps(found)) == found
    assert (found["images"], found["classes"]) == (240, 30)
    assert found["retrieval"]["map@r"] == retrieval(embeddings, labels).map_at_r
    assert found["retrieval"]["chance"]["recall@1"] < found["retrieval"]["recall@1"]
    verified = found["verification"]
    assert verified["auc"] > 0.9 and verified["all_pairs"]
    low, high = verified["intervals"]["auc"]
    assert low <= verified["auc"] <= high
    assert 0.8 < verified["accuracy"]["mean"] <= 1 and verified["accuracy"]["folds"] == 10
    assert [shot["shots"] for shot in found["few_shot"]] == [1, 5]
    assert found["notices"] == []
    assert summarize(embeddings, labels) == found, "the draws are seeded"


def test_what_a_small_set_cannot_tell_is_left_out_and_said():
    embeddings, labels = clustered(4, 3)
    found = summarize(embeddings, labels)
    assert found["few_shot"] == []
    assert found["verification"]["tar@far=0.001"] is None
    assert any("5-way 1-shot needs" in text for text in found["notices"])
    assert any("no TAR at FAR 0.001" in text for text in found["notices"])


def test_one_class_has_nothing_to_verify_but_can_be_searched():
    found = summarize(torch.randn(6, 4), torch.zeros(6, dtype=torch.long))
    assert found["verification"] is None
    assert any("no verification" in text for text in found["notices"])


def test_without_two_of_a_class_there_is_nothing_to_evaluate():
    with pytest.raises(DataError, match="no query"):
        summarize(torch.randn(5, 4), torch.arange(5))
