"""One job after another in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from benchmark.errors import InputError, Lost
from benchmark.launchers import Ended, Event, Part, Resources, Started
from benchmark.registries import LAUNCHERS
from benchmark.results.claims import Held

if TYPE_CHECKING:
    from benchmark.engine.jobs import Job


@LAUNCHERS.register("inline", title="one process", family="local", year=2026, source="this suite")
def inline(jobs: Sequence[Job[Any]], resources: Resources) -> Generator[Event, None, None]:  # noqa: ARG001
    """Do the jobs one after another in this process."""
    from benchmark.api import Incompatible

    for job in jobs:
        yield Started(job)
        problem: InputError | Incompatible | Held | Lost | None = None
        try:
            for part in job.run():
                yield Part(job, part)
        except (InputError, Incompatible, Held, Lost) as reason:
            problem = reason
        yield Ended(job, problem)
