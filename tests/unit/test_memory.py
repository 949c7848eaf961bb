"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Prints how many pages the system had to clear for 20 tensors of 64 MiB, one after another: before and after.
COUNT = """
import resource, torch
from benchmark.memory import keep_freed_memory

def pages() -> int:
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = pages()
keep_freed_memory()
pages()  # the heap grows to its size
print(before, pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep their ways")
def test_large_tensors_reuse_pages():
    done = subprocess.run([sys.executable, "-c", COUNT], check=True, capture_output=True, text=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 5
