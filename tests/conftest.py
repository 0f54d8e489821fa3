from __future__ import annotations

import colorsys
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from siamkit import plugins

os.environ["HF_HUB_OFFLINE"] = "1"
# No test depends on how busy the machine is.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")
# Small networks gain nothing from threads, and lose much where the cores are shared.
torch.set_num_threads(1)

BACKBONE = "timm:test_resnet"


MakeImages = Callable[..., Path]


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """Return a function that fills a folder with ``{class folder: number of images}``."""

    def make(counts: Mapping[str, int], root: Path = tmp_path / "images", size: int = 12) -> Path:
        rng = np.random.default_rng(0)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{i}.png")
        return root

    return make


@pytest.fixture
def nobody(tmp_path: Path) -> Callable[[], AbstractContextManager[None]]:
    """A function whose block runs as a user without rights."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)

    @contextmanager
    def other() -> Iterator[None]:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return other


def draw(path: Path, kind: int, index: int, size: int = 40) -> None:
    """Draw a shape whose colour and corners are its class's, at a place of its own."""
    rng = np.random.default_rng([kind, index])
    colour = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(kind / 8, 0.8, 0.9))
    image = Image.fromarray(rng.integers(180, 255, (size, size, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    x, y = rng.integers(12, size - 12, 2).tolist()
    r = int(rng.integers(6, 11))
    pen.regular_polygon((x, y, r), 3 + kind % 5, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the user's cache, and out of each other's."""
    monkeypatch.setenv("SIAMKIT_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def own_registrations() -> Iterator[None]:
    """Forget what a test registered in the process."""
    yield
    if plugins._registered_here:
        plugins._registered_here.clear()
        plugins.get.cache_clear()


@pytest.fixture(scope="session")
def draw_image() -> Callable[..., None]:
    """The function that draws the pictures of :func:`image_folder`, for folders of other shapes."""
    return draw


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of six small pictures."""
    root = tmp_path_factory.mktemp("shapes")
    for kind in range(8):
        for index in range(6):
            draw(root / f"class{kind}" / f"{index}.png", kind, index)
    return root


@pytest.fixture(scope="session")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of four images: in two they are 160 x 40 pixels, in two 12 bits in 16."""
    root = tmp_path_factory.mktemp("odd")
    for kind in range(4):
        for index in range(4):
            draw(root / f"class{kind}" / f"{index}.png", kind, index)
            path = root / f"class{kind}" / f"{index}.png"
            with Image.open(path) as image:
                grey = np.asarray(image.convert("L"))
            wide, deep = np.tile(grey, (1, 4)), grey.astype(np.uint16) * 16
            Image.fromarray(wide if kind < 2 else deep).save(path)
    return root


@pytest.fixture(scope="session")
def values_of(image_folder: Path) -> Callable[..., dict[str, Any]]:
    """A function that returns the config values of a run of a second or two in a folder."""

    def values(run_dir: Path, /, **sections: Any) -> dict[str, Any]:
        result: dict[str, Any] = {
            "data": {"path": str(image_folder), "image_size": 32, "workers": 0},
            "backbone": {"name": BACKBONE, "pretrained": False},
            "head": {"name": "mlp", "hidden": 16, "dim": 8},
            "freeze": {"name": "stages", "warmup": 1},
            "loss": {"name": "triplet"},
            "train": {"epochs": 3, "batch_size": 8, "images_per_class": 2},
            "run_dir": str(run_dir),
        }
        for name, section in sections.items():
            merged = isinstance(section, dict) and "name" not in section
            result[name] = {**result.get(name, {}), **section} if merged else section
        return result

    return values


@pytest.fixture(scope="session")
def exported_run(
    values_of: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run of a second or two, and its network exported to ONNX."""
    import siamkit
    from siamkit.inference.export import measuring
    from siamkit.inference.export.timing import Pace

    folder = tmp_path_factory.mktemp("exported_run")
    siamkit.fit(values_of(folder / "run", train={"epochs": 2}))
    with pytest.MonkeyPatch.context() as patch:  # how fast it is does not matter
        patch.setattr(measuring, "paces", lambda runners, _: {n: Pace(1e-3, 9.0) for n in runners})
        siamkit.export(folder / "run", folder / "model")
    return folder / "run", folder / "model"


@pytest.fixture(scope="session")
def trained(
    values_of: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny run."""
    from siamkit import api

    folder = tmp_path_factory.mktemp("deployed") / "run"
    api.fit(values_of(folder, train={"epochs": 1}))
    return folder


@pytest.fixture(scope="session")
def embedder(trained: Path) -> Any:
    """The embedder of that run."""
    from siamkit import api

    return api.load_embedder(trained, device="cpu", workers=0)


@pytest.fixture(scope="session")
def other(
    values_of: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """An embedder with a network that has other weights."""
    from siamkit import api

    folder = tmp_path_factory.mktemp("deployed") / "other"
    api.fit(values_of(folder, train={"epochs": 1, "seed": 5}))
    return api.load_embedder(folder, device="cpu", workers=0)


@pytest.fixture
def run_values(
    values_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """The same for a run in a folder of the test's own."""
    return partial(values_of, tmp_path / "run")


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(x), x


class _Unreadable(nn.Module):
    """A backbone whose first stage gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.last = _Pair(), nn.Conv2d(4, 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.pair(x)[0]).mean((2, 3))


class _Short(nn.Module):
    """A backbone with two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x)).mean((2, 3))


@pytest.fixture
def unreadable() -> nn.Module:
    return _Unreadable()


@pytest.fixture
def short() -> nn.Module:
    return _Short()
