"""How fast and how large the reader is on AWA1: ``pytest -m benchmark -s tests/benchmarks/bench_reader.py``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = """
import json, sys, time
from pathlib import Path
from datasets.xlsa17 import Xlsa17

def peak():  # unlike ru_maxrss, this does not begin with the peak of the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

dataset = Xlsa17("awa1", Xlsa17.Config(), Path(sys.argv[1]))
before, start = peak(), time.perf_counter()
split = dataset.load()
print(json.dumps([time.perf_counter() - start, peak() - before, split.features.nbytes]))
"""


@pytest.mark.benchmark
@pytest.mark.real_data
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_second_load_of_awa1(real_data_root: Path, tmp_path: Path) -> None:
    def load() -> tuple[float, int, int]:
        command = [sys.executable, "-c", LOAD, str(real_data_root)]
        environment = os.environ | {"ZSL_CACHE": str(tmp_path)}
        result = subprocess.run(
            command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, check=True
        )
        seconds, memory, size = json.loads(result.stdout)
        return seconds, memory, size

    first, first_memory, size = load()
    second, second_memory, _ = min(load() for _ in range(3))
    print(f"\nfirst load {first:.3f} s, second {second:.3f} s: {first / second:.0f} : 1")
    print(f"peak memory beside {size / 2**20:.1f} MiB of features: first +{first_memory / 2**20:.1f} MiB", end=", ")
    print(f"second +{second_memory / 2**20:.1f} MiB")
    assert first_memory < 1.5 * size
    assert second_memory < 0.25 * size
