"""Errors that are one line: the user's to mend, or the end of a job; and the exit codes of commands."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable

#: The most letters of what a file says that a message repeats.
_LONGEST = 200


class InputError(Exception):
    """Something that the user gave is wrong; its text is one clear line: what, where, what would be right."""


class Lost(Exception):
    """A job ended before it was done; its text says why in one line: its process died, or took too long."""


def one_line(error: BaseException) -> str:
    """``ValueError: what it says``, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def printable(text: str) -> str:
    """What a file says, fit for a message: one line, cut where it is long, without what a terminal would obey."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown ``name``: the nearest known one, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or '(none)'}"


def exit_code(command: Callable[[], int], unit: str) -> int:
    """The exit code of ``command``; bad input makes a line a problem and 2, an interrupt one line and 130.

    Args:
        command: what to run.
        unit: what is stored as it is finished, for the line about an interrupt: runs, trials.
    """
    try:
        return command()
    except InputError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted: finished {unit} are stored; the same command goes on with the rest", file=sys.stderr)
        return 130
