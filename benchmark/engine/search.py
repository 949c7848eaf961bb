"""The search for settings: trials of one cell, scored on validation classes and images alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmark.api import AUTO, Criterion, Incompatible, derive_seed
from benchmark.config import Range, load_file
from benchmark.engine import tuned
from benchmark.engine.experiment import validate_cell
from benchmark.engine.jobs import Job
from benchmark.engine.plan import Cell
from benchmark.engine.provenance import describe
from benchmark.engine.settings import with_layer
from benchmark.engine.tuned import Trial, Tuned
from benchmark.errors import InputError, Lost, one_line
from benchmark.files import without_paths
from benchmark.registries import LOSSES, METHODS
from benchmark.results.claims import hold

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: Values of the method's settings and, after this prefix, of the loss's parameters, which may have the same names.
_Values = dict[str, Any]
_LOSS = "loss:"
#: Trials that are drawn at random, before the sampler learns from them.
RANDOM_TRIALS = 5


@dataclass(frozen=True)
class Progress:
    """How far the search of a cell has come.

    Attributes:
        n_trials: the trials that it has, those that failed included.
        found: what is stored; None where no trial has come to a value.
        ended: why there is no further trial though some are missing: skipped or failed, and the reason.
    """

    n_trials: int
    found: Tuned | None = None
    ended: str | None = None


@dataclass(frozen=True)
class SearchJob(Job[Progress]):
    """Search the settings of a cell, each trial with the cell's seeds; what is known is stored after each.

    Attributes:
        n_trials: how many trials there shall be; those that are stored count.
    """

    n_trials: int

    def run(self) -> Iterator[Progress]:  # noqa: D102 - see Job
        cell = self.cell
        with hold(self._file):
            found = _stored(cell, self._file)
            trials = list(found.trials) if found else []
            yield Progress(len(trials), found)
            ranges = _ranges(cell)
            while len(trials) < self.n_trials:
                trials.append(_try(cell, _draw(ranges, cell, trials), trials))
                found = _tuned(cell, trials)
                if found:
                    tuned.save(self._file, found)
                yield Progress(len(trials), found)
            if not found:
                raise Lost(trials[0].error)

    def stored(self, *, failed: bool = False) -> list[Progress]:  # noqa: ARG002, D102 - see Job
        found = _stored(self.cell, self._file)
        return [Progress(len(found.trials), found)] if found else []

    def missing(self, reason: Incompatible | Lost, done: Sequence[Progress]) -> list[Progress]:  # noqa: D102 - see Job
        last = done[-1] if done else Progress(0)
        status = "skipped" if isinstance(reason, Incompatible) else "failed"
        return [replace(last, ended=f"{status}: {reason}")]

    @property
    def _file(self) -> Path:
        spec = self.cell.spec
        return tuned.path(self.folder, spec.dataset, spec.method, spec.loss_label)


def _stored(cell: Cell, file: Path) -> Tuned | None:
    found, spec = tuned.load(file), cell.spec
    if found is None:
        return None
    problem = found.mismatch(spec)
    if not problem and found.overrides != spec.hparam_overrides:
        problem = f"--set {found.overrides} instead of {spec.hparam_overrides}"
    if not problem and found.criterion != (criterion := f"{_criterion(cell)} on validation"):
        problem = f"{found.criterion} instead of {criterion}"
    if not problem and found.seeds != list(cell.seeds):
        problem = f"seeds {found.seeds} instead of {list(cell.seeds)}"
    if problem:
        raise InputError(f"{file}: holds a search for {problem}; choose another --tuned folder or delete it")
    return found


def _criterion(cell: Cell) -> Criterion:
    """What the trials of ``cell`` are scored by."""
    return METHODS[cell.spec.method].obj.selected_by(cell.spec.hparams)


def _ranges(cell: Cell) -> dict[str, Range]:
    """What is searched: the ranges of the YAMLs, but for what the user set and for the weight of an absent loss."""
    spec = cell.spec
    fixed = set(_joined(spec.hparam_overrides, spec.loss_overrides))
    if LOSSES[spec.loss].absent:
        fixed.add("regression_weight")
    files = METHODS[spec.method].config_file, LOSSES[spec.loss].config_file
    ranges = _joined(*(load_file(file).search for file in files))
    return {name: found for name, found in ranges.items() if name not in fixed}


def _joined(hparams: Mapping[str, Any], loss_parameters: Mapping[str, Any]) -> _Values:
    return {**hparams, **{_LOSS + name: value for name, value in loss_parameters.items()}}


def _draw(ranges: Mapping[str, Range], cell: Cell, trials: Sequence[Trial]) -> _Values:
    """The settings of the next trial, from the ranges and what the earlier trials came to; none for the first.

    Each draw has a random state of its own, so that an interrupted search goes on as if it had not been. The state does
    not depend on the loss: the losses of a method begin with the same random trials, as the settings of the method are
    drawn before those of the loss.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not trials or not ranges:
        return {}
    spec, distributions = cell.spec, {name: _distribution(found) for name, found in ranges.items()}
    seed = derive_seed("search", spec.dataset, spec.method, len(trials)) % 2**32
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    )
    for trial in trials:
        # The defaults may lie outside of the ranges, and a changed YAML may leave earlier trials there.
        values = _joined(spec.hparams | trial.hparams, spec.loss_parameters | trial.loss_parameters)
        drawn = {name: values[name] for name in ranges}
        if trial.value is not None and all(_within(drawn[name], found) for name, found in ranges.items()):
            study.add_trial(optuna.trial.create_trial(params=drawn, distributions=distributions, value=trial.value))
    return study.ask(distributions).params


def _distribution(found: Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if found.choices is not None:
        return CategoricalDistribution(found.choices)
    assert found.low is not None
    assert found.high is not None
    return FloatDistribution(found.low, found.high, log=found.log)


def _within(value: Any, found: Range) -> bool:
    if value == AUTO:  # what comes of it is known to the run alone
        return False
    if found.choices is not None:
        return value in found.choices
    return found.low is not None and found.high is not None and found.low <= value <= found.high


def _try(cell: Cell, drawn: _Values, trials: Sequence[Trial]) -> Trial:
    hparams = {name: value for name, value in drawn.items() if not name.startswith(_LOSS)}
    loss_parameters = {name.removeprefix(_LOSS): value for name, value in drawn.items() if name not in hparams}
    for earlier in trials:
        # Choices alone can repeat, and would come to the same.
        if (earlier.hparams, earlier.loss_parameters) == (hparams, loss_parameters):
            return earlier.model_copy(update={"seconds": 0.0})
    start = time.perf_counter()
    value, error = None, None
    try:
        value = validate_cell(replace(cell, spec=with_layer(cell.spec, "search", hparams, loss_parameters)))
    except (InputError, Incompatible):
        raise
    except Exception as reason:
        error = without_paths(one_line(reason))
    seconds = round(time.perf_counter() - start, 2)
    return Trial(hparams=hparams, loss_parameters=loss_parameters, value=value, seconds=seconds, error=error)


def _tuned(cell: Cell, trials: Sequence[Trial]) -> Tuned | None:
    """The record of ``trials``, whose best is the first of the highest value; None where all failed."""
    tried = [(trial.value, trial) for trial in trials if trial.value is not None]
    if not tried:
        return None
    value, best = max(tried, key=itemgetter(0))
    spec = cell.spec
    return Tuned(
        method=spec.method,
        loss=spec.loss_label,
        dataset=spec.dataset,
        features=spec.features,
        revision=spec.revision,
        partition=spec.partition,
        profile=spec.profile,
        overrides=spec.hparam_overrides,
        hparams=best.hparams,
        loss_parameters=best.loss_parameters,
        value=value,
        criterion=f"{_criterion(cell)} on validation",
        seeds=list(cell.seeds),
        trials=list(trials),
        provenance=describe(torch.device(cell.device), cell.sources()),
    )
