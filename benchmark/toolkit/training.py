"""Training by mini-batch gradient descent: the one loop of the gradient methods, its batches and its optimisers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark import parallel
from benchmark.api import Facts, Method, MethodConfig, Rules, Run, Slot, TrainData

#: Multiply-adds of the forward passes of all epochs: about a minute of training on one core.
BUDGET = 8e11
#: The most images that the budget is for; more may take more time, in proportion.
BUDGETED_IMAGES = 10_000
#: The images, repeated in every epoch, that it takes to train a network at all: small sets need many epochs for them.
SHOWN = 100_000
#: The most epochs of whatever data: beyond them, the fewest images are learnt by heart.
MOST_EPOCHS = 500
#: The precision of a network's arithmetic in training; ``bfloat16`` is mixed precision.
Precision = Literal["float32", "bfloat16"]


def power_of_two(value: float, low: int, high: int) -> int:
    """The power of two next to ``value`` on a log scale, within ``low`` and ``high``, powers of two themselves."""
    return min(high, max(low, int(2 ** round(math.log2(max(value, 1))))))


def batch_size(facts: Facts, config: MethodConfig) -> int:  # noqa: ARG001
    """Batches of 64 for up to 6,000 images, larger ones for larger sets, up to 256, for time."""
    return power_of_two(facts.n_images / 100, 64, 256)


def epochs(facts: Facts, config: MethodConfig) -> int:
    """100, or as many more as show ``SHOWN`` images, or 20 on grids; fewer, down to 5, where ``BUDGET`` asks for it.

    An image costs a weight for each feature and semantic, and those of a hidden layer if there is one, at each region.
    """
    hidden = getattr(config, "hidden", 0) * (facts.n_features + facts.n_attributes)
    cost = facts.n_regions * (facts.n_features * facts.n_attributes + hidden)
    most = min(MOST_EPOCHS, max(100, SHOWN / facts.n_images)) if facts.n_regions == 1 else 20
    return int(min(most, max(5, BUDGET / (min(facts.n_images, BUDGETED_IMAGES) * cost))))


def patience(facts: Facts, config: GradientConfig) -> int:
    """10 epochs, or a tenth of more than 100; 5 where each has the steps of more than 10,000 images."""
    return max(10, config.epochs // 10) if facts.n_images <= BUDGETED_IMAGES else 5


class GradientConfig(MethodConfig):
    """Settings of the methods that are trained by mini-batch gradient descent.

    Attributes:
        optimizer: ``adam`` or ``sgd`` (with momentum 0.9).
        lr: the learning rate.
        weight_decay: L2 penalty on all weights (decoupled for Adam: AdamW).
        batch_size: images in a batch.
        shots: images of each class in a batch; batches then hold ``batch_size / shots`` classes, drawn without
            replacement, each class as likely as any other. 0 draws images uniformly instead.
        epochs: the most epochs; one is as many batches as the training set holds.
        patience: stop when validation has not improved for this many epochs.
        precision: precision of the objective's arithmetic; ``bfloat16`` is mixed precision, weights stay float32. A
            trained backbone has its own ``amp``.
    """

    rules: ClassVar[Rules] = {
        "batch_size": batch_size,
        "epochs": epochs,
        "patience": patience,
    }

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(64, ge=1)
    shots: int = Field(0, ge=0)
    epochs: int = Field(50, ge=1)
    patience: int = Field(10, ge=1)
    # Left out of the settings at its default, so that results from before it keep their keys.
    precision: Precision = Field("float32", exclude_if=lambda precision: precision == "float32")


Objective = Callable[[Tensor, Tensor], Tensor]
Schedule = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def minimise(
    method: Method,
    objective: Objective,
    data: TrainData,
    slot: Slot,
    run: Run,
    *,
    groups: list[dict[str, Any]] | None = None,
    n_batches: int = 0,
    schedule: Schedule | None = None,
) -> None:
    """Minimise ``objective`` over mini-batches until validation says so; the one loop of the gradient methods.

    Args:
        method: its parameters are trained; its ``config`` is a ``GradientConfig``.
        objective: ``(features (B, D), labels (B,)) -> scalar``.
        data: the training data.
        slot: the parameters of its loss, if it learns any, are trained along.
        run: lends epochs, random numbers and the log.
        groups: optimiser groups of the method's parameters; None: one group of them all.
        n_batches: batches of an epoch; 0: as many as the training set holds.
        schedule: makes what changes the optimiser's learning rates after each epoch; None: they stay.
    """
    config = method.config
    assert isinstance(config, GradientConfig)
    groups = groups or [{"params": [p for p in method.parameters() if p.requires_grad]}]
    optimizer = build_optimizer(config, groups + slot.parameter_groups())
    scheduler = schedule(optimizer) if schedule else None
    rng = run.rng("batches")
    with parallel.shared_steps(optimizer, slot.loss):
        for _ in run.epochs(method, config.epochs, config.patience, state=[scheduler] if scheduler else []):
            total = torch.zeros((), device=run.device)
            batches = draw_batches(data, config.batch_size, config.shots, rng, n_batches)
            for batch in batches:
                own = parallel.share(batch)
                with arithmetic(config.precision, run.device):
                    value = objective(data.features.index_select(0, own), data.labels.index_select(0, own))
                total += descend(parallel.weight(own, batch) * value, optimizer)
            run.log(loss=parallel.mean(total) / len(batches))
            if scheduler:
                scheduler.step()


def arithmetic(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """While this is entered, networks on ``device`` compute in ``precision``."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def descend(value: Tensor, *optimizers: torch.optim.Optimizer) -> Tensor:
    """One step of the ``optimizers`` down the gradient of the scalar ``value``; returns it, detached.

    Only their own parameters get gradients: a generator's step computes none for the weights of its critic.
    """
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    value.backward(inputs=[p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]])
    for optimizer in optimizers:
        optimizer.step()
    return value.detach()


def build_optimizer(config: GradientConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser that ``config`` names, for parameter ``groups``; fused, which is several times faster."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9, weight_decay=config.weight_decay, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def draw_batches(data: TrainData, size: int, shots: int, rng: torch.Generator, n_batches: int = 0) -> Sequence[Tensor]:
    """One epoch of batches, each a tensor of indices into ``data``; see ``GradientConfig`` for ``size`` and ``shots``.

    A class of fewer images than ``shots`` repeats some within a batch. ``n_batches`` of 0 makes as many as the data
    hold; uniform batches of a longer epoch go through all images again and again.
    """
    n, device = len(data.labels), data.labels.device
    if shots == 0:
        rounds = -(-n_batches * size // n) or 1
        order = torch.cat([torch.randperm(n, generator=rng, device=device) for _ in range(rounds)])
        batches: Sequence[Tensor] = order.split(size)
        return batches[: n_batches or None]
    counts = data.class_counts
    ways = max(1, min(size // shots, data.n_seen))
    n_batches = n_batches or -(-n // (ways * shots))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, device=device)

    # Images sorted by class, in random order within a class; a batch takes ``shots`` neighbours from a random place.
    order = uniform(n).argsort()
    by_class = order[data.labels[order].argsort(stable=True)]
    classes = uniform(n_batches, data.n_seen).argsort(1)[:, :ways]
    first = (uniform(n_batches, ways) * counts[classes]).long()
    places = (first[..., None] + torch.arange(shots, device=first.device)) % counts[classes][..., None]
    start = counts.cumsum(0) - counts
    return by_class[start[classes][..., None] + places].flatten(1).unbind()
