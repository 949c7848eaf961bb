"""How numbers are written, in whatever format: means with deviations, counts of runs, differences and p-values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmark.boards.comparison import Comparison, Difference
from benchmark.boards.rows import Measure, Pair, Row

#: What stands where there is no number.
NONE = "\N{EN DASH}"


def mean_and_std(row: Row, measure: Measure, digits: int) -> tuple[str, str]:
    """``12.3`` and ``0.4``; an empty deviation where there is one value, and a dash where there is none."""
    summary = row.summary(measure)
    if summary is None:
        return NONE, ""
    return f"{summary.mean:.{digits}f}", "" if summary.std is None else f"{summary.std:.{digits}f}"


def mean_std(row: Row, measure: Measure, digits: int) -> str:
    """``12.3 ± 0.4``."""
    return " ± ".join(filter(None, mean_and_std(row, measure, digits)))


def mean(row: Row, measure: Measure) -> str:
    """``12.3``."""
    return mean_and_std(row, measure, 1)[0]


def number(value: float | None) -> str:
    """``12.3``, or a dash."""
    return NONE if value is None else f"{value:.1f}"


def count(pairs: Sequence[Pair]) -> str:
    """``5`` seeds, ``3 x 5`` partitions and seeds, or ``14 in 3`` partitions where some lack seeds."""
    if not pairs:
        return NONE
    if pairs[0][0] == "proposed":
        return str(len(pairs))
    partitions = Counter(partition for partition, _ in pairs)
    seeds = set(partitions.values())
    return f"{len(partitions)} x {seeds.pop()}" if len(seeds) == 1 else f"{len(pairs)} in {len(partitions)}"


def compared_count(comparison: Comparison) -> str:
    """The number of runs that were compared."""
    return count(max((d.pairs for d in comparison.differences.values()), key=len, default=()))


def between(interval: tuple[float, float] | None) -> str:
    """`` [0.1, 0.8]``, or nothing."""
    return "" if interval is None else f" [{interval[0]:.1f}, {interval[1]:.1f}]"


def difference(value: Difference | None, interval: tuple[float, float] | None = None) -> str:
    """``+0.42 [0.1, 0.8] (p = 0.03)``, or why there is no p."""
    if value is None:
        return NONE
    if value.p is None:
        reason = "deterministic" if value.constant else "no test"
    else:
        reason = "p < 0.001" if value.p < 0.001 else f"p = {value.p:.2g}"
    return f"{value.mean:+.2f}{between(interval)} ({reason})"


def plural(n: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {noun}" + ("" if n == 1 else "s")
