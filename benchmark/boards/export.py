"""The rows of all boards for other programs: CSV, JSON, and LaTeX tables for a paper."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.boards.rows import Board, Row, imbalance
from benchmark.boards.view import (
    ACCURACIES,
    COSTS,
    ERRORS,
    PARTS,
    best_rows,
    family_of,
    marks_of,
    ordered_boards,
    tags,
    title_of,
    trains_on_unseen,
)
from benchmark.boards.wording import NONE, count, mean_and_std
from benchmark.results.record import Result

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}


def records(results: Iterable[Result]) -> list[dict[str, Any]]:
    """A flat record of each row with runs, board by board; ``_mean`` and ``_std`` are those of the boards."""
    return [_record(board, row) for board, rows in ordered_boards(results).items() for row in rows if row.runs]


def as_csv(results: Iterable[Result]) -> str:
    """A line a row, with a head; what a row lacks is empty."""
    rows, text = records(results), io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def as_json(results: Iterable[Result]) -> str:
    """A list of objects; what a row lacks is null."""
    return json.dumps(records(results), indent=1, ensure_ascii=False) + "\n"


def as_latex(results: Iterable[Result]) -> str:
    """A table a board, with the rules of the package ``booktabs``."""
    found = {board: [row for row in rows if row.runs] for board, rows in ordered_boards(results).items()}
    return "\n".join(_latex_table(board, rows) for board, rows in found.items() if rows)


FORMATS = {"csv": as_csv, "json": as_json, "latex": as_latex}


def _record(board: Board, row: Row) -> dict[str, Any]:
    spec = row.spec
    measures = {name.replace(" ", "_"): (row, measure) for name, measure in ACCURACIES.items()}
    for part in PARTS:
        for title, (field, _) in ERRORS.items():
            measures[f"{part}_error_{title.replace(' ', '_')}"] = (row, imbalance(part, field))
    measures |= {title.replace(" ", "_"): (row, measure) for title, (measure, _) in COSTS.items()}
    record: dict[str, Any] = {
        **board.record(),
        "method": spec.method,
        "settings": _settings(row),
        "profile": spec.profile,
        "tuned_by_trials": spec.tuned,
        "loss": spec.loss_label,
        "family": family_of(row),
        "key": row.key,
        "dirty": "†" in marks_of(row),
        "trained_on_unseen_semantics": trains_on_unseen(row),
        "runs": len(row.runs),
        "failed": len(row.others),
    }
    for name, (of, measure) in measures.items():
        summary = of.summary(measure)
        record[f"{name}_mean"], record[f"{name}_std"] = summary or (None, None)
    return record


def _settings(row: Row) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(row.spec.hparam_overrides.items()))


def _latex_table(board: Board, rows: Sequence[Row]) -> str:
    best = {name: best_rows(rows, measure) for name, measure in ACCURACIES.items()}

    def cell(row: Row, name: str) -> str:
        mean, std = mean_and_std(row, ACCURACIES[name], 1)
        mean = "--" if mean == NONE else f"\\textbf{{{mean}}}" if row in best[name] else mean
        return mean + (f" $\\pm$ {std}" if std else "")

    lines = [
        [
            _escaped(
                ", ".join(
                    filter(None, [title_of(row), _settings(row), row.spec.profile, "tuned" if row.spec.tuned else ""])
                )
            ),
            _escaped(row.spec.loss_label),
            _escaped(count(row.pairs)),
            *(cell(row, name) for name in ACCURACIES),
        ]
        for row in rows
    ]
    said = tags(board, simulated=", {}", on_test=", {}")
    caption = (
        f"{board.dataset}{said}: features {board.features}, {board.partition} split, revision {board.revision}, "
        f"{board.protocol} protocol; percent, mean and sample standard deviation over n runs."
    )
    return "\n".join(
        [
            r"\begin{table}",
            f"\\caption{{{_escaped(caption)}}}",
            f"\\begin{{tabular}}{{ll{'r' * (1 + len(ACCURACIES))}}}",
            r"\toprule",
            " & ".join(["method", "loss", "n", *map(_escaped, ACCURACIES)]) + r" \\",
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda match: _LATEX[match.group()], " ".join(text.split()))
