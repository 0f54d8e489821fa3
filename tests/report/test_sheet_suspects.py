"""The contact sheet of suspicious labels, images and classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from siamkit.data.images import ImageSet, Sample
from siamkit.evaluation.class_structure import Alike, Divided
from siamkit.evaluation.label_noise import LabelNoise
from siamkit.evaluation.near_duplicates import Twins
from siamkit.evaluation.suspicion import Suspicion
from siamkit.portable.decode import Decoding
from siamkit.report.sheet.model import Group, Picture, Sheet
from siamkit.report.sheet.suspects import suspects_sheet

CLASSES = ("ant", "bee", "cat")
EACH = 4  # images of each class


def noise(*suspects: int, share: float | None = 0.25) -> LabelNoise:
    precision = 0.8 if suspects else None
    return LabelNoise(np.array(suspects, np.int64), np.zeros(12, np.float32), share, precision, 0.3)


FOUND = Suspicion(
    noise=noise(5, 0),
    suggested=np.array([1] * EACH + [2] * EACH + [0] * EACH),
    agrees=np.arange(12) == 5,
    twins=[Twins(0, 1, 0.999), Twins(2, 6, 0.991), Twins(3, 7, 0.98)],
    limit=0.975,
    alike=[Alike(0, 1, 0.5)],
    divided=[Divided(2, ((8, 9), (10,)), 0.9)],
)
NOTHING = Suspicion(noise(), FOUND.suggested, None, [], 0.975, [], [])


@pytest.fixture
def drawn(tmp_path: Path):
    """Return the sheet of a suspicion about images that each have a colour of their own."""
    samples = []
    for number in range(len(CLASSES) * EACH):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (128, 128), (number, 0, 0)).save(path)
        samples.append(Sample(path, number // EACH, path.name))
    images = ImageSet(tuple(samples), CLASSES)

    def sheet(found: Suspicion, notices: tuple[str, ...] = ()) -> Sheet:
        def nearest(image: int, label: int, most: int) -> list[tuple[int, float]]:
            members = [i for i, s in enumerate(samples) if s.label == label and i != image]
            return [(i, 0.5 + i / 100) for i in members[:most]]

        suspects = SimpleNamespace(
            images=images, found=found, how=Decoding(), notices=notices, nearest=nearest
        )
        return suspects_sheet(suspects, "photos", "runs/a")

    return sheet


def told(picture: Picture) -> tuple[int, str, str]:
    """Return which image a picture shows, its caption and its frame."""
    return picture.image.getpixel((0, 0))[0], picture.caption, picture.tone  # type: ignore[index]


def group(sheet: Sheet, title: str) -> Group:
    (found,) = (one for one in sheet.groups if one.title.startswith(title))
    return found


def test_a_sheet_says_what_was_looked_at_and_leaves_out_empty_groups(drawn):
    sheet = drawn(FOUND, ("a notice",))
    assert (sheet.kind, sheet.title, sheet.notices) == (
        "siamkit data check", "Suspects", ("a notice",),
    )  # fmt: skip
    assert sheet.about == [
        ("data", "photos: 12 images of 3 classes"), ("network", "runs/a"),
        ("wrong labels", "about 25 %, if they are random"),
    ]  # fmt: skip
    assert [one.title for one in sheet.groups] == [
        "Suspicious labels: 2", "Near duplicates: 3", "Classes that look like one: 1",
        "Classes that look like two: 1",
    ]  # fmt: skip
    nothing = drawn(NOTHING)
    assert (nothing.title, nothing.groups) == ("No suspects", [])


@pytest.mark.parametrize("unknown", [None, noise(share=None)], ids=["no labels", "no estimate"])
def test_an_unknown_share_of_wrong_labels_is_not_told(drawn, unknown):
    assert [name for name, _ in drawn(replace(NOTHING, noise=unknown)).about] == ["data", "network"]


def test_a_suspect_stands_beside_the_nearest_images_of_both_classes(drawn):
    labels = group(drawn(FOUND), "Suspicious labels")
    assert labels.note.startswith(
        "The first picture is the suspect. About 80 % of the suspects have a wrong label"
    )
    first, second = labels.rows
    assert (first.title, first.note) == ("bee: looks like cat", "5.png: cleanlab suspects it too")
    assert second.note == "0.png: cleanlab does not suspect it"
    assert list(map(told, first.pictures)) == [
        (5, "suspect", "wrong"), (8, "cat, 0.58", "plain"), (9, "cat, 0.59", "plain"),
        (4, "bee, 0.54", "plain"), (6, "bee, 0.56", "plain"),
    ]  # fmt: skip
    alone = group(drawn(replace(FOUND, agrees=None)), "Suspicious labels")
    assert alone.rows[0].note == "5.png"


def test_near_duplicates_in_two_classes_come_first(drawn):
    twins = group(drawn(FOUND), "Near duplicates")
    assert "(0.975 or more); 2 of them in two classes, shown first." in twins.note
    assert [(row.title, row.note) for row in twins.rows] == [
        ("ant and bee", "2.png and 6.png: 0.991"), ("ant and bee", "3.png and 7.png: 0.980"),
        ("ant", "0.png and 1.png: 0.999"),
    ]  # fmt: skip
    assert [told(p)[0] for p in twins.rows[0].pictures] == [2, 6]


def test_classes_that_look_like_one_show_three_images_of_each(drawn):
    (row,) = group(drawn(FOUND), "Classes that look like one").rows
    assert row.title == "ant and bee" and row.note.startswith("50 % of the images")
    assert [told(p)[:2] for p in row.pictures] == [
        (0, "ant"), (1, "ant"), (2, "ant"), (4, "bee"), (5, "bee"), (6, "bee"),
    ]  # fmt: skip


def test_the_parts_of_a_divided_class_are_counted_from_one(drawn):
    (row,) = group(drawn(FOUND), "Classes that look like two").rows
    assert (row.title, row.note) == ("cat", "2 and 1 image")
    assert [told(p)[:2] for p in row.pictures] == [(8, "part 1"), (9, "part 1"), (10, "part 2")]
    large = replace(FOUND, divided=[Divided(0, ((0, 1, 2, 3), (4,)), 0.9)])
    (row,) = group(drawn(large), "Classes that look like two").rows
    assert row.note == "4 and 1 image"
    assert [told(p)[0] for p in row.pictures] == [0, 1, 2, 4], "three of each part"


def test_a_group_shows_its_first_rows_and_says_how_many_there_are(drawn):
    """30 suspects, and 15 rows of each other kind."""
    for many in (0, 1):
        sheet = drawn(
            Suspicion(
                noise(*[5] * (30 + many)),
                FOUND.suggested,
                None,
                [Twins(0, 1, 0.99)] * (15 + many),
                0.9,
                [Alike(0, 1, 0.5)] * (15 + many),
                [Divided(2, ((8,), (9,)), 0.9)] * (15 + many),
            )
        )
        assert [len(one.rows) for one in sheet.groups] == [30, 15, 15, 15]
        told_all = [one.title.partition(": ")[2] for one in sheet.groups]
        assert told_all == (
            ["31, of which 30 are shown"] + ["16, of which 15 are shown"] * 3
            if many
            else ["30", "15", "15", "15"]
        )
