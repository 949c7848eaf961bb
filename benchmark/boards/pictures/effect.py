"""What the studied loss changes in every method, as one picture: an SVG that is the same on every machine."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmark.boards.comparison import bootstrap, clear_of_zero, comparisons
from benchmark.boards.pictures.svg import LINE, NAMES, WIDTH, lines_of, picture, rule, words
from benchmark.boards.rows import Board, Row
from benchmark.boards.view import ACCURACIES, by_interest, in_order, name_of
from benchmark.boards.wording import between
from benchmark.registries import LOSSES

NAME = "effect.svg"
#: What is compared, and what the bootstrap calls it.
MEASURE, BOOTSTRAPPED = "H calibrated", "H_calibrated"
#: The loss whose effect is drawn, as the user types it.
STUDIED = LOSSES.studied.contrasts[0][0]

#: Lengths in pixels.
_TOP, _BOTTOM, _GAP = 92, 60, 18
#: Colours of Okabe and Ito (colour-blind safe).
_STYLE = """
.default { stroke: #0072b2 } .default.told { fill: #0072b2 }
.tuned { stroke: #b84a00 } .tuned.told { fill: #b84a00 }
.untold { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  .default { stroke: #56b4e9 } .default.told { fill: #56b4e9 }
  .tuned { stroke: #f0a030 } .tuned.told { fill: #f0a030 }
  .untold { fill: #11151b }
}
"""


class Effect(NamedTuple):
    """What the studied loss changes in one row's calibrated H, in percentage points.

    Attributes:
        row: the row with the studied loss.
        mean: the mean paired difference to the reference.
        interval: its 95 % bootstrap interval over seeds and classes.
    """

    row: Row
    mean: float
    interval: tuple[float, float] | None

    @property
    def kind(self) -> str:
        """How it looks: that of default settings or of tuned ones, told from 0 or not."""
        return f"{'tuned' if self.row.spec.tuned else 'default'} {'told' if self.told else 'untold'}"

    @property
    def told(self) -> bool:
        """The interval leaves 0 out."""
        return clear_of_zero(self.interval)


def effects(boards: Mapping[Board, Sequence[Row]]) -> dict[str, list[Effect]]:
    """Data set -> what changes there, on the boards of real data with the strict protocol and the proposed split."""
    found: dict[str, list[Effect]] = {}
    for board, rows in by_interest(boards).items():
        if board.simulated or not board.comparable:
            continue
        studied = [row for row in rows if row.runs and row.spec.loss_label == STUDIED]
        for row, differences, reference in comparisons(studied, {MEASURE: ACCURACIES[MEASURE]}, rows):
            if reference and MEASURE in differences:
                interval = bootstrap(row, reference, BOOTSTRAPPED)
                found.setdefault(board.dataset, []).append(Effect(row, differences[MEASURE].mean, interval))
    return found


def tally(found: Sequence[Effect]) -> tuple[str, str, str]:
    """``higher in 9 of 20``, ``lower in 11``, and ``clear of 0: 2 and 1``."""
    higher, lower = ([e for e in found if sign * e.mean > 0] for sign in (1, -1))
    return (
        f"higher in {len(higher)} of {len(found)}",
        f"lower in {len(lower)}",
        f"clear of 0: {sum(e.told for e in higher)} and {sum(e.told for e in lower)}",
    )


def render(boards: Mapping[Board, Sequence[Row]]) -> dict[str, str]:
    """The picture, a line a method and a column a data set: its name -> SVG; nothing where nothing is compared."""
    columns = effects(boards)
    return {NAME: _picture(columns)} if columns else {}


def _picture(columns: Mapping[str, Sequence[Effect]]) -> str:
    names = list(dict.fromkeys(map(name_of, in_order(e.row for found in columns.values() for e in found))))
    bottom = _TOP + LINE * len(names)
    scale = _Scale(columns)
    losses = f"{LOSSES.studied.title} minus {LOSSES[LOSSES.reference].title}"
    title = f"{losses} in calibrated H, in percentage points, with 95 % intervals over seeds and classes"
    drawn = [*_legend(44), *lines_of(names, _TOP)]
    for column, dataset in enumerate(columns):
        drawn += words(scale.x(column, 0), _TOP - 24, dataset, "head")
        drawn += [*_axis(scale, column, bottom), *_column(scale, column, columns[dataset], names)]
        for i, line in enumerate(tally(columns[dataset])):
            drawn += words(scale.x(column, 0), bottom + 18 + 16 * i, line)
    return picture(title, bottom + _BOTTOM, _STYLE, drawn)


class _Scale:
    """Where a value of a column lies: all columns share the scale, and are as wide."""

    def __init__(self, columns: Mapping[str, Sequence[Effect]]) -> None:
        ends = [abs(end) for found in columns.values() for e in found for end in (e.mean, *(e.interval or ()))]
        self.limit: int = math.ceil(max(*ends, 1.0))
        self._pitch = (WIDTH - NAMES) / len(columns)

    def x(self, column: int, value: float) -> float:
        half = (self._pitch - _GAP) / 2
        return NAMES + self._pitch * (column + 0.5) + half * value / self.limit


def _column(scale: _Scale, column: int, found: Sequence[Effect], names: Sequence[str]) -> list[str]:
    drawn = []
    for i, name in enumerate(names):
        same = [effect for effect in found if name_of(effect.row) == name]
        for k, effect in enumerate(same, start=1):
            drawn += _effect(effect, scale, column, _TOP + LINE * (i + k / (len(same) + 1)))
    return drawn


def _axis(scale: _Scale, column: int, bottom: float) -> list[str]:
    step = next(step for step in (1, 2, 5, 10, 20, 50) if scale.limit < 3 * step)
    drawn = []
    for value in (-2 * step, -step, 0, step, 2 * step):
        if abs(value) > scale.limit:
            continue
        x = scale.x(column, value)
        drawn += [
            rule(x, _TOP, bottom, "rule" if value else "zero"),
            *words(x, _TOP - 6, f"{value:+d}" if value else "0", "muted"),
        ]
    return drawn


def _effect(effect: Effect, scale: _Scale, column: int, y: float) -> list[str]:
    said = f"{name_of(effect.row)}, {'tuned' if effect.row.spec.tuned else 'default settings'}: {effect.mean:+.2f}"
    drawn = [f"<g><title>{html.escape(said + between(effect.interval))}</title>"]
    if effect.interval:
        low, high = (scale.x(column, end) for end in effect.interval)
        drawn.append(f'<line class="{effect.kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    return [*drawn, _marker(scale.x(column, effect.mean), y, effect.kind), "</g>"]


def _marker(x: float, y: float, kind: str) -> str:
    """A circle for default settings, a diamond for tuned ones."""
    if kind.startswith("default"):
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.2" stroke-width="1.4"/>'
    return f'<path class="{kind}" d="M{x:.1f} {y - 4.2:.1f}l4.2 4.2-4.2 4.2-4.2-4.2z" stroke-width="1.4"/>'


def _legend(y: float) -> list[str]:
    kinds = {"default untold": "default settings", "tuned untold": "tuned", "default told": "filled: clear of 0"}
    drawn = []
    for i, (kind, said) in enumerate(kinds.items()):
        x = 8 + 130 * i
        drawn += [_marker(x, y - 4, kind), *words(x + 10, y, said, anchor="start")]
    return drawn
