"""The command line in this process, and plugins that look installed."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from siamkit import plugins
from siamkit.cli.app import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Everything on stdout, which must be one JSON object."""
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Run ``siamkit ARGS...``, as the installed script does."""
    for variable in ("SIAMKIT_DISABLE_PLUGINS", "SIAMKIT_DEBUG", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(plugins, "_selection", None)

    def run(*args: object) -> Result:
        plugins.get.cache_clear()
        capsys.readouterr()
        code = main([str(a) for a in args])
        out, err = capsys.readouterr()
        return Result(code, out, err)

    yield run
    plugins.get.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Make a distribution of one module look installed: ``install(name, source)``."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def put(name: str, source: str) -> None:
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(source)
        info = site / f"{module}-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
        (info / "entry_points.txt").write_text(f"[siamkit]\n{name} = {module}\n")
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)

    return put


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of four small pictures."""
    root = tmp_path_factory.mktemp("images")
    for label in range(6):
        folder = root / f"[red]{label}"
        folder.mkdir()
        for i in range(4):
            Image.new("RGB", (32, 32), (40 * label, 255 - 30 * label, 20 * i)).save(
                folder / f"{i}.png"
            )
    return root
