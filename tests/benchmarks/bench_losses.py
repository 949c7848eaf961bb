"""What each regression loss adds to a training step of an ALE-like method, on one CPU thread and on a GPU if any.

Run ``python -m pytest -s -m benchmark tests/benchmarks/bench_losses.py``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import RegressionLoss
from losses import build

BATCH, N_FEATURES = 64, 2048
SIZES = {"cub": (150, 312), "sun": (645, 102), "awa2": (40, 85)}  # seen classes, semantics
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mse": ("mse", {}),
    "remse batch": ("remse", {"window": "batch"}),
    "remse running": ("remse", {"window": "running"}),
    "remse ema": ("remse", {"window": "ema"}),
    "remse mean_one": ("remse", {"scale": "mean_one"}),
    "remse floor": ("remse", {"floor": 0.05}),
    "mse-matched": ("mse-matched", {}),
    "mae": ("mae", {}),
    "rmse": ("rmse", {}),
    "focal": ("focal", {}),
    "balanced-mse": ("balanced-mse", {}),
    "balanced-mse training": ("balanced-mse", {"prior": "training"}),
    "balanced-mse semantics": ("balanced-mse", {"prior": "training", "per": "semantic"}),
    "lds": ("lds", {}),
    "self-weighted": ("self-weighted", {}),
    "group-dro": ("group-dro", {}),
    "group-dro semantics": ("group-dro", {"groups": "semantics"}),
    "uncertainty": ("uncertainty", {}),
    "standardised": ("standardised", {}),
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

pytestmark = pytest.mark.benchmark


def training_step(loss: RegressionLoss, n_classes: int, n_attributes: int, device: str) -> Callable[[], None]:
    """A step of bilinear compatibility with a hinge over all wrong classes, plus ``loss``, by gradient descent."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, N_FEATURES, generator=rng).to(device)
    attributes = torch.nn.functional.normalize(torch.rand(n_classes, n_attributes, generator=rng)).to(device)
    labels = torch.randint(n_classes, (BATCH,), generator=rng).to(device)
    weight = (0.01 * torch.randn(N_FEATURES, n_attributes, generator=rng)).to(device).requires_grad_()
    loss.to(device).prepare(attributes, torch.bincount(labels, minlength=n_classes))
    optimizer = torch.optim.SGD([{"params": [weight], "lr": 1e-3}, *loss.parameter_groups()])

    def step() -> None:
        predicted = x @ weight
        scores: Tensor = predicted @ attributes.T
        hinge = (0.1 + scores - scores.gather(1, labels[:, None])).clamp_min(0).sum() / BATCH
        optimizer.zero_grad()
        (hinge + loss(predicted, attributes[labels], labels)).backward()
        optimizer.step()

    return step


def now(device: str) -> float:
    """Seconds: of this thread's own work on a CPU, which other processes may share; of the wall clock on a GPU."""
    if device == "cpu":
        return time.thread_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    steps: dict[str, Callable[[], object]], clock: Callable[[], float], rounds: int = 100, warm_up: int = 5
) -> dict[str, list[float]]:
    """The milliseconds of each step in each round; a round times all of them once, so that load hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(warm_up + rounds):
        for name, step in steps.items():
            start = clock()
            step()
            if round_ >= warm_up:
                times[name].append(1e3 * (clock() - start))
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """How many times as long as ``other`` the step ``one`` takes: the median over the rounds."""
    return statistics.median(mine / theirs for mine, theirs in zip(times[one], times[other], strict=True))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("device", DEVICES)
def test_overhead_over_mse(device: str, size: str) -> None:
    n_classes, n_attributes = SIZES[size]
    steps: dict[str, Callable[[], object]] = {
        label: training_step(
            build(name, n_classes=n_classes, n_attributes=n_attributes, **parameters), n_classes, n_attributes, device
        )
        for label, (name, parameters) in VARIANTS.items()
    }
    times = interleaved(steps, partial(now, device))
    print(f"\nstep of batch {BATCH}, {n_attributes} semantics, {n_classes} classes on {device}; medians over rounds:")
    for label, milliseconds in times.items():
        added = 100 * (ratio(times, label, "mse") - 1)
        print(f"  {label:15s} {statistics.median(milliseconds):7.3f} ms  {added:+6.1f} % over mse")
