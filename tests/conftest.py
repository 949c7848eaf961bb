"""Fixtures for all tests."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.registry import Registry

# The tests run in as many processes as there are cores, and a busy machine makes slow examples no failure.
torch.set_num_threads(1)
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _own_cache() -> Iterator[None]:
    """Keep the tests out of the user's cache; commands that they start inherit it."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZSL_CACHE", os.environ.get("ZSL_CACHE", folder))
        yield


@pytest.fixture(autouse=True)
def _forgotten_plugins() -> Iterator[None]:
    """Forget after each test what plug-ins registered in it, of which other tests would make pages and boards."""
    registries: tuple[Registry[Any], ...] = (METHODS, LOSSES, DATASETS)
    before, modules = [{**registry._entries} for registry in registries], {*sys.modules}
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry._entries.clear()
        registry._entries.update(entries)
    for name in {*sys.modules} - modules:
        if name.startswith("zsl_plugin_"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """The folder of the real xlsa17 data sets; the test is skipped where there is none."""
    root = Path(os.environ.get("ZSL_DATA") or Path(__file__).parents[2] / "shared" / "data" / "xlsa17")
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is not a folder (set ZSL_DATA)")
    return root
