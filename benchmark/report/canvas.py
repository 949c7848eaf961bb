"""What all pictures of a report share: how losses look, panels and legends, and their bytes as PNG and SVG.

Colours are those of Okabe and Ito (colour-blind safe); each loss has a marker and a line style of its own too, so that
a grey print tells them apart. A picture is 7 inches wide, a page's text width, with fonts of 8 points and more.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from benchmark.registries import LOSSES
from benchmark.report.analysis import COMPARED, Group

WIDTH = 7.0
_DPI = 130
#: Inches that an entry of a legend takes beside its label, and a letter of that on average.
_HANDLE, _LETTER = 0.7, 0.06
#: Of clouds of points inside an SVG.
_RASTER_DPI = 90
#: In the form of a file ``matplotlibrc``.
_SETTINGS = """
font.family: sans-serif
font.sans-serif: DejaVu Sans
font.size: 8
axes.titlesize: 8.5
axes.labelsize: 8
xtick.labelsize: 8
ytick.labelsize: 8
legend.fontsize: 8
figure.titlesize: 9.5
axes.spines.top: False
axes.spines.right: False
axes.grid: True
grid.color: 0.9
grid.linewidth: 0.6
axes.axisbelow: True
lines.linewidth: 1.3
lines.markersize: 4.5
svg.fonttype: none
svg.hashsalt: report
"""
_RC: dict[Any, Any] = dict(line.split(": ") for line in _SETTINGS.split("\n") if line)


class Style(NamedTuple):
    """How a loss looks."""

    color: str
    line: Any
    marker: str


_STYLES = (
    Style("#000000", ":", "X"),
    Style("#0072B2", "-", "o"),
    Style("#009E73", "--", "s"),
    Style("#D55E00", "-.", "^"),
    Style("#CC79A7", (0, (6, 1, 1, 1, 1, 1)), "D"),
    Style("#56B4E9", (0, (4, 2)), "v"),
    Style("#E69F00", (0, (1, 1)), "P"),
    Style("#999999", (0, (8, 2)), "*"),
    Style("#F0E442", (0, (3, 1, 1, 1)), "p"),
)
#: How classes look, one beside the other: as the losses do, and one more.
CLASS_STYLES = (*_STYLES, Style("#332288", "-", "<"))


def styles(losses: Iterable[str]) -> dict[str, Style]:
    """A style for each loss to draw: the same for the compared ones in every picture, the others in the order given.

    Where there are more losses than styles, the compared ones alone are drawn.
    """
    fixed = (LOSSES.absent, *COMPARED)
    every = dict.fromkeys([*fixed, *losses])
    return dict(zip(every if len(every) <= len(_STYLES) else fixed, _STYLES, strict=False))


def render(draw: Callable[[], Figure]) -> tuple[bytes, bytes]:
    """The picture as PNG and SVG: the same bytes each time, given the same fonts and version of matplotlib."""
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


def grid(title: str, n_rows: int, n_columns: int, height: float, **share: Any) -> tuple[Figure, list[Axes]]:
    """A picture of so many panels, line by line; ``height`` in inches, ``share`` as ``Figure.subplots`` takes it."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title)
    return figure, list(figure.subplots(n_rows, n_columns, squeeze=False, **share).flat)


def panels(title: str, items: Sequence[object], **share: Any) -> tuple[Figure, list[Axes]]:
    """Small multiples, at most four in a line."""
    columns = min(4, len(items))
    lines = math.ceil(len(items) / columns)
    figure, axes = grid(title, lines, columns, 0.9 + 1.65 * lines if lines > 1 else 3.0, **share)
    return figure, axes


def outer_labels(axes: Sequence[Axes], n: int, x: str, y: str) -> None:
    """Label the panels of the first column and those with nothing below; hide those beyond the ``n`` in use."""
    specification = axes[0].get_subplotspec()
    columns = specification.get_gridspec().ncols if specification else 1
    for i, axis in enumerate(axes[:n]):
        if i % columns == 0:
            axis.set_ylabel(y)
        if i + columns >= n:
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)
    for axis in axes[n:]:
        axis.set_visible(False)


def loss_handles(groups: Sequence[Group], look: Mapping[str, Style], line: bool = True) -> list[Line2D]:
    """What a legend shows of the losses that the groups have; without a line, of markers alone."""
    drawn = {loss for group in groups for loss in group.rows}
    return [
        Line2D(
            [],
            [],
            color=look[loss].color,
            linestyle=look[loss].line if line else "None",
            marker=look[loss].marker,
            label=loss,
        )
        for loss in look
        if loss in drawn
    ]


def legend_columns(labels: Iterable[str]) -> int:
    """The columns of a legend with these labels that fit the picture's width."""
    lengths = [len(label) for label in labels]
    return min(len(lengths), max(1, int(WIDTH / (_HANDLE + _LETTER * max(lengths)))))


def legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """A legend below all panels."""
    columns = legend_columns(str(handle.get_label()) for handle in handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, handlelength=3.2)
