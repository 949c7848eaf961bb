"""``python -m benchmark.report``: draws stored runs, and writes pages that show them with readings of the numbers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli.grid import BOARDS
from benchmark.errors import exit_code
from benchmark.registries import LOSSES, default_data_root
from benchmark.report import manifest


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 written, 2 bad input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _run(arguments), "reports")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=manifest.COMMAND,
        description="Draw the stored runs of data sets into <out>/report/<data set>/ as PNG and SVG, and write a page "
        "that shows them. Errors over label values need the data set's files.",
        allow_abbrev=False,
    )
    studied, reference = LOSSES.studied.contrasts[0]
    add = parser.add_argument
    add("dataset", nargs="+", metavar="DATASET", help="data sets that have stored runs")
    add("--out", type=Path, metavar="DIR", default=BOARDS, help="folder of results (default: leaderboards)")
    add("--data-root", type=Path, metavar="DIR", help="folder of the xlsa17 data sets (default: $ZSL_DATA)")
    add(
        "--method",
        nargs="+",
        metavar="NAME",
        default=[],
        help="draw these methods alone, all of them in detail (default: all, and in detail those two whose std over "
        f"unseen semantics falls most and least from {reference} to {studied})",
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    data_root = arguments.data_root or default_data_root()
    for name in arguments.dataset:
        manifest.require_runs(arguments.out / "results", name)
    from benchmark.report.pages import render  # imported here: what is wrong so far was said before it takes seconds

    for name in arguments.dataset:
        # Before anything is read: a result that comes in meanwhile makes the report stale, as it should.
        made_from = manifest.inputs(arguments.out / "results" / name)
        files = render(arguments.out / "results", name, arguments.method, data_root)
        folder = arguments.out / manifest.FOLDER / name
        manifest.write(folder, files, made_from, [name, *(["--method", *arguments.method] if arguments.method else [])])
        print(folder / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
