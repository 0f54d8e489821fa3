"""Packages whose public names load on first use."""

import importlib
import subprocess
import sys

import pytest

from siamkit.lazy import lazily

PACKAGES = ["siamkit", "siamkit.api", "siamkit.engine", "siamkit.freezing"]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_loads_and_is_listed(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(dir(module)) == set(module.__all__)


def test_a_name_of_another_spelling_in_its_module_is_found():
    find, _ = lazily("here", {"math": ("root", "floor")}, renamed={"root": "sqrt"})
    assert find("root")(9) == 3 and find("floor")(1.5) == 1


def test_an_unknown_name_is_an_attribute_error_that_names_the_package():
    find, _ = lazily("here", {"math": ("floor",)})
    with pytest.raises(AttributeError, match="module 'here' has no attribute 'ceil'"):
        find("ceil")


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_the_package_imports_no_torch(package):
    code = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
