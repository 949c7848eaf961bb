"""``python -m datasets.check DIR``, or ``zsl data check DIR``: what a folder is, what is wrong with it, its digests.

``DIR`` is a data set in the format of ``datasets.xlsa17``, or a folder of several. All feature files and all semantics
are read through, as a run would read them. Nothing is written but the cache that runs use too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands import Parser
from benchmark.errors import InputError, exit_code
from benchmark.registries import DATASETS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, or 2 after a line about each thing that is wrong."""
    return exit_code(lambda: _command(_parser().parse_args(argv).folder), "data sets")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m datasets.check",
        description="Say what a data set's folder holds, what is wrong with it, and the digests of its files.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a data set, or a folder of data sets")
    return parser


def _command(folder: Path) -> int:
    folders = _data_sets(folder)
    from datasets.check.report import Report  # imported here: NumPy takes longer than --help should

    problems: list[str] = []
    for found in folders:
        report = Report(found)
        print(f"{found}: a data set, --dataset {found.name.lower()} --data-root {found.parent}")
        for name, said in report.lines():
            print(f"  {name:12}{said}")
        problems += report.problems
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return 0


def _data_sets(folder: Path) -> list[Path]:
    """The folder itself if it is a data set, else those of its folders that are.

    Raises:
        InputError: there are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: must be a folder that exists")
    folder = folder.resolve()
    itself = [known for known in DATASETS.folders(folder.parent).values() if known == folder]
    if found := itself or [*DATASETS.folders(folder).values()]:
        return found
    from datasets.features.images import find

    message = f"{folder}: is no data set: neither it nor a folder in it has att_splits.mat"
    try:
        n_classes = len({*find(folder).classes})
    except InputError:
        raise InputError(f"{message}; python -m datasets.download gets the official data") from None
    made = f"python -m datasets.features.extract NAME --images {folder} makes a data set of them"
    raise InputError(f"{message}; it holds images of {n_classes} classes: {made}")


if __name__ == "__main__":
    sys.exit(main())
