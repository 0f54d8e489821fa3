import re

from siamkit.report.evaluation import evaluation

REPORT = {
    "run_dir": "runs/a", "which": "best", "images": 240, "classes": 30, "tuples": None,
    "data": {"path": "photos/[/bold]", "part": "test"},
    "retrieval": {
        "recall@1": 0.9125, "recall@5": 0.95, "map@r": 0.61, "r_precision": 0.65,
        "queries": 238, "left_out": 2, "gallery": 240, "classes": 29,
        "chance": {"recall@1": 0.03, "recall@5": 0.14, "map@r": 0.01, "r_precision": 0.03},
    },
    "verification": {
        "auc": 0.987, "eer": 0.052, "eer_threshold": 0.4, "tar@far=0.1": 0.97,
        "tar@far=0.001": None, "same": 840, "different": 27_840, "all_pairs": True,
        "intervals": {"auc": [0.98, 0.992], "eer": [0.04, 0.06], "tar@far=0.1": [0.95, 0.98]},
        "at_threshold": {"threshold": 0.5125, "accuracy": 0.94, "far": 0.051, "frr": 0.062},
        "accuracy": {"mean": 0.941, "standard_error": 0.006, "folds": 10, "pairs": 1680},
    },
    "triplets": None,
    "few_shot": [{"accuracy": 0.9, "margin": 0.01, "ways": 5, "shots": 1, "chance": 0.2}],
    "notices": ["no TAR at FAR 0.001: 27840 different pairs are too few to tell it"],
}  # fmt: skip


def rows(text):
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_metrics_stand_beside_chance_and_their_intervals(render):
    text = render(evaluation(REPORT))
    assert "240 images of 30 classes: test of photos/[/bold]" in text
    assert (
        "retrieval: 238 queries among 240 images (2 without another image of their class left out)"
    ) in text
    assert "verification: 840 same and 27.8 k different pairs (all pairs)" in text
    found = rows(text)
    assert ["recall@1", "0.912", "0.030"] in found
    assert ["eer", "0.052", "0.040 to 0.060"] in found
    assert ["5-way 1-shot", "0.900", "0.890 to 0.910", "0.200"] in found
    assert "at the run's threshold 0.5125: accuracy 0.940, FAR 5.1 %, FRR 6.2 %" in text
    assert (
        "accuracy 0.941 +- 0.006 (standard error) over 10 folds; each fold uses the threshold of "
        "the other folds"
    ) in text


def test_what_cannot_be_told_is_a_note_and_no_row(render):
    text = render(evaluation(REPORT))
    assert not [row for row in rows(text) if row[0] == "tar@far=0.001"]
    assert "note: no TAR at FAR 0.001" in text
    bare = render(evaluation({**REPORT, "verification": None, "few_shot": [], "notices": []}))
    assert "verification" not in bare and "few-shot" not in bare and "note" not in bare


def test_known_pairs_are_not_retrieval(render):
    known = {
        **REPORT, "tuples": "20 triplets", "retrieval": None, "few_shot": [],
        "triplets": {"count": 20, "accuracy": 0.85, "chance": 0.5},
    }  # fmt: skip
    text = render(evaluation(known))
    assert "240 images in 20 triplets: test of photos/[/bold]" in text
    assert "the positive is nearer than the negative in 0.850 of 20 triplets" in text
    assert "retrieval" not in text


def test_it_fits_80_columns(render):
    text = render(evaluation(REPORT), width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
