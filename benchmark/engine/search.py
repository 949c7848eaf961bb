"""The search for settings: trials of one cell, scored on validation classes and images alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from benchmark.api import AUTO, Criterion, Incompatible, derive_seed
from benchmark.config import Range, load_file
from benchmark.engine import tuned
from benchmark.engine.experiment import validate_cell
from benchmark.engine.plan import Cell
from benchmark.engine.provenance import describe
from benchmark.engine.settings import with_layer
from benchmark.engine.tuned import Trial, Tuned
from benchmark.errors import InputError, one_line
from benchmark.files import without_paths
from benchmark.registries import LOSSES, METHODS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: Trials that are drawn at random, before the sampler learns from them.
RANDOM_TRIALS = 5


class EveryTrialFailed(Exception):
    """No trial of a search came to a value."""


def search(cell: Cell, n_trials: int, folder: Path, bar: tqdm[Any]) -> Tuned:
    """Search the settings of ``cell``, and store what is known after each trial.

    Args:
        cell: the defaults, and the seeds that every trial is run with.
        n_trials: how many trials there shall be; those that are stored count.
        folder: the folder of the stored searches.
        bar: the progress, a step for each trial.

    Raises:
        InputError: the stored search is another one, or cannot be written.
        Incompatible: the method cannot be trained with the loss.
        EveryTrialFailed: no trial came to a value.
    """
    spec = cell.spec
    file = tuned.path(folder, spec.dataset, spec.method, spec.loss_label)
    found = _stored(cell, file)
    trials = list(found.trials) if found else []
    bar.update(min(len(trials), n_trials))
    ranges = _ranges(cell)
    while len(trials) < n_trials:
        drawn = _draw(ranges, cell, trials)
        trials.append(_try(cell, drawn, trials))
        found = _tuned(cell, trials)
        if found:
            tuned.save(file, found)
            bar.set_postfix_str(f"{cell.title}: best {_criterion(cell)} {found.value:.1f}")
        bar.update()
    if not found:
        raise EveryTrialFailed(trials[0].error)
    return found


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
    return METHODS[cell.spec.method].obj.criterion


def _ranges(cell: Cell) -> dict[str, Range]:
    """What is searched: the ranges of the YAML, but for what the user set and for the weight of an absent loss."""
    spec = cell.spec
    fixed = set(spec.hparam_overrides) | ({"regression_weight"} if LOSSES[spec.loss].absent else set())
    ranges = load_file(METHODS[spec.method].config_file).search
    return {name: found for name, found in ranges.items() if name not in fixed}


def _draw(ranges: Mapping[str, Range], cell: Cell, trials: Sequence[Trial]) -> dict[str, Any]:
    """The settings of the next trial, from the ranges and what the earlier trials came to; none for the first.

    Each draw has a random state of its own, so that an interrupted search goes on as if it had not been. The state does
    not depend on the loss: the losses of a method begin with the same random trials.
    """
    import optuna

    if not trials or not ranges:
        return {}
    spec, distributions = cell.spec, {name: _distribution(found) for name, found in ranges.items()}
    seed = derive_seed("search", spec.dataset, spec.method, len(trials)) % 2**32
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    )
    for trial in trials:
        # The defaults may lie outside of the ranges, and a changed YAML may leave earlier trials there.
        drawn = {name: {**spec.hparams, **trial.hparams}[name] for name in ranges}
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


def _try(cell: Cell, drawn: dict[str, Any], trials: Sequence[Trial]) -> Trial:
    for earlier in trials:
        if earlier.hparams == drawn:  # choices alone can repeat, and would come to the same
            return earlier.model_copy(update={"seconds": 0.0})
    start = time.perf_counter()
    value, error = None, None
    try:
        value = validate_cell(replace(cell, spec=with_layer(cell.spec, "search", drawn)))
    except (InputError, Incompatible):
        raise
    except Exception as reason:
        error = without_paths(one_line(reason))
    return Trial(hparams=drawn, value=value, seconds=round(time.perf_counter() - start, 2), error=error)


def _tuned(cell: Cell, trials: Sequence[Trial]) -> Tuned | None:
    """The record of ``trials``, whose best is the first of the highest value; None where all failed."""
    values = [(trial.value, -number) for number, trial in enumerate(trials) if trial.value is not None]
    if not values:
        return None
    value, number = max(values)
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
        hparams=trials[-number].hparams,
        value=value,
        criterion=f"{_criterion(cell)} on validation",
        seeds=list(cell.seeds),
        trials=list(trials),
        provenance=describe(torch.device(cell.device), cell.sources()),
    )
