"""What held-out embeddings say: neighbours, hardest pairs, threshold, map, thumbnails."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from siamkit.data.images import ImageSet, PairList, Sample
from siamkit.report.html import thumbnails as thumbs
from siamkit.report.html.embedding_map import embedding_map
from siamkit.report.html.heldout import held_out_facts
from siamkit.report.html.neighbours import gallery_queries, hardest, neighbours
from siamkit.report.html.score_charts import det_chart, map_chart, roc_chart, score_chart
from siamkit.runs.held_out import HeldOut


def held_out(labels, width=4, seed=0, part="val"):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(labels) + 1, width, generator=generator)
    embeddings = centres[labels] + 0.4 * torch.randn(len(labels), width, generator=generator)
    samples = tuple(Sample(Path(f"/none/{i}.png"), n, f"{n}/{i}.png") for i, n in enumerate(labels))
    classes = tuple(f"class {n}" for n in range(max(labels) + 1))
    return HeldOut(part, ImageSet(samples, classes), embeddings, 0)


LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=24)


@settings(max_examples=50, deadline=None)
@given(LABELS, st.integers(1, 5))
def test_neighbours_are_those_of_a_plain_loop(labels, k):
    held = held_out(labels)
    near = neighbours(held.embeddings, torch.tensor(labels), k)
    vectors = torch.nn.functional.normalize(held.embeddings, dim=1)
    for i in range(len(labels)):
        scores = {j: float(vectors[i] @ vectors[j]) for j in range(len(labels)) if j != i}
        ranked = sorted(scores, key=lambda j: -scores[j])[:k]
        assert near.nearest[i].tolist() == ranked
        assert near.right[i] == (labels[ranked[0]] == labels[i])
        others = [j for j in scores if labels[j] != labels[i]]
        own = [j for j in scores if labels[j] == labels[i]]
        assert near.closest_other[i] == max(others, key=scores.get, default=-1)
        assert near.farthest_same[i] == min(own, key=scores.get, default=-1)
        assert near.findable[i] == bool(own)


def test_blocks_change_nothing(monkeypatch):
    from siamkit.report.html import neighbours as module

    held = held_out([0, 1, 2] * 10)
    whole = neighbours(held.embeddings, torch.tensor(held.images.labels), 3)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 4 * 30 * 7)  # 7 rows at a time
    parts = neighbours(held.embeddings, torch.tensor(held.images.labels), 3)
    assert np.array_equal(whole.nearest, parts.nearest)
    assert np.array_equal(whole.closest_other, parts.closest_other)


def test_the_hardest_pairs_come_first_and_two_classes_only_once():
    labels = np.array([0, 0, 1, 1, 2])
    partner, scores = np.array([2, 3, 0, 1, 0]), np.array([0.9, 0.8, 0.9, 0.8, 0.85])
    found = hardest(partner, scores, labels, 5, highest=True)
    assert [(p.first, p.second, p.score) for p in found] == [(0, 2, 0.9), (0, 4, 0.85)]
    scores = np.array([0.5, 0.5, 0.4, 0.4, 0.1])
    lowest = hardest(np.array([1, 0, 3, 2, -1]), scores, labels, 5, highest=False)
    assert [(p.first, p.second) for p in lowest] == [(2, 3), (0, 1)]


def test_queries_are_drawn_from_either_kind_and_always_the_same():
    held = held_out([0, 1, 2, 3] * 8, seed=3)
    near = neighbours(held.embeddings, torch.tensor(held.images.labels), 2)
    right, wrong = gallery_queries(near, 3, 3, seed=0)
    assert all(near.right[i] for i in right) and not any(near.right[i] for i in wrong)
    assert (right, wrong) == gallery_queries(near, 3, 3, seed=0)


# --- verification ---


def test_figures_are_those_of_evaluate():
    from siamkit.evaluation.summary import summarize

    held = held_out([0, 1, 2, 3, 4, 5] * 6)
    found = held_out_facts(held, {}).verified
    expected = summarize(held.embeddings, held.images)["verification"]
    assert found is not None
    assert found.metrics.auc == expected["auc"] and found.metrics.eer == expected["eer"]
    assert list(found.intervals["eer"]) == expected["intervals"]["eer"]


def test_the_threshold_is_the_calibration_s_or_that_of_equal_errors():
    held = held_out([0, 1, 2] * 6)
    own = held_out_facts(held, {}).verified
    assert own is not None
    assert own.threshold.value == own.metrics.eer_threshold
    assert "no calibration.json" in own.threshold.source
    given_ = held_out_facts(held, {"threshold": 0.25, "far": {"rate": 0.1}}).verified
    assert given_ is not None and given_.threshold.value == 0.25
    accepted = given_.scores >= 0.25
    assert given_.threshold.far == accepted[~given_.pairs.same].mean()
    assert given_.threshold.frr == (~accepted[given_.pairs.same]).mean()
    for damaged in ({"threshold": "0.3"}, {"threshold": float("nan")}, {"threshold": True}):
        same = held_out_facts(held, damaged).verified
        assert same is not None and same.threshold == own.threshold


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 0], [0, 0, 1], [0, 1, 2]])
def test_tiny_sets_say_what_they_can(labels):
    found = held_out_facts(held_out(labels), {})
    assert (found.verified is not None) == (labels == [0, 0, 1])
    assert (found.near is None) == (len(labels) < 2)
    if found.verified is not None:
        for chart in (roc_chart, det_chart, score_chart):
            assert chart(found.verified).finding


def test_large_sets_are_drawn_from_and_it_is_told():
    held = held_out([0, 1, 2, 3] * 25)
    found = held_out_facts(held, {}, most_images=40, most_pairs=100)
    assert len(found.held.images) == 40 and found.total == 100
    assert found.notices == ("drawn at random from 100 (fixed seed)",)
    assert found.verified is not None and len(found.verified.scores) == 100
    kept = [s.key for s in found.held.images.samples]
    rows = [int(key.partition("/")[2].removesuffix(".png")) for key in kept]
    assert torch.equal(found.held.embeddings, held.embeddings[rows])


# --- the map ---


def test_the_map_is_the_same_each_time_and_within_its_frame():
    held = held_out([0, 1, 2, 3] * 6)
    one, two = (embedding_map(held.embeddings, most=20) for _ in range(2))
    assert one is not None and two is not None
    assert np.array_equal(one.places, two.places) and len(one.indices) == 20
    assert one.places.min() >= 0 and one.places.max() <= 1
    chart = map_chart(held_out_facts(held, {}), one)
    drawn = sorted(n for trace in chart.figure.data for n in (trace.customdata or ()))
    assert drawn == list(range(20))


@pytest.mark.parametrize(
    "embeddings", [torch.ones(4, 3), torch.ones(20, 3), torch.randn(20, 1)], ids=str
)
def test_what_has_no_map(embeddings):
    assert embedding_map(embeddings) is None


def test_known_pairs_are_shown_as_the_data_lists_them():
    held = held_out([0, 0, 1, 1, 2, 3])
    pairs = PairList((0, 2, 0, 4), (1, 3, 4, 5), (True, True, False, False))
    images = ImageSet(held.images.samples, held.images.classes, pairs)
    found = held_out_facts(HeldOut("val", images, held.embeddings, 0), {})
    assert (found.right, found.wrong) == ([], []), "which neighbours are right is not known"
    assert found.verified is not None
    assert (found.verified.metrics.same, found.verified.metrics.different) == (2, 2)
    assert {(p.first, p.second) for p in found.accepts} == {(0, 4), (4, 5)}
    assert {(p.first, p.second) for p in found.rejects} == {(0, 1), (2, 3)}
    assert found.accepts[0].score >= found.accepts[1].score
    assert found.rejects[0].score <= found.rejects[1].score
    places = embedding_map(held.embeddings)
    if places is not None:
        assert "another class" not in map_chart(found, places).finding


# --- thumbnails ---


def sample(path, box=None):
    return Sample(path, 0, path.name, box)


def opened(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_thumbnails_have_pixels_and_nothing_else(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    exif[0x010E] = "a secret"
    large = Image.new("RGB", (1600, 800), (200, 30, 30))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    large.save(tmp_path / "a.jpg", exif=exif, icc_profile=profile, comment=b"a comment")
    clear = Image.new("RGBA", (20, 10), (0, 0, 255, 0))
    clear.save(tmp_path / "b.png", icc_profile=profile)
    found = thumbs.thumbnails(
        {n: sample(tmp_path / name) for n, name in enumerate(("a.jpg", "b.png", "none.png"))},
        {0: 96, 1: 56, 2: 56},
    )
    assert found[2] is None
    first, second = opened(found[0]), opened(found[1])
    assert (first.format, first.size) == ("WEBP", (48, 96))  # upright
    for image in (first, second):
        assert not image.getexif() and "icc_profile" not in image.info
    assert b"secret" not in base64.b64decode(found[0])
    assert second.size == (20, 10)  # not enlarged
    assert min(second.convert("RGB").getpixel((5, 5))) > 240  # what is transparent lies on white


def test_a_thumbnail_shows_what_is_in_the_box(tmp_path):
    image = Image.new("RGB", (800, 800), "red")
    image.paste("blue", (0, 0, 400, 800))
    image.save(tmp_path / "a.jpg")
    boxes = {0: (0, 0, 400, 800), 1: (500, 0, 700, 100)}
    found = thumbs.thumbnails(
        {n: sample(tmp_path / "a.jpg", box) for n, box in boxes.items()}, {0: 96, 1: 96}
    )
    blue, red = (opened(found[n]) for n in (0, 1))
    assert (blue.size, red.size) == ((48, 96), (96, 48))
    assert blue.convert("RGB").getpixel((24, 48))[2] > 200
    assert red.convert("RGB").getpixel((48, 24))[0] > 200


def test_a_damaged_file_has_no_thumbnail(tmp_path):
    Image.new("RGB", (900, 900)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "b.png").write_bytes(b"")
    images = {0: sample(tmp_path / "a.jpg"), 1: sample(tmp_path / "b.png")}
    found = thumbs.thumbnails(images, {0: 96, 1: 96})
    assert found == {0: None, 1: None}


def test_they_stay_within_their_budget(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    paths = dict.fromkeys(range(20), sample(tmp_path / "a.png"))
    sizes = dict.fromkeys(range(20), 64)
    best = sum(len(t or "") for t in thumbs.thumbnails(paths, sizes).values())
    monkeypatch.setattr(thumbs, "BUDGET", best // 2)
    assert sum(len(t or "") for t in thumbs.thumbnails(paths, sizes).values()) <= best // 2
