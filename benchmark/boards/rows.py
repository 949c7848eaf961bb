"""Rows of a leaderboard: stored runs grouped by what they share, with the means of their measures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Any, NamedTuple

from benchmark.results.record import Protocol, Result, Spec, without_repetitions

#: A number of one run; None where the run has none.
Measure = Callable[[Result], float | None]
#: What tells one run of a row from another: the partition of the classes (or ``proposed``), and the seed.
Pair = tuple[str, int]


class Board(NamedTuple):
    """What runs must share to be compared at all; a table shows one board."""

    dataset: str
    simulated: bool
    protocol: Protocol
    features: str
    revision: str
    partition: str

    @classmethod
    def of(cls, spec: Spec) -> Board:
        """The board of a run; ``partition`` is ``proposed``, or ``random`` for all random partitions."""
        partition = spec.partition.partition("-")[0]
        return cls(spec.dataset, spec.simulated, spec.protocol, spec.features, spec.revision, partition)

    @property
    def comparable(self) -> bool:
        """Whether it is compared with boards of other data sets: the strict protocol on the proposed split."""
        return self.protocol == "strict" and self.partition == "proposed"

    def record(self) -> dict[str, Any]:
        """The board for other programs, which know the partition as ``split``, as result files do."""
        return {"split" if name == "partition" else name: value for name, value in self._asdict().items()}


class Summary(NamedTuple):
    """Mean and sample standard deviation; ``std`` is None for a single value."""

    mean: float
    std: float | None


@dataclass(frozen=True, eq=False)
class Row:
    """Runs of the same complete settings.

    Attributes:
        spec: their settings; of several ways in which they were given, the one with the fewest overrides.
        runs: the runs that are ok, by partition and seed; of a method that drew no random number one a partition, as
            its seeds are no repetitions of anything.
        others: those that failed or were skipped.
    """

    spec: Spec
    runs: tuple[Result, ...]
    others: tuple[Result, ...]

    @cached_property
    def key(self) -> str:
        """12 hex digits that identify the row on its board."""
        return _settings(self.spec)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The partition and the seed of each run."""
        return tuple(map(pair_of, self.runs))

    @cached_property
    def deterministic(self) -> bool:
        """Every other seed would come to the same."""
        return bool(self.runs) and all(run.deterministic for run in self.runs)

    @cached_property
    def unseen_accuracies(self) -> dict[str, list[float]]:
        """Class -> its T1 in each run in which it is unseen and has test images, in percent."""
        found: dict[str, list[float]] = {}
        for run in self.runs:
            for c in run.evaluation.per_class if run.evaluation else ():
                if not c.seen and c.T1 is not None:
                    found.setdefault(c.name, []).append(c.T1)
        return found

    def at(self, pair: Pair) -> Result | None:
        """The run of a partition and seed, any seed of which will do where the row is deterministic; None without."""
        of_partition = (run for run in self.runs if run.spec.partition == pair[0])
        return next((run for run in of_partition if self.deterministic or run.seed == pair[1]), None)

    def values(self, measure: Measure) -> dict[Pair, float] | None:
        """The measure of each run; None where a run lacks it."""
        found = {pair_of(run): measure(run) for run in self.runs}
        values = {pair: value for pair, value in found.items() if value is not None}
        return values if values and len(values) == len(found) else None

    def summary(self, measure: Measure) -> Summary | None:
        """Mean and deviation over seeds, or over partitions after the mean over a partition's seeds."""
        if measure not in self._summaries:
            self._summaries[measure] = self._summarised(measure)
        return self._summaries[measure]

    @cached_property
    def _summaries(self) -> dict[Measure, Summary | None]:
        """What was asked for before: several formats show the same means."""
        return {}

    def _summarised(self, measure: Measure) -> Summary | None:
        values = self.values(measure)
        if values is None:
            return None
        means = independent(values)
        mean = sum(means) / len(means)
        # numpy takes ten times as long for so few numbers.
        variance = sum((value - mean) ** 2 for value in means) / (len(means) - 1) if len(means) > 1 else None
        return Summary(mean, None if variance is None else math.sqrt(variance))


@cache
def metric(name: str) -> Measure:
    """The measure ``name`` of ``benchmark.results.record.Metrics``."""

    def measure(run: Result) -> float | None:
        return getattr(run.evaluation.metrics, name) if run.evaluation else None

    return measure


@cache
def imbalance(part: str, name: str, unit: float = 1.0) -> Measure:
    """The measure ``name`` of ``SemanticErrors`` in ``unit``; ``part`` is ``seen`` or ``unseen``."""

    def measure(run: Result) -> float | None:
        report = run.evaluation.imbalance if run.evaluation else None
        value = getattr(getattr(report, part), name) if report else None
        return None if value is None else value / unit

    return measure


@cache
def cost(name: str) -> Measure:
    """The measure ``name`` of ``benchmark.results.record.Cost``."""

    def measure(run: Result) -> float | None:
        return getattr(run.cost, name) if run.cost else None

    return measure


def boards(results: Iterable[Result]) -> dict[Board, list[Row]]:
    """The rows of each board, both sorted; the order of ``results`` plays no role."""
    groups: dict[Board, dict[str, list[Result]]] = {}
    for result in results:
        groups.setdefault(Board.of(result.spec), {}).setdefault(_settings(result.spec), []).append(result)
    return {board: [_row(group) for _, group in sorted(rows.items())] for board, rows in sorted(groups.items())}


def pair_of(run: Result) -> Pair:
    """The partition and the seed of a run."""
    return run.spec.partition, run.seed


def independent(values: Mapping[Pair, float]) -> list[float]:
    """What is independent of each other: seeds on the proposed split, means over seeds on random partitions."""
    groups: dict[object, list[float]] = {}
    for (partition, seed), value in sorted(values.items()):
        groups.setdefault((partition, seed) if partition == "proposed" else partition, []).append(value)
    return [math.fsum(group) / len(group) for group in groups.values()]


def _row(results: Sequence[Result]) -> Row:
    def fewest_overrides(result: Result) -> tuple[int, str]:
        spec = result.spec
        given = (spec.hparam_overrides, spec.loss_overrides, spec.dataset_options)
        return sum(map(len, given)), json.dumps([spec.partition, *given], sort_keys=True)

    ordered = sorted(results, key=pair_of)
    ok = groupby((run for run in ordered if run.status == "ok"), key=lambda run: run.spec.partition)
    return Row(
        spec=min(ordered, key=fewest_overrides).spec,
        runs=tuple(run for _, of_partition in ok for run in without_repetitions(list(of_partition))),
        others=tuple(run for run in ordered if run.status != "ok"),
    )


def _settings(spec: Spec) -> str:
    """The key without the partition: the partitions of one configuration are one row."""
    partition = Board.of(spec).partition
    return spec.key if spec.partition == partition else spec.model_copy(update={"partition": partition}).key
