"""What is to be run: the cells of a grid, and the plan of those runs that are not stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark.api import Dataset, Facts, MethodConfig
from benchmark.engine.provenance import sources
from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.results.claims import claimed
from benchmark.results.record import Result, Spec
from benchmark.results.store import Store


@dataclass(frozen=True)
class Cell:
    """One configuration with its seeds: what one process loads data for once and runs.

    Attributes:
        spec: the complete settings.
        seeds: the seeds to run.
        data_root: the folder of real data, if any.
        device: a torch device, for instance ``cpu`` or ``cuda``.
        plugins: files to import before anything is looked up, in a new process too.
    """

    spec: Spec
    seeds: tuple[int, ...]
    data_root: Path | None
    device: str
    plugins: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """What progress bars and messages call it."""
        spec = self.spec
        partition = "" if spec.partition == "proposed" else f" {spec.partition}"
        return f"{spec.method_label}+{spec.loss_label} {spec.dataset}{partition}"

    def dataset(self) -> Dataset:
        """The data set that it runs on."""
        return DATASETS.resolve(self.spec.dataset, self.spec.dataset_options, self.data_root)

    def method_config(self, facts: Facts) -> MethodConfig:
        """The validated settings of the method, for data of which ``facts`` tell."""
        return METHODS[self.spec.method].obj.Config.derive(self.spec.hparams, facts)

    def sources(self) -> dict[str, str | None]:
        """Role -> digest of the code that its results depend on, as it was imported."""
        return sources(METHODS[self.spec.method], LOSSES[self.spec.loss])


@dataclass(frozen=True)
class Plan:
    """What a grid comes to.

    Attributes:
        cells: all its cells, each once.
        todo: those that have missing seeds, with these alone.
        stored: the results that there are.
        warnings: what to know of those.
    """

    cells: list[Cell]
    todo: list[Cell]
    stored: list[Result]
    warnings: list[str]

    @property
    def n_runs(self) -> int:
        """The number of runs to do."""
        return sum(len(cell.seeds) for cell in self.todo)


def plan(cells: Sequence[Cell], store: Store, force: bool, with_models: bool = False) -> Plan:
    """Divide the runs of ``cells`` into stored and missing ones; with ``force`` all are missing.

    Failed runs count as missing, with ``with_models`` those too whose model was not kept. A cell of which all is stored
    but that is claimed counts as missing: who does it waits for the process that is at it, or clears up after one that
    was killed. Results that other code made are kept, with a warning.
    """
    todo, stored, warnings = [], [], []
    each, held = _without_repeats(cells), claimed(store.folder)
    for cell in each:
        done = [] if force else store.finished(cell.spec, cell.seeds, with_models=with_models)
        if len(done) == len(cell.seeds) and store.cell(cell.spec) in held:
            done = []
        missing = tuple(seed for seed in cell.seeds if seed not in {result.seed for result in done})
        if missing:
            todo.append(replace(cell, seeds=missing))
        code = cell.sources()
        if stale := sum(result.provenance.get("sources") != code for result in done):
            warnings.append(f"{cell.title}: {stale} stored runs were made by other code; --force runs them anew")
        stored += done
    return Plan(each, todo, stored, warnings)


def _without_repeats(cells: Sequence[Cell]) -> list[Cell]:
    return list({cell.spec.key: cell for cell in cells}.values())
