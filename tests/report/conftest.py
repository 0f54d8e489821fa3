"""Consoles to print on, and a run's events."""

import io
from typing import Any

import pytest
from rich.console import Console

from siamkit.report.terminal import make_console


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def render():
    """Return what a renderable looks like, piped or at a width."""

    def text(renderable: Any, width: int | None = None) -> str:
        console = make_console(io.StringIO())
        if width is not None:
            console = Console(
                file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False
            )
        console.print(renderable)
        return console.file.getvalue()

    return text


@pytest.fixture(autouse=True)
def _no_columns(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)


def run_events() -> list[tuple[str, dict[str, Any]]]:
    """A run of two epochs in two phases, on a class with an awkward name."""
    phase = {"parameters": 23_508_032, "reason": "policy 'stages'"}
    frozen = {"stage": "layer4", "parameters": 14_964_736, "norm": "frozen", "lr": 1e-4}
    head = {"stage": "head", "parameters": 1_114_752, "norm": None, "lr": 1e-3, "was": None}
    return [
        ("run_start", {
            "run_dir": "runs/[/bold]", "epochs": 2, "steps_per_epoch": 2, "device": "cpu",
            "finished_epochs": 0, "weights": "pretrained",
            "notices": ["class '[/bold]' has one image"],
            "config": {"backbone": {"name": "resnet50"}, "head": {"name": "mlp"},
                       "freeze": {"name": "stages"}, "loss": {"name": "triplet"},
                       "scheduler": {"name": "cosine"}, "run_dir": None,
                       "train": {"epochs": 2, "monitor": "recall@1"}},
            "data": {"how": "class-disjoint split", "train_images": 180, "train_classes": 30,
                     "val_images": 180, "val_classes": 30,
                     "train": "180 images of 30 classes", "val": "180 images of 30 classes"},
        }),
        ("untrained", {"recall@1": 0.5, "map@r": 0.25}),
        ("phase_start", {**phase, "epoch": 1, "trainable_parameters": 1_114_752,
                         "changes": [{**frozen, "trainable": 0, "was": None},
                                     {**head, "trainable": 1_114_752}]}),
        ("step", _step(1)), ("step", _step(2)),
        ("epoch_end", _epoch(1, best=True)),
        ("phase_start", {**phase, "epoch": 2, "trainable_parameters": 16_079_488,
                         "changes": [{**frozen, "norm": "affine", "trainable": 14_964_736,
                                      "was": 0}]}),
        ("step", _step(3)), ("step", _step(4)),
        ("epoch_end", _epoch(2, best=False)),
        ("checkpoint", {"path": "x", "epoch": 2, "best": False}),
        ("something_new", {}),
        ("run_end", {}),
    ]  # fmt: skip


def _step(number: int) -> dict[str, Any]:
    return {
        "epoch": (number + 1) // 2, "step": number, "steps": 4, "epoch_step": (number - 1) % 2 + 1,
        "epoch_steps": 2, "loss": 0.5 / number, "lr": 1e-3, "images_per_second": 87.4,
    }  # fmt: skip


def _epoch(number: int, best: bool) -> dict[str, Any]:
    return {
        "epoch": number, "epochs": 2, "train_loss": 0.125, "seconds": 12.3, "best": best,
        "metrics": {"recall@1": 0.75, "map@r": 0.5},
        "train_metrics": {"recall@1": 0.875, "map@r": 0.625},
    }  # fmt: skip


HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "[/bold]",
    "<b>fat</b> & \"quoted\" 'names'",
    "{{ 7 * 7 }} $x^2$ %{x}",
)


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory, values_of, draw_image):
    """A run of two phases whose held-out classes and files have names that would like to be code.

    It was trained on images of its own, which tests may take away and put back.
    """
    from siamkit import api

    root = tmp_path_factory.mktemp("hostile")
    for kind in range(4):
        for index in range(4):
            draw_image(root / "data" / "train" / f"class{kind}" / f"{index}.png", kind, index)
    for kind, name in enumerate(HOSTILE):
        # A slash in a name is a folder within a folder.
        for index in range(6):
            file = f"<img src=x onerror=alert({index})>.png"
            draw_image(root / "data" / "val" / name / file, kind + 4, index)
    api.fit(
        values_of(
            root / "run",
            data={"path": str(root / "data")},
            train={"epochs": 2},
            engine={"cache": "off"},
        )
    )
    return root / "run"
