"""Training: the runs that the engine lends to ``Method.fit``, and the one loop of the gradient methods."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NoReturn, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from benchmark import parallel
from benchmark.api import Method, MethodConfig, RegressionLoss, Run, TrainData, derive_seed
from benchmark.evaluate import curve
from benchmark.metrics import Curve
from benchmark.protocol import HeldOut

T = TypeVar("T")
State = dict[str, Tensor]

#: What selects epochs, candidates and hyper-parameters: it needs no gamma and sees both seen and unseen classes.
CRITERION = "AUSUC"


class _Run(Run):
    """What both kinds of run share: random numbers and the log.

    Attributes:
        drew: the method has asked for random numbers, so that its result depends on the seed.
        history: a row for each epoch or candidate.
    """

    def __init__(self, device: torch.device, seed: int, title: str) -> None:
        self.device = device
        self._seed = seed
        self._title = title
        self._pending: dict[str, Tensor | float] = {}
        self._looped = False
        self.drew = False
        self.history: list[dict[str, float]] = []

    def generator(self, name: str) -> torch.Generator:
        self.drew = True
        return torch.Generator(self.device).manual_seed(derive_seed(self._seed, name))

    def log(self, **values: Tensor | float) -> None:
        self._pending |= values

    def epochs(
        self, method: Method, n: int, patience: int, *, every: int = 1, ready: Callable[[], None] | None = None
    ) -> Iterator[int]:
        self._loop()
        return self._choices(method, "epoch", range(1, n + 1), patience, every, ready)

    def candidates(self, method: Method, options: Sequence[T]) -> Iterator[T]:
        self._loop()
        return self._choices(method, "candidate", options, len(options), 1, None)

    def _loop(self) -> None:
        if self._looped:
            raise RuntimeError("fit may loop over run.epochs or run.candidates once only: one choice is selected")
        self._looped = True

    @abstractmethod
    def _choices(
        self,
        method: Method,
        kind: str,
        options: Sequence[T],
        patience: int,
        every: int,
        ready: Callable[[], None] | None,
    ) -> Iterator[T]: ...

    def _note(self, kind: str, number: int) -> dict[str, float]:
        """Move what was logged since the last call into the history; raises if a value is not finite."""
        row: dict[str, float] = {kind: number}
        for name, value in self._pending.items():
            row[name] = float(value)
            if not math.isfinite(row[name]):
                raise FloatingPointError(f"{name} became {row[name]} at {kind} {number}")
        self._pending = {}
        self.history.append(row)
        return row

    def _bar(self, total: int, kind: str) -> tqdm[NoReturn]:
        return tqdm(total=total, desc=self._title, unit=kind, leave=False, disable=parallel.rank() > 0 or None)


class SelectionRun(_Run):
    """Scores the method on held-out images after each choice and keeps the best state.

    Attributes:
        choice: how many options were gone through up to the best one; a ``RefitRun`` repeats it.
        value: the criterion of the best state, in percent.
        curve: its seen-unseen curve, from which gamma is chosen.
    """

    def __init__(self, device: torch.device, seed: int, title: str, held_out: HeldOut) -> None:
        super().__init__(device, seed, title)
        self._held_out = held_out
        self.choice = 0
        self.value = -math.inf
        self.curve: Curve | None = None
        self._state: State = {}

    def _choices(
        self,
        method: Method,
        kind: str,
        options: Sequence[T],
        patience: int,
        every: int,
        ready: Callable[[], None] | None,
    ) -> Iterator[T]:
        worse = 0
        with self._bar(len(options), kind) as bar:
            for number, option in enumerate(options, 1):
                yield option
                row = self._note(kind, number)
                bar.update()
                if number % every and number != len(options):
                    continue
                if ready:
                    ready()
                found = curve(method, self._held_out)
                row[f"held-out {CRITERION}"] = found.ausuc
                worse += 1
                if found.ausuc > self.value:
                    self.choice, self.value, self.curve, worse = number, found.ausuc, found, 0
                    self._state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
                bar.set_postfix_str(f"best {CRITERION} {self.value:.1f}")
                if worse >= patience:
                    break
        method.load_state_dict(self._state)


class RefitRun(_Run):
    """Goes straight through the ``choice`` that a ``SelectionRun`` made, without looking at any held-out image."""

    def __init__(self, device: torch.device, seed: int, title: str, choice: int) -> None:
        super().__init__(device, seed, title)
        self._choice = choice

    def _choices(
        self,
        method: Method,  # noqa: ARG002 - its state at the end is the one to keep
        kind: str,
        options: Sequence[T],
        patience: int,  # noqa: ARG002
        every: int,  # noqa: ARG002
        ready: Callable[[], None] | None,
    ) -> Iterator[T]:
        # Epochs lead up to the chosen one; candidates stand each for itself.
        chosen = options[: self._choice] if kind == "epoch" else options[self._choice - 1 : self._choice]
        with self._bar(len(chosen), kind) as bar:
            for number, option in enumerate(chosen, 1):
                yield option
                self._note(kind, number if kind == "epoch" else self._choice)
                bar.update()
        if ready:
            ready()


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
    """

    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(64, ge=1)
    shots: int = Field(0, ge=0)
    epochs: int = Field(50, ge=1)
    patience: int = Field(10, ge=1)


Objective = Callable[[Tensor, Tensor], Tensor]


Schedule = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def fit(
    method: Method,
    objective: Objective,
    data: TrainData,
    loss: RegressionLoss | None,
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
        loss: its own parameters, if it learns any, are trained along.
        run: lends epochs, random numbers and the log.
        groups: optimiser groups of the method's parameters; None: one group of them all.
        n_batches: batches of an epoch; 0: as many as the training set holds.
        schedule: makes what changes the optimiser's learning rates after each epoch; None: they stay.
    """
    config = method.config
    groups = groups or [{"params": [p for p in method.parameters() if p.requires_grad]}]
    optimizer = build_optimizer(config, groups + (loss.parameter_groups() if loss else []))
    scheduler = schedule(optimizer) if schedule else None
    generator = run.generator("batches")
    with parallel.shared_steps(optimizer, loss):
        for _ in run.epochs(method, config.epochs, config.patience):
            total = torch.zeros((), device=run.device)
            batches = draw_batches(data, config.batch_size, config.shots, generator, n_batches)
            for batch in batches:
                own = parallel.share(batch)
                value = objective(data.features[own], data.labels[own])
                total += descend(parallel.weight(own, batch) * value, optimizer)
            run.log(loss=parallel.mean(total) / len(batches))
            if scheduler:
                scheduler.step()


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


def draw_batches(
    data: TrainData, size: int, shots: int, generator: torch.Generator, n_batches: int = 0
) -> Sequence[Tensor]:
    """One epoch of batches, each a tensor of indices into ``data``; see ``GradientConfig`` for ``size`` and ``shots``.

    A class of fewer images than ``shots`` repeats some within a batch. ``n_batches`` of 0 makes as many as the data
    hold; uniform batches of a longer epoch go through all images again and again.
    """
    n, device = len(data.labels), data.labels.device
    if shots == 0:
        rounds = -(-n_batches * size // n) or 1
        order = torch.cat([torch.randperm(n, generator=generator, device=device) for _ in range(rounds)])
        return order.split(size)[: n_batches or None]
    counts = data.class_counts
    ways = max(1, min(size // shots, data.n_seen))
    n_batches = n_batches or -(-n // (ways * shots))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    # Images sorted by class, in random order within a class; a batch takes ``shots`` neighbours from a random place.
    by_class = torch.argsort(data.labels + uniform(n).double())
    classes = uniform(n_batches, data.n_seen).argsort(1)[:, :ways]
    first = (uniform(n_batches, ways) * counts[classes]).long()
    places = (first[..., None] + torch.arange(shots, device=first.device)) % counts[classes][..., None]
    start = counts.cumsum(0) - counts
    return by_class[start[classes][..., None] + places].flatten(1).unbind()
