"""Where an exported model may be written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from siamkit.errors import ConfigError
from siamkit.inference.export import folder
from siamkit.inference.export.folder import require_free


def test_only_the_files_that_the_manifest_names_are_an_exported_models_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder._own(tmp_path) is None
    manifest = SimpleNamespace(files={"model.onnx": "", "parts/a.bin": "", "parts/b.bin": ""})
    monkeypatch.setattr(folder, "is_export", lambda path: True)
    monkeypatch.setattr(folder, "read_manifest", lambda path: manifest)
    assert folder._own(tmp_path) == {"model.onnx", "parts", folder.MANIFEST}


def test_a_folder_in_a_run_or_of_something_else_is_refused(tmp_path: Path) -> None:
    require_free(tmp_path / "new", False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="exported model"):
        require_free(tmp_path / "other", True)
    for name in ("config.yaml", "events.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="lies in the run"):
        require_free(tmp_path / "new", True)
