"""Where a result comes from: code, machine and libraries; never a path or a host name."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmark import parallel

ROOT = Path(__file__).resolve().parent.parent
#: What makes the figures; a change elsewhere (documents, boards, tests) leaves the tree clean.
CODE = ("benchmark", "methods", "losses", "datasets")
LIBRARIES = ("torch", "numpy", "scipy", "pydantic")


def describe(device: torch.device, sources: dict[str, Path]) -> dict[str, Any]:
    """The provenance of a run that starts now.

    Args:
        device: where it trains.
        sources: role -> file of the code that plugs in, whose digests are kept.
    """
    changes = _git("status", "--porcelain", "--", *CODE)
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
        "argv": [_argument_without_path(argument) for argument in sys.argv],
        "sources": digests(sources),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": parallel.size(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def digests(sources: dict[str, Path]) -> dict[str, str | None]:
    """Role -> 12 hex digits of the sha256 of each file; None for code that has no file, as in a notebook."""
    return {
        role: hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else None
        for role, path in sources.items()
    }


def without_paths(text: str) -> str:
    """``text`` with every path cut to its last part: results are public, folders and users' names are not."""
    return re.sub(r"[^\s'\"(=:,]*/[^\s'\")]*", lambda path: _last_part(path.group()), text)


def _argument_without_path(argument: str) -> str:
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return flag + equals + _last_part(value) if "/" in value else argument


def _last_part(path: str) -> str:
    name = Path(path).name
    return "~" if name == Path.home().name else name


@cache
def _git(*arguments: str) -> str | None:
    """The output of a git command in the repository of the code; None where there is no git or repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


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
