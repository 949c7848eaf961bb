"""What every command line stands on: a parser whose complaints are errors like all others, and commands of commands."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from benchmark.errors import InputError, did_you_mean


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors like all others: one line, and no end of the process."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:  # noqa: D102 - see the class
        raise InputError(message)


class Part(NamedTuple):
    """One of several commands that a command gathers.

    Attributes:
        module: the module whose ``main`` takes the rest of the words and returns the exit code; it is imported when it
            is asked for.
        about: what it does, in a few words.
    """

    module: str
    about: str


def dispatch(name: str, parts: Mapping[str, Part], argv: Sequence[str]) -> int:
    """Do what ``argv`` asks for: its first word chooses among ``parts``, which gets the others.

    Args:
        name: what the user calls the command that gathers the parts.
        parts: the first word -> what it stands for.
        argv: the words behind ``name``.

    Returns:
        The exit code; 2 after one line where the first word is wrong.
    """
    word, rest = (argv[0], argv[1:]) if argv else ("--help", ())
    if word in ("-h", "--help"):
        print(_help(name, parts))
        return 0
    if word not in parts:
        print(f"error: {name} has no command {word!r}; {did_you_mean(word, parts)}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(parts[word].module).main(rest)
    return code


def _help(name: str, parts: Mapping[str, Part]) -> str:
    width = max(map(len, parts))
    lines = [f"  {word:{width}}  {part.about}" for word, part in parts.items()]
    return "\n".join([f"usage: {name} COMMAND ...", "", *lines, "", f"{name} COMMAND --help explains the options."])
