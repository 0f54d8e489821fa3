"""What the wheel holds, and what its files need."""

import ast
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import siamkit
from siamkit.version import VERSION

from .conftest import PROJECT

ROOT = Path(siamkit.__file__).parent
OWN = {"__init__.py", "__main__.py", "cli.py", "galleries.py", "texts.py", "py.typed"}


def packed(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name.partition("/")[2]: opened.read(name) for name in opened.namelist()
                if name.startswith("siamkit_runtime/")}  # fmt: skip


def test_the_wheel_holds_its_own_files_and_siamkits_unchanged(wheel):
    files = packed(wheel)
    shared = {name: content for name, content in files.items() if name not in OWN}
    assert {*OWN, "errors.py", "portable/decode.py", "portable/model.py"} <= set(files)
    for name, content in shared.items():
        assert content == (ROOT / name).read_bytes(), name
    assert {p.name for p in (ROOT / "portable").glob("*.py")} == {
        name.partition("/")[2] for name in files if name.startswith("portable/")
    }


def test_its_files_import_nothing_but_numpy_pillow_and_one_another(wheel):
    # pyarrow only reads and writes Parquet files.
    allowed = {*sys.stdlib_module_names, "numpy", "PIL", "pyarrow"}
    for name, content in packed(wheel).items():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                roots = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots = [str(node.module).partition(".")[0]]
            else:
                continue
            assert set(roots) <= allowed, f"{name}: {roots}"


def test_the_distribution_needs_three_packages(wheel):
    with zipfile.ZipFile(wheel) as opened:
        path = next(name for name in opened.namelist() if name.endswith("/METADATA"))
        about = Parser().parsestr(opened.read(path).decode())
    needed = [one for one in about.get_all("Requires-Dist") if "extra ==" not in one]
    assert sorted(one.partition(">")[0] for one in needed) == ["numpy", "onnxruntime", "pillow"]
    assert about["Version"] == VERSION


def test_a_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    source = Path(next(SdistBuilder(str(PROJECT)).build(directory=str(tmp_path))))
    with tarfile.open(source) as opened:
        opened.extractall(tmp_path, filter="data")
    folder = tmp_path / source.name.removesuffix(".tar.gz")
    again = Path(next(WheelBuilder(str(folder)).build(directory=str(tmp_path / "wheel"))))
    assert packed(again) == packed(wheel)


def test_an_editable_install_is_refused_with_the_reason(tmp_path):
    with pytest.raises(RuntimeError, match="install it without -e"):
        next(WheelBuilder(str(PROJECT)).build(directory=str(tmp_path), versions=["editable"]))


def test_a_folder_without_siamkit_cannot_be_packed(tmp_path):
    project = tmp_path / "plugins" / "siamkit-runtime"
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        project.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes((PROJECT / name).read_bytes())
    (project / "siamkit_runtime").mkdir()
    (project / "siamkit_runtime/__init__.py").touch()
    with pytest.raises(RuntimeError, match="build siamkit-runtime in a clone of siamkit"):
        next(WheelBuilder(str(project)).build(directory=str(tmp_path)))


def test_the_help_and_the_import_load_no_numpy(site):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import siamkit_runtime.cli as cli;"
        "cli.main(['--help']); cli.main(['embed', '--help']);"
        "print('loaded', *sorted({'numpy', 'PIL', 'onnxruntime'} & set(sys.modules)))"
    )
    run = [sys.executable, "-c", code, str(site)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded"
    assert "siamkit-runtime verify my-model one.jpg other.jpg" in done.stdout
