"""The runs that the engine lends to ``Method.fit``: one selects on held-out images, the other repeats the choice."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NoReturn, TypeVar

import torch
from torch import Tensor
from tqdm.auto import tqdm

from benchmark import parallel
from benchmark.api import Criterion, Method, Run, derive_seed
from benchmark.engine.evaluate import curve
from benchmark.engine.protocol import HeldOut
from benchmark.measures.metrics import Curve

T = TypeVar("T")
State = dict[str, Tensor]

#: What a method is selected by unless it says otherwise: it needs no gamma and sees both seen and unseen classes.
CRITERION: Criterion = Method.criterion
#: Criterion -> its value in percent, read off the seen-unseen curve of held-out images.
CRITERIA: dict[Criterion, Callable[[Curve], float]] = {
    "AUSUC": lambda found: found.ausuc,
    "H": lambda found: found.at(0.0).harmonic,
}


@dataclass(frozen=True)
class _Loop(Generic[T]):
    """What a method asks to loop over: its options, how patiently, and how it gets ready to be scored."""

    kind: Literal["epoch", "candidate"]
    options: Sequence[T]
    patience: int
    every: int = 1
    ready: Callable[[], None] = lambda: None


class _Run(Run):
    """What both kinds of run share: random numbers and the log.

    Attributes:
        seed: what its random numbers are made from.
        drew: the method has asked for random numbers, so that its result depends on the seed.
        history: a row for each epoch or candidate.
    """

    def __init__(self, device: torch.device, seed: int, title: str) -> None:
        self.device = device
        self.seed = seed
        self._title = title
        self._pending: dict[str, Tensor | float] = {}
        self._looped = False
        self.drew = False
        self.history: list[dict[str, float]] = []

    def rng(self, name: str) -> torch.Generator:
        self.drew = True
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, name))

    def log(self, **values: Tensor | float) -> None:
        self._pending |= values

    def epochs(
        self, method: Method, n: int, patience: int, *, every: int = 1, ready: Callable[[], None] | None = None
    ) -> Iterator[int]:
        return self._once(method, _Loop("epoch", range(1, n + 1), patience, every, ready or (lambda: None)))

    def candidates(self, method: Method, options: Sequence[T]) -> Iterator[T]:
        return self._once(method, _Loop("candidate", options, len(options)))

    def _once(self, method: Method, loop: _Loop[T]) -> Iterator[T]:
        if self._looped:
            raise RuntimeError("fit may loop over run.epochs or run.candidates once only: one choice is selected")
        self._looped = True
        return self._iterate(method, loop)

    @abstractmethod
    def _iterate(self, method: Method, loop: _Loop[T]) -> Iterator[T]:
        """Yield the options that are to be fitted; when the loop ends, ``method`` holds the state to keep."""

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
        criterion: what the method is selected by, as its class says.
        choice: how many options were gone through up to the best one; a ``RefitRun`` repeats it.
        value: the criterion of the best state, in percent.
        curve: its seen-unseen curve, from which gamma is chosen.
    """

    def __init__(self, device: torch.device, seed: int, title: str, held_out: HeldOut) -> None:
        super().__init__(device, seed, title)
        self._held_out = held_out
        self.criterion = CRITERION
        self.choice = 0
        self.value = -math.inf
        self.curve: Curve | None = None
        self._state: State = {}

    def _iterate(self, method: Method, loop: _Loop[T]) -> Iterator[T]:
        self.criterion, worse = method.criterion, 0
        with self._bar(len(loop.options), loop.kind) as bar:
            for number, option in enumerate(loop.options, 1):
                yield option
                row = self._note(loop.kind, number)
                bar.update()
                if number % loop.every and number != len(loop.options):
                    continue
                loop.ready()
                found = curve(method, self._held_out)
                row[f"held-out {self.criterion}"] = value = CRITERIA[self.criterion](found)
                worse += 1
                if value > self.value:
                    self.choice, self.value, self.curve, worse = number, value, found, 0
                    self._state = {name: tensor.clone() for name, tensor in method.state_dict().items()}
                bar.set_postfix_str(f"best {self.criterion} {self.value:.1f}")
                if worse >= loop.patience:
                    break
        method.load_state_dict(self._state)


class RefitRun(_Run):
    """Goes straight through the ``choice`` that a ``SelectionRun`` made, without looking at any held-out image."""

    def __init__(self, device: torch.device, seed: int, title: str, choice: int) -> None:
        super().__init__(device, seed, title)
        self._choice = choice

    def _iterate(self, method: Method, loop: _Loop[T]) -> Iterator[T]:  # noqa: ARG002 - it keeps the state it ends in
        # Epochs lead up to the chosen one; candidates stand each for itself.
        first = 0 if loop.kind == "epoch" else self._choice - 1
        chosen = loop.options[first : self._choice]
        with self._bar(len(chosen), loop.kind) as bar:
            for number, option in enumerate(chosen, first + 1):
                yield option
                self._note(loop.kind, number)
                bar.update()
        loop.ready()
