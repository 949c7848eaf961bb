"""Results -> one web page that needs no network: filter, sort and compare the rows of a board.

The page holds the measures, the script and style of this folder and the libraries of ``vendor/``. Like the Markdown
boards it depends on the results alone. Means, deviations and tests are computed here; the browser shows them.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any, NamedTuple
from urllib.parse import quote

from benchmark import boards
from benchmark.boards.comparison import Comparison, bootstrap, comparisons, own_interval, rankings
from benchmark.boards.rows import Board, Measure, Row, imbalance, metric
from benchmark.boards.view import (
    ACCURACIES,
    BOOTSTRAPPED,
    COSTS,
    ERROR_UNIT,
    ERRORS,
    MARKS,
    PARTS,
    PROTOCOLS,
    TESTED,
    best_rows,
    by_interest,
    command_of,
    entry_of,
    family_of,
    marks_of,
    path_of,
    published_figures,
    title_of,
    unseen_classes,
)
from benchmark.boards.wording import count, difference
from benchmark.registries import LOSSES
from benchmark.results.record import Result

FOLDER = Path(__file__).resolve().parent
PAGE = "site/index.html"
HEADER = f"<!doctype html>\n{boards.HEADER}"
#: In the order in which they are run; ``<name>.LICENSE`` lies beside each.
LIBRARIES = ("d3.min.js", "plot.umd.min.js", "table-core.js")


class Column(NamedTuple):
    """A measure as a column of the page.

    Attributes:
        id: what a link calls it.
        title: its head.
        group: the columns that are shown together.
        digits: decimals that are shown; what is sorted is what is shown.
        falling: the first click sorts the largest to the top.
        measure: its value in a run.
    """

    id: str
    title: str
    group: str
    digits: int
    falling: bool
    measure: Measure


COLUMNS = [
    *(
        Column(title.replace(" ", "_"), title.replace("calibrated", "cal."), "accuracy", 1, True, measure)
        for title, measure in {
            **{name: ACCURACIES[name] for name in ("T1", "U", "S", "H")},
            "U calibrated": metric("U_calibrated"),
            "S calibrated": metric("S_calibrated"),
            **{name: ACCURACIES[name] for name in ("H calibrated", "AUSUC")},
        }.items()
    ),
    *(
        Column(f"{part}_{field}", title, part, 2, False, imbalance(part, field, unit))
        for part in PARTS
        for title, (field, unit) in ERRORS.items()
    ),
    *(
        Column(title.replace(" ", "_"), title, "cost", digits, False, measure)
        for title, (measure, digits) in COSTS.items()
    ),
]
_ERRORS_NOTE = (
    f"Squared errors of the semantics predicted for test images of {{}} classes. Mean, std over semantics and the mean "
    f"of their worst tenth are in {ERROR_UNIT:.0e}; spread = std / mean; r is the correlation over classes of a "
    "semantic's label value and error, averaged over semantics. An even error need not be a small one."
)
#: Id of a group of columns -> its title and what it shows.
GROUPS = {
    "accuracy": (
        "Accuracy",
        "In percent. T1: unseen classes alone. U, S: unseen and seen classes, with all of them as candidates; H: their "
        "harmonic mean. cal.: calibrated, the scores of seen classes lowered by a gamma from validation (literature "
        "protocol: from test). In brackets: 95 % interval by a bootstrap over seeds and classes. Bold: the best of a "
        "column among the rows of this board with the most runs, and those of methods that draw no random number, "
        "which have one.",
    ),
    "difference": (
        f"Difference to {LOSSES.reference}",
        f"Row minus {LOSSES.reference} of the same method with the same settings, paired over common runs; std in "
        f"{ERROR_UNIT:.0e}. p: two-sided paired t-test, adjusted by Holm for all tests of this board. In brackets: "
        "95 % interval by a paired bootstrap over seeds and classes, not adjusted.",
    ),
    "unseen": ("Imbalance, unseen classes", _ERRORS_NOTE.format("unseen")),
    "seen": ("Imbalance, seen classes", _ERRORS_NOTE.format("seen")),
    "cost": (
        "Time and memory",
        "As measured on whatever machine made the runs: comparable on one machine only.",
    ),
}


def render(rows: Mapping[Board, Sequence[Row]]) -> dict[str, str]:
    """The page of all boards, whose rows are in the order in which they are shown: its path -> HTML.

    Raises:
        InputError: the YAML of a method is wrong.
    """
    libraries = [re.sub(r"\n//# sourceMappingURL=.*", "", _file(f"vendor/{name}")) for name in LIBRARIES]
    scripts = [*libraries, _file("charts.js"), _file("app.js")]
    licences = [f"{name}\n\n{_file('vendor/' + name.partition('.')[0] + '.LICENSE')}" for name in LIBRARIES]
    page = Template(_file("template.html")).substitute(
        # The hashes let these scripts run and no other; nothing may be fetched.
        hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        style=_file("style.css"),
        data=_in_script(_content(rows)),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
        licences=html.escape("\n".join(licences)),
    )
    return {PAGE: HEADER + page}


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _in_script(content: dict[str, Any]) -> str:
    """JSON, a row a line, which no text in it can turn into HTML."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return text.replace('{"key":', '\n{"key":')


def _content(rows: Mapping[Board, Sequence[Row]]) -> dict[str, Any]:
    return {
        "columns": [dict(zip(Column._fields[:-1], column[:-1], strict=True)) for column in COLUMNS],
        "groups": [{"id": name, "title": title, "note": note} for name, (title, note) in GROUPS.items()],
        "tested": list(TESTED),
        "marks": MARKS,
        "boards": [_board(board, of_board) for board, of_board in by_interest(rows).items()],
        "ranks": [ranking for kind in (False, True) for ranking in _ranks(rows, simulated=kind)],
    }


def _ranks(rows: Mapping[Board, Sequence[Row]], *, simulated: bool) -> list[dict[str, Any]]:
    """Methods ranked in AUSUC over the data sets of one kind, under each loss: the reference first."""
    shared = {
        board: [row for row in of_board if row.runs]
        for board, of_board in rows.items()
        if board.comparable and board.simulated == simulated
    }
    found = rankings(shared, ACCURACIES["AUSUC"])
    ordered = sorted(found, key=lambda of: (of[1], of[0] != LOSSES.reference, LOSSES.order(of[0]), of[0]))
    return [
        {
            "id": loss + (" tuned" if tuned else ""),
            "simulated": simulated,
            "ranks": [[name, round(rank, 2)] for name, rank in ranking.ranks.items()],
            "datasets": ranking.datasets,
            "p": None if ranking.p is None else round(ranking.p, 4),
            "critical": round(ranking.critical_difference, 2),
            "groups": [group for group in ranking.groups if len(group) > 1],
        }
        for loss, tuned in ordered
        if (ranking := found[loss, tuned])
    ]


def _board(board: Board, rows: Sequence[Row]) -> dict[str, Any]:
    ran = [row for row in rows if row.runs]
    compared = {comparison.row: comparison for comparison in comparisons(ran, TESTED, ran)}
    best = {column.id: best_rows(ran, column.measure) for column in COLUMNS if column.group == "accuracy"}
    classes = unseen_classes(ran)
    return {
        "id": "/".join((board.dataset, board.features, board.protocol, board.partition, board.revision)),
        **board.record(),
        "about": PROTOCOLS[board.protocol],
        "classes": classes,
        "published": _published(board, ran),
        "rows": [_row(row, compared.get(row), best, classes) for row in rows],
    }


def _published(board: Board, rows: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    """Title of a method -> what papers report of it on this data."""
    return {
        title_of(row): [
            {"source": paper.source, "status": paper.status, "note": paper.note, **results} for paper, results in found
        ]
        for row in rows
        if entry_of(row) and (found := published_figures(board, row))
    }


def _row(row: Row, compared: Comparison | None, best: dict[str, list[Row]], classes: Sequence[str]) -> dict[str, Any]:
    spec = row.spec
    return {
        "key": row.key,
        "method": title_of(row),
        "name": spec.method_label,
        "family": family_of(row),
        "loss": spec.loss_label,
        "profile": spec.profile,
        "tuned": spec.tuned,
        "marks": marks_of(row),
        "n": count(row.pairs),
        "runs": [f"{run.spec.partition.removeprefix('proposed')} seed {run.seed}".strip() for run in row.runs],
        "files": [_link(run) for run in row.runs],
        "problems": [f"{run.spec.partition} seed {run.seed} {run.status}: {run.error or ''}" for run in row.others],
        "command": command_of(row),
        "best": [name for name, rows in best.items() if row in rows],
        "measures": [_values(row, column) for column in COLUMNS],
        "differences": _differences(compared),
        "classes": _class_means(row, classes),
    }


def _link(run: Result) -> str:
    return quote(f"../{path_of(run)}", safe="/+")


def _values(row: Row, column: Column) -> list[Any] | None:
    """Mean, deviation, the value of each run, and the 95 % interval of those that have one."""
    if not (summary := row.summary(column.measure)):
        return None
    std = None if summary.std is None else round(summary.std, column.digits)
    values = [round(value, column.digits + 1) for value in (row.values(column.measure) or {}).values()]
    named = {title.replace(" ", "_"): name for title, name in BOOTSTRAPPED.items()}
    interval = own_interval(row, named[column.id]) if column.id in named else None
    shown = [[round(end, column.digits) for end in interval]] if interval else []
    return [round(summary.mean, column.digits), std, values, *shown]


def _differences(compared: Comparison | None) -> list[list[Any] | None]:
    """For each tested measure the mean difference and how it is written."""
    if compared is None:
        return [None] * len(TESTED)
    row, found, reference = compared
    intervals = {title: bootstrap(row, reference, name) for title, name in BOOTSTRAPPED.items()} if reference else {}
    return [
        [round(value.mean, 2), difference(value, intervals.get(title))] if (value := found.get(title)) else None
        for title in TESTED
    ]


def _class_means(row: Row, classes: Sequence[str]) -> list[float | None]:
    """T1 of each class, the mean over the runs in which it is unseen."""
    values = row.unseen_accuracies
    return [round(fmean(values[name]), 1) if name in values else None for name in classes]
