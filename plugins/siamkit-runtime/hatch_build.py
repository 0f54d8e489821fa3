"""The build: packs the files that siamkit-runtime shares with siamkit, which are not copied in git.

In a clone, the files are siamkit's own. In a source distribution, they are already in place.
"""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "siamkit_runtime"
SHARED = (
    "checks.py",
    "errors.py",
    "files.py",
    "json_files.py",
    "spelling.py",
    "version.py",
    "words.py",
    "portable",
    "report/__init__.py",
    "report/plain.py",
    "report/units.py",
)
"""The files and folders of siamkit that are packed, under the same names."""


class SharedFiles(BuildHookInterface):
    """Adds the shared files to a wheel or a source distribution."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Add the files; ``version`` is the kind of the build, such as ``editable``."""
        root = Path(self.root)
        if (root / PACKAGE / "portable").is_dir():  # a source distribution
            return
        if version == "editable":
            raise RuntimeError(
                "siamkit-runtime packs files of siamkit, so it cannot be installed with -e; "
                "install it without -e"
            )
        siamkit = root.parent.parent / "siamkit"
        for name in SHARED:
            source = siamkit / name
            if not source.exists():
                raise RuntimeError(
                    f"{source} is missing: build siamkit-runtime in a clone of siamkit"
                )
            build_data["force_include"][str(source)] = f"{PACKAGE}/{name}"
