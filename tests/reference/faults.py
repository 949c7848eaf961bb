"""Grids of tiny runs as subprocesses, to be killed: the plug-in, the command, and what must be true of its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmark.files import ROOT
from benchmark.results import claims

#: A method that is fitted once there is no file ``wait``, and writes a line into a diary whenever it begins.
PLUGIN = """
import os
import time
from pathlib import Path
from benchmark.api import Method
from benchmark.registries import METHODS

DIARY = Path(__file__).with_name("diary")

def note(text):
    with DIARY.open("a") as file:
        file.write(f"{text} {os.getpid()}\\n")

@METHODS.register("tiny", title="Tiny", family="embedding", year=2026, source="a test of faults")
class Tiny(Method):
    def fit(self, data, slot, run):
        note("fit")
        while DIARY.with_name("wait").exists():
            time.sleep(0.05)
        for _ in run.candidates(self, [None]):
            self.attributes = data.attributes
    def scores(self, x, classes):
        return x[:, :1] + self.attributes[classes].sum(1)
    def semantics(self, x):
        return None
"""

#: One that is trained by epochs of a step, with a checkpoint after each and a line in the diary before; at the lines
#: whose numbers are in the file ``deaths`` its process kills itself.
LONG_PLUGIN = """
import os
import signal
import time
from pathlib import Path
from torch import nn
from benchmark.api import Method
from benchmark.results import checkpoints
from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig, linear, minimise

checkpoints.EVERY, checkpoints.SHARE = 0.0, float("inf")
DIARY = Path(__file__).with_name("diary")
SECONDS = 0.05

@METHODS.register("tiny", title="Tiny", family="embedding", year=2026, source="a test of faults")
class Tiny(Method):
    class Config(GradientConfig):
        batch_size: int = 5000
        epochs: int = 12
        patience: int = 12
        lr: float = 0.03

    def __init__(self, meta, config, rng):
        super().__init__(meta, config, rng)
        self.projection = linear(meta.n_features, meta.n_attributes, rng)
    def fit(self, data, slot, run):
        self.attributes = data.attributes
        def objective(x, y):
            with DIARY.open("a") as file:
                file.write(f"step {os.getpid()}\\n")
            deaths = DIARY.with_name("deaths")
            if deaths.exists() and str(len(DIARY.read_text().splitlines())) in deaths.read_text().split():
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(SECONDS)
            return slot(nn.functional.dropout(self.projection(x), 0.1), y)
        minimise(self, objective, data, slot, run)
    def scores(self, x, classes):
        return self.projection(x) @ self.attributes[classes].T
    def semantics(self, x):
        return self.projection(x)
"""


class Killed(BaseException):
    """What no code that handles errors handles: it stands for the death of a process."""


class Grid:
    """A grid of cells of a plug-in's method ``tiny``, an own partition of ``awa2-sim`` each.

    Args:
        folder: where the plug-in and its diary are written.
        n_cells: the number of cells.
        plugin: what the plug-in is.
    """

    def __init__(self, folder: Path, n_cells: int, plugin: str = PLUGIN) -> None:
        self.folder = folder
        self.n_cells = n_cells
        folder.mkdir(parents=True, exist_ok=True)
        self._plugin = folder / "tiny.py"
        self._plugin.write_text(plugin)

    def start(self, out: Path, *options: str, env: Mapping[str, str] = os.environ) -> subprocess.Popen[str]:
        """Start the command that fills ``out``."""
        arguments = ["--plugin", str(self._plugin), "--method", "tiny", "--dataset", "awa2-sim", "--seeds", "0"]
        arguments += ["--splits", f"random:{self.n_cells}", "--out", str(out), *options]
        return subprocess.Popen(
            [sys.executable, "-m", "benchmark.run", *arguments],
            cwd=ROOT,
            env={key: value for key, value in env.items() if key != "ZSL_DATA"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def n_fits(self) -> int:
        """How often the method was fitted: twice a run."""
        return sum(line.startswith("fit ") for line in self.diary)

    @property
    def diary(self) -> list[str]:
        """The lines that the method wrote: what it did, and the process."""
        diary = self.folder / "diary"
        return diary.read_text().splitlines() if diary.is_file() else []


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Name of each stored result that did not fail -> what changes when the file is replaced.

    Raises:
        ValueError: one is no JSON: a part of a file.
    """
    found = {}
    for path in (out / "results").glob("*/*/*.json"):
        state = path.stat()
        if json.loads(path.read_text())["status"] == "ok":
            found[path.name] = (state.st_ino, state.st_mtime_ns)
    return found


def measures(out: Path) -> dict[str, object]:
    """Name of each stored result -> what it measured, without what depends on time and machine."""
    results = {path.name: json.loads(path.read_text()) for path in (out / "results").glob("*/*/*.json")}
    return {name: (result["evaluation"], result["selection"]) for name, result in results.items()}


def rubbish(out: Path) -> list[str]:
    """Files in the folder of results that are none: parts of files, and claims; but for what is known of Slurm jobs."""
    files = [path for path in (out / "results").rglob("*") if path.is_file()]
    return [path.name for path in files if path.suffix != ".json" and path.parent.name != ".slurm"]


def leave_claim(name: Path) -> None:
    """Leave the claim of ``name`` of a process that is dead: of this one's number, started at another time."""
    claims._path(name, 0).write_text(claims._identity(os.getpid()) + "1")


def descendants(process: int) -> list[int]:
    """All processes that come from ``process``, those that lead a group of their own too."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = [], [process]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found
