"""Untracked: uses OpenVINO and NNCF without the usage data that they send by default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .together import Together

_OFF = {"CI": "true", "NNCF_CI": "1"}  # the only switches of openvino-telemetry and of NNCF


@contextmanager
def _switched_off() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _OFF}
    os.environ.update(_OFF)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


untracked = Together(_switched_off)
"""Switches off the telemetry of OpenVINO and NNCF within the block.

They send an event when they are imported and when a model is converted, unless the user opted out.
Nobody who exports a network expects that.
"""
