"""Semantics of other releases: ``python -m datasets.features.semantics NAME FILE --as SEMANTICS``.

Writes ``<data root>/<NAME>/<semantics>_splits.mat``, which ``--dataset <name>:attributes=<semantics>`` chooses (see
``datasets.semantics``), from one of

- ``.mat`` with ``att`` (A, C) and ``allclasses_names``, as CE-GZSL's ``sent_splits.mat``: all but these is left out;
- ``.npy`` (C, A), as ImageFreeZSL's word vectors; ``--names`` is the file of the classes' names in the order of its
  rows, ``.npy`` too, or text with a name in each line;
- ``.hdf5``, as GenZSL's ``CLIP_feature.hdf5``: ``seen_embeddings`` and ``unseen_embeddings``, whose rows are those of
  the classes in ``train_l`` and ``testUnseen_l``, ascending. It takes ``pip install -e '.[hdf5]'``.

Every class of the data set must be there under its own name. A pickle, as some .npy files are, is not read: it can run
code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.commands import Parser
from benchmark.errors import exit_code
from benchmark.registries import DATASETS
from datasets.disk import data_root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0, 2 after one line about what is wrong, or 130 after Ctrl-C."""
    parser = Parser(
        prog="python -m datasets.features.semantics", description="Semantics of classes from the files of releases."
    )
    parser.add_argument("name", metavar="NAME", help="the data set: a folder under the data root")
    parser.add_argument("file", type=Path, metavar="FILE", help="a .mat, .npy or .hdf5 file")
    parser.add_argument("--as", dest="called", required=True, metavar="SEMANTICS", help="what to call them")
    parser.add_argument("--names", type=Path, metavar="FILE", help="of .npy: the names of its rows, .npy or text")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="folder of the data sets (default: $ZSL_DATA)")

    def command() -> int:
        arguments = parser.parse_args(argv)
        folder = DATASETS.folder(arguments.name, data_root(arguments.data_root))
        from datasets.features.releases import convert  # imported here: NumPy takes longer than --help should

        convert(folder, arguments.file, arguments.called, arguments.names)
        return 0

    return exit_code(command, "files")


if __name__ == "__main__":
    sys.exit(main())
