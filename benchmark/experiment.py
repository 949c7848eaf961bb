"""One cell from start to end: load, select on validation, refit, open the test images, evaluate, once for each seed."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from benchmark.api import Dataset, Incompatible, Method, Split, TrainData, derive_seed, sealed
from benchmark.evaluate import evaluate
from benchmark.jobs import Cell
from benchmark.memory import keep_freed_memory
from benchmark.protocol import (
    HeldOut,
    Stage,
    Transform,
    evaluation_stage,
    held_out,
    random_partition,
    train_data,
    validation_stage,
)
from benchmark.provenance import describe, without_paths
from benchmark.registry import InputError, one_line
from benchmark.results import Cost, Evaluation, Result, Selection
from benchmark.train import CRITERION, RefitRun, SelectionRun
from methods import METHODS


@dataclass(frozen=True)
class _Prepared:
    """What the seeds of a cell share: two training sets and the validation images, but no test image."""

    select_on: TrainData
    validation: HeldOut | None
    trainval: TrainData
    stage: Stage
    transform: Transform


@dataclass(frozen=True)
class _Outcome:
    """What one seed comes to, and whether every other seed would come to the same."""

    evaluation: Evaluation
    selection: Selection
    refit_history: list[dict[str, float]]
    cost: Cost
    deterministic: bool


def run_cell(cell: Cell) -> Iterator[Result]:
    """Run the seeds of ``cell`` one after another; what goes wrong in one is its result, and the next goes on.

    A method that draws no random number is fitted for the first seed alone: the results of the others repeat it, and
    say so in their provenance (``repeats_seed``).

    Raises:
        InputError: the data cannot be loaded.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_freed_memory()
    device = torch.device(cell.device)
    dataset = cell.dataset()
    prepared: _Prepared | None = None
    repeated: tuple[int, _Outcome] | None = None
    for seed in cell.seeds:
        provenance = describe(device, cell.sources())
        try:
            prepared = prepared or _prepare(cell, dataset, device)
            if repeated is None:
                outcome = _run_seed(cell, dataset, prepared, seed, device)
                repeated = (seed, outcome) if outcome.deterministic else None
            else:
                provenance["repeats_seed"], outcome = repeated
        except Incompatible as reason:
            yield Result(spec=cell.spec, seed=seed, status="skipped", error=str(reason), provenance=provenance)
        except InputError:
            raise
        except Exception as error:
            yield Result(spec=cell.spec, seed=seed, status="failed", error=_one_line(error), provenance=provenance)
        else:
            yield Result(
                spec=cell.spec,
                seed=seed,
                status="ok",
                evaluation=outcome.evaluation,
                selection=outcome.selection,
                refit_history=outcome.refit_history,
                cost=outcome.cost,
                provenance=provenance,
            )


def validate_cell(cell: Cell) -> float:
    """The best value of the criterion on validation, in percent, averaged over the seeds of ``cell``.

    What a search maximises: the selecting half of a run alone, without refit and without a look at test images.

    Raises:
        InputError: the data cannot be loaded.
        Incompatible: the method cannot be trained with the loss, or on the data.
        Exception: whatever else training raises.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    keep_freed_memory()
    device, dataset = torch.device(cell.device), cell.dataset()
    select_on, validation = _validation(cell, _load(cell, dataset), dataset, device)
    values = []
    for seed in cell.seeds:
        run = SelectionRun(device, seed, f"{cell.title} s{seed}", validation)
        _fit(cell, select_on, run, seed)
        values.append(run.value)
    return sum(values) / len(values)


def fit_cell(cell: Cell, seed: int) -> tuple[Method, Transform]:
    """The method of ``cell``, selected on validation and refitted, and the preprocessing of its features.

    Raises:
        InputError: the data cannot be loaded, or the method cannot be trained with the loss or on the data.
    """
    device = torch.device(cell.device)
    try:
        dataset = cell.dataset()
        split = _load(cell, dataset)
        select_on, validation = _validation(cell, split, dataset, device)
        trainval, transform = train_data(split, evaluation_stage(split), cell.method_config().preprocess, device)
        selecting = SelectionRun(device, seed, f"{cell.title} s{seed} select", validation)
        _fit(cell, select_on, selecting, seed)
        refitting = RefitRun(device, seed, f"{cell.title} s{seed} refit", selecting.choice)
        return _fit(cell, trainval, refitting, seed)[0], transform
    except Incompatible as reason:
        raise InputError(f"{cell.title}: {reason}") from None


def _load(cell: Cell, dataset: Dataset) -> Split:
    split, accepts = dataset.load(), METHODS[cell.spec.method].obj.accepts
    if split.kind not in accepts:
        raise Incompatible(f"it takes {' or '.join(accepts)} features, and {dataset.features} are {split.kind}")
    kind, _, index = cell.spec.split.partition("-")
    return random_partition(split, dataset.name, int(index)) if kind == "random" else split


def _prepare(cell: Cell, dataset: Dataset, device: torch.device) -> _Prepared:
    split, preprocess = _load(cell, dataset), cell.method_config().preprocess
    stage = evaluation_stage(split)
    trainval, transform = train_data(split, stage, preprocess, device)
    if cell.spec.protocol == "literature":
        return _Prepared(trainval, None, trainval, stage, transform)
    return _Prepared(*_validation(cell, split, dataset, device), trainval, stage, transform)


def _validation(cell: Cell, split: Split, dataset: Dataset, device: torch.device) -> tuple[TrainData, HeldOut]:
    """What to select on: training data without validation classes and images, and these."""
    stage = validation_stage(split, f"{dataset.name} {cell.spec.split}")
    data, transform = train_data(split, stage, cell.method_config().preprocess, device)
    return data, held_out(split, stage, transform, device)


def _run_seed(cell: Cell, dataset: Dataset, prepared: _Prepared, seed: int, device: torch.device) -> _Outcome:
    title, memory, start = f"{cell.title} s{seed}", _PeakMemory(device), time.perf_counter()

    def open_test() -> HeldOut:
        return held_out(_load(cell, dataset), prepared.stage, prepared.transform, device)

    def select(on: HeldOut) -> tuple[SelectionRun, Method, bool]:
        run = SelectionRun(device, seed, f"{title} select", on)
        return run, *_fit(cell, prepared.select_on, run, seed)

    history: list[dict[str, float]] = []
    if prepared.validation is None:
        test = open_test()
        selecting, method, deterministic = select(test)
        fitted = time.perf_counter()
    else:
        selecting, _, deterministic = select(prepared.validation)
        refitting = RefitRun(device, seed, f"{title} refit", selecting.choice)
        method, _ = _fit(cell, prepared.trainval, refitting, seed)
        history, fitted = refitting.history, time.perf_counter()
        test = open_test()
    selection = _selection(selecting, "test" if prepared.validation is None else "validation")
    evaluation = evaluate(method, test, selection.gamma, keep_errors=not cell.spec.simulated)
    cost = Cost(fit_s=fitted - start, evaluate_s=time.perf_counter() - fitted, peak_memory_mib=memory.read())
    return _Outcome(evaluation, selection, history, cost, deterministic)


def _fit(cell: Cell, data: TrainData, run: SelectionRun | RefitRun, seed: int) -> tuple[Method, bool]:
    """The fitted method, and whether it drew no random number on the way."""
    # Initial weights come from the CPU, so that every device starts from the same ones.
    generator = torch.Generator().manual_seed(derive_seed(seed, "initial weights"))
    with sealed(), _seeded_globals(run.device, seed):
        states = [generator.get_state(), torch.get_rng_state()]
        method = METHODS[cell.spec.method].obj(data.meta, cell.method_config(), generator).to(run.device)
        loss = cell.build_loss(*data.attributes.shape)
        if loss is not None:
            loss.to(run.device)
            loss.prepare(data.attributes, torch.bincount(data.labels, minlength=len(data.attributes)))
        method.fit(data, loss, run)
        drew = not all(map(torch.equal, states, [generator.get_state(), torch.get_rng_state()]))
    return method, not (run.drew or drew)


@contextlib.contextmanager
def _seeded_globals(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global random state and put it back: some layers (dropout) can draw from nowhere else."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(derive_seed(seed, "global"))
        if device.type == "cuda":
            torch.cuda.manual_seed(derive_seed(seed, "global"))
        yield


def _selection(run: SelectionRun, on: Literal["validation", "test"]) -> Selection:
    if run.curve is None:
        raise RuntimeError("fit ended without one epoch or candidate: it must loop over run.epochs or run.candidates")
    return Selection(
        on=on,
        criterion=CRITERION,
        value=run.value,
        choice=run.choice,
        gamma=run.curve.best_gamma(),
        history=run.history,
    )


def _one_line(error: Exception) -> str:
    """What went wrong and where, for a result that may be published: the file's name, never its path."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{without_paths(one_line(error))} ({Path(frame.filename).name}:{frame.lineno} in {frame.name})"


class _PeakMemory:
    """The most memory held since this was made: of the device on CUDA, else of the process (its resident set)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is that of the whole process
                Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> float:
        """The peak in MiB."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        try:
            status = Path("/proc/self/status").read_text()
            return float(status.partition("VmHWM:")[2].split()[0]) / 2**10
        except (OSError, IndexError):
            unit = 1 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
