"""The tests of differences between rows: paired differences, bootstrap intervals, and ranks over data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from scipy import special

from benchmark.boards.rows import Board, Measure, Pair, Row, independent, pair_of
from benchmark.registries import LOSSES
from benchmark.results.record import Result

_Values = npt.NDArray[np.float64]
#: Differences in percent that spread less than this differ by rounding alone.
_ROUNDING = 1e-9
#: What a 95 % interval leaves out on either side.
_TAILS = np.array([(1 - 0.95) / 2, 1 - (1 - 0.95) / 2])
#: Replicates of a bootstrap.
_REPLICATES = 2000


@dataclass(frozen=True)
class Difference:
    """A paired difference of two rows in one measure.

    Attributes:
        mean: the mean difference.
        pairs: the runs (partition, seed) that both rows have.
        p: the p-value of a two-sided paired t-test over seeds, or over partitions; None with fewer than two of them, or
            without variance.
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
        positions: method -> its rank on each data set, in the same order.
        datasets: what it is the mean over.
        p: the p-value of Friedman's test that all methods rank alike; None where all of them tie everywhere.
        critical_difference: how far two mean ranks must lie apart to differ at 5 % by Nemenyi's test.
        groups: the largest sets of methods that do not differ so, in the order of their ranks.
    """

    ranks: dict[str, float]
    positions: dict[str, tuple[float, ...]]
    datasets: tuple[str, ...]
    p: float | None
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]


def compare(row: Row, reference: Row, measure: Measure) -> Difference | None:
    """The difference ``row - reference`` over common runs; None where there are none, or none with the measure.

    Seeds within a partition are not independent, so that partitions are compared by their means over common seeds.
    """
    ours, theirs = row.values(measure), reference.values(measure)
    if ours is None or theirs is None or not (runs := common_runs(row, reference)):
        return None
    common = [pair for pair, *_ in runs]
    a = independent({pair: ours[pair_of(run)] for pair, run, _ in runs})
    b = independent({pair: theirs[pair_of(run)] for pair, _, run in runs})
    differences, n = np.subtract(a, b), len(a)
    mean, spread = float(differences.mean()), float(np.ptp(differences))
    constant = spread < _ROUNDING and (n > 1 or (row.deterministic and reference.deterministic))
    if n == 1 or constant:
        return Difference(mean, tuple(common), None, constant)
    # Student's t-test as scipy.stats has it, to the last bit, which takes a hundred times as long for so few numbers.
    error = float(np.sqrt(differences.var() * (n / (n - 1)) / n))
    p = 2 * float(special.stdtr(n - 1, -abs(mean / error)))
    low, high = (special.stdtrit(n - 1, _TAILS) * error + mean).tolist()
    return Difference(mean, tuple(common), p, constant, (low, high))


def common_runs(row: Row, reference: Row) -> list[tuple[Pair, Result, Result]]:
    """The runs of both rows that share partition and seed, in order; a deterministic row has a run for every seed."""
    pairs = reference.pairs if row.deterministic else row.pairs
    runs = ((pair, row.at(pair), reference.at(pair)) for pair in pairs)
    return [(pair, ours, theirs) for pair, ours, theirs in runs if ours and theirs]


def comparisons(
    rows: Sequence[Row], measures: Mapping[str, Measure], references: Sequence[Row], *, controls: bool = False
) -> list[Comparison]:
    """Each of ``rows`` that is not a reference itself against its reference, p adjusted by Holm over all of them.

    Args:
        rows: what is compared, of one board.
        measures: name -> what is compared.
        references: rows among which the references are looked for.
        controls: compare rows with what the contrasts of their loss name besides the reference, too, where there is
            such a row: a gain over the reference alone need not prove a loss's point.
    """

    def against(row: Row, reference: Row) -> Comparison:
        every = {name: compare(row, reference, measure) for name, measure in measures.items()}
        return Comparison(row, {name: d for name, d in every.items() if d}, reference)

    found, reference_loss = [], LOSSES.reference
    for row in rows:
        reference = _reference(row, references, reference_loss, {})
        if reference is None:
            found.append(Comparison(row, {}))
        elif reference.key != row.key:
            found.append(against(row, reference))
        for loss in controls_of(row.spec.loss) if controls else ():
            if control := _reference(row, references, loss, row.spec.loss_overrides):
                found.append(against(row, control))
    tested = [(c, name, d.p) for c in found for name, d in c.differences.items() if d.p is not None]
    for (c, name, _), p in zip(tested, holm([p for *_, p in tested]), strict=True):
        c.differences[name] = replace(c.differences[name], p=p)
    return found


def controls_of(loss: str) -> list[str]:
    """What rows of ``loss`` are compared with besides the reference, each with the parameters that the row has."""
    contrasts = LOSSES[loss].contrasts if loss in LOSSES else ()
    return [other for first, other in contrasts if first == loss and other != LOSSES.reference]


def bootstrap(row: Row, reference: Row, name: str) -> tuple[float, float] | None:
    """The 95 % percentile interval of the mean difference ``row - reference`` in T1, H or H_calibrated.

    Hierarchical: seeds are drawn with replacement and so are the unseen and the seen classes, in each of 2000
    replicates the same ones for both rows. A deterministic method, too, has such an interval: that of the classes.

    None where the rows have no run in common or not the same classes, and on random partitions: there each has other
    unseen classes.
    """
    common = common_runs(row, reference)
    ours = _bootstrapped(row, name, [run for _, run, _ in common])
    theirs = _bootstrapped(reference, name, [run for _, _, run in common])
    if ours is None or theirs is None or ours.classes != theirs.classes:
        return None
    return _percentiles(ours.means - theirs.means)


def own_interval(row: Row, name: str) -> tuple[float, float] | None:
    """The interval of ``bootstrap`` for the mean of ``row`` itself; None on random partitions."""
    found = _bootstrapped(row, name, row.runs)
    return found.interval if found else None


def clear_of_zero(interval: tuple[float, float] | None) -> bool:
    """Whether there is an interval, and 0 lies outside of it."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def ranking(values: Mapping[str, Sequence[float]], datasets: Sequence[str]) -> Ranking:
    """Friedman's test and Nemenyi's critical difference.

    Args:
        values: method -> its measure on each data set, of which more is better; at least three methods.
        datasets: the names of the data sets, at least three.
    """
    from scipy import stats  # which takes its time

    matrix = np.round([list(own) for own in values.values()], 9)
    k, n = matrix.shape
    of_method = dict(zip(values, map(tuple, stats.rankdata(-matrix, axis=0).tolist()), strict=True))
    positions = dict(sorted(of_method.items(), key=lambda item: sum(item[1])))
    ranks = {name: sum(own) / n for name, own in positions.items()}
    tied = bool((matrix == matrix[:1]).all())
    p = None if tied else float(stats.friedmanchisquare(*matrix).pvalue)
    critical = _studentized_range(k) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
    return Ranking(ranks, positions, tuple(datasets), p, float(critical), _groups(ranks, critical))


@cache
def _studentized_range(k: int) -> float:
    """The 95 % quantile of the studentised range of k groups, which takes a tenth of a second."""
    from scipy import stats

    return float(stats.studentized_range.ppf(0.95, k, np.inf))


def rankings(rows: Mapping[Board, Sequence[Row]], measure: Measure) -> dict[tuple[str, bool], Ranking | None]:
    """(loss label, tuned) -> its methods, ranked on the boards that are given, one board a data set.

    A data set with several boards (feature sets, revisions) is represented by the one with the most rows, because its
    boards are not independent. A method takes part if it has exactly one row with the loss, and the measure, on each.
    None where less than three methods or data sets are left: then there is no test.
    """
    largest: dict[str, Board] = {}
    for board in sorted(rows, key=lambda board: len(rows[board]), reverse=True):
        largest.setdefault(board.dataset, board)
    chosen = [largest[name] for name in sorted(largest)]
    found: dict[tuple[str, bool], dict[str, dict[str, list[float]]]] = {}
    for board in chosen:
        for row in rows[board]:
            if summary := row.summary(measure):
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


def _reference(row: Row, rows: Sequence[Row], loss: str, loss_overrides: Mapping[str, object]) -> Row | None:
    """The row with such a loss that differs from ``row`` in no setting that the user gave; None if unclear.

    A method's defaults may depend on the loss, hence settings are compared as given first, and as resolved second.
    Tuned settings have a reference that was tuned by as many trials.
    """
    spec = row.spec
    candidates = [
        r
        for r in rows
        if r.runs
        and (r.spec.method, r.spec.profile, r.spec.tuned) == (spec.method, spec.profile, spec.tuned)
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


class _ClassAccuracies(NamedTuple):
    """Accuracies of one run, in percent: (U,) of the unseen and (S,) of the seen ``classes`` that have one."""

    classes: tuple[str, ...]
    unseen: _Values
    seen: _Values


@dataclass(frozen=True)
class _Bootstrapped:
    """The ``means`` (B,) of some runs over resampled seeds and ``classes``."""

    classes: tuple[str, ...]
    means: _Values

    @cached_property
    def interval(self) -> tuple[float, float]:
        return _percentiles(self.means)


#: What was drawn of a row, as long as it lives: it is compared several times, in several formats.
_DRAWN: WeakKeyDictionary[Row, dict[tuple[str, tuple[Pair, ...]], _Bootstrapped | None]] = WeakKeyDictionary()


def _bootstrapped(row: Row, name: str, runs: Sequence[Result]) -> _Bootstrapped | None:
    """Those of the row's ``runs``; None where there is none, where one has other classes, and on random partitions."""
    drawn = _DRAWN.setdefault(row, {})
    key = name, tuple(map(pair_of, runs))
    if key not in drawn:
        column = {"T1": "T1", "H": "gzsl", "H_calibrated": "calibrated"}[name]
        found = [_class_accuracies(run, column) for run in runs if run.spec.partition == "proposed"]
        same = len({each.classes for each in found}) == 1 and len(found[0].unseen) > 0
        means = _replicates([each.unseen for each in found], [each.seen for each in found]) if same else None
        drawn[key] = None if means is None else _Bootstrapped(found[0].classes, means)
    return drawn[key]


def _percentiles(values: _Values) -> tuple[float, float]:
    """Those of a 95 % interval, rounded so that noise in the last bit of a sum cannot show."""
    low, high = np.round(np.quantile(values, _TAILS), 9).tolist()
    return low, high


def _class_accuracies(run: Result, column: str) -> _ClassAccuracies:
    unseen: dict[str, float] = {}
    seen: dict[str, float] = {}
    for c in run.evaluation.per_class if run.evaluation else ():
        if (value := getattr(c, column)) is not None:
            (seen if c.seen else unseen)[c.name] = value
    return _ClassAccuracies((*unseen, "", *seen), np.array([*unseen.values()]), np.array([*seen.values()]))


def _replicates(unseen: Sequence[_Values], seen: Sequence[_Values]) -> _Values:
    """(B,) the mean over resampled seeds of U, or of H where seen classes have accuracies, over resampled classes."""
    values = _resampled(0, len(unseen[0])) @ np.stack(unseen, axis=1)
    if len(seen[0]):
        of_seen = _resampled(1, len(seen[0])) @ np.stack(seen, axis=1)
        values = 2 * values * of_seen / np.maximum(values + of_seen, _ROUNDING)
    means: _Values = (_resampled(2, len(unseen)) * values).sum(axis=1)
    return means


@cache
def _resampled(stream: int, n: int) -> _Values:
    """(B, n) how much each of n things weighs in each replicate, if as many are drawn with replacement."""
    # The draws of this older source of random numbers are frozen: a board is the same under every version of numpy.
    return np.random.RandomState(stream).multinomial(n, np.full(n, 1 / n), size=_REPLICATES) / n


def _groups(ranks: Mapping[str, float], critical: float) -> tuple[tuple[str, ...], ...]:
    """The longest stretches of ascending ``ranks`` within the critical difference."""
    names, values = list(ranks), list(ranks.values())
    ends = [max(j for j in range(i, len(values)) if values[j] - values[i] < critical) for i in range(len(values))]
    return tuple(tuple(names[i : end + 1]) for i, end in enumerate(ends) if i == 0 or end > ends[i - 1])
