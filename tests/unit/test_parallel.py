"""Two processes that share a run come to what one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

import losses
from benchmark import parallel
from benchmark.api import Meta, Method, Run, Slot, TrainData
from benchmark.engine.runs import RefitRun
from benchmark.toolkit import GradientConfig, minimise
from tests.reference.toy import CPU, make_train, seeded

LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("remse", {"alpha": 0.5}),
    ("remse", {"window": "ema", "scale": "mean_one", "floor": 0.1}),
    ("mse-matched", {}),
    ("mse", {}),
]


class Regressor(Method):
    """Cross-entropy of each image on its own, and a regression whose weights are taken from the batch."""

    class Config(GradientConfig):
        optimizer: Any = "sgd"
        lr: float = 0.5
        epochs: int = 2

    def __init__(self, meta: Meta, config: Any, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.map = nn.Parameter(torch.randn(meta.n_features, meta.n_attributes, generator=rng))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        minimise(self, lambda x, y: self.objective(x, y, data, slot), data, slot, run)

    def objective(self, x: Tensor, y: Tensor, data: TrainData, slot: Slot) -> Tensor:
        predicted = x @ self.map
        return nn.functional.cross_entropy(predicted @ data.attributes[: data.n_seen].T, y) + slot(predicted, y)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        raise NotImplementedError

    def semantics(self, x: Tensor) -> Tensor | None:
        raise NotImplementedError


def trained(loss_name: str, parameters: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """The value and gradient of the first batch, and what a short training comes to."""
    data, _ = make_train()
    loss = losses.build(loss_name, n_classes=len(data.attributes), n_attributes=data.meta.n_attributes, **parameters)
    slot = Slot(data.attributes, loss, 10.0)
    method = Regressor(data.meta, Regressor.Config(batch_size=batch_size), seeded(0))
    optimizer = torch.optim.SGD([method.map], lr=0)
    with parallel.shared_steps(optimizer, loss):
        rows = torch.arange(13)
        own = parallel.share(rows)
        value = parallel.weight(own, rows) * method.objective(data.features[own], data.labels[own], data, slot)
        value.backward()
        optimizer.step()
    assert method.map.grad is not None
    run = RefitRun(CPU, 0, "", 2)
    found = {"value": parallel.mean(value.detach()), "gradient": method.map.grad.clone()}
    method.fit(data, slot, run)
    history = torch.tensor([row["loss"] for row in run.history])
    return found | {"weights": method.map.detach(), "history": history}


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = [trained(*case, batch_size) for case in LOSSES for batch_size in (16, 15)]
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Values, gradients and trained weights; batches of 15 divide into 8 and 7, and the last one may be of 1 alone."""
    spawn(_process, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    cases = [(case, batch_size) for case in LOSSES for batch_size in (16, 15)]
    for (case, batch_size), *both in zip(cases, first, second, strict=True):
        alone = trained(*case, batch_size)
        for name, expected in alone.items():
            assert torch.equal(both[0][name], both[1][name]), (case, name)
            torch.testing.assert_close(both[0][name], expected, rtol=1e-4, atol=1e-6, msg=f"{case} {name}")


def test_without_torchrun_nothing_is_done() -> None:
    x = torch.rand(3, 2)
    assert parallel.share(x) is parallel.gather(x) is parallel.mean(x) is x
    assert (parallel.size(), parallel.rank(), parallel.weight(x, x)) == (1, 0, 1.0)


def test_torchrun_stores_one_result_that_is_that_of_one_process(tmp_path: Path) -> None:
    """The whole command: shared batches, shared validation, one writer."""
    arguments = [
        "-m",
        "benchmark.run",
        "--method",
        "linear",
        "--loss",
        "remse",
        "--dataset",
        "awa2-sim",
        "--seeds",
        "0",
    ]
    arguments += ["--set", "epochs=2"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    metrics = []
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, *arguments, "--out", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("1 runs: 1 ok (0 of them stored before)") == 1
        (file,) = (tmp_path / name / "results").rglob("*.json")
        content = json.loads(file.read_text())
        assert content["provenance"]["processes"] == (2 if launcher else 1)
        metrics.append(content["evaluation"]["metrics"])
    assert metrics[1] == pytest.approx(metrics[0], abs=0.5)
