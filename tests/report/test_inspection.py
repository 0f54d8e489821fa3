import re

import pytest

from siamkit.report.inspection import _rate, inspection, span

MEMORY = {
    "weights": 98_000_000, "gradients": 4_459_008, "optimizer": 8_918_016,
    "activations": 92_300_000, "libraries": 50_000_000, "peak": 253_677_024, "pass_size": 64,
    "peak_from_cache": None}  # fmt: skip


FLOPS = {"forward": 8_180_000_000, "prefix": 3_620_000_000, "backward": 8_690_000_000}
BOUNDARY = {
    "name": "layer2", "module": "backbone.model.layer2", "shape": [512, 28, 28],
    "dtype": "float16", "row_bytes": 802_816,
}  # fmt: skip


def stage(name, parameters, trainable, backward, norm="frozen", prefix="all"):
    return {
        "name": name, "parameters": parameters, "trainable": trainable,
        "frozen": parameters - trainable, "norm": norm, "lr": 0.001, "needs_backward": backward,
        "in_prefix": prefix,
    }  # fmt: skip


REPORT = {
    "backbone": {"name": "resnet50", "parameters": 23_508_032, "weights": "random",
                 "features": 2048, "image_size": [224, 160], "in_chans": 3},
    "head": {"name": "mlp", "parameters": 1_114_752, "computed": False},
    "embedding": {"dim": 128, "normalized": True},
    "loss": {"name": "triplet", "parameters": 0},
    "parameters": 24_622_784, "batch_size": 64, "metric_driven": True,
    "notices": ["class '[/bold]'"],
    "phases": [
        {"first_epoch": 1, "last_epoch": 2, "trainable_parameters": 1_114_752,
         "trainable_share": 0.0453, "norm": "affine", "memory": MEMORY,
         "flops": FLOPS, "boundary": BOUNDARY, "rejected_boundaries": [],
         "stages": [stage("layer4", 14_964_736, 0, False),
                    stage("head", 1_114_752, 1_114_752, True, prefix="none")]},
        {"first_epoch": 3, "last_epoch": 6, "trainable_parameters": 8_597_120,
         "trainable_share": 0.349, "norm": "affine", "memory": MEMORY,
         "flops": FLOPS, "boundary": None, "rejected_boundaries": ["stem: it runs 2 times"],
         "stages": [stage("layer4", 14_964_736, 7_482_368, True, "affine", "part"),
                    stage("head", 1_114_752, 1_114_752, True, prefix="none")]},
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
    assert [
        "backbone",
        "resnet50",
        "23.5 M",
        "2048 features from 224 x 160 px, 3 channels",
    ] in found
    assert ["weights", "random"] in found
    assert ["embedding", "128 dimensions", "L2-normalised"] in found
    assert ["loss", "triplet", "0"] in found
    assert ["total", "24.6 M"] in found


def test_the_numbers_of_the_header_end_in_one_column(render):
    lines = [line.rstrip() for line in render(inspection(REPORT)).splitlines()]
    ends = {
        number: line.index(number) + len(number)
        for name, number in (("head ", "1.11 M"), ("loss ", "0"), ("total ", "24.6 M"))
        for line in lines[:6]
        if line.startswith(name)
    }
    assert len(ends) == 3 and len(set(ends.values())) == 1
    after = [line.index(text) for line in lines[:6] for text in ("2048", "L2-n") if text in line]
    assert len(set(after)) == 1, "the words after the numbers begin in one column"


def test_each_phase_has_a_table_of_stages(render):
    text = render(inspection(REPORT))
    assert "phase 1 of 2: epochs 1 to 2" in text
    assert "phase 2 of 2: epochs 3 to 6" in text
    found = rows(text)
    assert ["layer4", "15.0 M", "-", "15.0 M", "frozen", "-", "no", "yes"] in found
    assert ["layer4", "15.0 M", "7.48 M", "7.48 M", "affine", "0.001", "yes", "part"] in found
    assert ["head", "1.11 M", "1.11 M", "-", "frozen", "0.001", "yes", "no"] in found


def test_the_footer_tells_the_share_and_the_memory(render):
    text = render(inspection(REPORT))
    assert "1.11 M of 24.6 M parameters train (4.53 %)" in text
    assert (
        "predicted peak memory at batch size 64: 254 MB (weights 98.0 MB, gradients 4.46 MB, "
        "optimizer 8.92 MB, activations 92.3 MB, libraries 50.0 MB)\n"
    ) in text


def test_the_memory_tells_the_passes_and_what_cached_features_save(render):
    memory = {**MEMORY, "gradients": 0, "pass_size": 16, "peak_from_cache": 80_000_000}
    phase = {**REPORT["phases"][0], "memory": memory}
    text = render(inspection({**REPORT, "phases": [phase]}))
    assert "at batch size 64 in passes of 16: 254 MB (weights 98.0 MB, optimizer" in text
    assert "libraries 50.0 MB); from cached features 80.0 MB" in text
    text = render(inspection({**REPORT, "phases": [{**phase, "memory": None}]}))
    assert "memory: not known, because loss 'triplet' cannot be tried alone" in text


def test_the_footer_tells_what_is_computed_once_and_what_an_image_costs(render):
    text = render(inspection(REPORT))
    assert (
        "frozen prefix: up to layer2, 44.3 % of the forward pass; its output takes 803 kB per "
        "image and view (float16)"
    ) in text
    assert "frozen prefix: none (stem: it runs 2 times)" in text
    assert text.count("compute per image: 8.18 GFLOPs forward, 8.69 GFLOPs backward") == 2
    assert "measured" not in text


def test_what_was_measured_follows_the_footer(render):
    measured = {
        "mode": "cached", "reason": "each image and view is computed once", "boundary": "layer2",
        "kernel": "folded", "kernels": {"folded": 0.0461, "eager": 0.061}, "views": 8,
        "rejected_boundaries": [], "rows": 4096, "missing": 12, "bytes": 34_000_000, "live": 300.0,
        "cached": 31.0, "spread": 0.1,
        "decode_seconds": 0.0029, "prefix_seconds": 0.0461, "suffix_seconds": 0.00071,
    }  # fmt: skip
    first, second = REPORT["phases"]
    whole = {"mode": "whole", "reason": "nothing is frozen", "boundary": None, "kernel": None}
    phases = [{**first, "measured": measured}, {**second, "measured": whole}]
    text = render(inspection({**REPORT, "phases": phases}))
    assert (
        "measured: frozen up to layer2: 12 of 4096 features computed once with the folded kernel"
        in text
    )
    assert (
        "time per image: 2.9 ms to load, 46.1 ms in the prefix (kernels measured: "
        "folded 46.1 ms, eager 61 ms), 0.71 ms in the rest, including backward"
    ) in text
    assert "measured: the whole network runs for every batch: nothing is frozen" in text


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


@pytest.mark.parametrize(
    ("lr", "lr_mult", "text"),
    [(0.002, 1, "0.002"), (None, 1, "auto"), (None, 0.1, "auto x 0.1"), (0.0, 1, "0")],
)
def test_a_rate_that_is_not_yet_known_is_auto_times_its_multiplier(lr, lr_mult, text):
    assert _rate({"lr": lr, "lr_mult": lr_mult}) == text
