"""Launchers: ways to run the cells of a plan. Each yields results as they come, in any order."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

import torch

from benchmark.experiment import run_cell
from benchmark.jobs import Cell, load_plugins
from benchmark.registry import InputError, Registry
from benchmark.results import Result

if TYPE_CHECKING:  # not every system has both
    from multiprocessing.context import ForkServerContext, SpawnContext

Launcher = Callable[[Sequence[Cell]], Iterator[Result]]

#: Third parties add launchers by entry points; ours are in this file.
LAUNCHERS: Registry[Launcher] = Registry(
    "launcher", "benchmark.launch", lambda obj: None if callable(obj) else f"{obj!r} is not callable"
)


@LAUNCHERS.register("inline", title="one process", family="local", year=2026, source="this suite")
def inline(cells: Sequence[Cell]) -> Iterator[Result]:
    """Run the cells one after another in this process."""
    for cell in cells:
        yield from run_cell(cell)


@LAUNCHERS.register("local", title="a process for each cell", family="local", year=2026, source="this suite")
def local(cells: Sequence[Cell]) -> Iterator[Result]:
    """Run each cell in a process of its own, as many at once as there are cores; a crash costs only that cell."""
    context = _context()
    waiting = list(reversed(cells))
    running: dict[Connection, tuple[BaseProcess, Cell, set[int]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                cell = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(target=_send_results, args=(cell, sender), daemon=True)
                process.start()
                sender.close()  # the child holds the only sending end, so its death ends the stream
                running[receiver] = (process, cell, set(cell.seeds))
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                process, cell, missing = running[connection]
                try:
                    message = connection.recv()
                except EOFError:
                    process.join()
                    del running[connection]
                    yield from (_crashed(cell, seed, process.exitcode) for seed in sorted(missing))
                    continue
                if isinstance(message, InputError):
                    raise message
                missing.discard(message.seed)
                yield message
    finally:
        for process, *_ in running.values():
            process.terminate()


def _context() -> ForkServerContext | SpawnContext:
    """Where the system can fork, processes start with the libraries loaded: that takes seconds, a cell may not."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _send_results(cell: Cell, sender: Connection) -> None:
    try:
        torch.set_num_threads(1)
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
