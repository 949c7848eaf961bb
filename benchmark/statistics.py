"""Rows of a leaderboard: stored runs grouped by what they share, their means, and the tests of their differences."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from benchmark.results import Protocol, Result, Spec

#: The loss that all others are compared with.
REFERENCE = "mse"
#: A loss -> what it is compared with besides, because a gain over the reference alone would not prove its point:
#: ReMSE's weights are at least 1, and ``mse-matched`` is as much larger without being rebalanced.
CONTROLS = {"remse": "mse-matched"}
#: Differences in percent that spread less than this differ by rounding alone.
_ROUNDING = 1e-9
#: Replicates of a bootstrap.
_REPLICATES = 2000

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

    @property
    def fitted(self) -> Row:
        """The row without the runs of a deterministic method that repeat another seed's: those took no time."""
        return replace(self, runs=tuple(run for run in self.runs if "repeats_seed" not in run.provenance))

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
        interval: the 95 % confidence interval of that t-test; None where ``p`` is.
    """

    mean: float
    pairs: tuple[Pair, ...]
    p: float | None
    constant: bool
    interval: tuple[float, float] | None = None


class Comparison(NamedTuple):
    """A row against another loss; ``differences`` is empty and ``reference`` None where there is nothing to compare."""

    row: Row
    differences: dict[str, Difference]
    reference: Row | None = None


@dataclass(frozen=True)
class Ranking:
    """Methods ranked over data sets, 1 being the best (Demšar, Statistical Comparisons of Classifiers, JMLR 7, 2006).

    Attributes:
        ranks: method -> mean rank, ascending.
        datasets: what it is the mean over.
        p: of Friedman's test that all methods rank alike; None where all of them tie everywhere.
        critical_difference: how far two mean ranks must lie apart to differ at 5 % by Nemenyi's test.
        groups: the largest sets of methods that do not differ so, in the order of their ranks.
    """

    ranks: dict[str, float]
    datasets: tuple[str, ...]
    p: float | None
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]


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


def cost(name: str) -> Figure:
    """The figure ``name`` of ``benchmark.results.Cost``."""

    def figure(run: Result) -> float | None:
        return getattr(run.cost, name) if run.cost else None

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
    p, interval = None, None
    if len(a) > 1 and not constant:
        test = stats.ttest_rel(a, b)
        low, high = test.confidence_interval()
        p, interval = float(test.pvalue), (float(low), float(high))
    return Difference(float(differences.mean()), tuple(common), p, constant, interval)


def comparisons(
    rows: Sequence[Row],
    figures: Mapping[str, Figure],
    references: Sequence[Row],
    controls: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """Each of ``rows`` that is not a reference itself against its reference, p adjusted by Holm over all of them.

    Args:
        rows: what is compared, of one board.
        figures: name -> what is compared.
        references: rows among which the references are looked for.
        controls: loss -> another one to compare its rows with too, where there is such a row; see ``CONTROLS``.
    """

    def against(row: Row, reference: Row) -> Comparison:
        every = {name: compare(row, reference, figure) for name, figure in figures.items()}
        return Comparison(row, {name: d for name, d in every.items() if d}, reference)

    found = []
    for row in rows:
        reference = _reference(row, references, REFERENCE, {})
        if reference is None:
            found.append(Comparison(row, {}))
        elif reference.key != row.key:
            found.append(against(row, reference))
        if control := _reference(row, references, (controls or {}).get(row.spec.loss), row.spec.loss_overrides):
            found.append(against(row, control))
    tested = [(c, name, d.p) for c in found for name, d in c.differences.items() if d.p is not None]
    for (c, name, _), p in zip(tested, holm([p for *_, p in tested]), strict=True):
        c.differences[name] = replace(c.differences[name], p=p)
    return found


def bootstrap(row: Row, reference: Row, name: str) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean difference ``row - reference`` in T1, H or H_calibrated.

    Hierarchical: seeds are drawn with replacement and so are the unseen and the seen classes, in each of 2000
    replicates the same ones for both rows. A deterministic method, too, has such an interval: that of the classes.

    None where the rows have no run in common or not the same classes, and on random partitions: there each has other
    unseen classes.
    """
    ours, theirs = ({_pair(run): run for run in r.runs if run.spec.split == "proposed"} for r in (row, reference))
    common = sorted(ours.keys() & theirs.keys())
    column = {"T1": "T1", "H": "gzsl", "H_calibrated": "calibrated"}[name]
    accuracies = [[_class_accuracies(runs[pair], column) for pair in common] for runs in (ours, theirs)]
    if not common or len({found.classes for side in accuracies for found in side}) != 1:
        return None
    a, b = (_replicates([found.unseen for found in side], [found.seen for found in side]) for side in accuracies)
    # Rounded, so that noise in the last bit of a sum cannot show.
    low, high = np.round(np.quantile(a - b, (0.025, 0.975)), 9).tolist()
    return low, high


def ranking(values: Mapping[str, Sequence[float]], datasets: Sequence[str]) -> Ranking:
    """Friedman's test and Nemenyi's critical difference.

    Args:
        values: method -> its figure on each data set, of which more is better; at least three methods.
        datasets: the names of the data sets, at least three.
    """
    matrix = np.round([list(of_method) for of_method in values.values()], 9)
    k, n = matrix.shape
    means = dict(zip(values, stats.rankdata(-matrix, axis=0).mean(axis=1).tolist(), strict=True))
    ranks = dict(sorted(means.items(), key=lambda item: item[1]))
    tied = bool((matrix == matrix[:1]).all())
    p = None if tied else float(stats.friedmanchisquare(*matrix).pvalue)
    critical = float(stats.studentized_range.ppf(0.95, k, np.inf)) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
    return Ranking(ranks, tuple(datasets), p, float(critical), _groups(ranks, critical))


def rankings(rows: Mapping[Board, Sequence[Row]], figure: Figure) -> dict[tuple[str, bool], Ranking | None]:
    """(loss label, tuned) -> its methods, ranked on the boards that are given, one board a data set.

    A data set with several boards (feature sets, revisions) is represented by the one with the most rows, because its
    boards are not independent. A method takes part if it has exactly one row with the loss, and the figure, on each.
    None where less than three methods or data sets are left: then there is no test.
    """
    largest: dict[str, Board] = {}
    for board in sorted(rows, key=lambda board: len(rows[board]), reverse=True):
        largest.setdefault(board.dataset, board)
    chosen = [largest[name] for name in sorted(largest)]
    found: dict[tuple[str, bool], dict[str, dict[str, list[float]]]] = {}
    for board in chosen:
        for row in rows[board]:
            if summary := row.summary(figure):
                methods = found.setdefault((row.spec.loss_label, bool(row.spec.tuned)), {})
                methods.setdefault(row.spec.method_label, {}).setdefault(board.dataset, []).append(summary.mean)
    ranked: dict[tuple[str, bool], Ranking | None] = {}
    for group, methods in found.items():
        complete = {
            method: [value for (value,) in by_dataset.values()]
            for method, by_dataset in methods.items()
            if len(by_dataset) == len(chosen) and all(len(of_board) == 1 for of_board in by_dataset.values())
        }
        enough = len(complete) >= 3 and len(chosen) >= 3
        ranked[group] = ranking(complete, [board.dataset for board in chosen]) if enough else None
    return ranked


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


def _reference(row: Row, rows: Sequence[Row], loss: str | None, loss_overrides: Mapping[str, object]) -> Row | None:
    """The row with such a loss that differs from ``row`` in no setting that the user gave; None if unclear.

    A method's defaults may depend on the loss, hence settings are compared as given first, and as resolved second.
    Tuned settings have a reference that was tuned by as many trials.
    """
    spec = row.spec
    candidates = [
        r
        for r in rows
        if r.runs
        and (r.spec.method, r.spec.tuned) == (spec.method, spec.tuned)
        and r.spec.loss == loss
        and r.spec.loss_overrides == loss_overrides
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
    return [math.fsum(group) / len(group) for group in groups.values()]


class _ClassAccuracies(NamedTuple):
    """Accuracies of one run, in percent: (U,) of the unseen and (S,) of the seen ``classes`` that have one."""

    classes: tuple[str, ...]
    unseen: np.ndarray
    seen: np.ndarray


def _class_accuracies(run: Result, column: str) -> _ClassAccuracies:
    per_class = run.evaluation.per_class if run.evaluation else []
    unseen, seen = (
        {c.name: value for c in per_class if c.seen == part and (value := getattr(c, column)) is not None}
        for part in (False, True)
    )
    return _ClassAccuracies((*unseen, "", *seen), np.array([*unseen.values()]), np.array([*seen.values()]))


def _replicates(unseen: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> np.ndarray:
    """(B,) the mean over resampled seeds of U, or of H where seen classes have accuracies, over resampled classes."""
    figures = _resampled(0, len(unseen[0])) @ np.stack(unseen, axis=1)
    if len(seen[0]):
        of_seen = _resampled(1, len(seen[0])) @ np.stack(seen, axis=1)
        figures = 2 * figures * of_seen / np.maximum(figures + of_seen, _ROUNDING)
    return (_resampled(2, len(unseen)) * figures).sum(axis=1)


@cache
def _resampled(stream: int, n: int) -> np.ndarray:
    """(B, n) how much each of n things weighs in each replicate, if as many are drawn with replacement."""
    # The draws of this older generator are frozen: a board is the same under every version of numpy.
    return np.random.RandomState(stream).multinomial(n, np.full(n, 1 / n), size=_REPLICATES) / n


def _groups(ranks: Mapping[str, float], critical: float) -> tuple[tuple[str, ...], ...]:
    """The longest stretches of ascending ``ranks`` within the critical difference."""
    names, values = list(ranks), list(ranks.values())
    ends = [max(j for j in range(i, len(values)) if values[j] - values[i] < critical) for i in range(len(values))]
    return tuple(tuple(names[i : end + 1]) for i, end in enumerate(ends) if i == 0 or end > ends[i - 1])
