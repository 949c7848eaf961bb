"""The boards as Markdown: a section for each board, a file for each data set and protocol, and an overview."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from urllib.parse import quote

from benchmark.boards import HEADER, overview
from benchmark.boards.comparison import Comparison, bootstrap, comparisons
from benchmark.boards.markup import all_tags, code, file_of, folded, loss, method, simulated, table, text
from benchmark.boards.rows import Board, Row, imbalance
from benchmark.boards.view import (
    ACCURACIES,
    BOOTSTRAPPED,
    COSTS,
    ERRORS,
    PARTS,
    PROTOCOLS,
    TESTED,
    best_rows,
    by_interest,
    command_of,
    entry_of,
    family_of,
    legend,
    machines_of,
    marks_of,
    most_runs,
    note_of,
    path_of,
    published_figures,
    tags,
)
from benchmark.boards.wording import (
    NONE,
    compared_count,
    count,
    difference,
    mean_and_std,
    mean_std,
    number,
    plural,
)
from benchmark.registries import LOSSES


def render(boards: Mapping[Board, Sequence[Row]], datasets: Collection[str] | None = None) -> dict[str, str]:
    """The boards and the overview: file name -> Markdown.

    Args:
        boards: all rows in the order in which they are shown, which the overview is made of.
        datasets: the data sets whose boards are rendered; None: all.

    Raises:
        InputError: the YAML of a method is wrong.
    """
    files: dict[str, list[str]] = {}
    for board, rows in by_interest(boards).items():
        if datasets is None or board.dataset in datasets:
            title = f"{HEADER}\n# {text(board.dataset)}{all_tags(board)}\n"
            files.setdefault(file_of(board), [title]).append(_section(board, rows))
    made = {name: "\n".join(parts) for name, parts in files.items()}
    return {overview.NAME: HEADER + overview.overview(boards)} | made


def _section(board: Board, rows: Sequence[Row]) -> str:
    split = "proposed split" if board.partition == "proposed" else "random partitions of the classes"
    ran = [row for row in rows if row.runs]
    parts = [
        f"## Features {text(board.features)}, {split}, revision {text(board.revision)}{all_tags(board)}",
        *_accuracies(board, ran),
        *_problems(rows),
        *_differences(board, ran),
        *_imbalance(board, ran),
        *_costs(board, ran),
        *_published(board, ran),
        *_footer(board, rows),
    ]
    return "\n\n".join(parts) + "\n"


def _accuracies(board: Board, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    best = {name: best_rows(rows, measure) for name, measure in ACCURACIES.items()}
    published = _published_cells(board, rows)

    def accuracy(row: Row, name: str) -> str:
        mean, std = mean_and_std(row, ACCURACIES[name], 1)
        return (f"**{mean}**" if row in best[name] else mean) + (f" ± {std}" if std else "")

    def cells(row: Row) -> list[str]:
        file = quote(path_of(row.runs[0]), safe="/+")
        folder = file.rpartition("/")[0] + "/"
        keys = {run.spec.key for run in row.runs}
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        return [
            loss(row),
            f"[{count(row.pairs)}]({folder})",
            *(accuracy(row, name) for name in ACCURACIES),
            *([published.get(row, "")] if published else []),
            f"[{code(row.runs[0].spec.key)}]({file}){more}",
        ]

    if board.partition == "proposed":
        over = "mean ± sample standard deviation over n seeds"
    else:
        over = "n = partitions x seeds; mean ± sample standard deviation over partitions, each the mean over its seeds"
    note = (
        f"In percent, {over}; a method that draws no random number has one run. Bold: the best of a column among the "
        f"rows with the most runs, {most_runs(rows)}, and those of such methods. H calibrated takes gamma from "
        f"{'validation' if board.protocol == 'strict' else 'test'}. n leads to the folder of the runs, settings to the "
        "file that has the complete settings."
    )
    if published:
        note += " published: what the literature reports, selected on test; their sources are below."
    head = ["loss", "n", *ACCURACIES, *(["published T1 / H"] if published else []), "settings"]
    shown = _row_table(board, head, [(row, cells(row)) for row in rows])
    return [f"### Accuracy{all_tags(board)}", shown, "  \n".join([note, *legend(rows)])]


def _problems(rows: Sequence[Row]) -> list[str]:
    """A line for each row and way in which runs of it failed or were skipped."""
    lines = []
    for row in rows:
        ways: dict[tuple[str, str], list[str]] = {}
        for run in row.others:
            where = "" if run.spec.partition == "proposed" else f"{run.spec.partition} "
            ways.setdefault((run.status, run.error or "no reason given"), []).append(f"{where}seed {run.seed}")
        lines += [
            f"- {plural(len(runs), f'{status} run')} of {method(row)} + {loss(row)}: {', '.join(runs)}: {code(error)}"
            for (status, error), runs in sorted(ways.items())
        ]
    return ["\n".join(lines)] if lines else []


def _differences(board: Board, rows: Sequence[Row]) -> list[str]:
    compared = comparisons(rows, TESTED, rows, controls=True)
    if not compared:
        return []
    tests = sum(d.p is not None for c in compared for d in c.differences.values())
    standard = code(LOSSES.reference)

    def cells(comparison: Comparison) -> list[str]:
        row, differences, reference = comparison
        interval = {
            title: bootstrap(row, reference, name) if reference and title in differences else None
            for title, name in BOOTSTRAPPED.items()
        }
        return [
            f"{loss(row)} - {loss(reference) if reference else standard}",
            compared_count(comparison),
            *(difference(differences.get(title), interval.get(title)) for title in TESTED),
        ]

    if board.partition == "proposed":
        over = "seeds"
        intervals = (
            f" In brackets: the 95 % interval of {' and '.join(BOOTSTRAPPED)} by a paired bootstrap over seeds and "
            "classes, not adjusted: it covers other test classes as well, where the t-test covers other seeds."
        )
    else:
        over, intervals = "partitions, each the mean over its seeds", ""
    note = (
        "The same method with the same settings under two losses, over the n runs that both have, in percentage "
        "points; std is that of the error over semantics (see below), in 1e-4. A loss with larger weights is partly a "
        f"larger regression weight: {_controls()} leave that out. "
        f"p: two-sided paired t-test over {over}, adjusted by Holm for the {plural(tests, 'test')} of this table. "
        f"deterministic: the difference is the same for every seed, so there is no test.{intervals} "
        f"{NONE}: there is no such {standard} row, or no single one."
    )
    shown = _row_table(
        board, ["loss - other loss", "n", *(f"Δ {name}" for name in TESTED)], [(c.row, cells(c)) for c in compared]
    )
    return [folded(f"Differences between losses{all_tags(board)}", shown, note)]


def _controls() -> str:
    """The comparisons that take a larger regression weight out of what the studied loss does."""
    studied = LOSSES.studied
    pairs = [pair for pair in studied.contrasts[1:] if pair[0].partition(":")[0] == studied.name]
    return " and ".join(" - ".join(map(code, pair)) for pair in pairs)


def _imbalance(board: Board, rows: Sequence[Row]) -> list[str]:
    if not any(row.values(imbalance("unseen", "mean")) for row in rows):
        return []
    columns = {
        f"{part} {title}": imbalance(part, field, unit) for part in PARTS for title, (field, unit) in ERRORS.items()
    }

    def cells(row: Row) -> list[str]:
        return [loss(row), *(mean_std(row, measure, 2) for measure in columns.values())]

    note = (
        "Squared errors of the semantics predicted for test images of unseen and seen classes: mean and standard "
        "deviation over semantics and the mean of their worst tenth, all three in 1e-4. spread = std / mean. r: the "
        "correlation over classes of a semantic's label value and error, averaged over semantics. Nothing is bold: an "
        "even error need not be a small one."
    )
    shown = _row_table(board, ["loss", *columns], [(row, cells(row)) for row in rows])
    return [folded(f"Imbalance of predicted semantics{all_tags(board)}", shown, note)]


def _costs(board: Board, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    machines = {row: machines_of(row) for row in rows}
    every = sorted(set().union(*machines.values()))

    def cells(row: Row) -> list[str]:
        return [
            loss(row),
            count(row.pairs),
            *(mean_std(row, measure, digits) for measure, digits in COSTS.values()),
            *(["; ".join(map(text, machines[row]))] if len(every) > 1 else []),
        ]

    note = (
        "Wall time of selection and refit, and of evaluation; the most memory that was in use, of the process on a CPU "
        "and of the device on a GPU. "
        f"Measured on {'; '.join(map(text, every))}. Time is comparable on one device only, and other work on "
        "it shows."
    )
    head = ["loss", "n", *COSTS, *(["device"] if len(every) > 1 else [])]
    shown = _row_table(board, head, [(row, cells(row)) for row in rows])
    return [folded(f"Time and memory{all_tags(board)}", shown, note)]


def _published_cells(board: Board, rows: Sequence[Row]) -> dict[Row, str]:
    """The first row of each method -> ``59.9 / 27.5``, a line a source."""
    first = {row.spec.method: row for row in reversed(rows)}.values()
    found = {row: [results for _, results in published_figures(board, row)] for row in first}
    return {
        row: "<br>".join(" / ".join(number(results.get(name)) for name in ("T1", "H")) for results in every)
        for row, every in found.items()
        if every
    }


def _published(board: Board, rows: Sequence[Row]) -> list[str]:
    names = ("T1", "U", "S", "H")
    lines = [
        [
            text(entry.title),
            *(number(results.get(name)) for name in names),
            text(paper.source),
            text(paper.status + (f"; {paper.note}" if paper.note else "")),
        ]
        for row in {row.spec.method: row for row in rows}.values()
        if (entry := entry_of(row))
        for paper, results in published_figures(board, row)
    ]
    if not lines:
        return []
    shown = table(["method", *names, "source", "status"], lines, left=(0, 5, 6))
    caution = "; not comparable in selection" if board.protocol == "strict" else ""
    return [folded(f"Published results (literature protocol{caution})", shown)]


def _footer(board: Board, rows: Sequence[Row]) -> list[str]:
    commits = {commit[:10] for row in rows for run in row.runs if (commit := run.provenance.get("commit"))}
    facts = [
        f"- Features: {code(board.features)}; data revision: {code(board.revision)}.",
        *([f"- Data: {note}"] if (note := note_of(board)) else []),
        f"- Protocol {code(board.protocol)}: {PROTOCOLS[board.protocol]}",
        f"- Commits of the runs: {', '.join(map(code, sorted(commits))) or 'unknown'}.",
    ]
    commands = "\n".join(command_of(row) for row in rows)
    details = folded(
        "Commands that reproduce the rows",
        "At the commit of the runs, where the defaults are the same. Real data need `--data-root` or `$ZSL_DATA`, and "
        "classes from outside this repository `--plugin`.",
        f"```sh\n{commands}\n```",
    )
    return ["\n".join(facts), details]


def _row_table(board: Board, head: Sequence[str], lines: Iterable[tuple[Row, Sequence[str]]]) -> str:
    """A table of rows, or of comparisons of them, in sections; the column of the method comes before ``head``."""
    on_test = tags(board, on_test=", {}")
    shown: list[list[str]] = []
    for family, group in groupby(lines, lambda line: family_of(line[0])):
        shown.append([f"*{text(family)} methods*", *[""] * len(head)])
        shown += [[method(row) + marks_of(row) + on_test, *cells] for row, cells in group]
    return table([f"method{simulated(board)}", *head], shown)
