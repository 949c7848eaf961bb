"""What vectorising brings the embedding methods, each against the same thing written plainly, on one CPU thread.

Run ``python -m pytest -n 0 -s -m benchmark tests/benchmarks/bench_embedding.py``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import Meta, Slot
from benchmark.engine.runs import RefitRun
from benchmark.registries import METHODS
from benchmark.toolkit import build_optimizer, descend
from losses import build
from methods._least_squares import AttributeRegression, QuadraticTerm

N_SEEN, BATCH = 150, 64  # CUB
RIDGE = 10.0

pytestmark = pytest.mark.benchmark


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """The median time of a call, after one to warm up: of this thread alone, as others may share the machine."""
    call()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return 1e3 * statistics.median(times)


def compare(what: str, ours: Callable[[], Any], plain: Callable[[], Any], repeats: int) -> None:
    a, b = milliseconds(ours, repeats), milliseconds(plain, repeats)
    print(f"{what:28} {a:9.2f} ms, plainly {b:9.2f} ms: {b / a:6.1f} times faster")


def by_sample(name: str, scores: Tensor, labels: Tensor) -> Tensor:
    """The ranking losses as public code writes them: a loop over the samples of the batch."""
    total = scores.new_zeros(())
    for row, y in zip(scores, labels, strict=True):
        hinges = (1 + row - row[y]).clamp(min=0)
        wrong = torch.cat([hinges[:y], hinges[y + 1 :]])
        if name == "sje":
            total = total + wrong.max()
        elif name == "devise":
            total = total + wrong.sum()
        elif rank := int((wrong > 0).sum()):
            total = total + sum(1 / j for j in range(1, rank + 1)) / rank * wrong.sum()
    return total / len(scores)


@pytest.mark.parametrize("name", ["ale", "devise", "sje"])
def test_ranking_losses(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(BATCH, N_SEEN, generator=rng).requires_grad_()
    labels = torch.randint(N_SEEN, (BATCH,), generator=rng)
    entry = METHODS[name]
    method: Any = entry.obj(Meta(1, 1, N_SEEN, 0), entry.obj.Config(), rng)
    assert torch.allclose(method.ranking(scores, labels), by_sample(name, scores, labels), rtol=1e-4)
    compare(
        f"{name}, forward and backward",
        lambda: method.ranking(scores, labels).backward(),
        lambda: by_sample(name, scores, labels).backward(),
        20,
    )


def regression_data() -> tuple[Tensor, Tensor, Tensor]:
    """Features, classes' attributes and labels of AWA's size, in float64."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(40, (4000,), generator=rng)
    attributes = torch.nn.functional.normalize(torch.rand(40, 85, generator=rng, dtype=torch.float64))
    x = attributes[labels] @ torch.randn(85, 512, generator=rng, dtype=torch.float64)
    return x + torch.randn(x.shape, generator=rng, dtype=torch.float64), attributes, labels


def test_reweighting_in_float32() -> None:
    """The iterations in the precision of images against float64, and the products of one residual beside them."""
    x, attributes, labels = regression_data()
    slot = Slot(attributes, build("remse", n_classes=40, n_attributes=85))
    run, term = RefitRun(torch.device("cpu"), 0, "benchmark", 1), QuadraticTerm(ridge=RIDGE)
    narrow, wide = (
        AttributeRegression(x, attributes[labels], labels, precision=precision)
        for precision in (torch.float32, torch.float64)
    )
    ours, plain = (problem.solve_reweighted(1.0, term, slot, run) for problem in (narrow, wide))
    assert (ours - plain).norm() < 1e-4 * plain.norm()
    compare(
        "re-weighting in float32",
        lambda: narrow.solve_reweighted(1.0, term, slot, run),
        lambda: wide.solve_reweighted(1.0, term, slot, run),
        5,
    )
    single, solution = x.float(), ours.float()
    print(f"{'':28} {milliseconds(lambda: single.T @ (single @ solution), 5):9.2f} ms, its two products once")


def test_a_ranking_step() -> None:
    """A step of ALE and the two large products that it cannot do without, at CUB's size with 1,280 features."""
    rng = torch.Generator().manual_seed(0)
    x, labels = torch.randn(BATCH, 1280, generator=rng), torch.randint(N_SEEN, (BATCH,), generator=rng)
    seen = torch.nn.functional.normalize(torch.rand(N_SEEN, 312, generator=rng))
    entry = METHODS["ale"]
    method: Any = entry.obj(Meta(1280, 312, N_SEEN, 0), entry.obj.Config(), rng)
    optimiser = build_optimizer(method.config, [{"params": [method.weight]}])
    weight, gradient = method.weight.detach().clone(), torch.randn(BATCH, 312, generator=rng)
    step = milliseconds(lambda: descend(method.ranking_of(x @ method.weight, seen, labels), optimiser), 50)
    products = milliseconds(lambda: (x @ weight, x.T @ gradient), 50)
    print(f"{'ale, a step':28} {step:9.2f} ms, of which two products {products:9.2f} ms")


def test_weighted_closed_form() -> None:
    """Conjugate gradients against a Cholesky factor for each semantic, with ReMSE's weights, at AWA's size."""
    x, attributes, labels = regression_data()
    targets = attributes[labels]
    problem = AttributeRegression(x, targets, labels)
    exact = problem.solve_exactly(1.0, QuadraticTerm(ridge=RIDGE))
    weights = build("remse", n_classes=40, n_attributes=85).weights(problem.predict(exact), targets, labels)
    assert weights is not None

    def by_semantic() -> Tensor:
        eye, columns = RIDGE * weights.mean() * torch.eye(512, dtype=torch.float64), []
        for k in range(85):
            gram = x.T @ (weights[:, k, None] * x) + eye
            right = x.T @ (weights[:, k] * targets[:, k])
            columns.append(torch.cholesky_solve(right[:, None], torch.linalg.cholesky(gram))[:, 0])
        return torch.stack(columns, dim=1)

    error = problem.weight(problem.solve(weights, QuadraticTerm(ridge=RIDGE), exact, 1e-3)) - by_semantic()
    assert error.norm() < 1e-2 * by_semantic().norm()
    compare(
        "weighted ridge regression",
        lambda: problem.solve(weights, QuadraticTerm(ridge=RIDGE), exact, 1e-3),
        by_semantic,
        3,
    )


def test_fused_optimiser() -> None:
    parameters = [[torch.randn(1024, 2048).requires_grad_()] for _ in range(2)]
    for (parameter,) in parameters:
        parameter.grad = torch.randn(1024, 2048)
    fused, plain = (torch.optim.AdamW(p, fused=f) for p, f in zip(parameters, (True, False), strict=True))
    compare("AdamW, 2 million weights", fused.step, plain.step, 20)
