"""``python -m benchmark.report``: draws stored runs and kept models, and writes pages with readings of the numbers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.cli.grid import BOARDS
from benchmark.commands import Parser
from benchmark.errors import exit_code
from benchmark.files import MODEL_SUFFIX
from benchmark.registries import LOSSES, default_data_root, load_plugins
from benchmark.report import manifest


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 written, 2 bad input, 130 interrupted."""
    return exit_code(lambda: _run(_parser().parse_args(argv)), "reports")


def _parser() -> Parser:
    parser = Parser(
        prog=manifest.COMMAND,
        description="Draw the stored runs of data sets into <out>/report/<data set>/ as PNG and SVG, and write a page "
        "that shows them; errors over label values need the data set's files. Of a kept model, what it confuses among "
        "unseen classes and a map of their real and generated features go into <out>/models/; this needs those files.",
    )
    studied, reference = LOSSES.studied.contrasts[0]
    add = parser.add_argument
    add("what", nargs="+", metavar="DATASET|MODEL", help="data sets that have stored runs, or files of kept models")
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
    add(
        "--plugin", type=Path, nargs="+", metavar="FILE", default=[], help="Python files that register a model's method"
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    data_root = arguments.data_root or default_data_root()
    files = [Path(what) for what in arguments.what if what.endswith(MODEL_SUFFIX)]
    datasets = [what for what in arguments.what if not what.endswith(MODEL_SUFFIX)]
    for name in datasets:
        manifest.require_runs(arguments.out / "results", name)
    load_plugins(arguments.plugin)
    for name in datasets:
        _report_runs(arguments.out, name, arguments.method, data_root)
    for file in files:
        _report_model(arguments.out, file, data_root)
    return 0


def _report_runs(out: Path, dataset: str, methods: Sequence[str], data_root: Path | None) -> None:
    from benchmark.report.pages import render  # what is wrong so far was said before this takes its seconds

    # Before anything is read: a result that comes in meanwhile makes the report stale, as it should.
    made_from = manifest.inputs(out / "results" / dataset)
    files = render(out / "results", dataset, methods, data_root)
    folder = out / manifest.FOLDER / dataset
    manifest.write(folder, files, made_from, [dataset, *(["--method", *methods] if methods else [])])
    print(folder / "README.md")


def _report_model(out: Path, file: Path, data_root: Path | None) -> None:
    from benchmark.files import read_bytes
    from benchmark.report.model_page import render_model

    made_from = {file.name: manifest.digest(read_bytes(file))}
    name, files = render_model(file, data_root)
    folder = out / manifest.MODELS / name
    manifest.write(folder, files, made_from, [file.name])
    print(folder / "README.md")


if __name__ == "__main__":
    sys.exit(main())
