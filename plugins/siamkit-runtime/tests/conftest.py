"""A run, its exported network, and siamkit-runtime as pip would install it."""

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder
from PIL import Image, ImageDraw

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of siamkit-runtime, built in this clone."""
    built = WheelBuilder(str(PROJECT)).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    return Path(next(built))


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the content of the wheel, like site-packages after ``pip install``."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture
def runtime(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make ``import siamkit_runtime`` find the content of the wheel."""
    monkeypatch.syspath_prepend(str(site))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "siamkit_runtime"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of five small pictures."""
    root = tmp_path_factory.mktemp("photos")
    for kind in range(6):
        for index in range(5):
            rng = np.random.default_rng([kind, index])
            image = Image.fromarray(rng.integers(150, 255, (40, 40, 3), dtype=np.uint8))
            place = (*rng.integers(12, 28, 2).tolist(), 10)
            colour = (40 * kind, 255 - 40 * kind, 99)
            ImageDraw.Draw(image).regular_polygon(place, 3 + kind, fill=colour)
            (root / f"class{kind}").mkdir(exist_ok=True)
            image.save(root / f"class{kind}" / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def exported(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of a second or two, and its network exported to ONNX."""
    import siamkit
    from siamkit.inference.export import measuring
    from siamkit.inference.export.timing import Pace

    folder = tmp_path_factory.mktemp("exported")
    config = {
        "data": {"path": str(photos), "image_size": 32, "workers": 0},
        "backbone": {"name": "timm:test_resnet", "pretrained": False},
        "head": {"name": "mlp", "hidden": 16, "dim": 8},
        "train": {"epochs": 1, "batch_size": 4, "images_per_class": 2, "device": "cpu"},
        "run_dir": str(folder / "run"),
    }
    siamkit.fit(config)
    with pytest.MonkeyPatch.context() as patch:  # how fast it is does not matter
        patch.setattr(measuring, "paces", lambda runners, _: {n: Pace(1e-3, 9.0) for n in runners})
        siamkit.export(folder / "run", folder / "model")
    return folder / "run", folder / "model"
