"""The runs that the engine lends to ``Method.fit``: one selects on held-out images, the other repeats the choice."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from benchmark import parallel
from benchmark.api import Criterion, Method, Run, Stateful, Tracker, derive_seed
from benchmark.engine.evaluate import curve
from benchmark.engine.protocol import HeldOut
from benchmark.measures.metrics import Curve
from benchmark.results.checkpoints import Checkpoint, Training

T = TypeVar("T")
State = dict[str, Tensor]

#: What a method is selected by unless it says otherwise: it needs no gamma and sees both seen and unseen classes.
CRITERION: Criterion = Method.criterion
#: Criterion -> its value in percent, read off the seen-unseen curve of held-out images.
CRITERIA: dict[Criterion, Callable[[Curve], float]] = {
    "AUSUC": lambda found: found.ausuc,
    "H": lambda found: found.at(0.0).harmonic,
}
#: The one way to get ready to score of a method that always is.
AS_IT_IS: Mapping[str, Callable[[], None]] = {"": lambda: None}


@dataclass(frozen=True)
class _Loop(Generic[T]):
    """What a method asks to loop over: its options, how patiently, how it gets ready to be scored, what has a state."""

    kind: Literal["epoch", "candidate"]
    options: Sequence[T]
    patience: int
    every: int = 1
    ready: Mapping[str, Callable[[], None]] = field(default_factory=lambda: AS_IT_IS)
    state: Sequence[Stateful] | None = None


class _Run(Run):
    """What both kinds of run share: the loop with its checkpoint, random numbers and the log.

    Attributes:
        seed: what its random numbers are made from.
        drew: the method has asked for random numbers, so that its result depends on the seed.
        history: a row for each epoch or candidate.
        trackers: what is told of each row.
    """

    def __init__(self, device: torch.device, seed: int, title: str) -> None:
        self.device = device
        self.seed = seed
        self._title = title
        self._pending: dict[str, Tensor | float] = {}
        self._looped = False
        self._rngs: list[torch.Generator] = []
        self._loss: nn.Module | None = None
        self._checkpoint: Checkpoint | None = None
        self.drew = False
        self.history: list[dict[str, float]] = []
        self.trackers: Sequence[Tracker] = ()

    def resume_from(self, checkpoint: Checkpoint, loss: nn.Module | None, weights: torch.Generator) -> None:
        """Go on from ``checkpoint`` if there is one, and write it anew from time to time.

        Args:
            checkpoint: where.
            loss: the loss of the method's slot, if any.
            weights: the source of its initial weights.
        """
        self._checkpoint, self._loss = checkpoint, loss
        self._rngs.append(weights)

    def rng(self, name: str) -> torch.Generator:
        self.drew = True
        rng = torch.Generator(self.device).manual_seed(derive_seed(self.seed, name))
        self._rngs.append(rng)
        return rng

    def log(self, **values: Tensor | float) -> None:
        self._pending |= values

    def epochs(
        self,
        method: Method,
        n: int,
        patience: int,
        *,
        every: int = 1,
        ready: Mapping[str, Callable[[], None]] | None = None,
        state: Sequence[Stateful] | None = None,
    ) -> Iterator[int]:
        return self._once(method, _Loop("epoch", range(1, n + 1), patience, every, ready or AS_IT_IS, state))

    def candidates(self, method: Method, options: Sequence[T]) -> Iterator[T]:
        return self._once(method, _Loop("candidate", options, len(options)))

    def _once(self, method: Method, loop: _Loop[T]) -> Iterator[T]:
        if self._looped:
            raise RuntimeError("fit may loop over run.epochs or run.candidates once only: one choice is selected")
        self._looped = True
        return self._iterate(method, loop)

    def _iterate(self, method: Method, loop: _Loop[T]) -> Iterator[T]:
        """Yield the options that are to be fitted; when the loop ends, ``method`` holds the state to keep."""
        training = self._resume(method, loop)
        done = len(self.history)
        numbered = self._numbered(loop)
        for row in self.history:
            self._tell(loop.kind, row)
        with self._bar(len(numbered), done, loop.kind) as bar:
            for number, option in numbered[done:]:
                if self._is_decided(loop):
                    break
                with training.watched() if training else nullcontext():
                    yield option
                row = self._note(loop.kind, number)
                bar.update()
                self._judge(method, loop, row, bar)
                self._tell(loop.kind, row)
                if training:
                    self._save(training)
        self._end(method, loop)

    def _tell(self, kind: str, row: dict[str, float]) -> None:
        values = {name: value for name, value in row.items() if name != kind}
        for tracker in self.trackers:
            tracker.log(int(row[kind]), values)

    def _resume(self, method: Method, loop: _Loop[T]) -> Training | None:
        """The training that begins, as its checkpoint left it if there is one; None where none can be kept."""
        if self._checkpoint is None or loop.state is None:
            return None
        training = Training(method, self._loss, loop.state, tuple(self._rngs))
        if found := self._checkpoint.read():
            training.restore(found["training"])
            self._go_on(found["progress"])
            self._pending = {}  # what is logged before the loop is in the history's first row
        return training

    def _save(self, training: Training) -> None:
        if self._checkpoint and self._checkpoint.is_due and (state := training.state()):
            self._checkpoint.write({"training": state, "progress": self._progress()})

    @abstractmethod
    def _numbered(self, loop: _Loop[T]) -> Sequence[tuple[int, T]]:
        """The options that are to be fitted, with their numbers from 1."""

    @abstractmethod
    def _is_decided(self, loop: _Loop[T]) -> bool:
        """Whether no further option need be fitted."""

    @abstractmethod
    def _judge(self, method: Method, loop: _Loop[T], row: dict[str, float], bar: tqdm[NoReturn]) -> None:
        """Do what comes after the option whose ``row`` of the history this is."""

    @abstractmethod
    def _end(self, method: Method, loop: _Loop[T]) -> None:
        """Leave ``method`` in the state to keep."""

    def _progress(self) -> dict[str, Any]:
        """How far it has come, in plain containers."""
        return {"history": self.history, "drew": self.drew}

    def _go_on(self, progress: dict[str, Any]) -> None:
        """Be as far as ``progress`` tells."""
        self.history, self.drew = progress["history"], progress["drew"]

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

    def _bar(self, total: int, done: int, kind: str) -> tqdm[NoReturn]:
        silent = parallel.rank() > 0 or None
        return tqdm(total=total, initial=done, desc=self._title, unit=kind, leave=False, disable=silent)


class SelectionRun(_Run):
    """Scores the method on held-out images after each choice and keeps the best state.

    Attributes:
        criterion: what the method is selected by, as its class says of its settings.
        choice: how many options were gone through up to the best one; a ``RefitRun`` repeats it.
        way: the place, from 0, of the way to get ready by which that one did best, among those of the method.
        value: the criterion of the best state, in percent.
        curve: its seen-unseen curve, from which gamma is chosen.
    """

    def __init__(self, device: torch.device, seed: int, title: str, held_out: HeldOut) -> None:
        super().__init__(device, seed, title)
        self._held_out = held_out
        self.criterion = CRITERION
        self.choice = 0
        self.way = 0
        self.value = -math.inf
        self.curve: Curve | None = None
        self._worse = 0
        self._state: State = {}

    def _numbered(self, loop: _Loop[T]) -> Sequence[tuple[int, T]]:
        return list(enumerate(loop.options, 1))

    def _is_decided(self, loop: _Loop[T]) -> bool:
        return self._worse >= loop.patience

    def _judge(self, method: Method, loop: _Loop[T], row: dict[str, float], bar: tqdm[NoReturn]) -> None:
        number = len(self.history)
        if number % loop.every and number != len(loop.options):
            return
        self.criterion = method.selected_by(method.config.model_dump())
        self._worse += 1
        values = {}
        for way, (name, get_ready) in enumerate(loop.ready.items()):
            get_ready()
            found = curve(method, self._held_out)
            values[f"held-out {self.criterion}, {name}"] = value = CRITERIA[self.criterion](found)
            if value > self.value:
                self.choice, self.way, self.value, self.curve, self._worse = number, way, value, found, 0
                self._state = {key: tensor.clone() for key, tensor in method.state_dict().items()}
        row[f"held-out {self.criterion}"] = max(values.values())
        if len(values) > 1:
            row |= values
        bar.set_postfix_str(f"best {self.criterion} {self.value:.1f}")

    def _end(self, method: Method, loop: _Loop[T]) -> None:  # noqa: ARG002 - the best state is ready to score
        method.load_state_dict(self._state)

    def _progress(self) -> dict[str, Any]:
        curve = None if self.curve is None else vars(self.curve)
        best = {"criterion": self.criterion, "choice": self.choice, "way": self.way, "value": self.value}
        return super()._progress() | best | {"curve": curve, "worse": self._worse, "state": self._state}

    def _go_on(self, progress: dict[str, Any]) -> None:
        super()._go_on(progress)
        best = ("criterion", "choice", "way", "value")
        self.criterion, self.choice, self.way, self.value = (progress[name] for name in best)
        self.curve = None if progress["curve"] is None else Curve(**progress["curve"])
        self._worse, self._state = progress["worse"], progress["state"]


class RefitRun(_Run):
    """Goes straight through the choice that a ``SelectionRun`` made, without looking at any held-out image.

    Attributes:
        choice: how many options that one went through up to the best one.
        way: the place, from 0, of the way to get ready that it chose.
    """

    def __init__(self, device: torch.device, seed: int, title: str, choice: int, way: int = 0) -> None:
        super().__init__(device, seed, title)
        self.choice = choice
        self.way = way

    def _numbered(self, loop: _Loop[T]) -> Sequence[tuple[int, T]]:
        # Epochs lead up to the chosen one; candidates stand each for itself.
        first = 1 if loop.kind == "epoch" else self.choice
        return list(enumerate(loop.options[first - 1 : self.choice], first))

    def _is_decided(self, loop: _Loop[T]) -> bool:  # noqa: ARG002 - the selection has decided
        return False

    def _judge(self, method: Method, loop: _Loop[T], row: dict[str, float], bar: tqdm[NoReturn]) -> None:
        pass

    def _end(self, method: Method, loop: _Loop[T]) -> None:  # noqa: ARG002 - it keeps the state it ends in
        list(loop.ready.values())[self.way]()
