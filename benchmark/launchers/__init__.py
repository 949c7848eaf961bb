"""Launchers: ways to do jobs, from one after another in this process to as many at once as a machine can take.

A job does what is missing of one cell and stores it, in whatever process it is. A launcher tells what becomes of the
jobs as events, in any order. What goes wrong with one job is an event as any other, and costs no other job.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmark.errors import InputError, Lost
from benchmark.results.claims import Held, wait_for_any

if TYPE_CHECKING:  # a launcher that starts processes has them import torch while the command does
    from tqdm import tqdm

    from benchmark.api import Incompatible
    from benchmark.engine.jobs import Job


#: The most running jobs that a progress bar names.
SHOWN = 8


@dataclass(frozen=True)
class Started:
    """A process took ``job`` up."""

    job: Job[Any]


@dataclass(frozen=True)
class Part:
    """A ``part`` of ``job`` is done and stored."""

    job: Job[Any]
    part: Any


@dataclass(frozen=True)
class Ended:
    """``job`` is over.

    Attributes:
        job: the job.
        problem: an ``InputError``, ``Incompatible``, ``Held`` or ``Lost``; None where all went well.
    """

    job: Job[Any]
    problem: InputError | Incompatible | Held | Lost | None = None


Event = Started | Part | Ended


@dataclass(frozen=True)
class Resources:
    """What a launcher may use.

    Attributes:
        jobs: jobs at once; None: as many as there are cores, or as GPUs take.
        jobs_per_gpu: jobs that share a GPU at once.
        timeout: seconds after which a job is ended; None: never.
        slurm: what Slurm jobs are submitted with, as submitit calls it.
    """

    jobs: int | None = None
    jobs_per_gpu: int = 1
    timeout: float | None = None
    slurm: Mapping[str, Any] = field(default_factory=dict)


Launcher = Callable[[Sequence["Job[Any]"], Resources], Generator[Event, None, None]]


def follow(jobs: Sequence[Job[Any]], launcher: Launcher, resources: Resources, bar: tqdm[Any]) -> Iterator[Event]:
    """What becomes of ``jobs`` until all are over: those that another command is at are asked for again after it.

    Args:
        jobs: the jobs.
        launcher: what does them.
        resources: what it may use.
        bar: shows which jobs are running, where there are several at once.
    """
    pending = list(jobs)
    while pending:
        running: list[tuple[Job[Any], list[Any]]] = []
        held: list[tuple[Job[Any], Held]] = []
        with closing(launcher(pending, resources)) as events:
            for event in events:
                if isinstance(event, Started):
                    running.append((event.job, []))
                    _show(running, bar)
                done = next(parts for job, parts in running if job is event.job)
                if isinstance(event, Part):
                    done.append(event.part)
                elif isinstance(event, Ended):
                    running.remove((event.job, done))
                    _show(running, bar)
                    if isinstance(event.problem, Held):
                        held.append((event.job, event.problem))
                        continue
                    if event.problem and not isinstance(event.problem, InputError):
                        yield from (Part(event.job, part) for part in event.job.missing(event.problem, done))
                yield event
        if held:
            bar.set_postfix_str(f"another command is at {len(held)} of them")
            wait_for_any([reason.name for _, reason in held])
        pending = [job.again() for job, _ in held]


def _show(running: Sequence[tuple[Job[Any], list[Any]]], bar: tqdm[Any]) -> None:
    if len(running) > 1:
        names = [job.cell.title for job, _ in running]
        bar.set_postfix_str(", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))


def prepare_process() -> None:
    """What commands, and the processes that they start, set for themselves before they train.

    One thread unless the user chose: these models are small, and more threads cost more than they bring. Their number
    changes the last bits of results, so it is the same with every launcher.
    """
    import torch

    from benchmark.engine.memory import reuse_freed_memory

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    reuse_freed_memory()
