"""What held-out embeddings say: neighbours, hardest pairs, threshold, map, thumbnails."""

import base64
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from siamkit.data.images import ImageSet, Sample, Tuples
from siamkit.evaluation.embedding_map import Map, embedding_map
from siamkit.evaluation.summary import summarize
from siamkit.interfaces import Preprocessing
from siamkit.portable.calibration import Calibration, Provenance, Rate
from siamkit.report.html import context, model
from siamkit.report.html import thumbnails as thumbs
from siamkit.report.html.heldout import held_out_facts
from siamkit.report.html.score_charts import det_chart, map_chart, roc_chart, score_chart
from siamkit.runs.held_out import HeldOut

PAD = Preprocessing(fit="pad")


def held_out(labels, width=4, seed=0, part="val"):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(labels) + 1, width), dtype=np.float32)
    embeddings = centres[labels] + 0.4 * rng.standard_normal((len(labels), width), dtype=np.float32)
    samples = tuple(Sample(Path(f"/none/{i}.png"), n, f"{n}/{i}.png") for i, n in enumerate(labels))
    classes = tuple(f"class {n}" for n in range(max(labels) + 1))
    return HeldOut(part, ImageSet(samples, classes), embeddings, 0, "n", Preprocessing(), "d")


# --- verification ---


def calibration(threshold):
    rate = Rate(0.1, 0.05, 0.2)
    source = Provenance("data", "val", "", 18, 3, 45, 108, True, "epoch-1", "n", 0, "0")
    return Calibration("eer", None, threshold, rate, rate, 1.0, 0.0, source)


@pytest.mark.parametrize("known", [False, True])
def test_figures_are_those_of_evaluate(known):
    held = held_out([0, 1, 2, 3, 4, 5] * 6)
    if known:
        # Of one identity by what connects them, and said to be different: the data contradicts.
        rows = [(i, i + 6) for i in range(30)] + [(i, i + 1) for i in range(30)] + [(0, 12)]
        tuples = Tuples(tuple(rows), (True,) * 30 + (False,) * 31)
        images = ImageSet(held.images.samples, held.images.classes, tuples)
        held = replace(held, images=images)
    # The total is beyond the images that are shown from, so that figures must not be of a draw.
    facts = held_out_facts(held, calibration(0.25), most_images=20)
    expected = summarize(held.embeddings, held.images, threshold=0.25)
    assert facts.verified is not None and facts.decision is not None
    found = facts.verified.to_json()
    assert found == {name: expected["verification"][name] for name in found}
    at = expected["verification"]["at_threshold"]
    assert (facts.decision.far, facts.decision.frr) == (at["far"], at["frr"])
    if known:
        assert facts.retrieval is None
    else:
        assert facts.retrieval is not None
        ranked = facts.retrieval.to_json()
        assert ranked == {name: expected["retrieval"][name] for name in ranked}


def test_a_rate_of_zero_has_its_interval_in_both():
    held = held_out([0, 1, 2, 3] * 6)
    # Each image is like one of the other class: the highest scores are all of different pairs.
    embeddings = np.eye(12, dtype=np.float32).repeat(2, axis=0)
    found = held_out_facts(replace(held, embeddings=embeddings), None).verified
    expected = summarize(embeddings, held.images)["verification"]
    assert found is not None and found.metrics.tar_at_far[0.1] == 0.0
    assert found.to_json()["intervals"] == expected["intervals"]
    assert "tar@far=0.1" in expected["intervals"]


def test_the_gallery_shows_neighbours_by_the_roles_that_evaluate_uses():
    held = held_out([0, 1, 2] * 6)
    query = tuple(i < 9 for i in range(18))
    gallery = tuple(not q for q in query)
    images = ImageSet(held.images.samples, held.images.classes, None, query, gallery)
    facts = held_out_facts(replace(held, images=images), None)
    assert facts.near is not None and facts.retrieval is not None
    assert (facts.near.nearest >= 9).all() and not facts.near.findable[9:].any()
    hits = facts.near.right[facts.near.findable].sum()
    assert facts.retrieval.recall[1] == hits / facts.retrieval.queries


def test_the_threshold_is_the_calibration_s_or_that_of_equal_errors():
    held = held_out([0, 1, 2] * 6)
    own = held_out_facts(held, None)
    assert own.verified is not None and own.decision is not None
    assert own.decision.threshold == own.verified.metrics.eer_threshold
    assert "the run has no threshold of its own" in own.decision.source
    decision = held_out_facts(held, calibration(0.25)).decision
    assert decision is not None and decision.threshold == 0.25
    accepted = own.verified.scores >= 0.25
    assert decision.far == accepted[~own.verified.pairs.same].mean()
    assert decision.frr == (~accepted[own.verified.pairs.same]).mean()


@pytest.mark.parametrize("labels", [[0], [0, 1], [0, 0], [0, 0, 1], [0, 1, 2]])
def test_tiny_sets_say_what_they_can(labels):
    found = held_out_facts(held_out(labels), None)
    assert (found.verified is not None) == (labels == [0, 0, 1])
    assert (found.near is None) == (len(labels) < 2)
    if found.verified is not None:
        for chart in (roc_chart, det_chart, score_chart):
            assert chart(found.verified, found.decision).finding


def test_large_sets_are_drawn_from_and_it_is_told():
    held = held_out([0, 1, 2, 3] * 25)
    found = held_out_facts(held, None, most_images=40, most_pairs=100)
    assert len(found.held.images) == 40 and found.total == 100
    assert found.notices == (
        "To keep the page small, it shows images from a random sample of 40 (fixed seed).",
    )
    assert found.verified is not None and len(found.verified.scores) == 100
    kept = [s.key for s in found.held.images.samples]
    rows = [int(key.partition("/")[2].removesuffix(".png")) for key in kept]
    assert np.array_equal(found.held.embeddings, held.embeddings[rows])


# --- the map ---


def test_the_map_is_the_same_each_time_and_within_its_frame():
    held = held_out([0, 1, 2, 3] * 6)
    one, two = (embedding_map(held.embeddings, most=20) for _ in range(2))
    assert one is not None and two is not None
    assert np.array_equal(one.places, two.places) and len(one.indices) == 20
    assert one.places.min() >= 0 and one.places.max() <= 1
    chart = map_chart(held_out_facts(held, None), one)
    drawn = sorted(n for trace in chart.figure.data for n in (trace.customdata or ()))
    assert drawn == list(range(20))


@pytest.mark.parametrize(
    "embeddings",
    [np.ones((4, 3)), np.ones((20, 3)), np.arange(20.0)[:, None]],
    ids=["few", "equal", "of one dimension"],
)
def test_what_has_no_map(embeddings):
    assert embedding_map(embeddings) is None


def placed(count: int) -> Map:
    return Map(np.arange(count), np.linspace(0, 1, 2 * count).reshape(count, 2))


def test_each_point_of_the_map_says_what_its_nearest_image_is():
    held = held_out([0, 0, 0, 1, 1, 2])
    embeddings = np.array(
        [[1, 0], [1, 0.1], [0.1, 1], [0, 1], [0.2, 1], [-1, 0]], np.float32
    )  # fmt: skip
    query = (True, True, True, True, False, True)
    images = ImageSet(held.images.samples, held.images.classes, None, query, (True,) * 6)
    facts = held_out_facts(replace(held, embeddings=embeddings, images=images), None)
    found = model.map_items(facts, placed(6))
    assert [item["verdict"] for item in found] == [
        "nearest image: same class", "nearest image: same class", "nearest image: class 1",
        "nearest image: class 0", "not a query", "the gallery has no other image of its class",
    ]  # fmt: skip
    assert [item["image"] for item in found] == list(range(6))
    assert [item["label"] for item in found] == [0, 0, 0, 1, 1, 2]
    assert (found[1]["x"], found[1]["y"], found[1]["name"]) == (0.1818, 0.2727, "0/1.png")
    tied = held_out_facts(replace(held, embeddings=np.ones_like(embeddings), images=images), None)
    assert model.map_items(tied, placed(6))[0]["verdict"] == (
        "images of this class and of others are equally near"
    )


def test_known_pairs_have_no_verdict_on_the_map():
    held = held_out([0, 0, 1, 1])
    pairs = Tuples(((0, 1), (2, 3), (0, 2)), (True, True, False))
    images = ImageSet(held.images.samples, held.images.classes, pairs)
    items = model.map_items(held_out_facts(replace(held, images=images), None), placed(4))
    assert all(item["verdict"].startswith("nearest image: ") for item in items)
    assert all(item["verdict"].endswith(".png") for item in items), "the file, not a class"


@pytest.mark.parametrize(("shown", "note"), [(24, ""), (20, " The map shows 20 of 24 images, ")])
def test_a_map_of_some_images_says_so(shown, note):
    held = held_out([0, 1, 2, 3] * 6)
    gathered = gathered_of(held)
    gathered.map = embedding_map(held.embeddings, most=shown)
    found = context._pictures(gathered, {})
    assert len(found["items"]) == shown and found["map_note"].startswith(note)
    assert bool(found["map_note"]) == bool(note)


@pytest.mark.parametrize("kind", ["right", "wrong", "confused", "accepts", "rejects"])
def test_images_beside_others_are_large_and_those_of_the_map_small(kind):
    held = held_out([0, 1, 2, 3] * 30)
    facts = held_out_facts(held, None)
    kinds = ("right", "wrong", "confused", "accepts", "rejects")
    facts = replace(facts, **{other: [] for other in kinds if other != kind})
    near = facts.near.nearest
    large = {n for query in (*facts.right, *facts.wrong) for n in (query, *near[query].tolist())}
    large |= {n for confusion in facts.confused for n in confusion.example}
    large |= {n for a, b, _ in (*facts.accepts, *facts.rejects) for n in (a, b)}
    samples, sizes = model.thumbnail_wishes(facts, placed(120))
    assert large and {n for n, size in sizes.items() if size == thumbs.LARGE} == large
    assert {n for n, size in sizes.items() if size == thumbs.SMALL} == set(range(120)) - large
    assert samples[7] == held.images.samples[7] and len(samples) == 120
    assert set(model.thumbnail_wishes(facts, None)[1]) == large


def test_known_pairs_are_shown_as_the_data_lists_them():
    held = held_out([0, 0, 1, 1, 2, 3])
    pairs = Tuples(((0, 1), (2, 3), (0, 4), (4, 5)), (True, True, False, False))
    images = ImageSet(held.images.samples, held.images.classes, pairs)
    found = held_out_facts(replace(held, images=images), None)
    assert (found.right, found.wrong) == ([], []), "which neighbours are right is not known"
    assert found.verified is not None
    assert (found.verified.metrics.same, found.verified.metrics.different) == (2, 2)
    assert {(a, b) for a, b, _ in found.accepts} == {(0, 4), (4, 5)}
    assert {(a, b) for a, b, _ in found.rejects} == {(0, 1), (2, 3)}
    assert found.accepts[0][2] >= found.accepts[1][2]
    assert found.rejects[0][2] <= found.rejects[1][2]
    places = embedding_map(held.embeddings)
    if places is not None:
        assert "another class" not in map_chart(found, places).finding


def test_the_hardest_images_of_classes_are_found_among_all_pairs_not_those_drawn():
    held = held_out([0, 1, 2, 3] * 5)
    drawn, whole = (held_out_facts(held, None, most_pairs=n) for n in (20, 10_000))
    assert drawn.verified is not None and len(drawn.verified.scores) < len(whole.verified.scores)
    assert (drawn.accepts, drawn.rejects) == (whole.accepts, whole.rejects)
    accepted, rejected = ([score for *_, score in p] for p in (whole.accepts, whole.rejects))
    assert accepted == sorted(accepted, reverse=True) and accepted[0] > accepted[-1]
    assert rejected == sorted(rejected) and rejected[0] < rejected[-1], "the hardest come first"


def test_known_pairs_of_one_kind_have_no_metrics_and_no_crash():
    held = held_out([0, 1, 2] * 4)
    pairs = Tuples(((0, 3), (1, 4)), (True, True))
    images = ImageSet(held.images.samples, held.images.classes, pairs)
    found = held_out_facts(replace(held, images=images), None)
    assert (found.verified, found.decision) == (None, None)


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
        PAD,
    )
    assert found[2] is None
    first, second = opened(found[0]), opened(found[1])
    assert (first.format, first.size) == ("WEBP", (96, 96))
    for image in (first, second):
        assert not image.getexif() and "icc_profile" not in image.info
    assert b"secret" not in base64.b64decode(found[0])
    assert second.size == (56, 56)
    assert min(second.convert("RGB").getpixel((28, 28))) > 240  # what is transparent lies on white


def test_a_thumbnail_shows_what_is_in_the_box(tmp_path):
    image = Image.new("RGB", (800, 800), "red")
    image.paste("blue", (0, 0, 400, 800))
    image.save(tmp_path / "a.jpg")
    boxes = {0: (0, 0, 400, 800), 1: (500, 0, 700, 100)}
    found = thumbs.thumbnails(
        {n: sample(tmp_path / "a.jpg", box) for n, box in boxes.items()}, {0: 96, 1: 96}, PAD
    )
    blue, red = (opened(found[n]) for n in (0, 1))
    assert (blue.size, red.size) == ((96, 96), (96, 96))
    assert blue.convert("RGB").getpixel((24, 48))[2] > 200
    assert red.convert("RGB").getpixel((48, 24))[0] > 200


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_thumbnail_shows_what_the_network_sees(fit, suffix, tmp_path):
    image = Image.new("RGB", (3200, 800), "white")
    image.paste("red", (0, 0, 800, 800))
    image.paste("blue", (2400, 0, 3200, 800))
    image.save(tmp_path / f"a.{suffix}")
    how = Preprocessing(fit=fit, crop_pct=1.0)
    found = opened(thumbs.thumbnails({0: sample(tmp_path / f"a.{suffix}")}, {0: 96}, how)[0])
    pixels = np.asarray(found.convert("RGB")).astype(int)
    red = (pixels[..., 0] - pixels[..., 2] > 100).mean()
    blue = (pixels[..., 2] - pixels[..., 0] > 100).mean()
    share = {"crop": 0, "pad": 1 / 16, "squash": 1 / 4}[fit]
    assert (red, blue) == pytest.approx((share, share), abs=0.02)


def test_a_thumbnail_of_a_deep_image_has_its_range(tmp_path):
    Image.fromarray(np.full((20, 20), 4095, np.uint16)).save(tmp_path / "a.png")
    grey = {}
    for bits in (None, 12):
        how = Preprocessing(value_range=bits)
        found = thumbs.thumbnails({0: sample(tmp_path / "a.png")}, {0: 56}, how)
        grey[bits] = opened(found[0]).convert("RGB").getpixel((28, 28))[0]
    assert grey[12] > 250 and grey[None] < 20


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_above_the_runs_own_limit_has_no_thumbnail(suffix, tmp_path):
    Image.new("RGB", (900, 900)).save(tmp_path / f"a.{suffix}")
    images, sizes = {0: sample(tmp_path / f"a.{suffix}")}, {0: 96}
    assert thumbs.thumbnails(images, sizes, PAD, 900 * 900)[0]
    assert thumbs.thumbnails(images, sizes, PAD, 900 * 900 - 1) == {0: None}


def test_a_damaged_file_has_no_thumbnail(tmp_path):
    Image.new("RGB", (900, 900)).save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "b.png").write_bytes(b"")
    images = {0: sample(tmp_path / "a.jpg"), 1: sample(tmp_path / "b.png")}
    found = thumbs.thumbnails(images, {0: 96, 1: 96}, PAD)
    assert found == {0: None, 1: None}


def test_they_stay_within_their_budget(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    paths = dict.fromkeys(range(20), sample(tmp_path / "a.png"))
    sizes = dict.fromkeys(range(20), 64)
    best = sum(len(t or "") for t in thumbs.thumbnails(paths, sizes, PAD).values())
    monkeypatch.setattr(thumbs, "BUDGET", best // 2)
    assert sum(len(t or "") for t in thumbs.thumbnails(paths, sizes, PAD).values()) <= best // 2


def test_their_budget_is_4_400_000_characters(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    images, sizes = {0: sample(tmp_path / "a.png")}, {0: 56}
    for most, best in ((4_400_000, True), (4_400_001, False)):
        monkeypatch.setattr(
            thumbs, "_encoded", lambda _, quality, n=most: "x" * (n if quality == 78 else quality)
        )
        (found,) = thumbs.thumbnails(images, sizes, PAD).values()
        assert (len(found or "") == most) is best
        assert best or len(found or "") == 60, "the next quality"


def gathered_of(held):
    """What the context reads of a run whose held-out images are these."""
    facts = held_out_facts(held, None)
    return SimpleNamespace(held=facts, map=None, why="")


@pytest.mark.parametrize("kind", ["all", "drawn", "listed"])
def test_the_sentence_about_pairs_counts_them_and_says_which(kind):
    held = held_out([0, 1, 2] * 20)
    if kind == "listed":
        tuples = Tuples(((0, 3), (0, 1), (1, 2)), (True, False, False))
        held = replace(held, images=ImageSet(held.images.samples, held.images.classes, tuples))
    facts = held_out_facts(held, None, most_pairs=200 if kind == "drawn" else 10_000)
    note = context._pairs_note(facts.verified, facts)
    same, different = facts.verified.metrics.same, facts.verified.metrics.different
    which = {
        "all": "all 1,770 pairs of these images",
        "drawn": f"a random sample of {same + different:,} pairs",
        "listed": "the 3 pairs that the data lists",
    }[kind]
    assert note == f"The metrics use {which}: {same:,} same, {different:,} different."


def test_ties_are_told_where_recall_is():
    held = held_out([0, 0, 1, 1, 2, 2])
    equal = replace(held, embeddings=np.ones_like(held.embeddings))
    tied = context._pictures(gathered_of(equal), {})["retrieval_note"]
    assert "recall@1 0.200" in tied
    assert "6 queries have nearest images of several classes, all equally near" in tied
    assert "equally near" not in context._pictures(gathered_of(held), {})["retrieval_note"]


def test_few_pairs_are_counted_in_wide_bins_and_drawn_without_hatching():
    few, many = (held_out_facts(held_out([0, 1, 2] * n), None) for n in (4, 60))
    charts = [score_chart(facts.verified, facts.decision) for facts in (few, many)]
    bins = [len(chart.figure.data[0].x) for chart in charts]
    assert bins[0] < bins[1]
    for chart, facts in zip(charts, (few, many), strict=True):
        different, same = chart.figure.data
        assert different.line.dash != same.line.dash  # not only colours tell them apart
        assert sum(row[1] for row in chart.rows) == facts.verified.metrics.different
        assert sum(same.y) == pytest.approx(100, rel=0.01)
        assert "pattern" not in chart.figure.to_json()


@pytest.mark.parametrize(("images", "bins"), [(4, 16), (20, 35), (60, 60)])
def test_the_number_of_bins_grows_with_the_pairs_from_16_to_60(images, bins):
    """Of three classes: 18, 570 and 5,310 same pairs, and more different ones."""
    facts = held_out_facts(held_out([0, 1, 2] * images), None)
    assert facts.verified.metrics.same == 3 * images * (images - 1) // 2
    chart = score_chart(facts.verified, facts.decision)
    assert len(chart.figure.data[0].x) == bins + 2


# --- confused classes ---


def test_confused_classes_are_shown_with_a_query_and_its_nearest_image():
    held = held_out([0, 0, 0, 1, 1, 1, 2, 2])
    embeddings = np.array(
        [[1, 0.0], [1, 0.1], [1, 0.3], [1, 0.02], [1, 0.12], [1, 0.31], [0, 1], [0.02, 1]],
        np.float32,
    )
    facts = held_out_facts(replace(held, embeddings=embeddings), None)
    (shown,) = model.confused_classes(facts)
    assert {shown.query.label, shown.nearest.label} == {"class 0", "class 1"}
    assert shown.share == "6 of 6 queries"
    _, sizes = model.thumbnail_wishes(facts, None)
    assert {shown.query.number, shown.nearest.number} <= set(sizes)


def test_listed_pairs_have_no_confused_classes():
    held = held_out([0, 1, 2, 3, 4, 5] * 6)
    tuples = Tuples(tuple((i, i + 6) for i in range(30)), (True,) * 30)
    images = ImageSet(held.images.samples, held.images.classes, tuples)
    assert held_out_facts(replace(held, images=images), None).confused == []
