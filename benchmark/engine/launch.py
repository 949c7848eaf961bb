"""Launchers: ways to run the cells of a plan. Each yields results as they come, in any order.

What the user gave wrong for one cell must not cost the others: a launcher goes on with these, and raises at its end.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, cast

import torch

from benchmark.engine.experiment import run_cell
from benchmark.engine.memory import reuse_freed_memory
from benchmark.engine.plan import Cell
from benchmark.errors import InputError
from benchmark.registries import LAUNCHERS, load_plugins
from benchmark.results.record import Result

if TYPE_CHECKING:  # not every system has both
    from multiprocessing.context import ForkServerContext, SpawnContext

Launcher = Callable[[Sequence[Cell]], Iterator[Result]]


@LAUNCHERS.register("inline", title="one process", family="local", year=2026, source="this suite")
def inline(cells: Sequence[Cell]) -> Iterator[Result]:
    """Run the cells one after another in this process."""
    problems: list[str] = []
    for cell in cells:
        try:
            yield from run_cell(cell)
        except InputError as error:
            problems.append(str(error))
    _raise(problems)


@LAUNCHERS.register("local", title="a process for each cell", family="local", year=2026, source="this suite")
def local(cells: Sequence[Cell]) -> Iterator[Result]:
    """Run each cell in a process of its own, as many at once as there are cores; a crash costs only that cell."""
    context = _context()
    waiting = list(reversed(cells))
    running: dict[Connection, tuple[BaseProcess, Cell, set[int]]] = {}
    problems: list[str] = []
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                cell = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(target=_send_results, args=(cell, sender), daemon=True)
                process.start()
                sender.close()  # the child holds the only sending end, so its death ends the stream
                running[receiver] = (process, cell, set(cell.seeds))
            for connection in cast("list[Connection]", wait(list(running))):
                process, cell, missing = running[connection]
                try:
                    message = connection.recv()
                except EOFError:
                    process.join()
                    del running[connection]
                    yield from (_crashed(cell, seed, process.exitcode) for seed in sorted(missing))
                    continue
                if isinstance(message, InputError):
                    problems.append(str(message))
                    missing.clear()
                    continue
                missing.discard(message.seed)
                yield message
    finally:
        for process, *_ in running.values():
            process.terminate()
    _raise(problems)


def prepare_process() -> None:
    """What commands, and the processes that they start, set for themselves before they train.

    One thread unless the user chose: these models are small, and more threads cost more than they bring.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    reuse_freed_memory()


def _context() -> ForkServerContext | SpawnContext:
    """Where the system can fork, processes start with the libraries loaded: that takes seconds, a cell may not."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _send_results(cell: Cell, sender: Connection) -> None:
    try:
        prepare_process()
        load_plugins(cell.plugins)
        for result in run_cell(cell):
            sender.send(result)
    except InputError as error:
        sender.send(error)
    except KeyboardInterrupt:
        pass  # the parent was interrupted too, and says so


def _crashed(cell: Cell, seed: int, exit_code: int | None) -> Result:
    error = f"its process ended with exit code {exit_code} before this run did"
    return Result(spec=cell.spec, seed=seed, status="failed", error=error)


def _raise(problems: Sequence[str]) -> None:
    """Raise what was wrong with cells, each problem once and on a line of its own."""
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
