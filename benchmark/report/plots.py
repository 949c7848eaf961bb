"""The pictures of a report: numbers in, a matplotlib figure out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmark.boards.rows import Row, imbalance
from benchmark.boards.view import ERROR_UNIT
from benchmark.report.analysis import (
    CLAIMED,
    CONTRASTS,
    REFERENCE,
    Group,
    classes,
    criterion_of,
    effect,
    epochs_of,
    median_run,
    trend,
)
from benchmark.report.canvas import (
    CLASS_STYLES,
    Style,
    grid,
    legend,
    legend_columns,
    loss_handles,
    outer_labels,
    panels,
    styles,
)
from benchmark.results.error_matrix import Matrix

if TYPE_CHECKING:  # its libraries take seconds, which pictures of runs need not wait for
    from benchmark.report.inside import Panel

#: The most classes of a confusion matrix that has its percentages written into it.
NUMBERED = 15
#: The most letters of a class's name.
LONGEST = 32

# The claims


def claims(title: str, groups: Sequence[Group], part: str) -> Figure:
    """A row a group, a column a measure of the error over semantics: what each contrast changes, with its interval."""
    present = [c for c in CONTRASTS if any(effect(group, c, part, "std") for group in groups)]
    figure, axes = grid(title, 1, len(CLAIMED), 1.4 + (0.12 + 0.09 * len(present)) * len(groups), sharey=True)
    for axis, name in zip(axes, CLAIMED, strict=True):
        axis.axvline(0, color="0.3", linewidth=0.8)
        for i, contrast in enumerate(present):
            color, face, marker = _contrast_style(contrast)
            for y, group in enumerate(groups):
                found = effect(group, contrast, part, name)
                if found is None:
                    continue
                at = y + 0.2 * (i - (len(present) - 1) / 2)
                if found.interval:
                    axis.plot(found.interval, [at, at], color=color, linewidth=1.0)
                axis.plot([found.value], [at], marker, color=color, markerfacecolor=face, markersize=4)
        axis.set_title({"mean": "mean error", "std": "std of the error", "r": "r of error and label value"}[name])
        axis.set_xlabel("difference in r" if name == "r" else "difference in % of the reference")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(visible=False, axis="y")
    for y in range(1, len(groups)):
        for axis in axes:
            axis.axhline(y - 0.5, color="0.88", linewidth=0.6)
    axes[0].set_yticks(range(len(groups)), [group.label for group in groups])
    axes[0].set_ylim(len(groups) - 0.5, -0.5)
    handles = []
    for contrast in present:
        color, face, marker = _contrast_style(contrast)
        label = " \N{MINUS SIGN} ".join(contrast)
        handles.append(Line2D([], [], color=color, markerfacecolor=face, marker=marker, linewidth=1.0, label=label))
    legend(figure, handles)
    return figure


def _contrast_style(contrast: tuple[str, str]) -> tuple[str, str, str]:
    """Colour, face colour and marker: those of the loss, hollow against another loss than the claim's."""
    style = styles(())[contrast[0]]
    return style.color, style.color if contrast[1] == REFERENCE else "white", style.marker


# Curves


def seen_unseen(title: str, groups: Sequence[Group], look: Mapping[str, Style]) -> Figure:
    """A panel a group: S over U of the run of median AUSUC, and the points of plain and of calibrated GZSL."""
    figure, axes = panels(title, groups, sharex=True, sharey=True)
    for axis, group in zip(axes, groups, strict=False):
        for loss, row in group.rows.items():
            color, line, marker = look[loss]
            run = median_run(row)
            if run.evaluation is None:
                continue
            metrics, curve = run.evaluation.metrics, run.evaluation.curve
            if curve:
                axis.plot(curve.unseen, curve.seen, color=color, linestyle=line)
            axis.plot([metrics.U], [metrics.S], marker, color=color, markerfacecolor="white", clip_on=False)
            axis.plot([metrics.U_calibrated], [metrics.S_calibrated], marker, color=color, clip_on=False)
        axis.set_title(group.label)
    axes[0].set_xlim(left=0)
    axes[0].set_ylim(bottom=0)
    outer_labels(axes, len(groups), "U in %", "S in %")
    points = {"plain": "white", "calibrated": "0.4"}
    marks = [
        Line2D([], [], color="0.4", markerfacecolor=face, marker="o", linestyle="None", label=label)
        for label, face in points.items()
    ]
    legend(figure, [*loss_handles(groups, look), *marks])
    return figure


def training(title: str, groups: Sequence[Group], look: Mapping[str, Style]) -> Figure:
    """A panel a group: the criterion on held-out images over epochs, and where the epoch was chosen."""
    figure, axes = panels(title, groups)
    for axis, group in zip(axes, groups, strict=False):
        _training_panel(axis, group, criterion_of(group), look)
        axis.set_title(group.label)
    outer_labels(axes, len(groups), "epoch", f"{criterion_of(groups[0])} in %")
    legend(figure, loss_handles(groups, look))
    return figure


def terms(title: str, group: Group, look: Mapping[str, Style]) -> Figure:
    """A panel for each thing that was logged of one group's training."""
    criterion = criterion_of(group)
    names = sorted(epochs_of(group), key=lambda name: name != criterion)
    figure, axes = panels(title, names)
    for axis, name in zip(axes, names, strict=False):
        _training_panel(axis, group, name, look)
        axis.set_title(f"{name} in %" if name == criterion else name)
    outer_labels(axes, len(names), "epoch", "")
    legend(figure, loss_handles([group], look))
    return figure


def _training_panel(axis: Axes, group: Group, name: str, look: Mapping[str, Style]) -> None:
    """The mean over runs, as long as all of them train; a marker at the mean chosen epoch, where it is not beyond."""
    for loss, row in group.rows.items():
        color, line, marker = look[loss]
        histories = [[h for h in run.selection.history if name in h] for run in row.runs if run.selection]
        length = min(map(len, histories), default=0)
        if not length:
            continue
        epochs = [line_["epoch"] for line_ in histories[0][:length]]
        values = np.mean([[h[name] for h in history[:length]] for history in histories], axis=0)
        axis.plot(epochs, values, color=color, linestyle=line)
        chosen = float(np.mean([run.selection.choice for run in row.runs if run.selection]))
        at = min(chosen, epochs[-1])
        axis.plot([at], [np.interp(at, epochs, values)], marker, color=color)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))


# Errors of one group


def error_over_value(
    title: str, values: Matrix, errors: Mapping[str, Matrix], rows: Mapping[str, Row], n_seen: int
) -> Figure:
    """A column a loss, unseen classes above seen ones: the error of each class and semantic over its label value.

    Args:
        title: what the figure shows.
        values: (C, A) label values.
        errors: loss -> (C, A) errors.
        rows: loss -> the row that the errors are of, for its r.
        n_seen: how many classes are seen; they come first.
    """
    figure, axes = grid(title, 2, len(errors), 4.1, sharex=True, sharey=True)
    positive = np.concatenate([matrix[np.isfinite(matrix) & (matrix > 0)] for matrix in errors.values()]) / ERROR_UNIT
    low, high = np.quantile(positive, [0.01, 0.9995])
    for axis_row, part, rows_of in zip(
        (axes[: len(errors)], axes[len(errors) :]),
        ("unseen", "seen"),
        (slice(n_seen, None), slice(n_seen)),
        strict=True,
    ):
        for axis, (loss, matrix) in zip(axis_row, errors.items(), strict=True):
            present = np.isfinite(matrix[rows_of])
            x, y = values[rows_of][present], matrix[rows_of][present] / ERROR_UNIT
            axis.plot(
                x, np.clip(y, low, high), ".", color="0.4", alpha=0.3, markersize=2, markeredgewidth=0, rasterized=True
            )
            style = styles(())[loss]
            middle, mean = trend(x, y)
            axis.plot(middle, mean, color=style.color, marker=style.marker, markersize=3.5)
            axis.set_yscale("log")
            summary = rows[loss].summary(imbalance(part, "r"))
            if summary:
                axis.text(
                    0.97,
                    0.04,
                    f"r = {summary.mean:.2f}",
                    transform=axis.transAxes,
                    ha="right",
                    va="bottom",
                    bbox={"facecolor": "white", "edgecolor": "None", "alpha": 0.8, "pad": 1.0},
                )
            if part == "unseen":
                axis.set_title(loss)
            else:
                axis.set_xlabel("label value")
        axis_row[0].set_ylabel(f"{part}: error in 1e-4")
    axes[0].set_ylim(low, high * 1.3)
    return figure


def error_matrices(
    title: str, errors: Mapping[str, Matrix], n_seen: int, order: npt.NDArray[np.int64], by: str
) -> Figure:
    """The error matrices on one colour scale; unseen classes above seen ones, each by mean error under the first loss.

    Args:
        title: what the figure shows.
        errors: loss -> (C, A) errors.
        n_seen: how many classes are seen; they come first.
        order: the order of the semantics.
        by: what they are ordered by.
    """
    first = np.nanmean(next(iter(errors.values())), axis=1)
    parts = [n_seen + np.argsort(-first[n_seen:], kind="stable"), np.argsort(-first[:n_seen], kind="stable")]
    rows = np.concatenate(parts)
    positive = np.concatenate([m[np.isfinite(m) & (m > 0)] for m in errors.values()]) / ERROR_UNIT
    low, high = np.quantile(positive, [0.05, 0.999])
    figure, axes = grid(
        title,
        math.ceil(len(errors) / 2),
        min(2, len(errors)),
        0.9 + 2.1 * math.ceil(len(errors) / 2),
        sharex=True,
        sharey=True,
    )
    steps = mpl.colormaps["cividis"].resampled(16)  # steps can be told apart, and compress
    image = None
    for axis, (loss, matrix) in zip(axes, errors.items(), strict=False):
        shown = matrix[rows][:, order] / ERROR_UNIT
        image = axis.imshow(shown, aspect="auto", cmap=steps, norm=LogNorm(low, high), interpolation="None")
        axis.axhline(len(parts[0]) - 0.5, color="white", linewidth=1.2)
        axis.set_title(loss)
        axis.grid(visible=False)
        axis.set_yticks(
            [(len(parts[0]) - 1) / 2, len(parts[0]) + (n_seen - 1) / 2], ["unseen", "seen"], rotation=90, va="center"
        )
        axis.tick_params(left=False)
    outer_labels(axes, len(errors), f"semantics, by {by}", "classes")
    if image is not None:
        figure.colorbar(image, ax=axes, label="squared error in 1e-4", extend="both", fraction=0.04, pad=0.02)
    return figure


def class_accuracy(title: str, group: Group, look: Mapping[str, Style]) -> Figure:
    """Unseen classes by T1 and seen ones by calibrated accuracy, each sorted by its mean over the losses."""
    figure, axes = grid(title, 2, 1, 5.6)
    by_loss = {loss: classes(row) for loss, row in group.rows.items()}
    for axis, seen, name, label in (
        (axes[0], False, "T1", "T1 in %"),
        (axes[1], True, "calibrated", "calibrated, in %"),
    ):
        found = {
            loss: {c.name: value for c in every if c.seen is seen and (value := getattr(c, name)) is not None}
            for loss, every in by_loss.items()
        }
        names = [c for c in next(iter(found.values())) if all(c in values for values in found.values())]
        names.sort(key=lambda c: -float(np.mean([values[c] for values in found.values()])))
        for x, c in enumerate(names):
            each = [values[c] for values in found.values()]
            axis.plot([x, x], [min(each), max(each)], color="0.75", linewidth=1.0, zorder=1)
        for loss, values in found.items():
            color, _, marker = look[loss]
            axis.plot(
                range(len(names)), [values[c] for c in names], marker, color=color, markersize=4, linestyle="None"
            )
        if len(names) <= 50:
            axis.set_xticks(
                range(len(names)),
                names,
                rotation=90 if len(names) > 8 else 30,
                ha="center" if len(names) > 8 else "right",
            )
        else:
            axis.set_xlabel(f"rank among {len(names)} classes")
        axis.set_ylim(-3, 103)
        axis.set_xlim(-0.7, len(names) - 0.3)
        axis.set_ylabel(f"{'seen' if seen else 'unseen'} classes: {label}")
        axis.grid(visible=False, axis="x")
    legend(figure, loss_handles([group], look, line=False))
    return figure


# A kept model

_POINT: dict[str, Any] = {
    "markersize": 3.2,
    "markeredgewidth": 0.25,
    "markeredgecolor": "0.2",
    "alpha": 0.7,
    "linestyle": "None",
    "rasterized": True,
}
_CENTRE: dict[str, Any] = {"markersize": 8, "markeredgewidth": 1.1, "markeredgecolor": "black", "linestyle": "None"}
#: What numbers stand on.
_PLATE: dict[str, Any] = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "None", "alpha": 0.75}


def confusion(title: str, names: Sequence[str], percentages: Matrix) -> Figure:
    """A row a class, a column what its images were taken for; the names stand at the rows, their numbers at both."""
    n = len(names)
    figure, (axis,) = grid(title, 1, 1, max(3.2, 1.4 + 0.125 * n))
    image = axis.imshow(percentages, aspect="auto", cmap=mpl.colormaps["Blues"].resampled(20), vmin=0, vmax=100)
    if n <= NUMBERED:
        for (row, column), value in np.ndenumerate(percentages):
            if value >= 0.5:
                color = "white" if value > 60 else "black"
                axis.text(column, row, f"{value:.0f}", ha="center", va="center", color=color)
    axis.set_yticks(range(n), [f"{_short(name)}  {number}" for number, name in enumerate(names, start=1)])
    step = 1 if n <= 2 * NUMBERED else 5
    axis.set_xticks(range(step - 1, n, step), [str(number + 1) for number in range(step - 1, n, step)])
    axis.set_xlabel("taken for")
    axis.grid(visible=False)
    figure.colorbar(image, ax=axis, label="images of the class in %", fraction=0.04, pad=0.02)
    return figure


def class_map(title: str, panels_: Sequence[Panel], names: Sequence[str], share: bool) -> Figure:
    """A panel for each of ``panels_``; each class has a colour, a marker and a number, at a large one where it lies.

    Args:
        title: what the figure shows.
        panels_: the points.
        names: the number and name of each class.
        share: the panels are parts of one map.
    """
    names = [_short(name) for name in names]
    n_lines = math.ceil(len(names) / legend_columns(names))
    figure, axes = grid(title, 1, len(panels_), 3.9 + 0.17 * n_lines, sharex=share, sharey=share)
    for axis, panel in zip(axes, panels_, strict=True):
        for c, style in zip(range(len(names)), CLASS_STYLES, strict=False):
            axis.plot(*panel.points[panel.labels == c].T, style.marker, color=style.color, **_POINT)
        for name, style, centre in zip(names, CLASS_STYLES, panel.centres, strict=False):
            axis.plot(*centre, style.marker, color=style.color, **_CENTRE)
            axis.annotate(name.partition(" ")[0], centre, (6, 6), textcoords="offset points", bbox=_PLATE)
        axis.set_title(panel.title)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.margins(0.08)
    handles = [
        Line2D([], [], color=style.color, marker=style.marker, linestyle="None", label=name)
        for name, style in zip(names, CLASS_STYLES, strict=False)
    ]
    legend(figure, handles)
    return figure


def _short(name: str) -> str:
    """A name that leaves room for the picture, and that matplotlib takes for no formula."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    return short.replace("$", r"\$")
