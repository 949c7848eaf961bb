"""One cell from start to end: load, select on validation, refit, open the test images, evaluate, once for each seed."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from benchmark import parallel
from benchmark.api import Incompatible, Method, MethodConfig, Slot, TrainData, derive_seed, sealed
from benchmark.config import resolve
from benchmark.engine.evaluate import evaluate
from benchmark.engine.memory import PeakMemory
from benchmark.engine.plan import Cell
from benchmark.engine.prepared import Source, Training, look, selection, trainval
from benchmark.engine.protocol import HeldOut, held_out
from benchmark.engine.provenance import describe
from benchmark.engine.runs import RefitRun, SelectionRun
from benchmark.errors import InputError, one_line
from benchmark.files import without_paths
from benchmark.models.model import Model
from benchmark.models.model import describe as describe_model
from benchmark.models.preprocessing import Preprocessing
from benchmark.registries import LOSSES, METHODS, TRACKERS
from benchmark.results.checkpoints import Checkpoint
from benchmark.results.record import Cost, Evaluation, Result, Selection
from benchmark.results.store import Fit, Store

#: Keeps the model of a run; returns what the provenance of its result says of it.
Keep = Callable[[Model], dict[str, Any]]


def run_cell(
    cell: Cell, store: Store | None = None, trackers: Sequence[str] = (), keep: Keep | None = None
) -> Iterator[Result]:
    """Run the seeds of ``cell`` one after another; what goes wrong in one is its result, and the next goes on.

    A method that draws no random number is fitted for the first seed alone: the results of the others repeat it, and
    say so in their provenance (``repeats_seed``, and ``deterministic`` in that of the first).

    Args:
        cell: what to run.
        store: where long fits keep checkpoints, and go on from those that are there; None: nowhere.
        trackers: the names of what shows the fits while they last; they need a ``store``, beside which they may write.
        keep: what keeps the model of each run; None: nothing is kept.

    Raises:
        InputError: the data cannot be loaded, or a model cannot be kept, whose result comes first.
    """
    experiment = _Experiment(cell, store=store, trackers=trackers)
    repeated: tuple[int, _Outcome] | None = None
    for seed in cell.seeds:
        provenance = describe(experiment.device, cell.sources())
        try:
            if repeated is None:
                outcome = experiment.run(seed)
                if outcome.deterministic:
                    repeated, provenance["deterministic"] = (seed, outcome), True
            else:
                provenance["repeats_seed"], outcome = repeated
        except Incompatible as reason:
            yield Result(spec=cell.spec, seed=seed, status="skipped", error=str(reason), provenance=provenance)
        except InputError:
            raise
        except Exception as error:
            yield Result(spec=cell.spec, seed=seed, status="failed", error=_one_line(error), provenance=provenance)
        else:
            unkept: InputError | None = None
            if keep:
                try:
                    provenance["model"] = keep(experiment.model(seed, outcome, provenance))
                except InputError as error:  # the result is worth as much
                    unkept = error
            yield Result(
                spec=cell.spec,
                seed=seed,
                status="ok",
                evaluation=outcome.evaluation,
                selection=outcome.selection,
                refit_history=outcome.refit_history,
                derived=outcome.derived,
                cost=outcome.cost,
                provenance=provenance,
            )
            if unkept:
                raise unkept


def validate_cell(cell: Cell) -> float:
    """The best value of the criterion on validation, in percent, averaged over the seeds of ``cell``.

    What a search maximises: the selecting half of a run alone, without refit and without a look at test images.

    Raises:
        InputError: the data cannot be loaded.
        Incompatible: the method cannot be trained with the loss, or on the data.
        Exception: whatever else training raises.
    """
    experiment = _Experiment(cell, refits=False)
    values = [experiment.select(seed).value for seed in cell.seeds]
    return sum(values) / len(values)


def fit_cell(cell: Cell, seed: int) -> tuple[Method, Preprocessing]:
    """The method of ``cell`` as its run fits it, selected on validation and refitted, and its preprocessing.

    Raises:
        InputError: the data cannot be loaded, or the method cannot be trained with the loss or on the data.
    """
    experiment = _Experiment(cell)
    try:
        method = experiment.refit(seed, experiment.select(seed)).method
        return method, experiment.trainval.transform
    except Incompatible as reason:
        raise InputError(f"{cell.title}: {reason}") from None


@dataclass(frozen=True)
class _Fitted:
    """A fitted method, what its run noted, and whether it drew no random number on the way."""

    method: Method
    history: list[dict[str, float]]
    deterministic: bool


@dataclass(frozen=True)
class _Outcome:
    """What one seed comes to, whether every other seed would come to the same, and the fitted method."""

    evaluation: Evaluation
    selection: Selection
    refit_history: list[dict[str, float]]
    derived: dict[str, Any]
    cost: Cost
    deterministic: bool
    method: Method


@dataclass(frozen=True)
class _Prepared:
    """What the seeds of a cell share: two training sets and the validation images, but no test image.

    Attributes:
        selection: what to select on; None where the protocol selects on test images.
        trainval: all that may be trained on; None where nothing is refitted.
        config: the method's complete settings, derived from all that may be trained on. Both fits share them: what
            validation chose is worth something for the same settings alone.
    """

    selection: tuple[Training, HeldOut] | None
    trainval: Training | None
    config: MethodConfig


class _Experiment:
    """One cell, whose data are prepared once for all of its seeds.

    Args:
        cell: what to run.
        refits: False where a selection is all that is asked for.
        store: where fits keep checkpoints; None: nowhere.
        trackers: the names of what shows fits.
    """

    def __init__(
        self, cell: Cell, *, refits: bool = True, store: Store | None = None, trackers: Sequence[str] = ()
    ) -> None:
        self._cell = cell
        self._refits = refits
        self._store = store
        self._trackers = trackers
        self._earlier_s = 0.0
        self._entry = METHODS[cell.spec.method]
        self._source = Source.of(cell)
        self.device = torch.device(cell.device)

    @property
    def _config(self) -> MethodConfig:
        return self._prepared.config

    @property
    def _derived(self) -> dict[str, Any]:
        settings = self._config.model_dump(mode="json")
        return {name: settings[name] for name in self._config.automatic(self._cell.spec.hparams)}

    @property
    def trainval(self) -> Training:
        """All that may be trained on."""
        assert self._prepared.trainval is not None
        return self._prepared.trainval

    def run(self, seed: int) -> _Outcome:
        """Select, refit, open the test images and evaluate; the literature protocol opens them to select on."""
        _ = self._prepared  # loading is no part of what a run costs
        memory, start, self._earlier_s = PeakMemory(self.device), time.perf_counter(), 0.0
        history: list[dict[str, float]] = []
        if self._cell.spec.protocol == "literature":
            test = self._open_test()
            selecting, fitted = self._select(seed, self.trainval.data, test)
            chosen, fit_end = _selection(selecting, "test"), time.perf_counter()
        else:
            selecting = self.select(seed)
            fitted = self.refit(seed, selecting)
            history, fit_end = fitted.history, time.perf_counter()
            chosen, test = _selection(selecting, "validation"), self._open_test()
        with _deterministic():
            evaluation = evaluate(
                fitted.method,
                test,
                chosen.gamma,
                with_semantics=not (LOSSES[self._cell.spec.loss].absent and fitted.method.semantics_need_loss),
                keep_errors=not self._cell.spec.simulated,
            )
        fit_s = self._earlier_s + fit_end - start
        cost = Cost(fit_s=fit_s, evaluate_s=time.perf_counter() - fit_end, peak_memory_mib=memory.read())
        return _Outcome(evaluation, chosen, history, self._derived, cost, fitted.deterministic, fitted.method)

    def model(self, seed: int, outcome: _Outcome, provenance: dict[str, Any]) -> Model:
        """What can be kept of a run."""
        training, dataset = self.trainval, self._source.dataset
        order = [*training.stage.seen, *training.stage.unseen]
        names = self._source.load().class_names
        return describe_model(
            outcome.method,
            training.transform,
            training.data.attributes,
            outcome.selection.gamma,
            spec=self._cell.spec,
            seed=seed,
            class_names=[names[c] for c in order],
            origin=dataset.origin,
            provenance=provenance,
        )

    def select(self, seed: int) -> SelectionRun:
        """Fit on the training data of the validation stage, and choose on its held-out images."""
        assert self._prepared.selection is not None, "the literature protocol selects on test images"
        training, images = self._prepared.selection
        return self._select(seed, training.data, images)[0]

    def refit(self, seed: int, selecting: SelectionRun) -> _Fitted:
        """Fit on all of trainval, as far as the selection chose."""
        run = RefitRun(self.device, seed, self._title(seed, "refit"), selecting.choice, selecting.way)
        return self._fit(self.trainval.data, run, "refit")

    def _select(self, seed: int, data: TrainData, images: HeldOut) -> tuple[SelectionRun, _Fitted]:
        run = SelectionRun(self.device, seed, self._title(seed, "select"), images)
        return run, self._fit(data, run, "select")

    def _fit(self, data: TrainData, run: SelectionRun | RefitRun, fit: Fit) -> _Fitted:
        # Initial weights come from the CPU, so that every device starts from the same ones.
        rng = torch.Generator().manual_seed(derive_seed(run.seed, "initial weights"))
        checkpoint = self._checkpoint(run, fit)
        with sealed(), _deterministic(), _seeded_globals(run.device, run.seed), self._followed(run, fit):
            states = [rng.get_state(), torch.get_rng_state()]
            method = self._entry.obj(data.meta, self._config, rng).to(run.device)
            slot = self._slot(data)
            if slot.absent and method.needs_loss:
                raise Incompatible("it regresses attributes and does nothing else, so it needs a loss")
            if checkpoint:
                run.resume_from(checkpoint, slot.loss, rng)
            method.fit(data, slot, run)
            drew = not all(map(torch.equal, states, [rng.get_state(), torch.get_rng_state()]))
        self._earlier_s += checkpoint.earlier_s if checkpoint else 0.0
        return _Fitted(method, run.history, deterministic=not (run.drew or drew))

    def _checkpoint(self, run: SelectionRun | RefitRun, fit: Fit) -> Checkpoint | None:
        """The checkpoint of a fit; None if several processes share it, or its code is in no file to be known by."""
        cell, code = self._cell, self._cell.sources()
        if self._store is None or parallel.size() > 1 or None in code.values():
            return None
        identity = {
            "fit": fit,
            "choice": run.choice,
            "way": run.way,
            "seed": run.seed,
            "spec": cell.spec.model_dump(mode="json"),
            "code": code,
            "torch": torch.__version__,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
        }
        return Checkpoint(self._store.checkpoint(cell.spec, run.seed, fit), json.dumps(identity, sort_keys=True))

    @contextlib.contextmanager
    def _followed(self, run: SelectionRun | RefitRun, fit: Fit) -> Iterator[None]:
        """While this is entered, trackers are told of ``run``; of several processes that share it, by the first."""
        store, spec = self._store, self._cell.spec
        with contextlib.ExitStack() as stack:
            if store and parallel.rank() == 0:
                name = store.fit_name(spec, run.seed, fit)
                settings = spec.model_dump(mode="json") | {"seed": run.seed, "derived": self._derived}
                made = (TRACKERS[kind].obj(name, settings, store.logs / kind / name) for kind in self._trackers)
                run.trackers = [stack.enter_context(contextlib.closing(tracker)) for tracker in made]
            yield

    def _slot(self, data: TrainData) -> Slot:
        entry, weight = LOSSES[self._cell.spec.loss], self._config.regression_weight
        if entry.absent:
            return Slot(data.attributes, None, weight)
        config = resolve(entry.obj.Config, {"loss": self._cell.spec.loss_parameters})
        n_classes, n_attributes = data.attributes.shape
        loss = entry.obj(n_classes, n_attributes, config).to(self.device)
        loss.prepare(data.attributes, torch.bincount(data.labels, minlength=len(data.attributes)))
        return Slot(data.attributes, loss, weight)

    @cached_property
    def _prepared(self) -> _Prepared:
        source, accepts = self._source, self._entry.obj.accepts
        kind, facts = look(source)
        if kind not in accepts:
            features = source.dataset.features
            raise Incompatible(f"it takes {' or '.join(accepts)} features, and {features} are {kind}")
        config = self._cell.method_config(facts)
        return _Prepared(
            None if self._cell.spec.protocol == "literature" else selection(source, config.preprocess, self.device),
            trainval(source, config.preprocess, self.device) if self._refits else None,
            config,
        )

    def _open_test(self) -> HeldOut:
        return held_out(self._source.load(), self.trainval.stage, self.trainval.transform, self.device)

    def _title(self, seed: int, stage: str) -> str:
        return f"{self._cell.title} s{seed} {stage}"


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch use deterministic algorithms, and put back what was set."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


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
        criterion=run.criterion,
        value=run.value,
        choice=run.choice,
        gamma=run.curve.best_gamma(),
        history=run.history,
    )


def _one_line(error: Exception) -> str:
    """What went wrong and where, for a result that may be published: the file's name, never its path."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{without_paths(one_line(error))} ({Path(frame.filename).name}:{frame.lineno} in {frame.name})"
