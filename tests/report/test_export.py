import re

from siamkit.report.export import exported

SPEED = {"latency": 0.0123, "throughput": 250.0}
RESULT = {
    "quality": [
        {"kind": "torch", "precision": "float32", "metrics": {"recall@1": 0.9, "far": 0.01},
         "bytes": 4_000_000, **SPEED},
        {"kind": "onnx", "precision": "int8", "metrics": {"recall@1": 0.88}, "bytes": 1_000_000,
         **SPEED},
    ],
    "machine": {"threads": 2, "cpu": "a processor"}, "images": 1, "classes": 3,
    "cosine": 0.99999912, "notices": ["it is slow"], "output": "model/", "bytes": 5_000_000,
}  # fmt: skip


def test_each_network_has_a_row_of_quality_size_and_speed(render):
    table = render(exported(RESULT)).splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in table[:4]]
    assert [re.sub(r"\s+", " ", cell) for cell in rows[0]] == [
        "network", "recall@1", "FAR", "size", "one image", "batches of 32",
    ]  # fmt: skip
    assert rows[2] == ["torch float32", "0.9000", "0.0100", "4.00 MB", "12.3 ms", "250 img/s"]
    assert rows[3] == ["onnx int8", "0.8800", "1.00 MB", "12.3 ms", "250 img/s"]


def test_the_lines_below_say_on_what_it_was_measured(render):
    assert render(exported(RESULT)).splitlines()[4:] == [
        "",
        "1 validation image of 3 classes; FAR: false accepts at the stored threshold; speed with "
        "2 threads of a processor",
        "least cosine similarity to torch: 0.9999991",
        "note: it is slow",
        "written to model/ (5.00 MB)",
    ]
    text = render(exported({**RESULT, "cosine": None, "notices": []}))
    assert "cosine" not in text and "note" not in text


def test_a_terminal_of_80_columns_breaks_no_cell(render):
    metrics = {"recall@1": 0.9, "map@r": 0.5}
    rows = [{**row, "metrics": metrics} for row in RESULT["quality"]]
    lines = render(exported({**RESULT, "quality": rows}), 80).splitlines()
    assert any("torch float32" in line and "250 img/s" in line for line in lines)


def test_a_narrow_terminal_breaks_no_name_of_a_network(render):
    metrics = {"recall@1": 0.9, "map@r": 0.5, "auc": 0.9, "eer": 0.1, "far": 0.01}
    rows = [{**row, "metrics": metrics} for row in RESULT["quality"]]
    lines = render(exported({**RESULT, "quality": rows}), 72).splitlines()
    assert any(line.strip().startswith("torch float32 ") for line in lines)
