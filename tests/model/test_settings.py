from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import siamkit
import siamkit.api
from siamkit.model.settings import each_with_usual_settings, usual_settings

GIVEN: dict[str, Any] = {
    "backbone": {"name": "timm:test_resnet", "pretrained": False},
    "head": {"name": "mlp", "hidden": 16, "dim": 8},
    "freeze": {"name": "stages", "warmup": 1},
    "loss": "triplet",
    "image_size": 32,
    "epochs": 2,
    "batch_size": 8,
    "report": False,
}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: default_dtype(torch.float64),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("meta"),
}


def state() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_a_block_computes_as_usual_and_then_the_caller_has_its_settings_again(name: str) -> None:
    usual = state()
    with SETTINGS[name]():
        own = state()
        assert own != usual
        with usual_settings():
            assert state() == usual
        assert state() == own
    assert state() == usual


def test_items_are_computed_with_the_usual_settings_and_used_with_the_callers() -> None:
    dtypes: list[torch.dtype] = []

    def items() -> Iterator[int]:
        for number in range(2):
            dtypes.append(torch.get_default_dtype())
            yield number

    with default_dtype(torch.float64):
        for _ in each_with_usual_settings(items()):
            assert torch.get_default_dtype() == torch.float64
    assert dtypes == [torch.float32] * 2


def test_a_run_and_its_embeddings_do_not_depend_on_the_callers_settings(
    image_folder: Path, tmp_path: Path
) -> None:
    fit = partial(siamkit.fit, data=str(image_folder), **GIVEN)
    run = fit(run_dir=tmp_path / "usual").run_dir
    image = str(next(image_folder.glob("class0/*.png")))
    expected = siamkit.load_embedder(run, kernel="eager", workers=0)
    with default_dtype(torch.float64), torch.inference_mode(), torch.device("meta"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            other = fit(run_dir=tmp_path / "other").run_dir
            embedder = siamkit.load_embedder(other, kernel="eager", workers=0)
            embedding = embedder.embed(image).numpy()
            (part,) = embedder.stream([image])
            score = embedder.verify(image, image).score
    assert embedder.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(embedding, expected.embed(image).numpy())
    np.testing.assert_array_equal(part.embeddings.numpy(), embedding)
    assert score == pytest.approx(1)


WITHOUT = {
    # These call functions that have the settings, or an Embedder.
    "any_embedder", "build_index", "embed", "load_model", "open_run", "search", "verify_pairs",
    # These run no network.
    "create_policy", "load_config", "load_index", "phases", "push_to_hub", "registries",
    "write_report",
    # The caller's own network, which the caller's settings may shape.
    "create_model",
}  # fmt: skip


def test_every_public_function_has_the_usual_settings_or_needs_none() -> None:
    public = {name: getattr(siamkit.api, name) for name in siamkit.api.__all__}
    functions = {
        name: function
        for name, function in public.items()
        if inspect.isfunction(function) and not name.startswith(("list_", "register_"))
    }
    assert {n for n, f in functions.items() if inspect.unwrap(f) is f} == WITHOUT


def test_every_method_of_an_embedder_that_runs_its_network_has_the_usual_settings() -> None:
    methods = ["embed", "from_pretrained", "search", "similarity", "verify"]
    assert all(
        inspect.unwrap(method) is not method
        for method in (getattr(siamkit.Embedder, name) for name in methods)
    )
