"""The results of a call, as a sequence that prints as a table and becomes a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from benchmark.boards.text import terminal_table
from benchmark.errors import InputError
from benchmark.results.record import Result

if TYPE_CHECKING:
    import pandas


class Results(Sequence[Result]):
    """Results of runs, in the order of the grid; ``print`` shows the table that the command line does.

    Args:
        results: the results, failed and skipped ones too (see ``Result.status``).
    """

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = tuple(results)

    @overload
    def __getitem__(self, index: int) -> Result: ...

    @overload
    def __getitem__(self, index: slice) -> Results: ...

    def __getitem__(self, index: int | slice) -> Result | Results:
        return Results(self._results[index]) if isinstance(index, slice) else self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    def __str__(self) -> str:
        done = [result for result in self if result.status == "ok"]
        failures = [
            f"{result.status}: {_title(result)} seed {result.seed}: {result.error}"
            for result in self
            if result.status != "ok"
        ]
        return "\n".join([terminal_table(done, done), *failures])

    def to_pandas(self) -> pandas.DataFrame:
        """A data frame of one row a run: what was run, how it ended, its measures in percent and its cost in seconds.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise InputError("to_pandas needs pandas: pip install -e '.[pandas]'") from None
        frame: pandas.DataFrame = pandas.DataFrame([_row(result) for result in self])
        return frame


def _row(result: Result) -> dict[str, Any]:
    spec = result.spec
    row: dict[str, Any] = {
        "method": spec.method_label,
        "loss": spec.loss_label,
        "dataset": spec.dataset,
        "features": spec.features,
        "split": spec.partition,
        "protocol": spec.protocol,
        "seed": result.seed,
        "status": result.status,
        "error": result.error,
        "key": spec.key,
    }
    if result.evaluation is not None:
        row |= result.evaluation.metrics.model_dump()
    return row | (result.cost.model_dump() if result.cost else {})


def _title(result: Result) -> str:
    return f"{result.spec.method_label}+{result.spec.loss_label} on {result.spec.dataset}"
