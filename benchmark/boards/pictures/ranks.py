"""How methods rank over data sets, as one picture: an SVG that is the same on every machine."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from benchmark.boards.comparison import Ranking, rankings
from benchmark.boards.pictures.svg import LINE, NAMES, WIDTH, lines_of, picture, rule, words
from benchmark.boards.rows import Board, Row
from benchmark.boards.view import ACCURACIES, by_interest, name_of, unseen_classes
from benchmark.registries import LOSSES

NAME = "ranks.svg"
#: By what methods are ranked.
MEASURE = "AUSUC"
#: Of which rows the picture is: the loss, and whether they were tuned.
DRAWN = (LOSSES.absent, False)
#: With fewer data sets no test is shown: Friedman's and Nemenyi's are called weak (Demšar 2006 asks for more than ten).
FEW_DATASETS = 10

#: Lengths in pixels.
_TOP, _BOTTOM, _RIGHT = 92, 34, 24
#: Colours of Okabe and Ito (colour-blind safe); each data set has a shape of its own too.
_STYLE = """
.mean { stroke: #1a212b; stroke-width: 3 } .of { stroke-width: 1.4; fill: none }
.c0 { stroke: #0072b2 } .c1 { stroke: #b84a00 } .c2 { stroke: #007a58 } .c3 { stroke: #a8487f } .c4 { stroke: #566070 }
@media (prefers-color-scheme: dark) {
  .mean { stroke: #e6eaf0 }
  .c0 { stroke: #56b4e9 } .c1 { stroke: #f0a030 } .c2 { stroke: #2cc39a } .c3 { stroke: #e59bc6 }
  .c4 { stroke: #a3aebd }
}
"""
#: Around (0, 0): a circle, a square, a diamond, and triangles.
_SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8l4.8 4.8-4.8 4.8-4.8-4.8z",
    "M0-4.6l4.4 7.8h-8.8z",
    "M0 4.6l4.4-7.8h-8.8z",
)

Boards = Mapping[Board, Sequence[Row]]


def compared(boards: Boards) -> Boards:
    """The boards with runs that are compared over data sets."""
    return {board: rows for board, rows in boards.items() if board.comparable and any(row.runs for row in rows)}


def ranked(boards: Boards) -> dict[tuple[str, bool], Ranking]:
    """(loss, whether tuned) -> how methods rank over the data sets of ``boards``; but for where too few take part."""
    ran = {board: [row for row in rows if row.runs] for board, rows in boards.items()}
    return {group: found for group, found in rankings(ran, ACCURACIES[MEASURE]).items() if found}


def nested(boards: Boards) -> list[str]:
    """The data sets whose unseen classes are among those of another one, or the other way round."""
    of_dataset: dict[str, set[str]] = {}
    for board, rows in boards.items():
        of_dataset.setdefault(board.dataset, set()).update(unseen_classes(rows))
    return [
        name
        for name, classes in of_dataset.items()
        if any(classes <= others or classes >= others for other, others in of_dataset.items() if other != name)
    ]


def render(boards: Boards) -> dict[str, str]:
    """The picture, of methods as published: its name -> SVG; nothing where too few of them can be ranked."""
    real = compared({board: rows for board, rows in by_interest(boards).items() if not board.simulated})
    found = ranked(real).get(DRAWN)
    if not found:
        return {}
    names = {row.spec.method_label: name_of(row) for rows in real.values() for row in rows}
    return {NAME: _picture(found, [names[label] for label in found.ranks])}


def _picture(found: Ranking, names: Sequence[str]) -> str:
    bottom = _TOP + LINE * len(names)
    title = f"Ranks in {MEASURE} under {LOSSES.absent}, 1 being the best: of each data set, and their mean"

    def x(rank: float) -> float:
        return NAMES + 14 + (WIDTH - NAMES - 14 - _RIGHT) * (rank - 1) / (len(names) - 1)

    drawn = [*_legend(found.datasets), *lines_of(names, _TOP)]
    for rank in range(1, len(names) + 1):
        drawn.append(rule(x(rank), _TOP, bottom))
        drawn += [*words(x(rank), _TOP - 6, str(rank), "muted"), *words(x(rank), bottom + 16, str(rank), "muted")]
    for i, (name, label) in enumerate(zip(names, found.ranks, strict=True)):
        y = _TOP + LINE * (i + 0.5)
        said = ", ".join(f"{d} {r:g}" for d, r in zip(found.datasets, found.positions[label], strict=True))
        drawn.append(f"<g><title>{html.escape(f'{name}: mean {found.ranks[label]:.1f}; {said}')}</title>")
        drawn.append(rule(x(found.ranks[label]), y - 7, y + 7, "mean"))
        drawn += _marks([x(rank) for rank in found.positions[label]], y)
        drawn.append("</g>")
    return picture(title, bottom + _BOTTOM, _STYLE, drawn)


def _legend(datasets: Sequence[str]) -> list[str]:
    drawn = [rule(14, 36, 50, "mean"), *words(24, 48, "mean", anchor="start")]
    for k, dataset in enumerate(datasets):
        left = 90 + 100 * k
        drawn += [_mark(k, left, 43), *words(left + 10, 48, dataset, anchor="start")]
    return drawn


def _marks(xs: Sequence[float], y: float) -> list[str]:
    """A mark for each data set, those at the same place side by side."""
    drawn = []
    for k, x in enumerate(xs):
        same = [j for j, other in enumerate(xs) if other == x]
        drawn.append(_mark(k, x + 10 * (same.index(k) - (len(same) - 1) / 2), y))
    return drawn


def _mark(k: int, x: float, y: float) -> str:
    n = len(_SHAPES)
    return f'<path class="of c{k % n}" d="{_SHAPES[k % n]}" transform="translate({x:.1f} {y:.1f})"/>'
