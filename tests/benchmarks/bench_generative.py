"""What one round of training of each feature-generating method takes, against the same written plainly in PyTorch.

Plainly: Adam unfused, every step computes the gradients of all networks that it passes through (a generator's those of
its critic), the critic judges real, generated and mixed features one after another, with a second backward pass for its
penalty, and pairs of images and classes are concatenated before their network, as public code has it.

Run ``python -m pytest -n 0 -s -m benchmark tests/benchmarks/bench_generative.py``.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import TrainData, derive_seed
from benchmark.engine.memory import reuse_freed_memory
from benchmark.engine.runs import RefitRun
from benchmark.registries import METHODS
from losses import build
from methods.generative import _blocks
from methods.generative._adversarial import Critic
from methods.generative._synthesis import GenerativeMethod
from tests.benchmarks.bench_embedding import milliseconds
from tests.reference.toy import slot_for

# Sizes of CUB, but for images, of which a step sees a batch, and hidden layers, a quarter of the published ones.
N_SEEN, N_UNSEEN, N_FEATURES, N_ATTRIBUTES, HIDDEN, BATCH = 150, 50, 2048, 312, 1024, 64
CPU = torch.device("cpu")
STEPPED = [entry.name for entry in METHODS if issubclass(entry.obj, GenerativeMethod)]

pytestmark = pytest.mark.benchmark


def plain_descend(value: Tensor, *optimisers: torch.optim.Optimizer) -> Tensor:
    for optimiser in optimisers:
        optimiser.zero_grad()
    value.backward()
    for optimiser in optimisers:
        optimiser.step()
    return value.detach()


def plain_adam(
    lr: float,
    *modules: torch.nn.Module,
    groups: Iterable[dict[str, Any]] = (),
    betas: tuple[float, float] = (0.5, 0.999),
) -> torch.optim.Adam:
    own = list(itertools.chain.from_iterable(module.parameters() for module in modules))
    return torch.optim.Adam([{"params": own}, *groups], lr=lr, betas=betas, foreach=False, fused=False)


def plain_objective(critic: Critic, real: Tensor, fake: Tensor, attributes: Tensor, rng: torch.Generator) -> Tensor:
    mix = torch.rand(len(real), 1, generator=rng)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, attributes).sum(), between, create_graph=True)
    penalty = (gradient.norm(dim=1) - 1).square().mean()
    judged: Tensor = critic(fake, attributes).mean() - critic(real, attributes).mean()
    return judged + critic.settings.penalty_weight * penalty


def plain_pairs(net: Any, x: Tensor, attributes: Tensor) -> Tensor:
    pairs = torch.cat([x.repeat_interleave(len(attributes), dim=0), attributes.repeat(len(x), 1)], dim=1)
    weight = torch.cat([net.of_features.weight, net.of_attributes.weight], dim=1)
    hidden = torch.nn.functional.linear(pairs, weight, net.of_features.bias + net.of_attributes.bias)
    scores: Tensor = net.last(torch.nn.functional.leaky_relu(hidden, 0.2))
    return scores.view(len(x), len(attributes))


def cub_like() -> TrainData:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(N_SEEN).repeat(2)
    attributes = torch.nn.functional.normalize(torch.rand(N_SEEN + N_UNSEEN, N_ATTRIBUTES, generator=rng))
    return TrainData(torch.rand(len(labels), N_FEATURES, generator=rng), labels, attributes, N_SEEN)


def step_time(name: str, data: TrainData) -> float:
    """The median time of one round of ``name`` with mse, in milliseconds."""
    kind: Any = METHODS[name].obj
    small = {
        key: HIDDEN
        for key in kind.Config.model_fields
        if "hidden" in key or key in ("semantic", "embedding", "comparator")
    }
    config = kind.Config(
        **small, batch_size=BATCH, **({"regressor_epochs": 1} if "regressor_epochs" in kind.Config.model_fields else {})
    )
    method: Any = kind(data.meta, config, torch.Generator().manual_seed(derive_seed(0, name)))
    slot = slot_for(method, data, build("mse", n_classes=N_SEEN + N_UNSEEN, n_attributes=N_ATTRIBUTES))
    training = method.prepare(data, slot, RefitRun(CPU, 0, "", 1))
    images = torch.arange(0, len(data.labels), len(data.labels) // BATCH)[:BATCH]
    batches = [(data.features[images], data.labels[images])] * training.n_batches
    return milliseconds(lambda: training(batches, 2), 5)


@pytest.mark.parametrize("name", STEPPED)
def test_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = cub_like()
    ours = step_time(name, data)
    for module in [m for key, m in sys.modules.items() if key.startswith("methods.generative.")]:
        for attribute, plain in (("descend", plain_descend), ("adam", plain_adam)):
            if hasattr(module, attribute):
                monkeypatch.setattr(module, attribute, plain)
    monkeypatch.setattr(_blocks.PairNet, "forward", plain_pairs)
    monkeypatch.setattr(Critic, "objective", plain_objective)
    plainly = step_time(name, data)
    print(f"{name:16} {ours:9.1f} ms, plainly {plainly:9.1f} ms: {plainly / ours:5.2f} times faster")


def compare_freed_memory(name: str) -> None:
    """Memory stays kept, so this wants a process of its own."""
    torch.set_num_threads(1)
    data = cub_like()
    before = step_time(name, data)
    reuse_freed_memory()
    after = step_time(name, data)
    print(f"{name:16} {after:9.1f} ms, memory given back {before:9.1f} ms: {before / after:5.2f} times faster")


@pytest.mark.parametrize("name", ["lisgan", "sdgzsl"])
def test_freed_memory(name: str) -> None:
    code = f"from tests.benchmarks.bench_generative import compare_freed_memory as compare; compare({name!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
