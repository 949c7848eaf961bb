"""Draws ``seen_unseen.png`` beside it: what each method on a board makes of seen and unseen classes, as published.

Run ``python -m docs.seen_unseen`` (needs ``pip install -e '.[report]'``) when rows of the board change.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.boards.rows import Row, boards, metric
from benchmark.boards.view import name_of
from benchmark.files import write_whole
from benchmark.registries import LOSSES
from benchmark.report.analysis import grouped, median_run
from benchmark.report.canvas import CLASS_STYLES, render
from benchmark.results.published import stored

PICTURE = Path(__file__).with_suffix(".png")
RESULTS = Path("leaderboards") / "results"
DATASET, FEATURES, PROTOCOL = "cub2010", "effnetlite0", "strict"
#: How many methods are named; the others are grey.
NAMED = 6
#: Where the axis of U ends.
RIGHT = 68


def rows() -> list[Row]:
    """The methods without a regression loss or settings given by hand, each in its better profile; the best first."""
    found = [
        rows
        for board, rows in boards(result for _, result in stored(RESULTS, DATASET)).items()
        if (board.dataset, board.features, board.protocol, board.partition) == (DATASET, FEATURES, PROTOCOL, "proposed")
    ]
    (board,) = found
    chosen = [group.rows[LOSSES.absent] for group in grouped(board) if LOSSES.absent in group.rows and not group.tuned]
    best: dict[str, Row] = {}
    for row in sorted(chosen, key=lambda row: -_ausuc(row)):
        if not row.spec.hparam_overrides:
            best.setdefault(row.spec.method, row)
    return list(best.values())


def draw() -> Figure:
    """S over U of each method's run of median AUSUC, with lines of equal H."""
    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axis = figure.subplots()
    methods = rows()
    for row in reversed(methods[NAMED:]):
        _curve(axis, row, color="0.82", linewidth=0.9, label="others" if row is methods[-1] else None)
    for row, look in zip(methods[:NAMED], CLASS_STYLES[1:], strict=False):
        label = f"{name_of(row)}: {_ausuc(row):.1f}"
        _curve(axis, row, color=look.color, linestyle=look.line, marker=look.marker, label=label)
    _equal_h(axis)
    axis.set_xlim(0, RIGHT)
    axis.set_ylim(0, 82)
    axis.set_xlabel("U: accuracy of unseen classes among all 200, in %")
    axis.set_ylabel("S: of seen classes, in %")
    figure.legend(loc="outside right center", frameon=False, handlelength=3.2, title="area under the curve")
    return figure


def _curve(axis: Axes, row: Row, marker: str | None = None, **look: object) -> None:
    """A method's curve; the mark is where its calibration, chosen on validation images, puts it."""
    run = median_run(row)
    assert run.evaluation is not None
    curve, metrics = run.evaluation.curve, run.evaluation.metrics
    assert curve is not None
    point = [int(np.argmin(np.abs(np.array(curve.unseen) - metrics.U_calibrated)))]
    axis.plot(curve.unseen, curve.seen, marker=marker, markevery=point, **look)  # type: ignore[arg-type]


def _equal_h(axis: Axes) -> None:
    for h in (30, 40, 50):
        u = np.linspace(h / 2 + 1, 100, 400)
        s = h * u / (2 * u - h)
        axis.plot(u, s, ":", color="0.6", linewidth=0.7, zorder=0)
        at = h * RIGHT / (2 * RIGHT - h) + 0.8
        axis.annotate(f"H = {h}", (RIGHT - 1, at), color="0.4", ha="right", va="bottom", fontsize=7)


def _ausuc(row: Row) -> float:
    summary = row.summary(metric("AUSUC"))
    assert summary is not None
    return summary.mean


def main() -> None:
    """Draw and write the picture."""
    write_whole(PICTURE, render(draw)[0])


if __name__ == "__main__":
    main()
