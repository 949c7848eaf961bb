"""The memory of a process: freed memory stays with those that are ours, and a peak is that of one run alone."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmark.engine.memory import PeakMemory

#: Prints how many pages the system had to clear for 20 tensors of 64 MiB, one after another: before and after.
COUNT = """
import resource, torch
from benchmark.engine.memory import reuse_freed_memory

def pages() -> int:
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

before = pages()
reuse_freed_memory()
pages()  # the heap grows to its size
print(before, pages())
"""

#: Prints the peak in MiB of a run that holds 64 MiB, first in a fresh process and then after one that held 512 MiB.
PEAKS = """
import torch
from benchmark.engine.memory import PeakMemory, reuse_freed_memory

def peak(mib: int) -> float:
    memory = PeakMemory(torch.device("cpu"))
    parts = [torch.ones(2**18) for _ in range(mib)]
    del parts
    return memory.read()

reuse_freed_memory()
print(peak(64), peak(512), peak(64))
"""

#: Runs a cell and prints whether the C library gives back what is freed.
SIDE_EFFECT = """
import resource, torch
from benchmark.engine.experiment import run_cell
from benchmark.engine.plan import Cell
from benchmark.engine.settings import make_spec
from benchmark.registries import DATASETS

source = DATASETS.resolve("awa2-sim", {}, None)
settings = {"feature_ridge": [1.0], "attribute_ridge": [1.0]}
spec = make_spec("eszsl", settings, ("mse", {}), source, {}, "proposed", "strict")
(result,) = run_cell(Cell(spec, (0,), None, "cpu"))
assert result.status == "ok", result.error
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep their ways")


def printed(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return [float(word) for word in done.stdout.split()]


@glibc
def test_large_tensors_reuse_pages():
    before, after = printed(COUNT)
    assert after < before / 5


@glibc
def test_a_caller_of_the_library_keeps_the_ways_of_its_process():
    """20 tensors of 64 MiB come from the system as before, page by page."""
    (pages,) = printed(SIDE_EFFECT)
    (before, _) = printed(COUNT)
    assert pages > before / 5


@glibc
def test_what_an_earlier_run_left_in_the_process_is_none_of_the_next_ones():
    first, large, again = printed(PEAKS)
    assert large > first + 300
    assert abs(again - first) < 60


def test_where_the_system_does_not_tell_there_is_no_peak(monkeypatch: pytest.MonkeyPatch):
    """As on Windows, where there is neither /proc nor the module ``resource``."""
    monkeypatch.setitem(sys.modules, "resource", None)

    def refuse(*_: object, **__: object) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert PeakMemory(torch.device("cpu")).read() is None
