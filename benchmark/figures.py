"""The pictures of a report: numbers in, a matplotlib figure out, and its bytes as PNG and SVG.

Colours are those of Okabe and Ito (colour-blind safe); each loss has a marker and a line style of its own too, so that
a grey print tells them apart. A figure is 7 inches wide, a page's text width, with fonts of 8 points and more.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from benchmark.analysis import (
    CLAIMED,
    CONTRASTS,
    MATCHED,
    MEAN_ONE,
    PLAIN,
    REBALANCED,
    Group,
    Matrix,
    classes,
    effect,
    epochs_of,
    median_run,
    trend,
)
from benchmark.statistics import Row, imbalance
from benchmark.train import CRITERION

WIDTH = 7.0
_DPI = 130
#: Of clouds of points inside an SVG.
_RASTER_DPI = 90
#: Squared errors between unit vectors are shown in this unit.
_UNIT = 1e-4
#: The selection's criterion, as a history logs it.
_HELD_OUT = f"held-out {CRITERION}"
_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}


class Style(NamedTuple):
    """How a loss looks."""

    color: str
    line: Any
    marker: str


_STYLES = {
    "none": Style("#000000", ":", "X"),
    PLAIN: Style("#0072B2", "-", "o"),
    MATCHED: Style("#009E73", "--", "s"),
    REBALANCED: Style("#D55E00", "-.", "^"),
    MEAN_ONE: Style("#CC79A7", (0, (6, 1, 1, 1, 1, 1)), "D"),
}
_MORE = (
    Style("#56B4E9", (0, (4, 2)), "v"),
    Style("#E69F00", (0, (1, 1)), "P"),
    Style("#999999", (0, (8, 2)), "*"),
    Style("#F0E442", (0, (3, 1, 1, 1)), "p"),
)


def styles(losses: Iterable[str]) -> dict[str, Style]:
    """A style for each loss: the same for the compared ones on every figure, the others in the order of ``losses``."""
    others = [loss for loss in losses if loss not in _STYLES]
    return _STYLES | {loss: _MORE[i % len(_MORE)] for i, loss in enumerate(others)}


def render(draw: Callable[[], Figure]) -> tuple[bytes, bytes]:
    """The figure as PNG and SVG: the same bytes each time, given the same fonts and version of matplotlib."""
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever the user has set
        mpl.rcParams.update(_RC)
        figure = draw()
        FigureCanvasAgg(figure)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
        figure.savefig(svg, format="svg", dpi=_RASTER_DPI, metadata={"Date": None, "Creator": None})
    # 256 colours are enough for pictures like these, and a third of the bytes.
    palette, small = Image.open(png).convert("RGB").quantize(256, dither=Image.Dither.NONE), io.BytesIO()
    palette.save(small, format="png", optimize=True)
    return small.getvalue(), _compact(svg.getvalue())


def _compact(svg: bytes) -> bytes:
    """Without white space between tags, and with coordinates to a hundredth of a point: two thirds of the bytes."""
    svg = re.sub(rb">\s+<", b"><", svg)
    return re.sub(rb' (?:d|x|y)="[^"]*"', lambda found: re.sub(rb"(\.\d\d)\d+", rb"\1", found.group()), svg)


# The claims


def claims(title: str, groups: Sequence[Group], part: str) -> Figure:
    """A row a group, a column a figure of the error over semantics: what each contrast changes, with its interval."""
    present = [c for c in CONTRASTS if any(effect(group, c, part, "std") for group in groups)]
    figure, axes = _grid(title, 1, len(CLAIMED), 1.4 + (0.12 + 0.09 * len(present)) * len(groups), sharey=True)
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
    _legend(figure, handles, 2)
    return figure


def _contrast_style(contrast: tuple[str, str]) -> tuple[str, str, str]:
    """Colour, face colour and marker: those of the loss, hollow against another reference than ``mse``."""
    style = _STYLES[contrast[0]]
    return style.color, style.color if contrast[1] == PLAIN else "white", style.marker


# Curves


def seen_unseen(title: str, groups: Sequence[Group], look: Mapping[str, Style]) -> Figure:
    """A panel a group: S over U of the run of median AUSUC, and the points of plain and of calibrated GZSL."""
    figure, axes = _panels(title, groups, sharex=True, sharey=True)
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
    _outer_labels(axes, len(groups), "U in %", "S in %")
    points = {"plain": "white", "calibrated": "0.4"}
    marks = [
        Line2D([], [], color="0.4", markerfacecolor=face, marker="o", linestyle="none", label=label)
        for label, face in points.items()
    ]
    _legend(figure, [*_loss_handles(groups, look), *marks], 4)
    return figure


def training(title: str, groups: Sequence[Group], look: Mapping[str, Style]) -> Figure:
    """A panel a group: the criterion on held-out images over epochs, and where the epoch was chosen."""
    figure, axes = _panels(title, groups)
    for axis, group in zip(axes, groups, strict=False):
        _training_panel(axis, group, _HELD_OUT, look)
        axis.set_title(group.label)
    _outer_labels(axes, len(groups), "epoch", f"{_HELD_OUT} in %")
    _legend(figure, _loss_handles(groups, look), 5)
    return figure


def terms(title: str, group: Group, look: Mapping[str, Style]) -> Figure:
    """A panel for each thing that was logged of one group's training."""
    names = sorted(epochs_of(group), key=lambda name: name != _HELD_OUT)
    figure, axes = _panels(title, names)
    for axis, name in zip(axes, names, strict=False):
        _training_panel(axis, group, name, look)
        axis.set_title(f"{name} in %" if name == _HELD_OUT else name)
    _outer_labels(axes, len(names), "epoch", "")
    _legend(figure, _loss_handles([group], look), 5)
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
        title: of the figure.
        values: (C, A) label values.
        errors: loss -> (C, A) errors.
        rows: loss -> the row that the errors are of, for its r.
        n_seen: how many classes are seen; they come first.
    """
    figure, grid = _grid(title, 2, len(errors), 4.1, sharex=True, sharey=True)
    positive = np.concatenate([matrix[np.isfinite(matrix) & (matrix > 0)] for matrix in errors.values()]) / _UNIT
    low, high = np.quantile(positive, [0.01, 0.9995])
    for axis_row, part, rows_of in zip(
        (grid[: len(errors)], grid[len(errors) :]),
        ("unseen", "seen"),
        (slice(n_seen, None), slice(n_seen)),
        strict=True,
    ):
        for axis, (loss, matrix) in zip(axis_row, errors.items(), strict=True):
            present = np.isfinite(matrix[rows_of])
            x, y = values[rows_of][present], matrix[rows_of][present] / _UNIT
            axis.plot(
                x, np.clip(y, low, high), ".", color="0.4", alpha=0.3, markersize=2, markeredgewidth=0, rasterized=True
            )
            style = _STYLES[loss]
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
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
                )
            if part == "unseen":
                axis.set_title(loss)
            else:
                axis.set_xlabel("label value")
        axis_row[0].set_ylabel(f"{part}: error in 1e-4")
    grid[0].set_ylim(low, high * 1.3)
    return figure


def error_matrices(
    title: str, errors: Mapping[str, Matrix], n_seen: int, order: npt.NDArray[np.int64], by: str
) -> Figure:
    """The error matrices on one colour scale; unseen classes above seen ones, each by mean error under the first loss.

    Args:
        title: of the figure.
        errors: loss -> (C, A) errors.
        n_seen: how many classes are seen; they come first.
        order: the order of the semantics.
        by: what they are ordered by.
    """
    first = np.nanmean(next(iter(errors.values())), axis=1)
    parts = [n_seen + np.argsort(-first[n_seen:], kind="stable"), np.argsort(-first[:n_seen], kind="stable")]
    rows = np.concatenate(parts)
    positive = np.concatenate([m[np.isfinite(m) & (m > 0)] for m in errors.values()]) / _UNIT
    low, high = np.quantile(positive, [0.05, 0.999])
    figure, axes = _grid(
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
        shown = matrix[rows][:, order] / _UNIT
        image = axis.imshow(shown, aspect="auto", cmap=steps, norm=LogNorm(low, high), interpolation="none")
        axis.axhline(len(parts[0]) - 0.5, color="white", linewidth=1.2)
        axis.set_title(loss)
        axis.grid(visible=False)
        axis.set_yticks(
            [(len(parts[0]) - 1) / 2, len(parts[0]) + (n_seen - 1) / 2], ["unseen", "seen"], rotation=90, va="center"
        )
        axis.tick_params(left=False)
    _outer_labels(axes, len(errors), f"semantics, by {by}", "classes")
    if image is not None:
        figure.colorbar(image, ax=axes, label="squared error in 1e-4", extend="both", fraction=0.04, pad=0.02)
    return figure


def class_accuracy(title: str, group: Group, look: Mapping[str, Style]) -> Figure:
    """Unseen classes by T1 and seen ones by calibrated accuracy, each sorted by its mean over the losses."""
    figure, axes = _grid(title, 2, 1, 5.6)
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
                range(len(names)), [values[c] for c in names], marker, color=color, markersize=4, linestyle="none"
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
    _legend(figure, _loss_handles([group], look, line=False), 5)
    return figure


# Layout


def _grid(title: str, n_rows: int, n_columns: int, height: float, **share: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title)
    return figure, list(figure.subplots(n_rows, n_columns, squeeze=False, **share).flat)


def _panels(title: str, items: Sequence[object], **share: Any) -> tuple[Figure, list[Axes]]:
    """Small multiples, at most four in a line; those without an item are hidden."""
    columns = min(4, len(items))
    lines = math.ceil(len(items) / columns)
    figure, axes = _grid(title, lines, columns, 0.9 + 1.65 * lines if lines > 1 else 3.0, **share)
    for axis in axes[len(items) :]:
        axis.set_visible(False)
    return figure, axes


def _outer_labels(axes: Sequence[Axes], n: int, x: str, y: str) -> None:
    """Label the panels of the first column and those with nothing below."""
    specification = axes[0].get_subplotspec()
    columns = specification.get_gridspec().ncols if specification else 1
    for i, axis in enumerate(axes[:n]):
        if i % columns == 0:
            axis.set_ylabel(y)
        if i + columns >= n:
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)


def _loss_handles(groups: Sequence[Group], look: Mapping[str, Style], line: bool = True) -> list[Line2D]:
    drawn = {loss for group in groups for loss in group.rows}
    return [
        Line2D(
            [],
            [],
            color=look[loss].color,
            linestyle=look[loss].line if line else "none",
            marker=look[loss].marker,
            label=loss,
        )
        for loss in look
        if loss in drawn
    ]


def _legend(figure: Figure, handles: Sequence[Line2D], columns: int) -> None:
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(columns, len(handles)), frameon=False, handlelength=3.2
    )
