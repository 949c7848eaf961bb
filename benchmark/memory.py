"""Memory that training frees stays with the process."""

from __future__ import annotations

import ctypes
import platform

#: Parameters of mallopt and their values, see malloc.h and mallopt(3).
_GLIBC = {
    -4: 0,  # M_MMAP_MAX: no allocation gets pages of its own, which the system would clear anew each time
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: give back only what is beyond 2 GiB
    -2: 2**26,  # M_TOP_PAD: grow by 64 MiB at once
}


def keep_freed_memory() -> None:
    """Let the C library of Linux reuse the memory of large tensors instead of giving it back.

    Each step of training makes and frees the same tensors. Those over 32 MiB would come from the system each time,
    page by page: half of the time of a step with pairs of images and classes.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _GLIBC.items():
            mallopt(parameter, value)
