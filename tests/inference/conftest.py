"""A tiny run, and embedders with its network and with another one."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def trained(tmp_path_factory, values_of) -> Path:
    from siamkit import api

    folder = tmp_path_factory.mktemp("deployed") / "run"
    api.fit(values_of(folder, train={"epochs": 1}))
    return folder


@pytest.fixture(scope="session")
def embedder(trained):
    from siamkit import api

    return api.load_embedder(trained, device="cpu", workers=0)


@pytest.fixture(scope="session")
def other(tmp_path_factory, values_of):
    """Return an embedder with a network that has other weights."""
    from siamkit import api

    folder = tmp_path_factory.mktemp("deployed") / "other"
    api.fit(values_of(folder, train={"epochs": 1, "seed": 5}))
    return api.load_embedder(folder, device="cpu", workers=0)
