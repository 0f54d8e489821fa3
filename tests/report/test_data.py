from siamkit.report.data import data_report

REPORT = {
    "kind": "folder", "where": "photos/[b]", "files": 1, "formats": {"PNG": 2, "JPEG": 1},
    "modes": {"RGB": 3}, "shorter_side": {"smallest": 8, "largest": 20, "median": 12.5},
    "how": "class-disjoint split",
    "parts": {"train": {"images": 2, "classes": 2, "smallest": 1, "median": 1.5, "largest": 2},
              "val": {"images": 1}},
    "unreadable": [{"row": None, "path": "a.png", "problem": "truncated"},
                   {"row": 0, "path": "b.png", "problem": "empty"}],
    "split_groups": [], "leaks": [], "near_duplicates": [], "conflicts": [],
    "copies": [],
    "notices": ["two are wide"], "warnings": ["one is dark"], "problems": [], "suspects": None,
    "output": None,
}  # fmt: skip


def member(key, part, label="x"):
    return {"key": key, "part": part, "class": label}


def test_the_files_the_parts_and_the_remarks_are_told(render):
    assert [line.rstrip() for line in render(data_report(REPORT)).splitlines()] == [
        "folder: photos/[b]",
        "1 file: 2 PNG, 1 JPEG; 3 RGB",
        "shorter side 8 to 20 px, median 12.5",
        "",
        "class-disjoint split",
        "split   images   classes   fewest per class   median per class   most per class",
        "─" * 79,
        "train        2         2                  1                1.5                2",
        "val          1         -                  -                  -                -",
        "",
        "unreadable: 2",
        "  a.png: truncated",
        "  row 0: b.png: empty",
        "",
        "notice: two are wide",
        "warning: one is dark",
        "",
        "the data can be used",
    ]


def test_without_sizes_parts_or_remarks_nothing_is_said_of_them(render):
    nothing = {"shorter_side": None, "parts": {}, "unreadable": [], "notices": [], "warnings": []}
    assert render(data_report({**REPORT, **nothing})).splitlines() == [
        "folder: photos/[b]",
        "1 file: 2 PNG, 1 JPEG; 3 RGB",
        "",
        "the data can be used",
    ]


def test_data_with_a_problem_cannot_be_used(render):
    text = render(data_report({**REPORT, "problems": ["no class has two images"]}))
    assert text.splitlines()[-1] == "problem: no class has two images"


def test_a_group_shows_two_images_that_differ_and_counts_the_others(render):
    two = {"members": [member("a", "train"), member("b", "val")], "images": 2}
    four = {
        "members": [member("a", "val"), member("b", "val"), member("c", "train")], "images": 4
    }  # fmt: skip
    labels = {"members": [member("a", "val", "x"), member("b", "val", "y")], "images": 3}
    copies = {"members": [member("a", "val"), member("b", "val")], "images": 5}
    changes = {"leaks": [two], "near_duplicates": [four], "conflicts": [labels], "copies": [copies]}
    text = render(data_report({**REPORT, **changes}))
    assert (
        "the same image in two splits: 1\n  a (train) and b (val)\n\n"
        "nearly the same image in two splits: 1\n  a (val) and c (train), and 2 more images\n\n"
        "the same image with two labels: 1\n  a (x) and b (y), and 1 more image\n\n"
        "the same image several times in one split: 1\n  a (val) and b (val), and 3 more images\n"
    ) in text


def test_at_most_ten_are_listed(render):
    ten = [f"group {i}" for i in range(10)]
    text = render(data_report({**REPORT, "split_groups": ten}))
    assert "groups in two splits: 10\n  group 0\n" in text and "more" not in text
    text = render(data_report({**REPORT, "split_groups": [*ten, "last"]}))
    assert "groups in two splits: 11\n  group 0\n" in text
    assert "  group 9\n  ... and 1 more\n" in text and "last" not in text


def test_the_contact_sheet_and_the_notices_of_suspicious_labels_are_told(render):
    text = render(data_report({**REPORT, "output": "sheet.html"}))
    assert text.splitlines()[-1] == "contact sheet: sheet.html"
    none = {"labels": None, "near_duplicates": {"pairs": []}, "alike": [], "divided": []}
    found = {**none, "notices": ["three are alike"]}
    lines = render(data_report({**REPORT, "suspects": found})).splitlines()
    assert lines.index("notice: two are wide") + 1 == lines.index("notice: three are alike")


def suspects(**changes):
    nothing = {"share": None, "precision": None, "suspects": []}
    return {"labels": nothing, "near_duplicates": {"pairs": []}, "alike": [], "divided": [],
            "notices": [], **changes}  # fmt: skip


def told(render, **changes):
    lines = render(data_report({**REPORT, "suspects": suspects(**changes)})).splitlines()
    return lines[lines.index("  row 0: b.png: empty") + 1 : lines.index("notice: two are wide") - 1]


def test_labels_are_not_suspicious_unknown_or_none_at_all(render):
    clean = {"share": 0.01, "precision": None, "suspects": []}
    assert told(render, labels=clean) == ["", "no suspicious labels"]
    assert told(render) == ["", "labels: unknown"]
    assert told(render, labels=None) == []


def test_suspicious_labels_say_what_they_look_like_and_how_sure_it_is(render):
    one = {"key": "a.png", "class": "cat", "suggested": "dog", "cleanlab": None}
    three = [one, {**one, "cleanlab": True}, {**one, "cleanlab": False}]
    found = {"share": 0.05, "precision": 0.75, "suspects": three}
    assert told(render, labels=found) == [
        "",
        "suspicious labels: 3",
        "  a.png (cat) looks like dog",
        "  a.png (cat) looks like dog, cleanlab agrees",
        "  a.png (cat) looks like dog, cleanlab disagrees",
        "about 75 % of them are wrong, and about 5 % of all labels, if wrong labels are random",
    ]


def test_near_duplicates_in_two_classes_come_first_and_classes_are_counted(render):
    pairs = [
        {"keys": ["a", "b"], "classes": ["cat", "cat"], "score": 0.99},
        {"keys": ["c", "d"], "classes": ["cat", "dog"], "score": 0.98},
    ]
    assert told(
        render,
        labels=None,
        near_duplicates={"pairs": pairs},
        alike=[{"classes": ["cat", "puma"], "share": 0.5}],
        divided=[{"class": "dog", "parts": [["a", "b"], ["c"]]}],
    ) == [
        "",
        "near duplicates: 2",
        "  c (cat) and d (dog): 0.980",
        "  a (cat) and b (cat): 0.990",
        "",
        "classes that look like one: 1",
        "  cat and puma: 50 % of the images look as much like the other class",
        "",
        "classes that look like two: 1",
        "  dog: 2 and 1 images",
    ]
