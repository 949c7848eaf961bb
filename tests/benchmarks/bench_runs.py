"""Where the time of a run goes, for every method, beside what it cannot do without: its matrix products alone.

Three runs of each method with mse on a stand-in, in one process and on one thread, one after another: as it is, written
plainly (see ``bench_generative`` and ``bench_embedding``; closed forms have no plain version there), and with its
matrix products recorded, which are then made once more on their own.

Run ``python -m pytest -n 0 -s -m benchmark tests/benchmarks/bench_runs.py``; ``docs/speed.md`` has its table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.boards import files as boards
from benchmark.engine import experiment, prepared, runs
from benchmark.engine.memory import reuse_freed_memory
from benchmark.registries import METHODS
from benchmark.results.store import Store
from benchmark.run import main
from benchmark.toolkit import training
from methods.embedding.ale import ALE
from methods.embedding.devise import DeViSE
from methods.embedding.sje import SJE
from methods.generative import _blocks
from methods.generative._adversarial import Critic
from methods.generative._synthesis import GenerativeMethod
from tests.benchmarks.bench_embedding import by_sample, milliseconds
from tests.benchmarks.bench_generative import plain_adam, plain_descend, plain_objective, plain_pairs

PARTS = ("data", "training", "classifiers", "scoring", "evaluation", "storing", "boards", "rest")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")

pytestmark = pytest.mark.benchmark


class Stopwatch:
    """Adds up the seconds of named parts; a part that is inside another is not counted in that one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def watched(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            self._inner.append(0.0)
            start = time.thread_time()
            try:
                return call(*arguments, **keywords)
            finally:
                elapsed = time.thread_time() - start
                self.seconds[part] += elapsed - self._inner.pop()
                self._inner[-1] += elapsed

        return timed

    def watch(self, monkeypatch: pytest.MonkeyPatch, part: str, owner: Any, *names: str) -> None:
        for name in names:
            monkeypatch.setattr(owner, name, self.watched(part, getattr(owner, name)))


class Recorder(TorchDispatchMode):
    """Counts the matrix products of what runs under it, by the shapes, strides and types of their factors."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[tuple[Any, Any]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in PRODUCTS:
            factors = tuple((x.shape, x.stride(), x.dtype) for x in args if isinstance(x, Tensor))
            self.products[func, factors] += 1
        return func(*args, **(kwargs or {}))

    def seconds(self) -> float:
        """What the products take on their own."""
        total = 0.0
        for (func, layouts), count in self.products.items():
            factors = [torch.empty_strided(*layout[:2], dtype=layout[2]).fill_(0.5) for layout in layouts]
            total += count * milliseconds(partial(func, *factors), min(count, 5)) / 1e3
        return total


def write_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what makes training faster than public code, in all methods."""
    for module in [m for key, m in sys.modules.items() if key.startswith(("methods.", "benchmark.toolkit"))]:
        for name, plain in (("descend", plain_descend), ("adam", plain_adam), ("build_optimizer", plain_optimiser)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, plain)
    monkeypatch.setattr(_blocks.PairNet, "forward", plain_pairs)
    monkeypatch.setattr(Critic, "objective", plain_objective)
    for kind, name in ((ALE, "ale"), (DeViSE, "devise"), (SJE, "sje")):
        monkeypatch.setattr(kind, "ranking", staticmethod(partial(by_sample, name)))


def plain_optimiser(config: training.GradientConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    plain: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "foreach": False, "fused": False}
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, **plain)
    return torch.optim.AdamW(groups, **plain)


def shares(arguments: list[str]) -> dict[str, float]:
    """The seconds of each part of a command."""
    stopwatch = Stopwatch()
    with pytest.MonkeyPatch.context() as patch:
        stopwatch.watch(patch, "data", prepared.Source, "load")
        stopwatch.watch(patch, "data", prepared, "train_data", "held_out")
        stopwatch.watch(patch, "data", experiment, "held_out")
        stopwatch.watch(patch, "training", experiment._Experiment, "_fit")
        stopwatch.watch(patch, "classifiers", GenerativeMethod, "train_gzsl_classifier", "train_zsl_classifier")
        stopwatch.watch(patch, "scoring", runs, "curve")
        stopwatch.watch(patch, "evaluation", experiment, "evaluate")
        stopwatch.watch(patch, "storing", Store, "save")
        stopwatch.watch(patch, "boards", boards, "write_boards")
        assert stopwatch.watched("rest", main)(arguments) == 0
    return dict(stopwatch.seconds)


def command(name: str, out: Path) -> list[str]:
    dataset = "cub-local-sim" if METHODS[name].family == "local" else "cub-sim"
    return ["--method", name, "--loss", "mse", "--seeds", "0", "--dataset", dataset, "--out", str(out)]


@pytest.fixture(scope="module", autouse=True)
def heading(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also what only the first run of a process pays for: imports, and memory that it keeps from then on."""
    reuse_freed_memory()
    shares(command("ale", tmp_path_factory.mktemp("first")))
    print(f"\n| method | s | {' | '.join(f'{part} %' for part in PARTS)} | training, plainly / ours | products alone |")
    print(f"| --- {'| ---: ' * (len(PARTS) + 3)}|")


@pytest.mark.parametrize("name", [entry.name for entry in METHODS])
def test_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = shares(command(name, tmp_path / "ours"))
    with pytest.MonkeyPatch.context() as patch:
        write_plainly(patch)
        plainly = shares(command(name, tmp_path / "plain"))
    with Recorder() as recorder:
        shares(command(name, tmp_path / "recorded"))
    total = sum(ours.values())
    training_s = ours["training"] + ours.get("classifiers", 0.0)
    ratio = (plainly["training"] + plainly.get("classifiers", 0.0)) / training_s
    parts = " | ".join(f"{100 * ours.get(part, 0.0) / total:.0f}" for part in PARTS)
    with capsys.disabled():
        print(f"| {name} | {total:.1f} | {parts} | {ratio:.2f} | {100 * recorder.seconds() / total:.0f} % |")


def test_grid(tmp_path: Path) -> None:
    """What a grid takes beside its runs: start, plan, storing and boards."""
    chosen = ["--method", "ale", "devise", "sje", "--loss", "none", "mse", "remse", "--seeds", "0-4"]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "benchmark.run", *chosen, "--dataset", "cub-sim", "--out", str(tmp_path)],
        check=True,
        capture_output=True,
    )
    wall = time.perf_counter() - start
    costs = [json.loads(file.read_text())["cost"] for file in tmp_path.glob("results/*/*/*.json")]
    spent = sum(cost["fit_s"] + cost["evaluate_s"] for cost in costs)
    print(f"{len(costs)} runs of ale, devise and sje: {wall:.1f} s, {100 * (1 - spent / wall):.1f} % beside the runs")
