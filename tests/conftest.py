"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data_root() -> Path:
    """The folder of the real xlsa17 data sets; the test is skipped where there is none."""
    root = Path(os.environ.get("ZSL_DATA") or Path(__file__).parents[2] / "shared" / "data" / "xlsa17")
    if not root.is_dir():
        pytest.skip(f"no real data: {root} is not a folder (set ZSL_DATA)")
    return root
