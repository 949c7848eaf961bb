"""Where a result comes from: code, machine and libraries; never a path or a host name."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmark import parallel
from benchmark.files import ROOT, without_folders
from benchmark.registries import LossEntry, MethodEntry
from benchmark.sources import SUITE, joined

LIBRARIES = ("torch", "numpy", "scipy", "pydantic")
#: A digest of those modules of the engine that measures depend on; the rest of it plans, stores and starts runs.
_ENGINE = joined(
    ROOT / "benchmark" / file
    for file in (
        "engine/evaluate.py",
        "engine/experiment.py",
        "models/preprocessing.py",
        "engine/protocol.py",
        "engine/runs.py",
        "measures/imbalance.py",
        "measures/metrics.py",
        "results/checkpoints.py",
    )
)


def describe(device: torch.device, sources: dict[str, str | None]) -> dict[str, Any]:
    """The provenance of a run that starts now.

    Args:
        device: where it trains.
        sources: role -> digest of the code that makes its measures.
    """
    changes = _git("status", "--porcelain", "--", *SUITE)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "argv": [_argument_without_path(argument) for argument in sys.argv],
        "sources": sources,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": parallel.size(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def sources(method: MethodEntry, loss: LossEntry) -> dict[str, str | None]:
    """Role -> digest of the code that the measures of a run depend on, each as it was when it was imported.

    ``method`` and ``loss`` are the files that define them (None in a notebook), ``engine`` stands for the engine's own,
    and what the two share with others of their kind is named by its module.
    """
    code: dict[str, str | None] = {**method.code, **loss.code}
    roles = {"method": code.pop(method.module, None), "loss": code.pop(loss.module, None), "engine": _ENGINE}
    return roles | dict(sorted(code.items()))


def _argument_without_path(argument: str) -> str:
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return flag + equals + without_folders(value) if "/" in value else argument


@cache
def _git(*arguments: str) -> str | None:
    """The output of a git command in the repository of the code; None where there is no git, or no such repository.

    A suite that is installed may lie in an environment inside of somebody else's repository.
    """
    try:
        top, found = (
            subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for command in (("rev-parse", "--show-toplevel"), arguments)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found if Path(top).resolve() == Path(ROOT).resolve() else None


@cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


@cache
def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
