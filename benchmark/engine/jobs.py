"""Jobs: what is to be done with a cell, in whatever process a launcher does it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from benchmark import parallel
from benchmark.engine.experiment import run_cell
from benchmark.engine.plan import Cell
from benchmark.files import unfinished
from benchmark.results.claims import hold
from benchmark.results.record import Result
from benchmark.results.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Job(ABC, Generic[T]):
    """What is to be done with one cell; it is pickled to the process that does it.

    Attributes:
        cell: what it is about.
    """

    cell: Cell

    @abstractmethod
    def run(self) -> Iterator[T]:
        """Do what is missing; yields each part once it is stored.

        Raises:
            InputError: the user gave something wrong.
            Held: another process is at it.
        """

    @abstractmethod
    def lost(self, reason: str, done: Sequence[T]) -> list[T]:
        """What stands for the parts that are not ``done`` when its process ends before it does, for ``reason``."""

    def again(self) -> Job[T]:
        """The job, once the process that was at it is done: what that one stored need not be done again."""
        return self


@dataclass(frozen=True)
class RunJob(Job[Result]):
    """Run the seeds of a cell that are not stored.

    Attributes:
        folder: where results are stored.
        force: run what is stored too.
    """

    folder: Path
    force: bool = False

    def run(self) -> Iterator[Result]:
        """The results, those that are stored first."""
        store, cell = Store(self.folder), self.cell
        # The processes of torchrun are at one run together: it is claimed by none of them.
        with hold(store.cell(cell.spec)) if parallel.size() == 1 else nullcontext():
            for file in [file for seed in cell.seeds for file in unfinished(store.path(cell.spec, seed))]:
                file.unlink(missing_ok=True)  # of a process that was killed: nobody else is at this cell
            stored = [] if self.force else store.finished(cell.spec, cell.seeds)
            yield from stored
            missing = tuple(seed for seed in cell.seeds if seed not in {result.seed for result in stored})
            for result in run_cell(replace(cell, seeds=missing)) if missing else ():
                if parallel.rank() == 0:
                    _keep(result, store)
                yield result

    def again(self) -> RunJob:  # noqa: D102 - see Job
        return replace(self, force=False)

    def lost(self, reason: str, done: Sequence[Result]) -> list[Result]:  # noqa: D102 - see Job
        store, seeds = Store(self.folder), {*self.cell.seeds} - {result.seed for result in done}
        failed = [Result(spec=self.cell.spec, seed=seed, status="failed", error=reason) for seed in sorted(seeds)]
        for result in failed:
            _keep(result, store)
        return failed


def _keep(result: Result, store: Store) -> None:
    """Store a result, unless it failed and one that did not is there."""
    if result.status == "ok" or (result.status == "failed" and not store.finished(result.spec, [result.seed])):
        store.save(result)
