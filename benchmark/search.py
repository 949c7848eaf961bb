"""``python -m benchmark.search``: search the settings of methods, scored on validation classes and images alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cli.grid import (
    TUNED,
    add_grid_options,
    add_launcher_options,
    check_grid,
    check_launcher,
    grid,
    launching,
    warm_up,
)
from benchmark.cli.options import add_config_options, parse
from benchmark.commands import Parser
from benchmark.errors import InputError, exit_code

if TYPE_CHECKING:
    from benchmark.api import Criterion
    from benchmark.engine.plan import Cell
    from benchmark.engine.search import Progress

EXAMPLES = """examples:
  python -m benchmark.search --method ale --loss mse remse --dataset awa1 --data-root xlsa17/data --trials 20
  python -m benchmark.run --method ale --loss mse remse --dataset awa1 --data-root xlsa17/data --tuned

Give every method and loss that is to be compared the same number of trials. The first takes the defaults; a search
that was interrupted, or is to have more trials, goes on where it ended.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 done, 1 a search came to nothing, 2 bad input, 130 interrupted."""
    return exit_code(lambda: _run(parse(_parser(), argv)), "trials")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m benchmark.search",
        description="Search the settings of each method, loss and data set in the ranges of their YAMLs. The "
        "value of a trial is the AUSUC (H where the method says so) on validation classes and images; test images are "
        "never loaded.",
        epilog=EXAMPLES,
    )
    add_grid_options(parser, seeds="0")
    add_launcher_options(parser)
    add_config_options(parser)
    parser.add_argument("--trials", type=int, metavar="N", default=20, help="trials of each search (default: 20)")
    parser.add_argument(
        "--tuned",
        type=Path,
        metavar="DIR",
        default=TUNED,
        help="folder of what was found, which benchmark.run --tuned reads (default: runs/tuned)",
    )
    return parser


def _run(arguments: argparse.Namespace) -> int:
    if arguments.trials < 1:
        raise InputError(f"--trials must be at least 1, got {arguments.trials} instead")
    if find_spec("optuna") is None:
        raise InputError("a search needs optuna: pip install -e '.[search]'")
    check_launcher(arguments)
    check_grid(arguments)
    warm_up(arguments)
    return _search(arguments)  # what is wrong so far was said before this imports what takes seconds


def _search(arguments: argparse.Namespace) -> int:
    from benchmark.boards.text import aligned
    from benchmark.launchers import prepare_process

    cells = grid(arguments, "strict", None)
    prepare_process()
    found, problem = _found(cells, arguments)
    lines = [[cell.spec.method_label, cell.spec.loss_label, cell.spec.dataset, *_outcome(end)] for cell, end in found]
    if lines:
        print(aligned(["method", "loss", "data set", "default", "best", "settings"], lines, left=(0, 1, 2, 5)))
        print(f"{_criteria(cells)} on validation, in percent; settings in {arguments.tuned}")
    if problem:
        raise problem
    return int(any((end.ended or "").startswith("failed") for _, end in found))


def _found(
    cells: Sequence[Cell], arguments: argparse.Namespace
) -> tuple[list[tuple[Cell, Progress]], InputError | None]:
    """How far the search of each cell came; and what the user gave wrong for others."""
    from tqdm.auto import tqdm

    from benchmark.engine.search import Progress, SearchJob
    from benchmark.launchers import Ended, Part, follow

    jobs = [SearchJob(cell, arguments.tuned, arguments.trials) for cell in cells]
    last = {cell.spec.key: Progress(0) for cell in cells}
    problems: dict[str, str] = {}
    with tqdm(total=arguments.trials * len(jobs), desc="trials", unit="trial", disable=None) as bar:
        for event in follow(jobs, *launching(arguments, len(jobs)), bar):
            key = event.job.cell.spec.key
            if isinstance(event, Part):
                bar.update(min(event.part.n_trials, arguments.trials) - last[key].n_trials)
                last[key] = event.part
            elif isinstance(event, Ended) and isinstance(event.problem, InputError):
                problems[key] = str(event.problem)
    found = [(cell, last[cell.spec.key]) for cell in cells if cell.spec.key not in problems]
    return found, InputError("\n".join(dict.fromkeys(problems.values()))) if problems else None


def _criteria(cells: Sequence[Cell]) -> str:
    """What the figures are: ``AUSUC``, ``H``, or ``AUSUC (H of mine)`` where the methods differ."""
    from benchmark.registries import METHODS

    methods: dict[Criterion, list[str]] = {}
    for cell in {cell.spec.method: cell for cell in cells}.values():
        name, settings = cell.spec.method, cell.spec.hparams
        methods.setdefault(METHODS[name].obj.selected_by(settings), []).append(name)
    first, *others = sorted(methods)
    return first + "".join(f" ({other} of {', '.join(methods[other])})" for other in others)


def _outcome(end: Progress) -> list[str]:
    from benchmark.boards.wording import NONE

    if end.found is None:
        return [NONE, NONE, end.ended or NONE]
    default = end.found.trials[0].value
    found = [f"{name}={_short(value)}" for name, value in end.found.hparams.items()]
    found += [f"loss:{name}={_short(value)}" for name, value in end.found.loss_parameters.items()]
    note = f" ({end.ended})" if end.ended else ""
    return [
        NONE if default is None else f"{default:.1f}",
        f"{end.found.value:.1f}",
        (" ".join(found) or "the defaults") + note,
    ]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
