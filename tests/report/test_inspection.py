import re

import pytest

from siamkit.report.inspection import inspection, span

MEMORY = {
    "weights": 98_000_000, "gradients": 4_459_008, "optimizer": 8_918_016,
    "activations": 92_300_000, "total": 203_677_024,
}  # fmt: skip


def stage(name, parameters, trainable, backward, norm="frozen"):
    return {
        "name": name, "parameters": parameters, "trainable": trainable,
        "frozen": parameters - trainable, "norm": norm, "lr": 0.001, "needs_backward": backward,
    }  # fmt: skip


REPORT = {
    "backbone": {"name": "resnet50", "parameters": 23_508_032, "weights": "random",
                 "features": 2048, "image_size": [224, 160], "in_chans": 3},
    "head": {"name": "mlp", "parameters": 1_114_752},
    "embedding": {"dim": 128, "normalized": True},
    "loss": {"name": "triplet", "parameters": 0},
    "parameters": 24_622_784, "batch_size": 64, "metric_driven": True,
    "notices": ["class '[/bold]'"],
    "phases": [
        {"start_epoch": 0, "end_epoch": 2, "trainable_parameters": 1_114_752,
         "trainable_share": 0.0453, "norm": "affine", "memory": MEMORY,
         "stages": [stage("layer4", 14_964_736, 0, False),
                    stage("head", 1_114_752, 1_114_752, True)]},
        {"start_epoch": 2, "end_epoch": 6, "trainable_parameters": 8_597_120,
         "trainable_share": 0.349, "norm": "affine", "memory": MEMORY,
         "stages": [stage("layer4", 14_964_736, 7_482_368, True, "affine"),
                    stage("head", 1_114_752, 1_114_752, True)]},
    ],
}  # fmt: skip

LISTING = [
    {"name": "backbone.model.conv1.weight", "shape": [64, 3, 7, 7], "numel": 9408,
     "stage": "stem", "trainable": [False, True]},
    {"name": "head.gate", "shape": [], "numel": 1, "stage": "head", "trainable": [True, True]},
]  # fmt: skip


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_the_header_tells_the_network(render):
    found = rows(render(inspection(REPORT)))
    assert ["backbone", "resnet50", "23.5 M", "2048 features of 224 x 160 px, 3 channels"] in found
    assert ["weights", "random"] in found
    assert ["embedding", "128 wide", "L2-normalised"] in found
    assert ["loss", "triplet", "0"] in found
    assert ["total", "24.6 M"] in found


def test_each_phase_has_a_table_of_stages(render):
    text = render(inspection(REPORT))
    assert "phase 1 of 2: epochs 1 to 2" in text
    assert "phase 2 of 2: epochs 3 to 6" in text
    found = rows(text)
    assert ["layer4", "15.0 M", "-", "15.0 M", "frozen", "-", "no"] in found
    assert ["layer4", "15.0 M", "7.48 M", "7.48 M", "affine", "0.001", "yes"] in found
    assert ["head", "1.11 M", "1.11 M", "-", "frozen", "0.001", "yes"] in found


def test_the_footer_tells_the_share_and_the_memory(render):
    text = render(inspection(REPORT))
    assert "1.11 M of 24.6 M parameters train (4.53 %)" in text
    assert (
        "memory at batch 64: 204 MB (weights 98.0 MB, gradients 4.46 MB, optimizer 8.92 MB, "
        "activations 92.3 MB)"
    ) in text


def test_notices_are_literal(render):
    assert "note: class '[/bold]'" in render(inspection(REPORT))


def test_parameters_are_listed_with_a_flag_for_each_phase(render):
    found = rows(render(inspection({**REPORT, "parameters_list": LISTING})))
    assert ["parameter", "shape", "numel", "stage", "phase 1", "phase 2"] in found
    assert [
        "backbone.model.conv1.weight", "64 x 3 x 7 x 7", "9408", "stem", "frozen", "train",
    ] in found  # fmt: skip
    assert ["head.gate", "scalar", "1", "head", "train", "train"] in found


def test_it_is_readable_at_80_columns_and_loses_nothing(render):
    text = render(inspection({**REPORT, "parameters_list": LISTING}), width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert "backward" in text


def test_a_pipe_gets_each_row_on_one_line(render):
    listing = [{**LISTING[0], "name": "backbone." + "blocks.0." * 30 + "weight"}]
    assert listing[0]["name"] in render(inspection({**REPORT, "parameters_list": listing}))


@pytest.mark.parametrize(
    ("start", "end", "text"), [(0, 1, "epoch 1"), (0, 2, "epochs 1 to 2"), (4, 5, "epoch 5")]
)
def test_spans_of_epochs_count_from_one(start, end, text):
    assert span(start, end) == text
