"""The boards as plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tabulate import tabulate

from benchmark.boards.comparison import Comparison, comparisons
from benchmark.boards.rows import Board, Row, boards, cost, imbalance
from benchmark.boards.view import ACCURACIES, TESTED, in_order, tags
from benchmark.boards.wording import compared_count, count, difference, mean, mean_std
from benchmark.registries import LOSSES
from benchmark.results.record import Result


def terminal_table(results: Iterable[Result], against: Iterable[Result]) -> str:
    """The rows of ``results`` as plain text, board by board, with their differences to the reference loss.

    Args:
        results: the runs to show.
        against: all stored runs, among which the reference is looked for too.
    """
    shown = [run for run in results if run.status == "ok"]
    newest = {(run.spec.key, run.seed): run for run in [*against, *shown]}
    references = boards(newest.values())
    return "\n".join(_board(board, in_order(rows), references[board]) for board, rows in boards(shown).items())


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]], left: Collection[int] = (0, 1)) -> str:
    """Columns of plain text; those that are not ``left`` hold numbers."""
    sides = ["left" if column in left else "right" for column in range(len(head))]
    # As a head of the table's own, it would be two characters wider.
    return tabulate([head, *lines], tablefmt="plain", colalign=sides, disable_numparse=True)


def _board(board: Board, rows: Sequence[Row], references: Sequence[Row]) -> str:
    said = tags(board, simulated=" {}", on_test=" {}").upper()
    title = f"{board.dataset}{said} (features {board.features}, revision {board.revision}, split {board.partition})"
    measures = {name.replace("calibrated", "cal"): (measure, 1) for name, measure in ACCURACIES.items()}
    measures |= {f"{name} unseen": (imbalance("unseen", name), 2) for name in ("r", "spread")}
    lines = [
        [
            *_name(row),
            count(row.pairs),
            *(mean_std(row, measure, digits).replace(" ", "") for measure, digits in measures.values()),
            mean(row, cost("fit_s")),
        ]
        for row in rows
    ]
    parts = [title, aligned(["method", "loss", "n", *measures, "fit s"], lines)]
    compared = comparisons(rows, TESTED, references)
    return "\n".join([*parts, *_differences([c for c in compared if c.differences]), *_without(compared)]) + "\n"


def _differences(compared: Sequence[Comparison]) -> list[str]:
    if not compared:
        return []
    lines = [
        [*_name(c.row), compared_count(c), *(difference(c.differences.get(name)) for name in TESTED)] for c in compared
    ]
    return [
        f"minus {LOSSES.reference}, with p of a paired t-test, adjusted by Holm over this table:",
        aligned(["method", "loss", "n", *(f"Δ {name}" for name in TESTED)], lines),
    ]


def _without(compared: Sequence[Comparison]) -> list[str]:
    """What to do about each row that has nothing to be compared with."""
    reference = LOSSES.reference
    return [
        f"{' '.join(_name(c.row))}: no {reference} runs of these settings and seeds stored; add --loss {reference}"
        for c in compared
        if not c.differences
    ]


def _name(row: Row) -> tuple[str, str]:
    return row.spec.method_label, row.spec.loss_label
