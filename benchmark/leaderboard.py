"""``python -m benchmark.leaderboard``: renders, checks, exports and takes in results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.boards import COMMAND
from benchmark.cli.grid import BOARDS
from benchmark.commands import Parser
from benchmark.errors import InputError, exit_code
from benchmark.files import complete

#: What rows are printed as, by ``benchmark.boards.export``, which takes its time to import.
FORMATS = ("csv", "json", "latex")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 written or fresh, 1 not fresh, 2 bad input, 130 interrupted."""
    return exit_code(lambda: _run(_parse(argv)), "results")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments = _parser().parse_args(argv)
    if arguments.format != "md" and (arguments.check or arguments.incoming):
        raise InputError(f"--format {arguments.format} prints the stored rows: it does not go with --check or --import")
    if arguments.export_runs and (arguments.check or arguments.incoming or arguments.format != "md"):
        raise InputError("--export-runs writes runs: it does not go with --check, --import or --format")
    return arguments


def _parser() -> Parser:
    parser = Parser(prog=COMMAND, description="Render stored results as boards.")
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", default=BOARDS, help="folder of results and boards (default: leaderboards)")
    add(
        "--check",
        action="store_true",
        help="write nothing; list results that contradict themselves and boards that are not fresh, and exit with 1",
    )
    add(
        "--import",
        dest="incoming",
        type=Path,
        metavar="PATH",
        nargs="+",
        help="publish the runs in files, or in folders as benchmark.run fills them, on the boards if they are valid, "
        "else say why not and exit with 2; with --check nothing is added",
    )
    add(
        "--export-runs",
        type=Path,
        metavar="DIR",
        help="write what is published as files of runs into DIR/results, as far as it is kept",
    )
    add(
        "--format",
        choices=["md", *FORMATS],
        default="md",
        help="md: write the boards; others: print all rows in that format, and write nothing (default: md)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    out, only_check = arguments.out, arguments.check
    if not out.is_dir():
        raise InputError(f"--out {out}: must be a folder of results and boards, and there is none")
    if arguments.format != "md":
        return _print_rows(out, arguments.format)
    if not only_check:
        complete(out)
    if arguments.incoming:
        return _take_in(out, arguments.incoming, only_check=only_check)
    from benchmark.boards.files import check, export_runs, write_boards

    if arguments.export_runs:
        print(f"{export_runs(out, arguments.export_runs)} runs written to {arguments.export_runs}")
        return 0
    from benchmark.report import manifest

    lines = [*check(out), *manifest.check(out)] if only_check else [str(path) for path in write_boards(out)]
    print("\n".join(lines) or f"{out}: fresh")
    return 1 if only_check and lines else 0


def _print_rows(out: Path, name: str) -> int:
    from benchmark.boards import export
    from benchmark.results.published import stored

    print(export.FORMATS[name](result for _, result in stored(out / "results")), end="")
    return 0


def _take_in(out: Path, paths: Sequence[Path], *, only_check: bool) -> int:
    from benchmark.boards.files import take_in
    from benchmark.report.analysis import in_detail

    refused = take_in(paths, out, in_detail, only_check=only_check)
    for line in refused:
        print(f"refused: {line}", file=sys.stderr)
    if not refused:
        print("valid" if only_check else f"added to {out}")
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
