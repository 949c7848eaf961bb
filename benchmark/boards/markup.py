"""The signs of Markdown: text and code that cannot be taken for markup, tables, and what methods are called in them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from benchmark.boards.rows import Board, Row
from benchmark.boards.view import tags, title_of
from benchmark.config import assignments


def text(content: str) -> str:
    """``content`` on one line, with Markdown's characters escaped."""
    return re.sub(r"([\\`*_\[\]<>#~&])", r"\\\1", " ".join(content.split()))


def code(content: str) -> str:
    """``content`` on one line as a code span, whatever backticks it holds."""
    content = " ".join(content.split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", content)), default=0))
    pad = " " if "`" in content[:1] + content[-1:] else ""
    return f"{fence}{pad}{content}{pad}{fence}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], left: Iterable[int] = (0, 1)) -> str:
    """A table; columns that are not ``left`` hold numbers."""
    rule = ["---" if column in left else "---:" for column in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, rule, *lines)
    )


def folded(summary: str, *parts: str) -> str:
    """What is shown once its summary is clicked."""
    return "\n\n".join([f"<details><summary>{html.escape(summary)}</summary>", *parts, "</details>"])


def method(row: Row) -> str:
    """The row's method and what the user set of it."""
    overrides = ",".join(assignments(row.spec.hparam_overrides))
    profile = f", {row.spec.profile}" if row.spec.profile else ""
    tuned = f", tuned by {row.spec.tuned} trials" if row.spec.tuned else ""
    return text(title_of(row)) + (f" {code(overrides)}" if overrides else "") + profile + tuned


def loss(row: Row) -> str:
    """The row's loss, as the user would type it."""
    return code(row.spec.loss_label)


def simulated(board: Board) -> str:
    """What a head says of simulated data."""
    return tags(board, simulated=" ({})")


def all_tags(board: Board) -> str:
    """What a head says of simulated data, and of figures that were selected on test."""
    return tags(board, simulated=" ({})", on_test=", {}")


def file_of(board: Board) -> str:
    """The file that the board is in."""
    return board.dataset + ("-literature" if board.protocol == "literature" else "") + ".md"


def link(board: Board) -> str:
    """A link to the board's file, and what must be said of its data."""
    return f"[{text(board.dataset)}]({quote(file_of(board))}){simulated(board)}"
