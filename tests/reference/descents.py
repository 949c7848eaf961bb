"""What a method with several objectives descends on, and with which optimiser: for tests to compare with loops."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.api import Method, Slot, TrainData
from methods.generative import _adversarial
from tests.reference.generative import first_run, take_round

CLASSIFIERS = {"zsl_classifier", "gzsl_classifier"}


@dataclass(frozen=True)
class Descent:
    """One call of ``descend``.

    Attributes:
        value: of the objective.
        gradients: of what the optimiser holds, by name; zeros where the objective does not depend on it.
        reached: the modules that the objective depends on, held or not.
        optimizer: the one that would take the step; several appear as one that has the groups of all.
    """

    value: float
    gradients: dict[str, Tensor]
    reached: set[str]
    optimizer: torch.optim.Optimizer

    @property
    def held(self) -> set[str]:
        """The modules that the optimiser holds; not the classifiers, which no objective reaches."""
        assert not self.reached & CLASSIFIERS
        return {name.split(".")[0] for name in self.gradients} - CLASSIFIERS


def parameters_of(method: nn.Module, slot: Slot) -> dict[str, nn.Parameter]:
    return dict([*method.named_parameters(), *(slot.loss.named_parameters("loss") if slot.loss else ())])


def recorder(method: nn.Module, slot: Slot, found: list[Descent]) -> Callable[..., Tensor]:
    """Stands in for ``descend`` and takes no step."""

    def note(value: Tensor, *optimizers: torch.optim.Optimizer) -> Tensor:
        learnt = {name: p for name, p in parameters_of(method, slot).items() if p.requires_grad}
        of_all = torch.autograd.grad(value, list(learnt.values()), retain_graph=True, allow_unused=True)
        slopes = {name: slope for name, slope in zip(learnt, of_all, strict=True) if slope is not None}
        held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        names = [name for name, p in learnt.items() if id(p) in held]
        assert len(names) == len(held)  # nothing is stepped that is frozen
        gradients = {name: slopes.get(name, torch.zeros_like(learnt[name])) for name in names}
        found.append(Descent(value.item(), gradients, {name.split(".")[0] for name in slopes}, joined(optimizers)))
        return value.detach()

    return note


def joined(optimizers: tuple[torch.optim.Optimizer, ...]) -> torch.optim.Optimizer:
    if len(optimizers) == 1:
        return optimizers[0]
    return torch.optim.Adam([dict(group) for optimizer in optimizers for group in optimizer.param_groups])


def descents(method: Any, data: TrainData, batch: TrainData, slot: Slot, epoch: int = 1) -> list[Descent]:
    """The descents of a round that ends with ``batch``, in order; what ``prepare`` trains beforehand is trained."""
    return descents_and_log(method, data, batch, slot, epoch)[0]


def descents_and_log(
    method: Any, data: TrainData, batch: TrainData, slot: Slot, epoch: int = 1
) -> tuple[list[Descent], dict[str, float]]:
    """``descents``, and what the round logs."""
    found: list[Descent] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (sys.modules[type(method).__module__], _adversarial):
            patch.setattr(module, "descend", recorder(method, slot, found))
        logged = take_round(method.prepare(data, slot, first_run()), batch, epoch)
    return found, {name: value.item() for name, value in logged.items()}


def moved(method: Any, data: TrainData, batch: TrainData, slot: Slot, epoch: int = 1) -> set[str]:
    """The modules that one real round moves; not those that ``prepare`` alone trains."""
    training = method.prepare(data, slot, first_run())
    before = {name: p.detach().clone() for name, p in parameters_of(method, slot).items()}
    take_round(training, batch, epoch)
    after = parameters_of(method, slot)
    return {name.split(".")[0] for name, p in before.items() if not torch.equal(p, after[name])}


def learning_rates(method: nn.Module, descent: Descent) -> dict[str, float]:
    """Of what is stepped, by module."""
    names = {id(p): name.split(".")[0] for name, p in method.named_parameters()}
    rates: dict[str, float] = {}
    for group in descent.optimizer.param_groups:
        assert group["weight_decay"] == 0
        for p in group["params"]:
            beta1 = 0.9 if names[id(p)] == "encoder" else 0.5
            assert group["betas"] == (beta1, 0.999)
            assert rates.setdefault(names[id(p)], group["lr"]) == group["lr"]
    return rates


def without(descent: Descent, module: str) -> Descent:
    """The ``module`` is held, but the objective does not depend on it: it is left out."""
    of_module = {name for name in descent.gradients if name.split(".")[0] == module}
    assert of_module
    assert module not in descent.reached
    assert not any(descent.gradients[name].any() for name in of_module)
    rest = {name: gradient for name, gradient in descent.gradients.items() if name not in of_module}
    return replace(descent, gradients=rest)


def check_descent(method: Method, descent: Descent, slow: Callable[[], float], *held: str) -> None:
    """The value is that of ``slow``; the optimiser holds all of the modules ``held``; gradients are its slopes."""
    assert descent.value == pytest.approx(slow(), rel=1e-10)
    assert descent.held == set(held)
    step = 1e-6
    for name, parameter in method.named_parameters():
        if name.split(".")[0] not in held:
            continue
        values = parameter.detach()  # shares its memory with the parameter
        for place in np.ndindex(*values.shape):
            ends = []
            for move in (step, -2 * step):
                values[place] += move
                ends.append(slow())
            values[place] += step
            slope = (ends[0] - ends[1]) / (2 * step)
            assert descent.gradients[name][place].item() == pytest.approx(slope, rel=1e-6, abs=1e-7), (name, place)
    for module in held:
        assert any(g.abs().max() > 1e-3 for name, g in descent.gradients.items() if name.split(".")[0] == module)
