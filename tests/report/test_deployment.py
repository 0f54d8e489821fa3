from siamkit.report.deployment import indexed, searched

INDEXED = {
    "images": 6, "labels": 2, "dim": 8, "index": "gallery/", "kind": "exact", "seconds": 3.0,
    "kernel": "eager", "resumed_at": 0, "notices": ["one is cut"],
}  # fmt: skip


def test_an_exact_index_says_what_is_in_it(render):
    assert render(indexed(INDEXED)).splitlines() == [
        "6 images of 2 labels, 8 dimensions: gallery/",
        "exact search",
        "6 images embedded in 3.0 s (2.0 img/s, eager)",
        "note: one is cut",
    ]
    first = render(indexed({**INDEXED, "labels": 0})).splitlines()[0]
    assert first == "6 images, 8 dimensions: gallery/"


def test_an_approximate_index_says_what_it_misses(render):
    approximate = {"kind": "hnsw", "recall@10": 0.98765, "build_seconds": 4.0}
    assert render(indexed({**INDEXED, **approximate})).splitlines()[1] == (
        "approximate search (hnsw): recall@10 0.988 on a sample of the gallery, built in 4.0 s"
    )


def test_each_query_has_a_table_of_its_neighbours(render):
    neighbour = {"rank": 1, "score": 0.75, "label": "cat", "path": "a.png", "class": "cat"}
    result = {
        "queries": [
            {"path": "one.png", "neighbours": [neighbour, {**neighbour, "rank": 2, "score": 0.5}]},
            {"path": "two.png", "neighbours": []},
        ],
        "index": "gallery/", "images": 6, "kind": "exact", "recall@10": None,
        "notices": [],
    }  # fmt: skip
    text = render(searched(result))
    found = [line.split() for line in text.splitlines()]
    assert ["one.png"] in found and ["two.png"] in found
    assert [row[:2] for row in found if row[:1] in (["1"], ["2"])] == [["1", "0.7500"],
                                                                      ["2", "0.5000"]]  # fmt: skip
    assert "cat" in text and "a.png" in text
