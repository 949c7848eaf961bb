"""Cells and tables of text: how figures, differences and names are written, in Markdown and in the terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from benchmark.statistics import Comparison, Difference, Figure, Pair, Row

NONE = "\N{EN DASH}"


def mean_std(row: Row, figure: Figure, digits: int, *, bold: bool = False) -> str:
    """``12.3 ± 0.4``; the mean alone where there is one value, and a dash where there is none."""
    summary = row.summary(figure)
    if summary is None:
        return NONE
    mean = f"{summary.mean:.{digits}f}"
    std = "" if summary.std is None else f" ± {summary.std:.{digits}f}"
    return (f"**{mean}**" if bold else mean) + std


def mean(row: Row, figure: Figure) -> str:
    """``12.3``."""
    return mean_std(row, figure, 1).partition(" ")[0]


def count(pairs: Sequence[Pair]) -> str:
    """``5`` seeds, ``3 x 5`` partitions and seeds, or ``14 in 3`` partitions where some lack seeds."""
    if not pairs:
        return NONE
    if pairs[0][0] == "proposed":
        return str(len(pairs))
    partitions = Counter(split for split, _ in pairs)
    seeds = set(partitions.values())
    return f"{len(partitions)} x {seeds.pop()}" if len(seeds) == 1 else f"{len(pairs)} in {len(partitions)}"


def compared_count(comparison: Comparison) -> str:
    """The number of runs that were compared."""
    return count(max((d.pairs for d in comparison.differences.values()), key=len, default=()))


def difference(value: Difference | None, interval: tuple[float, float] | None = None) -> str:
    """``+0.42 [0.1, 0.8] (p = 0.03)``, or why there is no p."""
    if value is None:
        return NONE
    if value.p is None:
        reason = "deterministic" if value.constant else "no test"
    else:
        reason = "p < 0.001" if value.p < 0.001 else f"p = {value.p:.2g}"
    between = "" if interval is None else f" [{interval[0]:.1f}, {interval[1]:.1f}]"
    return f"{value.mean:+.2f}{between} ({reason})"


def plural(number: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


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
    """A Markdown table; columns that are not ``left`` hold numbers."""
    rule = ["---" if column in left else "---:" for column in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, rule, *lines)
    )


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]], left: Collection[int] = (0, 1)) -> str:
    """Columns of plain text, numbers but for ``left``; a line shorter than ``head`` ends in a remark of any width."""
    every = [head, *lines]
    widths = [
        max(len(line[column]) for line in every if column < 2 or len(line) == len(head)) for column in range(len(head))
    ]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left or len(line) < len(head) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=False))
        ).rstrip()
        for line in every
    )
