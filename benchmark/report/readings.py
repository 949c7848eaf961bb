"""What a report says in words: a paragraph a picture, each number computed from the runs that are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.boards.comparison import clear_of_zero, compare
from benchmark.boards.markup import code, table, text
from benchmark.boards.rows import Row, metric
from benchmark.boards.wording import NONE, count, plural
from benchmark.report.analysis import (
    CLAIMED,
    CONTRASTS,
    REFERENCE,
    STUDIED,
    Effect,
    Group,
    Tally,
    classes,
    effect,
    median_run,
    tally,
    trend,
)
from benchmark.results.error_matrix import Matrix

# The claims


def has_claim(group: Group, part: str) -> bool:
    """Two of its losses can be compared in the error over semantics."""
    return any(effect(group, contrast, part, "std") for contrast in CONTRASTS)


def claims(groups: Sequence[Group], part: str) -> str:
    """Are mean and spread of the error over semantics lower, does r fall, and where not: a line a contrast."""
    lines = []
    for contrast in CONTRASTS:
        found = {name: t for name in CLAIMED if (t := tally(groups, contrast, part, name))}
        if found:
            lower = ", ".join(_lower(name, t) for name, t in found.items())
            against = "; ".join(f"{n}: {_listed(t.told_higher)}" for n, t in found.items() if t.told_higher)
            higher = f"Higher: {against}." if against else "Higher: none."
            lines.append(f"- {_contrast(contrast)}: lower {lower}. {higher}")
    if not lines:
        return "No two of the compared losses were run with the same method."
    note = (
        f"On {part} classes, in how many methods each measure is lower; in brackets, in how many of them the interval "
        "lies below 0, or all runs fall alike; then the median change over methods. Higher: the methods whose interval "
        "lies above 0, or whose runs rise alike."
    )
    return "\n".join([note, "", *lines])


def _lower(name: str, found: Tally) -> str:
    change = f"{found.median:+.2f}" if name == "r" else f"{found.median:+.1f} %"
    return f"{name} in {len(found.lower)} of {found.groups} ({len(found.told_lower)}), {change}"


def effects_table(groups: Sequence[Group], part: str) -> str:
    """Each contrast in each group: n, and the paired difference of each measure with its interval."""
    lines = []
    for group in groups:
        for contrast in CONTRASTS:
            found = {name: effect(group, contrast, part, name) for name in CLAIMED}
            known = [e for e in found.values() if e]
            if known:
                cells = [_effect(found[name], 2 if name == "r" else 1) for name in CLAIMED]
                lines.append([text(group.label), _contrast(contrast), count(known[0].difference.pairs), *cells])
    return table(["method", "contrast", "n", "mean in %", "std in %", "r"], lines)


def _effect(found: Effect | None, digits: int) -> str:
    if found is None:
        return NONE
    if found.interval is None:
        return f"{found.value:+.{digits}f} ({'deterministic' if found.difference.constant else 'no test'})"
    return f"{found.value:+.{digits}f} [{found.interval[0]:+.{digits}f}, {found.interval[1]:+.{digits}f}]"


# Curves


def seen_unseen(groups: Sequence[Group]) -> str:
    """The largest areas, how calibration moves H, and what the studied loss does to the area."""
    rows = [(group, loss, row) for group in groups for loss, row in group.rows.items()]
    best = max(rows, key=lambda item: _mean(item[2], "AUSUC"))
    plain, calibrated = (np.mean([_mean(row, name) for *_, row in rows]) for name in ("H", "H_calibrated"))
    parts = [
        f"Highest AUSUC: {text(best[0].label)} with {code(best[1])}, {_mean(best[2], 'AUSUC'):.1f}.",
        f"On average over {plural(len(rows), 'row')}, calibration takes H from {plain:.1f} to {calibrated:.1f}.",
    ]
    pairs = [
        (group.rows[STUDIED], group.rows[REFERENCE]) for group in groups if {STUDIED, REFERENCE} <= group.rows.keys()
    ]
    found = [d for pair in pairs if (d := compare(*pair, metric("AUSUC")))]
    if found:
        told = [d for d in found if clear_of_zero(d.interval)]
        parts.append(
            f"AUSUC is higher with {code(STUDIED)} than with {code(REFERENCE)} in {sum(d.mean > 0 for d in found)} of "
            f"{plural(len(found), 'method')} ({sum(d.mean > 0 for d in told)} with an interval above 0), lower in "
            f"{sum(d.mean < 0 for d in found)} ({sum(d.mean < 0 for d in told)} below)."
        )
    without = sum(not ((run := median_run(row)).evaluation and run.evaluation.curve) for *_, row in rows)
    if without:
        parts.append(f"{without} of the {len(rows)} rows are of runs from before curves were stored: points alone.")
    return " ".join(parts)


def training(groups: Sequence[Group]) -> str:
    """When the epoch was chosen, how often at the last one that was allowed, and with which loss earlier."""
    runs = [run for group in groups for row in group.rows.values() for run in row.runs if run.selection]
    choices = [run.selection.choice for run in runs if run.selection]
    last = sum(c >= run.settings.get("epochs", np.inf) for c, run in zip(choices, runs, strict=True))
    parts = [
        f"The chosen epoch is {np.median(choices):.0f} in the median over {plural(len(runs), 'run')}; {last} of them "
        "chose the last epoch that they were allowed, and might have gained from more."
    ]
    chosen = {
        loss: [_choice(group.rows[loss]) for group in groups if {STUDIED, REFERENCE} <= group.rows.keys()]
        for loss in (REFERENCE, STUDIED)
    }
    if chosen[REFERENCE]:
        earlier = sum(r < m for m, r in zip(chosen[REFERENCE], chosen[STUDIED], strict=True))
        later = sum(r > m for m, r in zip(chosen[REFERENCE], chosen[STUDIED], strict=True))
        parts.append(
            f"Against {code(REFERENCE)}, {code(STUDIED)} stops earlier in {earlier} and later in {later} of "
            f"{plural(len(chosen[REFERENCE]), 'method')}."
        )
    return " ".join(parts)


def terms(group: Group) -> str:
    """The mean chosen epoch under each loss."""
    chosen = ", ".join(f"{code(loss)} {_choice(row):.1f}" for loss, row in group.rows.items())
    return f"Mean chosen epoch: {chosen}. Values of different losses are on different scales."


# Errors of one group


def error_over_value(values: Matrix, errors: Mapping[str, Matrix], n_seen: int) -> str:
    """How the mean error grows from the lowest to the highest tenth of label values, under each loss."""
    parts = []
    for part, rows in (("unseen", slice(n_seen, None)), ("seen", slice(n_seen))):
        said = []
        for loss, matrix in errors.items():
            present = np.isfinite(matrix[rows])
            _, means = trend(values[rows][present], matrix[rows][present])
            said.append(f"{code(loss)} {means[0] * 1e4:.1f} to {means[-1] * 1e4:.1f} (x {means[-1] / means[0]:.1f})")
        parts.append(f"{part}: " + ", ".join(said))
    return "Mean error in 1e-4 from the lowest to the highest group of label values: " + "; ".join(parts) + "."


def error_matrices(errors: Mapping[str, Matrix], n_seen: int) -> str:
    """How far the worst tenth of semantics lies above the mean, and in how many cells errors fall."""
    parts = []
    plain = errors[REFERENCE]
    for loss, matrix in errors.items():
        per_semantic = np.sort(np.nanmean(matrix[n_seen:], axis=0))
        worst = per_semantic[-math.ceil(len(per_semantic) / 10) :].mean() / per_semantic.mean()
        present = np.isfinite(plain) & np.isfinite(matrix)
        falls = (
            ""
            if loss == REFERENCE
            else f", lower than {code(REFERENCE)} in {100 * np.mean((matrix < plain)[present]):.0f} % of the cells"
        )
        parts.append(f"{code(loss)} {worst:.2f} times the mean{falls}")
    return f"Error of the worst tenth of semantics on unseen classes: {'; '.join(parts)}."


def class_accuracy(group: Group) -> str:
    """The spread over classes under each loss, and the classes that the studied one moves most up and most down."""
    parts = []
    for seen, name, title in (
        (False, "T1", "T1 of unseen classes"),
        (True, "calibrated", "Calibrated accuracy of seen classes"),
    ):
        values = {loss: _accuracies(row, seen, name) for loss, row in group.rows.items()}
        spread = ", ".join(f"{code(loss)} {np.std(list(v.values())):.1f}" for loss, v in values.items())
        parts.append(f"{title}, standard deviation over classes: {spread}.")
        if {REFERENCE, STUDIED} <= values.keys():
            change = {c: values[STUDIED][c] - before for c, before in values[REFERENCE].items()}
            up, down = max(change, key=lambda c: change[c]), min(change, key=lambda c: change[c])
            parts.append(
                f"From {code(REFERENCE)} to {code(STUDIED)}: "
                f"{text(up)} {change[up]:+.1f}, {text(down)} {change[down]:+.1f}."
            )
    return " ".join(parts)


def _accuracies(row: Row, seen: bool, name: str) -> dict[str, float]:
    return {c.name: value for c in classes(row) if c.seen is seen and (value := getattr(c, name)) is not None}


def _mean(row: Row, name: str) -> float:
    summary = row.summary(metric(name))
    return summary.mean if summary else float("nan")


def _choice(row: Row) -> float:
    return float(np.mean([run.selection.choice for run in row.runs if run.selection]))


def _contrast(contrast: tuple[str, str]) -> str:
    return " \N{MINUS SIGN} ".join(map(code, contrast))


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(text, labels))
