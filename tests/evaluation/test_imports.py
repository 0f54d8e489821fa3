"""Metrics are computed without torch."""

import subprocess
import sys
from pathlib import Path

import siamkit.evaluation


def test_no_module_of_metrics_imports_torch():
    names = sorted(path.stem for path in Path(siamkit.evaluation.__path__[0]).glob("[a-z]*.py"))
    modules = ["siamkit.api.evaluating", *(f"siamkit.evaluation.{name}" for name in names)]
    assert len(modules) > 10
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
