"""Checkpoints: a fit whose process is killed goes on in another one, and comes to the same, to the bit.

A checkpoint is what ``torch.save`` writes of tensors and plain containers. It is read with ``weights_only``, so that a
file runs no code, and taken up only if the checksums of its parts are right and it is of the very same fit.
"""

from __future__ import annotations

import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from tqdm import tqdm

from benchmark.api import Stateful
from benchmark.errors import one_line
from benchmark.files import replacing

State = dict[str, Any]

#: Seconds that a fit lasts before its first checkpoint, and at least between two: what is lost by a kill.
EVERY = 60.0
#: The most of a fit's time that goes into writing checkpoints, after the first.
SHARE = 0.02


class Checkpoint:
    """The file of a fit's checkpoint.

    Args:
        path: the file.
        fit: says which fit it is of: data, settings, seed, code and whatever else changes its numbers.

    Attributes:
        earlier_s: seconds that the fit lasted in processes before this one, as far as it goes on from them.
    """

    def __init__(self, path: Path, fit: str) -> None:
        self.earlier_s = 0.0
        self._path = path
        self._fit = fit
        self._start = time.monotonic()
        self._due = self._start + EVERY

    def read(self) -> State | None:
        """What was written last; None, with a warning where there is a file, if there is none of this fit."""
        if not self._path.is_file():
            return None
        try:
            content = _content(self._path)
        except Exception as error:  # whatever reading a file may raise that anything may be in
            problem = one_line(error)
        else:
            if isinstance(content, dict) and content.get("fit") == self._fit:
                self.earlier_s = content["seconds"]
                state: State = content["state"]
                return state
            problem = "it is of other settings, code or libraries"
        _warn(f"{self._path}: the checkpoint is not used, and the fit begins anew: {problem}")
        return None

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() >= self._due

    def write(self, state: State) -> None:
        """Write ``state``; where that cannot be done, say so and go on without."""
        start = time.monotonic()
        content = {"fit": self._fit, "seconds": self.earlier_s + start - self._start, "state": state}
        try:
            with replacing(self._path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:  # torch's own, of what the file raised
            self._due = float("inf")
            _warn(f"{self._path}: no checkpoint can be written: {one_line(error)}")
            return
        end = time.monotonic()
        self._due = end + max(EVERY, (end - start) / SHARE)


class Training:
    """All that changes while a method is trained epoch by epoch, beside what its run notes.

    Args:
        method: the method.
        loss: the loss of its slot, if any.
        parts: what else has a state.
        rngs: the sources of its random numbers; torch's global ones count too, which dropout draws from.
    """

    def __init__(
        self, method: nn.Module, loss: nn.Module | None, parts: Sequence[Stateful], rngs: Sequence[torch.Generator]
    ) -> None:
        modules = {"method": method} if loss is None else {"method": method, "loss": loss}
        self._parts: list[Stateful] = [*modules.values(), *parts]
        self._rngs = [*rngs, torch.default_generator, *_cuda_generators(method)]
        names = {p: f"{kind}.{name}" for kind, module in modules.items() for name, p in module.named_parameters()}
        self._optimisers = _Optimisers(names)

    def state(self) -> State | None:
        """All of it; None where there is an optimiser of unknown parameters."""
        optimisers = self._optimisers.state()
        if optimisers is None:
            return None
        return {
            "parts": [part.state_dict() for part in self._parts],
            "rngs": [rng.get_state() for rng in self._rngs],
            "optimisers": optimisers,
        }

    def restore(self, state: State) -> None:
        """Be what ``state`` told of."""
        for part, found in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(found)
        for rng, numbers in zip(self._rngs, state["rngs"], strict=True):
            rng.set_state(numbers)
        self._optimisers.restore(state["optimisers"])

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this is entered, the optimisers that step belong to it."""
        handle = register_optimizer_step_pre_hook(self._optimisers.meet)
        try:
            yield
        finally:
            handle.remove()


class _Optimisers:
    """Optimisers, whoever made them, which are known when they step, by the names of their parameters.

    One gets what there is to restore at its first step.

    Args:
        names: the names of the parameters that there are.
    """

    def __init__(self, names: Mapping[nn.Parameter, str]) -> None:
        self._names = names
        self._known: dict[str, Optimizer] = {}
        self._unmet: dict[str, State] = {}
        self._are_told_apart = True

    def state(self) -> dict[str, State] | None:
        """The state of each; None where they cannot be told apart."""
        if not self._are_told_apart:
            return None
        return self._unmet | {key: optimiser.state_dict() for key, optimiser in self._known.items()}

    def restore(self, state: dict[str, State]) -> None:
        self._unmet = dict(state)

    def meet(self, optimiser: Optimizer, *_: Any) -> None:
        """Note an optimiser that is about to step."""
        if not self._are_told_apart or any(optimiser is known for known in self._known.values()):
            return
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        key = " ".join(self._names.get(p, "") for p in parameters)
        self._are_told_apart = key not in self._known and all(p in self._names for p in parameters)
        self._known[key] = optimiser
        if key in self._unmet:
            optimiser.load_state_dict(self._unmet.pop(key))


def _cuda_generators(module: nn.Module) -> list[torch.Generator]:
    """The global source of random numbers of the GPU that ``module`` lies on, if it does."""
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    return [torch.cuda.default_generators[device.index or 0] for device in devices]


def _content(path: Path) -> object:
    """What ``torch.save`` wrote.

    Raises:
        Exception: it wrote no such file, or that is damaged.
    """
    with zipfile.ZipFile(path) as parts:  # torch itself does not look at the checksums
        if damaged := parts.testzip():
            raise ValueError(f"{damaged} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def _warn(text: str) -> None:
    tqdm.write(f"warning: {text}", file=sys.stderr)
