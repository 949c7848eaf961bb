"""What is shown of the rows, in every format: measures, order, names, tags, marks, the best, papers' figures, commands.

It depends on the results and the commit, not on where and when it is rendered: of the registered methods it describes
those of this repository alone, and of times it has those that the runs stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.boards.rows import Board, Measure, Row, boards, cost, imbalance, metric
from benchmark.boards.wording import plural
from benchmark.config import Published, load_file
from benchmark.registries import DATASETS, LOSSES, METHODS, MethodEntry
from benchmark.results.record import PublishedResult, Result
from benchmark.results.store import Store

ACCURACIES = {
    "T1": metric("T1"),
    "U": metric("U"),
    "S": metric("S"),
    "H": metric("H"),
    "H calibrated": metric("H_calibrated"),
    "AUSUC": metric("AUSUC"),
}
PARTS = ("unseen", "seen")
#: Squared errors between unit vectors are shown in this unit.
ERROR_UNIT = 1e-4
#: Title -> field of SemanticErrors, and its unit.
ERRORS = {
    "mean": ("mean", ERROR_UNIT),
    "std": ("std", ERROR_UNIT),
    "spread": ("spread", 1.0),
    "r": ("r", 1.0),
    "worst decile": ("worst_decile", ERROR_UNIT),
}
#: What the losses of a method are tested for.
TESTED = {name: ACCURACIES[name] for name in ("T1", "H", "H calibrated", "AUSUC")} | {
    f"{part} std": imbalance(part, "std", ERROR_UNIT) for part in PARTS
}
#: Title of a difference -> what its bootstrap interval is of.
BOOTSTRAPPED = {"T1": "T1", "H calibrated": "H_calibrated"}
#: Title -> measure and its digits.
COSTS = {"fit s": (cost("fit_s"), 1), "evaluate s": (cost("evaluate_s"), 2), "peak MiB": (cost("peak_memory_mib"), 0)}

MARKS = {
    "†": "some of its runs were made by code that differs from their commit, or that has none.",
    "‡": "its runs were made by different versions of the code.",
    "§": "semantics of unseen classes, never their images, took part in its training, beyond a classifier of features "
    "generated for them: other unseen classes would need another training.",
}
PROTOCOLS = {
    "strict": "epoch and hyper-parameters are selected by AUSUC and the calibration gamma by H, all on validation "
    "classes and images, which are part of the training set; the method is then refitted on the whole training set, "
    "and the test images are opened once.",
    "literature": "epoch and gamma are selected on the test images, as the literature mostly does. The figures are "
    "optimistic, and comparable with the literature's only.",
}


# Boards


def ordered_boards(results: Iterable[Result]) -> dict[Board, list[Row]]:
    """The boards with their rows in the order in which they are shown; that of ``results`` plays no role."""
    return {board: in_order(rows) for board, rows in boards(results).items()}


def by_interest(boards: Mapping[Board, Sequence[Row]]) -> dict[Board, Sequence[Row]]:
    """The boards in the order in which a reader wants them.

    Real data, the strict protocol and the proposed split come first; then the most unseen classes, and the most rows.
    """

    def position(board: Board) -> tuple[Any, ...]:
        rows = boards[board]
        hidden = board.simulated, board.protocol != "strict", board.partition != "proposed"
        return *hidden, -len(unseen_classes(rows)), -len(rows), board

    return {board: boards[board] for board in sorted(boards, key=position)}


def unseen_classes(rows: Iterable[Row]) -> list[str]:
    """The classes of a board that are unseen in one of its runs and have an accuracy."""
    return sorted({name for row in rows for name in row.unseen_accuracies})


def tags(board: Board, simulated: str = "", on_test: str = "") -> str:
    """What must be said wherever figures of the board are shown, as far as it is true and there is a form for it.

    Args:
        board: whose figures are shown.
        simulated: the form of the tag of simulated data, with ``{}`` for the word.
        on_test: the form of the tag of figures that were selected on test.
    """
    said = simulated.format("SIMULATED") if board.simulated else ""
    return said + (on_test.format("selected on test") if board.protocol == "literature" else "")


def note_of(board: Board) -> str:
    """What the data set says of itself; nothing for a folder that is not registered."""
    return DATASETS[board.dataset].note if board.dataset in DATASETS else ""


def published_figures(board: Board, row: Row) -> list[tuple[Published, Mapping[str, float | None]]]:
    """What papers report of the row's method on this data set with these features; and T1, U, S and H there.

    Raises:
        InputError: the YAML of the method is wrong.
    """
    entry = entry_of(row)
    if entry is None or board.simulated or board.partition != "proposed":
        return []
    return [
        (figures, results)
        for figures in load_file(entry.config_file).published
        if figures.features == board.features and (results := figures.results.get(board.dataset))
    ]


# Rows


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By family, year and name of the method, then the loss: the absent one, the reference, others."""

    def position(row: Row) -> tuple[Any, ...]:
        spec, entry = row.spec, entry_of(row)
        year = entry.year if entry else 0
        method = (*METHODS.rank(family_of(row)), year, spec.method, spec.method_label)
        return *method, LOSSES.order(spec.loss), spec.loss_label, row.key

    return sorted(rows, key=position)


def entry_of(row: Row) -> MethodEntry | None:
    """What the row's method says of itself; None for a plugin or an installed package, which others may not have."""
    if row.spec.method not in METHODS:
        return None
    entry = METHODS[row.spec.method]
    return entry if entry.module.startswith("methods.") else None


def family_of(row: Row) -> str:
    """The family of the row's method; ``other`` where ``entry_of`` is None."""
    entry = entry_of(row)
    return entry.family if entry else "other"


def title_of(row: Row) -> str:
    """The row's method as plain text: ``ALE (2016)``, or the name of a plugin; and what selected it, if not AUSUC."""
    entry = entry_of(row)
    year = [str(entry.year)] if entry else []
    criteria = {run.selection.criterion for run in row.runs if run.selection} - {"AUSUC"}
    said = "; ".join([*year, *(f"selected by {name}" for name in sorted(criteria))])
    return (entry.title if entry else row.spec.method) + (f" ({said})" if said else "")


def name_of(row: Row) -> str:
    """``title_of`` with the profile, unless that is the small one: ``f-VAEGAN-D2 (2019), medium``."""
    profile = row.spec.profile
    return title_of(row) + (f", {profile}" if profile not in (None, "small") else "")


def marks_of(row: Row) -> str:
    """Those of ``MARKS`` that the row bears."""
    dirty = any(run.provenance.get("dirty") or not run.provenance.get("commit") for run in row.runs)
    sources = {repr(sorted(run.provenance.get("sources", {}).items())) for run in row.runs}
    true = dirty, len(sources) > 1, trains_on_unseen(row)
    return "".join(mark for mark, borne in zip(MARKS, true, strict=True) if borne)


def trains_on_unseen(row: Row) -> bool:
    """Whether semantics of unseen classes took part in training, as the method says of the row's settings."""
    entry = entry_of(row)
    return entry is not None and entry.trains_on_unseen(row.spec.hparams)


def legend(rows: Iterable[Row]) -> list[str]:
    """What the marks that ``rows`` bear mean, a line each."""
    borne = set().union(*map(marks_of, rows))
    return [f"{mark} {meaning}" for mark, meaning in MARKS.items() if mark in borne]


def machines_of(row: Row) -> list[str]:
    """What the row was measured on."""
    machines = set()
    for run in row.runs:
        device, cpu, threads = (run.provenance.get(name) for name in ("device", "cpu", "threads"))
        on_cpu = f"{cpu or 'an unknown processor'}" + (f" ({plural(threads, 'thread')})" if threads else "")
        machines.add(on_cpu if device == "cpu" else device or "an unknown device")
    return sorted(machines)


def most_runs(rows: Iterable[Row]) -> int:
    """The number of runs of the row that has most."""
    return max((len(row.runs) for row in rows), default=0)


def best_rows(rows: Sequence[Row], measure: Measure) -> list[Row]:
    """The rows with the highest mean as it is shown, so that equal ones on the page are equally bold."""
    most = most_runs(rows)
    complete = [row for row in rows if row.deterministic or len(row.runs) == most]
    shown = {row: f"{summary.mean:.1f}" for row in complete if (summary := row.summary(measure))}
    top = max(map(float, shown.values()), default=None)
    return [row for row, value in shown.items() if float(value) == top]


def top_rows(rows: Iterable[Row], measure: Measure, n: int) -> list[Row]:
    """The best row of each of the ``n`` best methods, however many runs it has."""
    means = {row: summary.mean for row in rows if (summary := row.summary(measure))}
    of_method: dict[str, Row] = {}
    for row in sorted(means, key=lambda row: -means[row]):
        of_method.setdefault(row.spec.method, row)
    return [*of_method.values()][:n]


def path_of(run: Result) -> str:
    """Where the file with a run lies in the folder of boards."""
    if isinstance(run, PublishedResult):
        return f"results/{run.spec.dataset}/{run.spec.method}.jsonl"
    return Store(Path("results")).path(run.spec, run.seed).as_posix()


def command_of(row: Row) -> str:
    """What to type to get the runs of ``row``, the failed ones too."""
    runs = [*row.runs, *row.others]
    return row.spec.command({run.seed for run in runs}, max(run.spec.partition_index or 0 for run in runs))
