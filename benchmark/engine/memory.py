"""The memory of a process: how it is reused, and the most of it that a run held."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from pathlib import Path

import torch

#: Parameters of mallopt and their values, see malloc.h and mallopt(3).
_REUSE = {
    -4: 0,  # M_MMAP_MAX: no allocation gets pages of its own, which the system would clear anew each time
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: give back only what is beyond 2 GiB
    -2: 2**26,  # M_TOP_PAD: grow by 64 MiB at once
}


def reuse_freed_memory() -> None:
    """Let the C library of Linux reuse the memory of large tensors, for the rest of the process.

    Each step of training makes and frees the same tensors. Those over 32 MiB would come from the system each time,
    page by page: half of the time of a step with pairs of images and classes. This changes the whole process for good,
    so it is for the commands and the processes that they start, never for a caller of the library.
    """
    if (library := _glibc()) is not None:
        for parameter, value in _REUSE.items():
            library.mallopt(parameter, value)


class PeakMemory:
    """The most memory held since this was made: of the device on CUDA, else of the process (its resident set)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        # What an earlier run freed and the C library kept is none of this run's.
        if (library := _glibc()) is not None:
            library.malloc_trim(0)
        with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> float | None:
        """The peak in MiB; None where the system does not tell."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        try:
            status = Path("/proc/self/status").read_text()
            return float(status.partition("VmHWM:")[2].split()[0]) / 2**10
        except (OSError, IndexError):
            return _peak_of_process()


def _peak_of_process() -> float | None:
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
