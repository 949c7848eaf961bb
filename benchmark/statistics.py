"""Rows of a leaderboard: stored runs grouped by what they share, their means, and the tests of their differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from benchmark.results import Protocol, Result, Spec

#: The loss that all others are compared with.
REFERENCE = "mse"
#: Differences in percent that spread less than this differ by rounding alone.
_ROUNDING = 1e-9

#: A figure of one run; None where the run has none.
Figure = Callable[[Result], float | None]
#: What tells one run of a row from another: the partition of the classes (or ``proposed``), and the seed.
Pair = tuple[str, int]


class Board(NamedTuple):
    """What runs must share to be compared at all; a table shows one board."""

    dataset: str
    simulated: bool
    protocol: Protocol
    features: str
    revision: str
    split: str

    @classmethod
    def of(cls, spec: Spec) -> Board:
        """The board of a run; ``split`` is ``proposed``, or ``random`` for all random partitions."""
        split = spec.split.partition("-")[0]
        return cls(spec.dataset, spec.simulated, spec.protocol, spec.features, spec.revision, split)


class Summary(NamedTuple):
    """Mean and sample standard deviation; ``std`` is None for a single value."""

    mean: float
    std: float | None


@dataclass(frozen=True, eq=False)
class Row:
    """Runs of the same complete settings.

    Attributes:
        spec: their settings; of several ways in which they were given, the one with the fewest overrides.
        runs: the runs that are ok, by partition and seed.
        others: those that failed or were skipped.
    """

    spec: Spec
    runs: tuple[Result, ...]
    others: tuple[Result, ...]

    @property
    def key(self) -> str:
        """12 hex digits that identify the row on its board."""
        return _settings(self.spec)

    def values(self, figure: Figure) -> dict[Pair, float] | None:
        """The figure of each run; None where a run lacks it."""
        found = {_pair(run): figure(run) for run in self.runs}
        values = {pair: value for pair, value in found.items() if value is not None}
        return values if values and len(values) == len(found) else None

    def summary(self, figure: Figure) -> Summary | None:
        """Mean and deviation over seeds, or over partitions after the mean over a partition's seeds."""
        values = self.values(figure)
        if values is None:
            return None
        means = _independent(values)
        return Summary(float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else None)


@dataclass(frozen=True)
class Difference:
    """A paired difference of two rows in one figure.

    Attributes:
        mean: the mean difference.
        pairs: the runs (partition, seed) that both rows have.
        p: of a two-sided paired t-test over seeds, or over partitions; None with fewer than two of them, or without
            variance.
        constant: the difference is the same throughout, as between deterministic methods, so that no test exists.
    """

    mean: float
    pairs: tuple[Pair, ...]
    p: float | None
    constant: bool


class Comparison(NamedTuple):
    """A row against the reference loss; ``differences`` is empty where there is no reference to compare with."""

    row: Row
    differences: dict[str, Difference]


def metric(name: str) -> Figure:
    """The figure ``name`` of ``benchmark.results.Metrics``."""

    def figure(run: Result) -> float | None:
        return getattr(run.evaluation.metrics, name) if run.evaluation else None

    return figure


def imbalance(part: str, name: str, unit: float = 1.0) -> Figure:
    """The figure ``name`` of ``benchmark.results.SemanticErrors`` in ``unit``; ``part`` is ``seen`` or ``unseen``."""

    def figure(run: Result) -> float | None:
        report = run.evaluation.imbalance if run.evaluation else None
        value = getattr(getattr(report, part), name) if report else None
        return None if value is None else value / unit

    return figure


def boards(results: Iterable[Result]) -> dict[Board, list[Row]]:
    """The rows of each board, both sorted; the order of ``results`` plays no role."""
    groups: dict[Board, dict[str, list[Result]]] = {}
    for result in results:
        groups.setdefault(Board.of(result.spec), {}).setdefault(_settings(result.spec), []).append(result)
    return {board: [_row(group) for _, group in sorted(rows.items())] for board, rows in sorted(groups.items())}


def compare(row: Row, reference: Row, figure: Figure) -> Difference | None:
    """The difference ``row - reference`` over common runs; None where there are none, or none with the figure.

    Seeds within a partition are not independent, so that partitions are compared by their means over common seeds.
    """
    ours, theirs = row.values(figure), reference.values(figure)
    if ours is None or theirs is None or not (common := sorted(ours.keys() & theirs.keys())):
        return None
    a, b = (_independent({pair: values[pair] for pair in common}) for values in (ours, theirs))
    differences = np.subtract(a, b)
    constant = len(a) > 1 and float(np.ptp(differences)) < _ROUNDING
    p = float(stats.ttest_rel(a, b).pvalue) if len(a) > 1 and not constant else None
    return Difference(float(differences.mean()), tuple(common), p, constant)


def comparisons(rows: Sequence[Row], figures: Mapping[str, Figure], references: Sequence[Row]) -> list[Comparison]:
    """Each of ``rows`` that is not a reference itself against its reference, p adjusted by Holm over all of them."""
    found = []
    for row in rows:
        reference = _reference(row, references)
        if reference is None or reference.key != row.key:
            every = {name: compare(row, reference, figure) for name, figure in figures.items()} if reference else {}
            found.append(Comparison(row, {name: d for name, d in every.items() if d}))
    tested = [(c, name, d.p) for c in found for name, d in c.differences.items() if d.p is not None]
    for (c, name, _), p in zip(tested, holm([p for *_, p in tested]), strict=True):
        c.differences[name] = replace(c.differences[name], p=p)
    return found


def holm(p: Sequence[float]) -> list[float]:
    """P-values adjusted for the family-wise error over all of them (Holm 1979), in the order given."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def _row(results: Sequence[Result]) -> Row:
    def fewest_overrides(result: Result) -> tuple[int, str]:
        spec = result.spec
        given = (spec.hparam_overrides, spec.loss_overrides, spec.dataset_options)
        return sum(map(len, given)), json.dumps([spec.split, *given], sort_keys=True)

    ordered = sorted(results, key=_pair)
    return Row(
        spec=min(ordered, key=fewest_overrides).spec,
        runs=tuple(run for run in ordered if run.status == "ok"),
        others=tuple(run for run in ordered if run.status != "ok"),
    )


def _reference(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row with the reference loss that differs from ``row`` in no setting that the user gave; None if unclear.

    A method's defaults may depend on the loss, hence settings are compared as given first, and as resolved second.
    Tuned settings have a reference that was tuned by as many trials.
    """
    spec = row.spec
    candidates = [
        r
        for r in rows
        if r.runs
        and (r.spec.method, r.spec.tuned) == (spec.method, spec.tuned)
        and r.spec.loss == REFERENCE
        and not r.spec.loss_overrides
    ]
    given = [r for r in candidates if r.spec.hparam_overrides == spec.hparam_overrides]
    resolved = [r for r in candidates if r.spec.hparams == spec.hparams]
    both = [r for r in given if r in resolved]
    for found in (both, given, resolved):
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _settings(spec: Spec) -> str:
    """The key without the partition: the partitions of one configuration are one row."""
    return spec.model_copy(update={"split": Board.of(spec).split}).key


def _pair(run: Result) -> Pair:
    return run.spec.split, run.seed


def _independent(values: Mapping[Pair, float]) -> list[float]:
    """What is independent of each other: seeds on the proposed split, means over seeds on random partitions."""
    groups: dict[object, list[float]] = {}
    for (split, seed), value in sorted(values.items()):
        groups.setdefault((split, seed) if split == "proposed" else split, []).append(value)
    return [float(np.mean(group)) for group in groups.values()]
