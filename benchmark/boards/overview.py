"""The overview of all boards as Markdown: the best methods, what the studied loss changes, ranks, and what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmark.boards.best import best
from benchmark.boards.comparison import Ranking
from benchmark.boards.markup import code, folded, link, loss, method, simulated, table, text
from benchmark.boards.pictures import effect, ranks
from benchmark.boards.rows import Board, Row
from benchmark.boards.view import ACCURACIES, by_interest, in_order, legend, marks_of, tags
from benchmark.boards.wording import NONE, mean, plural
from benchmark.registries import DATASETS, LOSSES

NAME = "README.md"

INTRODUCTION = """
# Leaderboards

Zero-shot-learning methods, with their attribute-regression loss swapped, each board on one data set under one protocol,
feature set, data revision and way of splitting, which are never mixed. Every number is rendered from the runs in
`results/`, and each board ends with the commands that reproduce its rows. `site/index.html` is the same as a page to
sort, filter, compare and download from.
"""
#: What the table of simulated data shows of each data set.
_SIDE_BY_SIDE = ("AUSUC", "H calibrated")

Boards = Mapping[Board, Sequence[Row]]


def overview(rows: Boards) -> str:
    """The page, of all boards: real data first."""
    rows = by_interest(rows)
    real, simulated_ones = ({b: of for b, of in rows.items() if b.simulated == kind} for kind in (False, True))
    parts = [INTRODUCTION.strip()]
    if compared := ranks.compared(real):
        parts += [
            f"## Best methods on real data\n\n{best(compared)}",
            *_effect(compared),
            *_ranking(compared),
            *_folded(compared),
        ]
    if real:
        parts.append(f"## All boards of real data\n\n{_index(real)}")
    if compared := ranks.compared(simulated_ones):
        parts += [*_side_by_side(compared), *_folded(compared)]
    if simulated_ones:
        said = tags(next(iter(simulated_ones)), simulated="{}")
        parts.append(f"## All boards of {said} data\n\n{_index(simulated_ones)}")
    return "\n" + "\n\n".join(parts if rows else [*parts, "No results are stored yet."]) + "\n"


def _effect(rows: Boards) -> list[str]:
    found = effect.effects(rows)
    if not found:
        return []
    title = LOSSES.studied.title
    told = "; ".join(f"{text(dataset)}: {', '.join(effect.tally(every))}" for dataset, every in found.items())
    return [
        f"## What {text(title)} changes",
        f"![{text(title)} against {text(LOSSES[LOSSES.reference].title)} in every method]({effect.NAME})",
        f"Calibrated H against {code(LOSSES.reference)} of the same method with the same settings: {told}. The "
        "intervals are not adjusted for their number: of twenty without any effect, one is clear of 0. A gain alone "
        "does not prove the loss's point: the boards have its controls.",
    ]


def _ranking(rows: Boards) -> list[str]:
    if ranks.DRAWN not in ranks.ranked(rows):
        return []
    return [
        "## Ranks over data sets",
        f"![Each method's rank on each data set, and their mean]({ranks.NAME})",
        f"By {ranks.MEASURE} under {code(LOSSES.absent)}, of the methods that have one row with it on every data set."
        + _descriptive(rows),
    ]


def _descriptive(rows: Boards) -> str:
    """Why no test of the ranks is shown, with a space before it; empty where one is."""
    n = len({board.dataset for board in rows})
    nested = ranks.nested(rows)
    if n >= ranks.FEW_DATASETS and not nested:
        return ""
    same = f", {', '.join(nested)} of the same classes" if nested else ""
    return f" Ranks describe here, and prove nothing: {plural(n, 'data set')}{same}, cannot tell methods apart."


def _side_by_side(rows: Boards) -> list[str]:
    """All stand-ins in one table, a line a method: the absent loss, the reference and the studied one."""
    losses = (LOSSES.absent, LOSSES.reference, effect.STUDIED)
    of_loss: dict[tuple[str, Board, str], Row] = {}
    every = in_order(row for found in rows.values() for row in found if row.runs and not row.spec.tuned)
    for row in every:
        of_loss[method(row), Board.of(row.spec), row.spec.loss_label] = row
    columns = [(board, measure) for board in rows for measure in _SIDE_BY_SIDE]
    lines = [
        [name, *(_means([of_loss.get((name, board, loss)) for loss in losses], measure) for board, measure in columns)]
        for name in dict.fromkeys(map(method, every))
    ]
    head = [f"{link(board)}<br>{measure}" for board, measure in columns]
    said = simulated(next(iter(rows)))
    imitated = [f"{board.dataset} {DATASETS[board.dataset].source}." for board in rows if board.dataset in DATASETS]
    note = (
        f"Draws from a model, not images: what holds here need not hold on real data. {text(' '.join(imitated))} "
        f"In percent, under {' / '.join(map(code, losses))}, with settings that were not tuned."
    )
    return [
        f"## Stand-ins side by side{said}",
        note,
        table([f"method{said}", *head], lines, left=(0,)),
    ]


def _means(rows: Sequence[Row | None], name: str) -> str:
    return " / ".join(mean(row, ACCURACIES[name]) if row else NONE for row in rows)


def _folded(rows: Boards) -> list[str]:
    of, shown = tags(next(iter(rows)), simulated=" ({})"), (row for found in rows.values() for row in found if row.runs)
    return [
        folded(f"T1 / calibrated H of all rows in percent{of}", _matrix(rows), *legend(shown)),
        folded(f"Mean rank in AUSUC over data sets{of}", _ranks(rows)),
    ]


def _index(rows: Boards) -> str:
    lines = [
        [
            link(board),
            text(board.features),
            code(board.revision),
            tags(board, on_test="literature: {}") or board.protocol,
            board.partition,
            str(sum(bool(row.runs) for row in found)),
            str(sum(len(row.runs) for row in found)),
        ]
        for board, found in rows.items()
    ]
    return table(["board", "features", "revision", "protocol", "split", "rows", "runs"], lines, left=(0, 1, 2, 3, 4))


def _matrix(rows: Boards) -> str:
    """Method and loss x board; rows of a board that differ in defaults alone share a cell."""
    lines: dict[tuple[str, str], dict[Board, list[str]]] = {}
    for row in in_order(row for found in rows.values() for row in found if row.runs):
        values = " / ".join(mean(row, ACCURACIES[name]) for name in ("T1", "H calibrated"))
        line = lines.setdefault((method(row), loss(row)), {})
        line.setdefault(Board.of(row.spec), []).append(values + marks_of(row))
    head = [f"{link(board)}<br>{text(board.features)}<br>{code(board.revision)}" for board in rows]
    cells = [[*labels, *("<br>".join(line.get(board, [NONE])) for board in rows)] for labels, line in lines.items()]
    return table(["method", "loss", *head], cells)


def _ranks(rows: Boards) -> str:
    """Method x loss, with the tests under each loss; or why there is nothing to rank."""
    ranked = ranks.ranked(rows)
    n = len({board.dataset for board in rows})
    if not ranked:
        return (
            "Methods are ranked under each loss where at least three of them have one row on each of at least three "
            f"data sets; here {'is' if n == 1 else 'are'} {plural(n, 'data set')}. Further "
            "partitions, feature sets or revisions of a data set do not count: they are not independent."
        )
    columns = sorted(ranked, key=lambda group: (group[1], LOSSES.order(group[0]), group[0]))
    lines = [[method(row), *(_rank(row, ranked[c]) for c in columns)] for row in _ranked_rows(rows, ranked.values())]
    lines.append(["*methods*", *(str(len(ranked[column].ranks)) for column in columns)])
    note = (
        f"Rank 1 is the best. Over {n} data sets, one board each ({', '.join(ranked[columns[0]].datasets)}), of the "
        "methods that have one row with the loss on all of them."
    )
    if descriptive := _descriptive(rows):
        note += descriptive
    else:
        lines += [
            ["*p (Friedman)*", *(_p(ranked[column].p) for column in columns)],
            ["*critical difference*", *(f"{ranked[column].critical_difference:.1f}" for column in columns)],
        ]
        note += " Two methods differ at 5 % (Nemenyi) where their mean ranks are a critical difference or more apart."
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
