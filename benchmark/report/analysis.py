"""What a report shows, as numbers: rows grouped by method, and the claims of the studied loss as paired differences.

The claims are that the loss lowers mean and spread of the error over semantics, and its correlation with label values.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmark.boards.comparison import Difference, clear_of_zero, compare
from benchmark.boards.rows import Row, imbalance
from benchmark.boards.view import ordered_boards
from benchmark.registries import LOSSES
from benchmark.results.error_matrix import Matrix, decode
from benchmark.results.record import ClassAccuracy, Result

#: (loss, what it is compared with). The first is the claim; the others take out of it what else may explain it.
CONTRASTS = LOSSES.studied.contrasts
#: The loss that the claim is about, and what it is compared with there.
STUDIED, REFERENCE = CONTRASTS[0]
#: The losses whose errors are set side by side: what others are compared with comes first.
COMPARED = tuple(dict.fromkeys([*(other for _, other in CONTRASTS), *(loss for loss, _ in CONTRASTS)]))
#: Measures of the error over semantics that the studied loss is said to lower.
CLAIMED = ("mean", "std", "r")


@dataclass(frozen=True)
class Group:
    """The rows of one method with the same settings given, one a loss.

    Attributes:
        label: ``linear``, ``linear:lr=0.1`` or ``linear tuned``.
        rows: the loss's label -> its row, of rows that differ in defaults alone the one with the most and newest runs.
        older: how many rows were left out for that.
    """

    label: str
    rows: Mapping[str, Row]
    older: int

    @property
    def tuned(self) -> bool:
        """Its settings are the best of a search."""
        return any(row.spec.tuned for row in self.rows.values())

    @property
    def method(self) -> str:
        """The method's name."""
        return next(iter(self.rows.values())).spec.method

    def only(self, losses: Container[str]) -> Group:
        """The group with the rows of these losses alone."""
        return replace(self, rows={loss: row for loss, row in self.rows.items() if loss in losses})


class Effect(NamedTuple):
    """What a loss changes in one measure of one group.

    Attributes:
        group: the group's label.
        value: the mean paired difference: of mean and std in percent of the reference's, of r as it is.
        interval: its 95 % interval; None without a test.
        difference: the difference as ``benchmark.boards.comparison.compare`` found it.
    """

    group: str
    value: float
    interval: tuple[float, float] | None
    difference: Difference

    @property
    def told(self) -> bool:
        """The interval leaves 0 out; a difference without variance is told from 0 by any value."""
        if self.interval is None:
            return self.difference.constant and abs(self.value) > 1e-9
        return clear_of_zero(self.interval)


class Tally(NamedTuple):
    """How often a contrast lowers a measure: groups, those lower and higher, those of each told from 0, the median."""

    groups: int
    lower: tuple[str, ...]
    higher: tuple[str, ...]
    told_lower: tuple[str, ...]
    told_higher: tuple[str, ...]
    median: float


def grouped(rows: Iterable[Row]) -> list[Group]:
    """The groups of a board, in the order of ``rows``; rows without a run that is ok are left out."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.runs:
            found.setdefault(row.spec.method_label, {}).setdefault(row.spec.loss_label, []).append(row)
    return [
        Group(
            label,
            {loss: max(same, key=_most_and_newest) for loss, same in losses.items()},
            sum(len(same) - 1 for same in losses.values()),
        )
        for label, losses in found.items()
    ]


def effect(group: Group, contrast: tuple[str, str], part: str, name: str) -> Effect | None:
    """One contrast in one measure of ``SemanticErrors``; None where a row or the measure is missing."""
    row, reference = (group.rows.get(loss) for loss in contrast)
    measure = imbalance(part, name)
    difference = compare(row, reference, measure) if row and reference else None
    base = reference.summary(measure) if reference else None
    if difference is None or base is None or (name != "r" and not base.mean):
        return None
    unit = 1.0 if name == "r" else base.mean / 100
    interval = difference.interval and (difference.interval[0] / unit, difference.interval[1] / unit)
    return Effect(group.label, difference.mean / unit, interval, difference)


def tally(groups: Sequence[Group], contrast: tuple[str, str], part: str, name: str) -> Tally | None:
    """How often the contrast lowers the measure over ``groups``; None where no group has it."""
    effects = [found for group in groups if (found := effect(group, contrast, part, name))]
    if not effects:
        return None
    return Tally(
        len(effects),
        lower=tuple(e.group for e in effects if e.value < 0),
        higher=tuple(e.group for e in effects if e.value > 0),
        told_lower=tuple(e.group for e in effects if e.value < 0 and e.told),
        told_higher=tuple(e.group for e in effects if e.value > 0 and e.told),
        median=median(e.value for e in effects),
    )


def median_run(row: Row) -> Result:
    """The run of median AUSUC, the lower one of two."""
    ordered = sorted(row.runs, key=lambda run: run.evaluation.metrics.AUSUC if run.evaluation else 0.0)
    return ordered[(len(ordered) - 1) // 2]


def epochs_of(group: Group) -> list[str]:
    """What was logged of the group's training by epoch; empty for closed forms."""
    histories = [run.selection.history for row in group.rows.values() for run in row.runs if run.selection]
    names = dict.fromkeys(key for history in histories for line in history if "epoch" in line for key in line)
    return [name for name in names if name != "epoch"]


def criterion_of(group: Group) -> str:
    """What the histories of the group's runs call the criterion on held-out images."""
    runs = (run for row in group.rows.values() for run in row.runs)
    return next(f"held-out {run.selection.criterion}" for run in runs if run.selection)


def most_and_least(groups: Sequence[Group]) -> list[Group]:
    """The groups whose std over unseen semantics the studied loss lowers most and least, of those with errors.

    Groups with the suite's defaults are preferred to others: there the losses differ in nothing else.
    """
    whole = [group for group in groups if all(has_errors(group, loss) for loss in (REFERENCE, STUDIED))]
    candidates = [group for group in whole if group.label == group.method] or whole
    change = {
        group.label: found.value for group in candidates if (found := effect(group, CONTRASTS[0], "unseen", "std"))
    }
    ordered = sorted((group for group in candidates if group.label in change), key=lambda g: change[g.label])
    return ordered if len(ordered) < 2 else [ordered[0], ordered[-1]]


def in_detail(results: Sequence[Result]) -> set[str]:
    """The keys (``Spec.key``) of the runs whose errors and logged terms a report of all of ``results`` draws."""
    groups = (group for rows in ordered_boards(results).values() for group in most_and_least(grouped(rows)))
    rows = (row for group in groups for row in group.rows.values())
    return {run.spec.key for row in rows for run in row.runs}


def runs_of_one_split(row: Row) -> list[Result]:
    """The runs of the row's first partition of the classes: only these share their order of classes."""
    return [run for run in row.runs if run.spec.partition == row.runs[0].spec.partition]


def has_errors(group: Group, loss: str) -> bool:
    """The runs of ``loss`` hold their error matrices."""
    row = group.rows.get(loss)
    return row is not None and all(
        run.evaluation and run.evaluation.imbalance and run.evaluation.imbalance.errors
        for run in runs_of_one_split(row)
    )


def mean_errors(row: Row) -> Matrix:
    """(C, A) the error matrix, averaged over the runs of one partition; ``has_errors`` must hold."""
    reports = [run.evaluation.imbalance for run in runs_of_one_split(row) if run.evaluation]
    matrices = [decode(report.errors) for report in reports if report and report.errors]
    mean: Matrix = np.mean(matrices, axis=0)
    return mean


def classes(row: Row) -> list[ClassAccuracy]:
    """The classes in the order of the error matrix, with accuracies averaged over the runs of one partition."""
    columns = zip(*(run.evaluation.per_class for run in runs_of_one_split(row) if run.evaluation), strict=True)
    return [
        same[0].model_copy(
            update={name: _mean(getattr(c, name) for c in same) for name in ("T1", "gzsl", "calibrated")}
        )
        for same in columns
    ]


def trend(values: Matrix, errors: Matrix, bins: int = 10) -> tuple[Matrix, Matrix]:
    """Mean value and mean error of elements in up to ``bins`` groups of about equal size, by value.

    Equal values stay together: where many are 0, the first group is larger.
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    group = np.searchsorted(edges, values, side="left")
    counts = np.bincount(group, minlength=len(edges) + 1)
    sums = [np.bincount(group, weights=w, minlength=len(edges) + 1)[counts > 0] for w in (values, errors)]
    return sums[0] / counts[counts > 0], sums[1] / counts[counts > 0]


def _most_and_newest(row: Row) -> tuple[int, str, str]:
    return len(row.runs), max(str(run.provenance.get("started", "")) for run in row.runs), row.key


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
