"""Running the command line as its users do: as a subprocess, from the repository's root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., subprocess.CompletedProcess[str]]

#: A grid of six runs that takes seconds.
QUICK = ["--method", "ale", "--set", "epochs=2", "--dataset", "awa2-sim", "--seeds", "0-2"]


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of a user without real data."""
    return {key: value for key, value in os.environ.items() if key != "ZSL_DATA"}


@pytest.fixture
def command(environment: dict[str, str]) -> Command:
    """``command("benchmark.run", "--list")`` -> the finished process with its output as text."""

    def run(module: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            **options,  # type: ignore[call-overload]
        )

    return run
