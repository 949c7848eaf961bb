"""Jobs of tests, which launchers pickle to other processes: what they do stands in the ``method`` of their cell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.api import Incompatible
from benchmark.engine.jobs import Job
from benchmark.engine.plan import Cell
from benchmark.errors import InputError, Lost
from benchmark.results.claims import Held
from tests.reference.toy import make_spec


@dataclass(frozen=True)
class ToyJob(Job[str]):
    """Does what the name of its method says, and writes a line into ``diary`` whenever it starts."""

    @property
    def diary(self) -> Path:
        return self.folder / "diary"

    def run(self) -> Iterator[str]:
        what = self.cell.spec.method
        with self.diary.open("a") as file:
            file.write(f"{what}\n")
        yield f"{what} began"
        if what.startswith("dies"):
            print("the last words")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if what.startswith("warns"):
            print(f"a word to itself\nwarning: {what}", file=sys.stderr)
        if what.startswith("sleeps"):
            child = subprocess.Popen(["sleep", "600"])
            self.diary.with_name("child").write_text(f"{os.getpid()} {child.pid}")
            time.sleep(600)
        if what.startswith("broken"):
            raise InputError(f"{what}.mat: cannot be read")
        if what.startswith("faulty"):
            raise ZeroDivisionError("by zero")
        if what.startswith("unfit"):
            raise Incompatible("it cannot")
        if what.startswith("held") and self.diary.read_text().count(what) == 1:
            raise Held(self.diary.with_name(what))
        yield os.environ.get("CUDA_VISIBLE_DEVICES", "no GPU") if what.startswith("gpu") else f"{what} {os.getpid()}"

    def stored(self, *, failed: bool = False) -> list[str]:
        return []

    def missing(self, reason: Incompatible | Lost, done: Sequence[str]) -> list[str]:
        return [f"{type(reason).__name__} after {len(done)}: {reason}"]


def toy_jobs(folder: Path, *names: str, device: str = "cpu") -> list[ToyJob]:
    cells = [Cell(make_spec(method=name), (0,), None, device) for name in names]
    return [ToyJob(cell, folder) for cell in cells]
