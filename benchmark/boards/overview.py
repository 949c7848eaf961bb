"""The overview of all boards as Markdown: what there is, and methods ranked over data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from benchmark.boards.comparison import Ranking, rankings
from benchmark.boards.markup import code, loss, method, simulated, table, text
from benchmark.boards.rows import Board, Measure, Row
from benchmark.boards.view import ACCURACIES, best_rows, in_order, marks_of, tags
from benchmark.boards.wording import NONE, mean, mean_std, plural
from benchmark.registries import LOSSES

NAME = "README.md"
#: With fewer data sets, Friedman's and Nemenyi's tests are called weak (Demšar 2006 asks for more than ten).
FEW_DATASETS = 10

INTRODUCTION = """
# Leaderboards

Each board shows zero-shot-learning methods, with their attribute-regression loss swapped, on one data set under one
protocol, feature set, data revision and way of splitting, which are never mixed. Every number is rendered from the run
files in `results/`, and each board ends with the commands that reproduce its rows.
"""

Boards = Mapping[Board, Sequence[Row]]


def overview(rows: Boards) -> str:
    """The page, of all boards: real data first."""
    shown = ""
    for is_simulated in (False, True):
        group = {board: found for board, found in rows.items() if board.simulated == is_simulated}
        strict = {b: found for b, found in group.items() if b.protocol == "strict" and b.partition == "proposed"}
        if group:
            any_board = next(iter(group))
            shown += f"\n## {tags(any_board, simulated='{} data') or 'Real data'}\n\n{_board_table(group)}\n"
        if any(row.runs for found in strict.values() for row in found):
            of = f"strict protocol, proposed split{simulated(any_board)}"
            shown += f"\n### T1 / calibrated H in percent, {of}\n\n{_matrix(strict)}\n"
            shown += f"\n### Mean rank in AUSUC over data sets, {of}\n\n{_ranks(strict)}\n"
    return INTRODUCTION + (shown or "\nNo results are stored yet.\n")


def file_of(board: Board) -> str:
    """The file that the board is in."""
    return board.dataset + ("-literature" if board.protocol == "literature" else "") + ".md"


def _board_table(rows: Boards) -> str:
    def best(found: Sequence[Row], measure: Measure) -> str:
        return "<br>".join(f"{method(r)} + {loss(r)}: {mean_std(r, measure, 1)}" for r in best_rows(found, measure))

    lines = [
        [
            _link(board),
            text(board.features),
            code(board.revision),
            tags(board, on_test="literature: {}") or board.protocol,
            board.partition,
            str(sum(bool(row.runs) for row in found)),
            str(sum(len(row.runs) for row in found)),
            best(found, ACCURACIES["AUSUC"]) or NONE,
            best(found, ACCURACIES["H calibrated"]) or NONE,
        ]
        for board, found in rows.items()
    ]
    head = ["board", "features", "revision", "protocol", "split", "rows", "runs", "best AUSUC", "best calibrated H"]
    return table(head, lines, left=(0, 1, 2, 3, 4, 7, 8))


def _matrix(rows: Boards) -> str:
    """Method and loss x board; rows of a board that differ in defaults alone share a cell."""
    lines: dict[tuple[str, str], dict[Board, list[str]]] = {}
    for row in in_order(row for found in rows.values() for row in found if row.runs):
        values = " / ".join(mean(row, ACCURACIES[name]) for name in ("T1", "H calibrated"))
        line = lines.setdefault((method(row), loss(row)), {})
        line.setdefault(Board.of(row.spec), []).append(values + marks_of(row))
    head = [f"{_link(board)}<br>{text(board.features)}<br>{code(board.revision)}" for board in rows]
    cells = [[*labels, *("<br>".join(line.get(board, [NONE])) for board in rows)] for labels, line in lines.items()]
    return table(["method", "loss", *head], cells)


def _ranks(rows: Boards) -> str:
    """Method x loss, with the tests under each loss; or why there is nothing to rank."""
    every = rankings({board: [row for row in found if row.runs] for board, found in rows.items()}, ACCURACIES["AUSUC"])
    ranked = {group: ranking for group, ranking in every.items() if ranking}
    n = len({board.dataset for board in rows})
    if not ranked:
        return (
            "Methods are ranked under each loss where at least three of them have one row on each of at least three "
            f"data sets (Friedman's test); here {'is' if n == 1 else 'are'} {plural(n, 'data set')}. Further "
            "partitions, feature sets or revisions of a data set do not count: they are not independent."
        )
    columns = sorted(ranked, key=lambda group: (group[1], LOSSES.order(group[0]), group[0]))
    lines = [[method(row), *(_rank(row, ranked[c]) for c in columns)] for row in _ranked_rows(rows, ranked.values())]
    lines += [
        ["*methods*", *(str(len(ranked[column].ranks)) for column in columns)],
        ["*p (Friedman)*", *(_p(ranked[column].p) for column in columns)],
        ["*critical difference*", *(f"{ranked[column].critical_difference:.1f}" for column in columns)],
    ]
    largest = max(len(ranking.ranks) for ranking in ranked.values()) - 1
    note = (
        f"Rank 1 is the best. Over {n} data sets, one board each ({', '.join(ranked[columns[0]].datasets)}), of the "
        "methods that have one row with the loss on all of them. Two methods differ at 5 % (Nemenyi) if their "
        f"mean ranks lie further apart than the critical difference; no two can lie further apart than {largest}."
    )
    if n < FEW_DATASETS:
        note += f" {n} data sets are too few for these tests to have much power: that they find nothing means little."
    head = ["method", *(code(label) + (" tuned" if tuned else "") for label, tuned in columns)]
    return f"{table(head, lines, left=(0,))}\n\n{note}"


def _ranked_rows(rows: Boards, ranked: Iterable[Ranking]) -> list[Row]:
    """A row of each method that has a rank, in order."""
    names = {name for ranking in ranked for name in ranking.ranks}
    of_method = {row.spec.method_label: row for found in rows.values() for row in found}
    return in_order(row for name, row in of_method.items() if name in names)


def _rank(row: Row, ranking: Ranking) -> str:
    found = ranking.ranks.get(row.spec.method_label)
    return NONE if found is None else f"**{found:.1f}**" if found == min(ranking.ranks.values()) else f"{found:.1f}"


def _p(value: float | None) -> str:
    return NONE if value is None else "< 0.001" if value < 0.001 else f"{value:.2g}"


def _link(board: Board) -> str:
    return f"[{text(board.dataset)}]({quote(file_of(board))}){simulated(board)}"
