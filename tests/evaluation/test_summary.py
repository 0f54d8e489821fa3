from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.errors import DataError
from siamkit.evaluation.retrieval import retrieval
from siamkit.evaluation.summary import summarize
from siamkit.portable.cosine import directions


def clustered(classes, images, spread=0.8, dim=16):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), images)
    centres = rng.standard_normal((classes, dim), dtype=np.float32)
    noise = rng.standard_normal((len(labels), dim), dtype=np.float32)
    return centres[labels] + spread * noise, labels


def labelled(labels, **more):
    samples = tuple(Sample(Path(str(i)), int(y), str(i)) for i, y in enumerate(labels))
    return ImageSet(samples, tuple(str(c) for c in range(int(max(labels)) + 1)), **more)


def test_everything_is_there_and_is_json():
    embeddings, labels = clustered(30, 8)
    found = summarize(embeddings, labelled(labels))
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
    assert summarize(embeddings, labelled(labels)) == found, "the draws are seeded"


def test_what_a_small_set_cannot_tell_is_left_out_and_said():
    embeddings, labels = clustered(4, 3)
    found = summarize(embeddings, labelled(labels))
    assert found["few_shot"] == []
    assert found["verification"]["tar@far=0.001"] is None
    assert any("5-way 1-shot needs" in text for text in found["notices"])
    assert any("no TAR at FAR 0.001" in text for text in found["notices"])


def test_one_class_has_nothing_to_verify_but_can_be_searched():
    found = summarize(np.random.default_rng(0).standard_normal((6, 4)), labelled([0] * 6))
    assert found["verification"] is None
    assert any("no verification" in text for text in found["notices"])


def test_without_two_of_a_class_there_is_nothing_to_evaluate():
    with pytest.raises(DataError, match="no query"):
        summarize(np.random.default_rng(0).standard_normal((5, 4)), labelled(range(5)))


def test_query_and_gallery_are_those_that_the_data_says():
    embeddings, labels = clustered(10, 8)
    query = tuple(i % 8 < 2 for i in range(80))
    gallery = tuple(i % 8 >= 5 for i in range(80))
    found = summarize(embeddings, labelled(labels, query=query, gallery=gallery))["retrieval"]
    wanted = retrieval(embeddings, labels, query=np.array(query), gallery=np.array(gallery))
    assert (found["queries"], found["gallery"]) == (20, 30)
    assert found["map@r"] == wanted.map_at_r
    assert found["chance"]["recall@1"] == pytest.approx(3 / 30)


def test_known_pairs_are_verified_as_they_are():
    embeddings, labels = clustered(20, 4)
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 80, (2, 300))
    keep = first != second
    first, second = first[keep], second[keep]
    same = tuple(bool(x) for x in labels[first] == labels[second])
    folds = tuple(int(i) % 3 for i in range(len(first)))
    pairs = Tuples(tuple(zip(first.tolist(), second.tolist(), strict=True)), same, folds)
    found = summarize(embeddings, labelled(labels, tuples=pairs))
    assert json.loads(json.dumps(found)) == found
    assert found["retrieval"] is None and found["few_shot"] == []
    verified = found["verification"]
    assert (verified["same"], verified["different"]) == (sum(same), len(same) - sum(same))
    vectors = directions(embeddings)
    cosine = (vectors[first] * vectors[second]).sum(1)
    assert verified["auc"] == pytest.approx(roc_auc_score(same, cosine), abs=1e-6)
    assert (verified["accuracy"]["folds"], verified["accuracy"]["pairs"]) == (3, len(first))
    unfolded = Tuples(pairs.rows, pairs.same)
    accuracy = summarize(embeddings, labelled(labels, tuples=unfolded))["verification"]["accuracy"]
    assert accuracy is None or accuracy["pairs"] < len(first), "folds of identities, balanced"


@pytest.mark.parametrize("folds", [1, 2])
def test_k_fold_accuracy_takes_two_folds(folds):
    embeddings, labels = clustered(4, 2)
    rows = ((0, 1), (0, 2), (4, 5), (4, 6))
    same = (True, False, True, False)
    pairs = Tuples(rows, same, tuple(i // 2 % folds for i in range(4)))
    found = summarize(embeddings, labelled(labels, tuples=pairs))
    accuracy = found["verification"]["accuracy"]
    said = "no k-fold accuracy: it needs two folds with same and different pairs"
    assert (accuracy is None) == (said in found["notices"]) == (folds == 1)
    assert folds == 1 or (accuracy["folds"], accuracy["pairs"]) == (2, 4)


def test_triplets_are_counted_and_verified_as_pairs():
    embeddings = np.eye(4, dtype=np.float32)
    embeddings[1, 0] = 1.0  # the second is near the first
    triplets = Tuples(((0, 1, 2), (0, 3, 1)))
    found = summarize(embeddings, labelled([0, 0, 1, 2], tuples=triplets))
    assert found["triplets"] == {"count": 2, "accuracy": 0.5, "chance": 0.5}
    assert found["tuples"] == "2 triplets"
    triplets = Tuples(((0, 1, 2), (1, 0, 2), (0, 3, 1)))
    more = summarize(embeddings, labelled([0, 0, 1, 2], tuples=triplets))
    assert more["triplets"]["accuracy"] == pytest.approx(2 / 3)
    assert found["verification"]["same"] + found["verification"]["different"] == 3


@pytest.mark.parametrize("sheets", [3, 4, 6])
def test_folds_of_known_pairs_follow_what_is_connected(sheets):
    embeddings, labels = clustered(4 * sheets, 2)
    # Sheets of four identities; pairs stay within a sheet, so none is lost between folds of sheets.
    first, second = zip(
        *[
            (a, b)
            for s in range(sheets)
            for a in range(8 * s, 8 * s + 8)
            for b in range(a + 1, 8 * s + 8)
        ],
        strict=True,
    )
    same = tuple(int(labels[a]) == int(labels[b]) for a, b in zip(first, second, strict=True))
    pairs = Tuples(tuple(zip(first, second, strict=True)), same)
    found = summarize(embeddings, labelled(labels, tuples=pairs))
    accuracy = found["verification"]["accuracy"]
    if sheets < 4:  # too few for two folds of sheets, so the folds are of identities
        assert accuracy["folds"] > 1 and accuracy["pairs"] < 2 * sum(same)
    else:
        assert (accuracy["folds"], accuracy["pairs"]) == (sheets // 2, 2 * sum(same))
