"""``python -m benchmark.leaderboard``: renders the stored results as boards, or checks that they are fresh."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark import manifest, site
from benchmark.boards import ACCURACIES, COMMAND, HEADER, TESTED, in_order, render
from benchmark.cells import aligned, compared_count, count, difference, mean, mean_std
from benchmark.registry import InputError
from benchmark.results import Result, Store, write_atomic
from benchmark.statistics import REFERENCE, Board, Row, boards, comparisons, imbalance

DEFAULT_OUT = Path(__file__).resolve().parent.parent / "leaderboards"


class Generator(NamedTuple):
    """A kind of generated file.

    Attributes:
        files: a glob, relative to the folder of boards; files that match it and start with ``mark`` are generated ones,
            and are removed when ``render`` does not make them any more.
        mark: what each of its files starts with (one of several), which tells it from a file that somebody wrote.
        render: all stored results -> path relative to the folder -> content. Pure, and equal on every machine.
    """

    files: str
    mark: bytes | tuple[bytes, ...]
    render: Callable[[Sequence[Result]], Mapping[str, str | bytes]]


#: All that is generated from the stored results: what is written, and what ``--check`` compares.
GENERATORS = (
    Generator("*.md", HEADER.encode(), render),
    Generator(site.PAGE, site.HEADER.encode(), site.render),
)


def write_boards(out: Path) -> list[Path]:
    """Render ``<out>/results`` into ``out``, and remove boards that have no results any more.

    Returns:
        The files that were written.

    Raises:
        InputError: a result or a method's YAML is broken, a file cannot be written, or one that is no board is in the
            way.
    """
    results = list(Store(out / "results"))
    made = [(generator, _expected(generator, out, results)) for generator in GENERATORS]
    for generator, expected in made:
        for path in expected:
            if path.exists() and not _is_generated(path, generator):
                raise InputError(f"{path}: is no generated board and would be overwritten; move or delete it")
    for generator, expected in made:
        for path, content in expected.items():
            write_atomic(path, content)
        for path in _superfluous(generator, out, expected):
            path.unlink()
    return [path for _, expected in made for path in expected]


def check(out: Path) -> list[str]:
    """What is wrong with the boards in ``out``, a line for each file; nothing is written.

    Raises:
        InputError: a result or a method's YAML is broken.
    """
    results = list(Store(out / "results"))
    problems: dict[Path, str] = {}
    for generator in GENERATORS:
        expected = _expected(generator, out, results)
        problems |= dict.fromkeys(_superfluous(generator, out, expected), "has no results any more")
        for path, content in expected.items():
            if not path.is_file():
                problems[path] = "is missing"
            elif path.read_bytes() != content:
                problems[path] = "is stale or was edited"
    return [f"{path}: {problem}; {COMMAND} renders it anew" for path, problem in sorted(problems.items())]


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


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 written or fresh, 1 not fresh, 2 bad input."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Render stored results as boards.", allow_abbrev=False)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=DEFAULT_OUT,
        help="folder of results and boards (default: leaderboards)",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; list what is not fresh, and exit with 1")
    arguments = parser.parse_args(argv)
    try:
        return _run(arguments.out, arguments.check)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(out: Path, only_check: bool) -> int:
    if not out.is_dir():
        raise InputError(f"--out {out}: must be a folder of results and boards, and there is none")
    lines = [*check(out), *manifest.check(out)] if only_check else [str(path) for path in write_boards(out)]
    print("\n".join(lines) or f"{out}: fresh")
    return 1 if only_check and lines else 0


def _expected(generator: Generator, out: Path, results: Sequence[Result]) -> dict[Path, bytes]:
    made = generator.render(results)
    return {out / name: content.encode() if isinstance(content, str) else content for name, content in made.items()}


def _superfluous(generator: Generator, out: Path, expected: Iterable[Path]) -> list[Path]:
    return [path for path in sorted(set(out.glob(generator.files)) - set(expected)) if _is_generated(path, generator)]


def _is_generated(path: Path, generator: Generator) -> bool:
    try:
        return path.read_bytes().startswith(generator.mark)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _board(board: Board, rows: Sequence[Row], references: Sequence[Row]) -> str:
    tags = (" SIMULATED" if board.simulated else "") + (" SELECTED ON TEST" if board.protocol == "literature" else "")
    title = f"{board.dataset}{tags} (features {board.features}, revision {board.revision}, split {board.split})"
    figures = {name.replace("calibrated", "cal"): (figure, 1) for name, figure in ACCURACIES.items()}
    figures |= {f"{name} unseen": (imbalance("unseen", name), 2) for name in ("r", "spread")}
    lines = [
        [
            row.spec.method_label,
            row.spec.loss_label,
            count([(run.spec.split, run.seed) for run in row.runs]),
            *(mean_std(row, figure, digits).replace(" ", "") for figure, digits in figures.values()),
            mean(row, lambda run: run.cost.fit_s if run.cost else None),
        ]
        for row in rows
    ]
    parts = [title, aligned(["method", "loss", "n", *figures, "fit s"], lines)]
    remark = f"no {REFERENCE} runs of these settings and seeds stored; add --loss {REFERENCE}"
    differences = [
        [
            comparison.row.spec.method_label,
            comparison.row.spec.loss_label,
            *([compared_count(comparison)] if comparison.differences else [remark]),
            *(difference(value) for value in comparison.differences.values()),
        ]
        for comparison in comparisons(rows, TESTED, references)
    ]
    if differences:
        parts += [
            f"minus {REFERENCE}, with p of a paired t-test, adjusted by Holm over this table:",
            aligned(["method", "loss", "n", *(f"Δ {name}" for name in TESTED)], differences),
        ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
