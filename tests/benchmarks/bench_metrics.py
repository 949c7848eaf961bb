"""Speed of the metrics at the size of CUB's test (1,764 seen + 2,967 unseen images, 150 + 50 classes), on one thread.

Run ``python -m pytest -s -m benchmark tests/benchmarks/bench_metrics.py``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.measures.imbalance import error_matrix, summarise
from benchmark.measures.metrics import (
    harmonic_mean,
    mean_per_class,
    per_class_accuracy,
    predict,
    seen_unseen_curve,
)
from benchmark.results.error_matrix import encode

N_SEEN, N_UNSEEN, N_ATTRIBUTES = 150, 50, 312
SWEEP = 1000  # gammas; the sweeps in published code take 500 to 1600

pytestmark = pytest.mark.benchmark


def milliseconds(f: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The median and the least time of ``f``, after one call to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        f()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:]), min(times[1:])


def part(n: int, low: int, high: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.randint(low, high, (n,), generator=rng)
    scores = torch.randn(n, N_SEEN + N_UNSEEN, generator=rng)
    scores[torch.arange(n), labels] += 2
    scores[:, :N_SEEN] += 0.5  # the bias towards seen classes that calibration removes
    return scores, labels


def exact_and_swept() -> tuple[Callable[[], tuple[float, ...]], Callable[[], tuple[float, ...]]]:
    """Two ways to T1, U, S, H, AUSUC and the best H: from the exact curve, and by a sweep over gamma."""
    rng = torch.Generator().manual_seed(0)
    seen, seen_labels = part(1764, 0, N_SEEN, rng)
    unseen, unseen_labels = part(2967, N_SEEN, N_SEEN + N_UNSEEN, rng)
    gammas = np.linspace(-8, 8, SWEEP).tolist()
    is_seen = (torch.arange(N_SEEN + N_UNSEEN) < N_SEEN).float()

    def exact() -> tuple[float, ...]:
        t1 = mean_per_class(per_class_accuracy(predict(unseen[:, N_SEEN:]), unseen_labels - N_SEEN, N_UNSEEN))
        curve = seen_unseen_curve(seen, seen_labels, unseen, unseen_labels, N_SEEN)
        return t1, *curve.at(0.0), curve.ausuc, curve.at(curve.best_gamma()).harmonic

    def accuracy(scores: Tensor, labels: Tensor, gamma: float) -> float:
        predicted = (scores - gamma * is_seen).argmax(1)
        return mean_per_class(per_class_accuracy(predicted, labels, N_SEEN + N_UNSEEN))

    def sweep() -> tuple[float, ...]:
        t1 = mean_per_class(per_class_accuracy(predict(unseen[:, N_SEEN:]), unseen_labels - N_SEEN, N_UNSEEN))
        points = np.array([[accuracy(unseen, unseen_labels, g), accuracy(seen, seen_labels, g)] for g in gammas])
        u, s = accuracy(unseen, unseen_labels, 0), accuracy(seen, seen_labels, 0)
        ausuc = torch.trapezoid(*torch.from_numpy(points).flip(1).T).item() / 100
        return t1, u, s, harmonic_mean(u, s), ausuc, max(harmonic_mean(*p) for p in points.tolist())

    return exact, sweep


def test_all_metrics_against_a_sweep_over_gamma() -> None:
    exact, sweep = exact_and_swept()
    median, least = milliseconds(exact, 50)
    swept, _ = milliseconds(sweep, 1)
    print(f"\nT1, U, S, H, AUSUC and best H of 4731 x 200 scores: median {median:.2f} ms, least {least:.2f} ms")
    print(f"a sweep over {SWEEP} gammas, each a vectorised argmax: {swept:.0f} ms, {swept / median:.0f} times as long")
    for name, values in (("exact", exact()), ("sweep", sweep())):
        print(f"{name}: " + ", ".join(f"{v:.4f}" for v in values))
    assert exact()[:4] == pytest.approx(sweep()[:4], abs=1e-9)
    assert exact()[4] == pytest.approx(sweep()[4], abs=0.05)
    assert exact()[5] >= sweep()[5] - 1e-9


def test_error_matrix_and_its_summary() -> None:
    rng = torch.Generator().manual_seed(0)
    attributes = torch.rand(N_SEEN + N_UNSEEN, N_ATTRIBUTES, generator=rng)
    labels = torch.randint(0, len(attributes), (4731,), generator=rng)
    predicted = attributes[labels] + 0.3 * torch.randn(4731, N_ATTRIBUTES, generator=rng)
    errors = error_matrix(predicted, labels, attributes)
    print()
    for name, f in (
        ("error_matrix of 4731 x 312", lambda: error_matrix(predicted, labels, attributes)),
        ("summarise 200 x 312", lambda: summarise(errors, attributes)),
        ("encode 200 x 312", lambda: encode(errors.numpy())),
    ):
        print("{}: median {:.2f} ms, least {:.2f} ms".format(name, *milliseconds(f, 20)))
    print(f"encoded: {len(encode(errors.numpy())['data']) / 1024:.0f} KiB")
    assert errors.shape == attributes.shape
