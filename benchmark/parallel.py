"""Data parallelism: the processes that ``torchrun`` starts share one run and come to what one process would.

All go through the same run with the same seeds. Each takes its share of every batch; gradients are averaged before
each step; the regression loss gets the predictions of the whole batch, so that the statistics of any loss (the class
means that ReMSE's weights are made of, their minima, the mean weight) are those of the batch and not of a share.
Held-out images are shared likewise and the scores gathered, hence all processes decide alike. Only the methods that
train through ``benchmark.toolkit.minimise`` share their batches; others do the same in every process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that ``torchrun`` started; alone, this does nothing."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def size() -> int:
    """The number of processes; 1 without ``torchrun``."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0; the first alone writes and prints."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if size() > 1:
        distributed.barrier()


def share(rows: Tensor) -> Tensor:
    """This process's part of ``rows``, in order; all of them where there are fewer rows than processes."""
    return rows if size() == 1 or len(rows) < size() else rows.tensor_split(size())[rank()]


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, in order.

    The gradient of their own is multiplied by all rows / own rows: to what it is in one process, if each process then
    weighs its objective with ``weight`` and the gradients are averaged.
    """
    if size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def weight(own: Tensor, rows: Tensor) -> float:
    """The weight of a mean over ``own``, the share of ``rows``, with which the mean over processes is that of all."""
    return 1.0 if len(rows) < size() else len(own) * size() / len(rows)


def mean(value: Tensor) -> Tensor:
    """The mean over processes."""
    if size() == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total / size()


@contextmanager
def shared_steps(optimiser: torch.optim.Optimizer, loss: nn.Module | None) -> Iterator[None]:
    """While this is entered, gradients are averaged before each step, and ``loss`` compares all processes' rows."""
    if size() == 1:
        yield
        return
    hooks = [optimiser.register_step_pre_hook(_average_gradients)]
    if loss is not None:
        hooks.append(loss.register_forward_pre_hook(lambda _, arguments: tuple(map(gather, arguments))))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _average_gradients(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def _counts(rows: Tensor) -> list[int]:
    """The number of rows of each process."""
    counts = torch.zeros(size(), dtype=torch.int64, device=rows.device)
    counts[rank()] = len(rows)
    distributed.all_reduce(counts)
    return counts.tolist()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        counts = _counts(rows)
        context.own = slice(sum(counts[: rank()]), sum(counts[: rank() + 1]))
        # Each row is a number plus zeros of the others: exact, also where shares differ in size.
        gathered = rows.new_zeros(sum(counts), *rows.shape[1:])
        gathered[context.own] = rows
        distributed.all_reduce(gathered)
        return gathered

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        own = gradient[context.own]
        return own * (len(gradient) / len(own))
