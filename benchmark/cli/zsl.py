"""``zsl``: all commands under one name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmark import __version__
from benchmark.commands import Part, dispatch

COMMANDS = {
    "run": Part("benchmark.run", "train and evaluate a grid of methods, losses, data sets and seeds"),
    "search": Part("benchmark.search", "search the settings of methods on validation data"),
    "predict": Part("benchmark.predict.__main__", "the classes of images or features, by a kept model"),
    "models": Part("benchmark.models.__main__", "list the models that runs kept, and what they are"),
    "leaderboard": Part("benchmark.leaderboard", "render, check, export and take in results"),
    "report": Part("benchmark.report.__main__", "draw stored runs, and say what they show"),
    "attention": Part("benchmark.attention", "draw where a method looks for each attribute"),
    "data": Part("datasets.__main__", "get, make and check data sets"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code of the command that it names, 2 where there is no such command."""
    words = sys.argv[1:] if argv is None else argv
    if [*words] == ["--version"]:
        print(f"zsl-benchmark {__version__}")
        return 0
    return dispatch("zsl", COMMANDS, words)


if __name__ == "__main__":
    sys.exit(main())
