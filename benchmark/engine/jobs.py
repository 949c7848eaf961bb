"""Jobs: what is to be done with a cell, in whatever process a launcher does it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from benchmark import parallel
from benchmark.api import Incompatible
from benchmark.engine.experiment import run_cell
from benchmark.engine.plan import Cell
from benchmark.errors import Lost
from benchmark.files import unfinished
from benchmark.models.file import write
from benchmark.models.model import Model
from benchmark.results.claims import hold
from benchmark.results.record import Result
from benchmark.results.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Job(ABC, Generic[T]):
    """What is to be done with one cell; it is pickled to the process that does it.

    Attributes:
        cell: what it is about.
        folder: where what it makes is stored, for all processes to see.
    """

    cell: Cell
    folder: Path

    @abstractmethod
    def run(self) -> Iterator[T]:
        """Do what is missing; yields each part once it is stored, those first that were stored before.

        Raises:
            InputError: the user gave something wrong.
            Incompatible: the method cannot be trained with the loss, or on the data.
            Lost: it came to nothing.
            Held: another process is at it.
        """

    @abstractmethod
    def stored(self, *, failed: bool = False) -> list[T]:
        """The parts that are stored, whoever made them; with ``failed`` those too that are to be made again."""

    @abstractmethod
    def missing(self, reason: Incompatible | Lost, done: Sequence[T]) -> list[T]:
        """What stands for the parts that are not ``done``, when it ends by ``reason``."""

    def again(self) -> Job[T]:
        """The job, once another process was at it: what that one stored need not be done again."""
        return self


@dataclass(frozen=True)
class RunJob(Job[Result]):
    """Run the seeds of a cell that are not stored.

    Attributes:
        force: run what is stored too.
        trackers: the names of what shows the fits while they last.
        keep: keep the fitted methods beside their results; what is stored without is run again.
    """

    force: bool = False
    trackers: tuple[str, ...] = ()
    keep: bool = False

    def run(self) -> Iterator[Result]:  # noqa: D102 - see Job
        store, cell = Store(self.folder), self.cell
        # The processes of torchrun are at one run together: it is claimed by none of them.
        with hold(store.cell(cell.spec)) if parallel.size() == 1 else nullcontext():
            paths = [path for seed in cell.seeds for path in store.files(cell.spec, seed)]
            left = [] if self.force else store.superfluous_checkpoints(cell.spec)
            for file in [*left, *(file for path in paths for file in unfinished(path))]:
                file.unlink(missing_ok=True)  # of a process that was killed: nobody else is at this cell
            stored = [] if self.force else self.stored()
            yield from stored
            missing = tuple(seed for seed in cell.seeds if seed not in {result.seed for result in stored})
            keep = self._keep if self.keep and parallel.rank() == 0 else None
            for result in run_cell(replace(cell, seeds=missing), store, self.trackers, keep) if missing else ():
                if result.status == "skipped":
                    raise Incompatible(result.error)
                if parallel.rank() == 0:
                    _keep(result, store)
                    for file in store.checkpoints(cell.spec, result.seed):
                        file.unlink(missing_ok=True)
                yield result

    def stored(self, *, failed: bool = False) -> list[Result]:  # noqa: D102 - see Job
        store, spec = Store(self.folder), self.cell.spec
        if not failed:
            return store.finished(spec, self.cell.seeds, with_models=self.keep)
        return [result for result in (store.load(spec, seed) for seed in self.cell.seeds) if result]

    def missing(self, reason: Incompatible | Lost, done: Sequence[Result]) -> list[Result]:  # noqa: D102 - see Job
        store, seeds = Store(self.folder), {*self.cell.seeds} - {result.seed for result in done}
        status: Literal["skipped", "failed"] = "skipped" if isinstance(reason, Incompatible) else "failed"
        found = [Result(spec=self.cell.spec, seed=seed, status=status, error=str(reason)) for seed in sorted(seeds)]
        for result in found:
            _keep(result, store)
        return found

    def again(self) -> RunJob:  # noqa: D102 - see Job
        return replace(self, force=False)

    def _keep(self, model: Model) -> dict[str, Any]:
        """Keep a model beside its result; returns what that says of it."""
        start, path = time.perf_counter(), Store(self.folder).model(model.card.spec, model.card.seed)
        digest = write(path, model)
        return {"sha256": digest, "bytes": path.stat().st_size, "seconds": round(time.perf_counter() - start, 3)}


def _keep(result: Result, store: Store) -> None:
    """Store a result, unless it was skipped, or it failed and one that did not is there."""
    if result.status == "ok" or (result.status == "failed" and not store.finished(result.spec, [result.seed])):
        if "model" not in result.provenance:  # that of an earlier run is not this one's
            store.model(result.spec, result.seed).unlink(missing_ok=True)
        store.save(result)
