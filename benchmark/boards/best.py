"""The best methods of each data set as Markdown, and what of them is comparable with the literature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from benchmark.boards.comparison import own_interval
from benchmark.boards.markup import link, loss, table, text
from benchmark.boards.rows import Board, Row
from benchmark.boards.view import (
    ACCURACIES,
    entry_of,
    legend,
    marks_of,
    note_of,
    published_figures,
    title_of,
    top_rows,
    unseen_classes,
)
from benchmark.boards.wording import between, count, mean, mean_std

#: How many methods are shown of a board, for each kind of settings.
SHOWN = 5
NOTE = (
    "In percent, strict protocol, proposed split. Of each method the loss that does best there, so that a lead is "
    "partly luck, and more so where n is small. AUSUC: ± is the sample standard deviation over n seeds. Calibrated H: "
    "in brackets its 95 % interval by a bootstrap over seeds and classes."
)


def best(boards: Mapping[Board, Sequence[Row]]) -> str:
    """What is best on each of ``boards``, which are on proposed splits, data set by data set."""
    of_dataset: dict[str, list[Board]] = {}
    for board in boards:
        of_dataset.setdefault(board.dataset, []).append(board)
    parts = [NOTE, _literature(boards)]
    for same in of_dataset.values():
        n = max(len(unseen_classes(boards[board])) for board in same)
        parts += [f"### {link(same[0])}", f"{n} unseen classes. {note_of(same[0])}".strip()]
        parts += [_table(board, boards[board]) for board in same]
    shown = (row for rows in boards.values() for row in rows if row.runs)
    return "\n\n".join([*parts, *legend(shown)])


def _literature(boards: Mapping[Board, Sequence[Row]]) -> str:
    """What is comparable with the literature, on one line."""
    found: dict[str, set[str]] = {}
    for board, rows in boards.items():
        for row in rows:
            if (entry := entry_of(row)) and published_figures(board, row):
                found.setdefault(link(board), set()).add(text(entry.title))
    if not found:
        return (
            "**Comparable with the literature: nothing.** The suite knows of no published figures on these data with "
            "these features; the rows of a board are comparable with each other."
        )
    said = "; ".join(f"{', '.join(sorted(titles))} on {board}" for board, titles in found.items())
    return (
        f"**Comparable with the literature: {said}.** What papers report of them stands on the board; they selected on "
        "test, and rows here did not."
    )


def _table(board: Board, rows: Sequence[Row]) -> str:
    lines: list[list[str]] = []
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_settings(row), []).append(row)
    for settings, group in sorted(groups.items()):
        lines.append(["", f"*{settings}*", *[""] * 5])
        tops = (top_rows(group, ACCURACIES[name], SHOWN) for name in ("AUSUC", "H calibrated"))
        for rank, (by_area, by_h) in enumerate(zip_longest(*tops), start=1):
            lines.append([str(rank), *_area(by_area), *_calibrated(by_h)])
    head = ["", "by AUSUC", "n", "AUSUC", "by calibrated H", "n", "calibrated H"]
    return f"Features {text(board.features)}:\n\n{table(head, lines, left=(1, 4))}"


def _area(row: Row | None) -> list[str]:
    return [_name(row), count(row.pairs), mean_std(row, ACCURACIES["AUSUC"], 1)] if row else [""] * 3


def _calibrated(row: Row | None) -> list[str]:
    if row is None:
        return [""] * 3
    value = mean(row, ACCURACIES["H calibrated"]) + between(own_interval(row, "H_calibrated"))
    return [_name(row), count(row.pairs), value]


def _name(row: Row) -> str:
    profile = f", {row.spec.profile}" if row.spec.profile else ""
    return f"{text(title_of(row))}{profile}{marks_of(row)} + {loss(row)}"


def _settings(row: Row) -> str:
    """What kind of settings a row has; sorted as they are shown."""
    if row.spec.tuned:
        return f"tuned by {row.spec.tuned} trials"
    return "settings given by hand" if row.spec.hparam_overrides else "default settings"
