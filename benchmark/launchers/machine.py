"""What of this machine its processes may use: cores, memory and GPUs, as affinity and control groups leave them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
#: What a control group without a limit says.
_UNLIMITED = "max"


def cores() -> int:
    """The cores that this process may use, by its affinity and the ``cpu.max`` of its control groups; at least 1."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [_share(text) for text in _settings("cpu.max")]
    return max(1, math.floor(min([affine, *shares])))


def memory_left() -> float:
    """The bytes that processes may still take, by the system and the ``memory.max`` of their control groups.

    Infinite where the system does not tell.
    """
    return min([_available(), *_room_in_groups()])


def memory_of(process: int) -> int:
    """The bytes that a process holds (its resident set); 0 where it is gone, or the system does not tell."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def gpus() -> list[str]:
    """The GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _groups() -> Iterator[Path]:
    """The control groups (version 2) that this process is in, from its own up to the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is not None:
        folder = _CGROUPS / own
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(_CGROUPS))


def _settings(name: str) -> Iterator[str]:
    for group in _groups():
        if text := _read(group / name):
            yield text


def _share(cpu_max: str) -> float:
    """``200000 100000`` -> 2 cores."""
    quota, period = cpu_max.split()
    return math.inf if quota == _UNLIMITED else int(quota) / int(period)


def _available() -> float:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return math.inf


def _room_in_groups() -> Iterator[float]:
    """Bytes up to each group's limit; what it caches of files is given back when memory is needed."""
    for group in _groups():
        limit, held = _read(group / "memory.max"), _read(group / "memory.current")
        if limit and held and limit != _UNLIMITED:
            yield int(limit) - int(held) + _cached(group)


def _cached(group: Path) -> int:
    lines = _read(group / "memory.stat").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
