from __future__ import annotations

import math

from siamkit.report.plain import (
    apart,
    embedded_text,
    neighbour_cells,
    pace,
    pair_list_text,
    search_lines,
    verdict_lines,
)


def test_numbers_that_differ_are_printed_apart():
    assert apart(0.123411, 0.12342) == ("0.12341", "0.12342")
    assert apart(0.5, 0.5) == ("0.5000", "0.5000")
    assert apart(math.nextafter(0.5, 0), 0.5)[0] < "0.5"


def test_a_verdict_has_three_lines_and_its_notes():
    found = {"same": True, "score": 0.5, "threshold": 0.5, "probability": 0.5, "prior": 0.25,
             "notices": ["it is dark"]}  # fmt: skip
    decision, numbers, prior, note = verdict_lines(found)
    assert note == "note: it is dark"
    assert (decision, numbers) == ("same", "score 0.5000, threshold 0.5000, probability 0.5000")
    assert prior.startswith(
        "The probability holds for data in which 25 % of the pairs are the same"
    )


def test_an_embedding_says_where_it_is_and_how_fast_it_was():
    found = {"images": 10, "dim": 8, "output": "a.npy", "paths": "a.csv", "resumed_at": 0,
             "seconds": 2.0, "kernel": "eager", "notices": ["one is cut"]}  # fmt: skip
    assert embedded_text(found).splitlines() == [
        "10 embeddings of 8 dimensions, float32: a.npy",
        "image paths: a.csv",
        "10 images embedded in 2.0 s (5.0 img/s, eager)",
        "note: one is cut",
    ]
    before = {**found, "paths": None, "resumed_at": 10}
    assert embedded_text(before).splitlines()[1:] == [
        "all images were embedded before",
        "note: one is cut",
    ]


def test_a_search_says_how_it_was_made():
    found = {"kind": "faiss", "images": 1, "recall@10": 0.9876, "notices": ["it is dark"]}
    assert search_lines(found) == [
        "faiss search among 1 image; recall@10 against exact search: 0.988",
        "note: it is dark",
    ]
    assert neighbour_cells({"rank": 1, "score": 1.0, "label": None, "path": "a"}) == (
        "1", "1.0000", "", "a",
    )  # fmt: skip


def test_the_time_to_build_an_index_is_no_time_of_embedding():
    found = {"images": 12, "resumed_at": 2, "seconds": 7.0, "build_seconds": 5.0, "kernel": "onnx"}
    assert pace(found) == "10 images embedded in 2.0 s (5.0 img/s, onnx)"
    assert pace({**found, "build_seconds": None}) == "10 images embedded in 7.0 s (1.4 img/s, onnx)"
    assert pace({**found, "kernel": None}) == "all images were embedded before"


def test_a_list_of_pairs_is_summed_up_and_compared_with_its_labels():
    found = {"pairs": 5, "images": 4, "accepted": 2, "threshold": 0.25, "prior": 0.5,
             "errors": None, "notices": [], "out": None}  # fmt: skip
    first = "5 pairs of 4 images: 2 same, 3 different at threshold 0.2500"
    lines = pair_list_text(found).splitlines()
    assert lines[0] == first and lines[1].startswith(
        "The probabilities hold for data in which 50 %"
    )
    assert len(lines) == 2
    errors = {"same": 3, "different": 2, "accuracy": 0.8, "far": 0.5, "frr": None}
    more = {"errors": errors, "notices": ["it is dark"], "out": "a.csv"}
    assert pair_list_text({**found, **more}).splitlines() == [
        first,
        "compared with the labels of the list (3 same and 2 different pairs): accuracy 80 %, "
        "FAR 50 %",
        lines[1],
        "note: it is dark",
        "written to a.csv",
    ]
