"""``python -m datasets``, or ``zsl data``: the commands that get, make and check data sets."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmark.commands import Part, dispatch

COMMANDS = {
    "download": Part("datasets.download", "fetch the official features, attributes and splits"),
    "check": Part("datasets.check.__main__", "what a folder is, what is wrong with it, and its digests"),
    "extract": Part("datasets.features.extract", "make features of images"),
    "vectors": Part("datasets.features.vectors", "make vectors of the names of attributes or classes"),
    "semantics": Part("datasets.features.semantics", "take in semantics from the files of other releases"),
    "emoji": Part("datasets.emoji.__main__", "build a small real data set from free packages"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code of the command that it names, 2 where there is no such command."""
    return dispatch("zsl data", COMMANDS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
