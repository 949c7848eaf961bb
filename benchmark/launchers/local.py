"""As many processes as there are cores, or as GPUs take; a process does one job after another.

A process keeps what the data of a job cost to prepare for the next one, and libraries stay imported. It is the leader
of a group of its own, which ends with it and with the command: by a time limit, an interrupt or a kill.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from benchmark.errors import InputError, Lost, one_line
from benchmark.launchers import Ended, Event, Part, Resources, Started, machine, prepare_process
from benchmark.registries import LAUNCHERS, load_plugins
from benchmark.results.claims import Held

if TYPE_CHECKING:  # not every system has both contexts
    from multiprocessing.context import ForkServerContext, SpawnContext

    from benchmark.engine.jobs import Job

#: Bytes that a job is taken to need before one of the command's jobs has shown what it needs.
EXPECTED_MEMORY = 2**30
#: Seconds that a process has to end when it is asked to, before it is killed.
GRACE = 2.0
#: Seconds between two looks at time limits and memory.
TICK = 0.5


@LAUNCHERS.register(
    "local",
    title="several processes on this machine",
    family="local",
    year=2026,
    source="this suite",
    takes=("jobs", "jobs_per_gpu", "timeout"),
)
def local(jobs: Sequence[Job[Any]], resources: Resources) -> Generator[Event, None, None]:
    """Do the jobs in as many processes as ``resources`` say; a death costs only the job that died."""
    waiting = deque(jobs)
    with _Pool(_environments(jobs, resources), resources.timeout) as pool:
        while waiting or pool.busy:
            while waiting and pool.has_room:
                job = waiting.popleft()
                pool.start(job)
                yield Started(job)
            yield from pool.events()


def warm_up() -> None:
    """Have processes' libraries imported while the command imports its own: this takes seconds, on another core."""
    _context()
    if "forkserver" in multiprocessing.get_all_start_methods():
        forkserver.ensure_running()


def _environments(jobs: Sequence[Job[Any]], resources: Resources) -> list[dict[str, str]]:
    """What the environment of each process adds to this one's: on GPUs the one that it has."""
    if not any(job.cell.device.startswith("cuda") for job in jobs):
        return [{} for _ in range(min(len(jobs), resources.jobs or machine.cores()))]
    on_gpus = [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(resources.jobs_per_gpu) for gpu in machine.gpus()]
    return on_gpus[: min(len(jobs), resources.jobs or len(on_gpus))]


class _Pool:
    """The processes of a command.

    Args:
        environments: what the environment of each process adds, one for each.
        timeout: seconds after which a job is ended; None: never.
    """

    def __init__(self, environments: Sequence[Mapping[str, str]], timeout: float | None) -> None:
        self._context = _context()
        self._free = list(environments)
        self._timeout = timeout
        self._workers: list[_Worker] = []
        self._most_memory = 0
        self._folder = Path(tempfile.mkdtemp(prefix="zsl-"))
        self._keep_output = False

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        if not self._keep_output:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def busy(self) -> list[_Worker]:
        """The processes that have a job."""
        return [worker for worker in self._workers if worker.job]

    @property
    def has_room(self) -> bool:
        """Whether a further job may start: there is a process for it, and memory, unless no other job is running."""
        busy = self.busy
        if len(busy) == len(self._workers) + len(self._free):
            return False
        expected = self._most_memory or EXPECTED_MEMORY
        promised = sum(max(0, expected - machine.memory_of(worker.process_id)) for worker in busy)
        return not busy or machine.memory_left() - promised >= expected

    def start(self, job: Job[Any]) -> None:
        """Give ``job`` to an idle process, or to a new one."""
        worker = next((worker for worker in self._workers if not worker.job), None)
        if worker is None:
            output = self._folder / f"{len(list(self._folder.iterdir())) + 1}.log"
            worker = _Worker(self._context, self._free.pop(), output)
            self._workers.append(worker)
        worker.start(job, self._timeout)

    def events(self) -> Iterator[Event]:
        """What happened since the last call; waits a moment where nothing did."""
        ready = wait([worker.connection for worker in self.busy], TICK)
        for worker in self.busy:
            self._most_memory = max(self._most_memory, machine.memory_of(worker.process_id))
            job = worker.job
            assert job is not None
            try:
                if worker.connection in ready:
                    yield worker.receive()
                elif worker.is_late:
                    worker.end()
                    raise Lost(f"it was ended after the {self._timeout:g} s of --timeout")
            except Lost as reason:
                self._bury(worker)
                yield Ended(job, reason)

    def _bury(self, worker: _Worker) -> None:
        """Forget a dead process; its output is kept, and named."""
        self._workers.remove(worker)
        self._free.append(worker.environment)
        if worker.output.is_file() and worker.output.stat().st_size:
            self._keep_output = True
            print(f"the output of a process that ended is kept: {worker.output}", file=sys.stderr)


class _Worker:
    """A process that does one job after another.

    Args:
        context: how processes are started.
        environment: what its environment adds to this one's.
        output: the file of what it prints.
    """

    def __init__(self, context: ForkServerContext | SpawnContext, environment: Mapping[str, str], output: Path) -> None:
        self.environment = environment
        self.output = output
        self.job: Job[Any] | None = None
        self._ends_at: float | None = None
        self._passed_on = 0  # bytes of its output
        self.connection, theirs = context.Pipe()
        lifeline, self._lifeline = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(theirs, lifeline, dict(environment), output), daemon=True)
        self._process.start()
        for end in (theirs, lifeline):  # the process holds the only one, so its death ends the stream
            end.close()

    @property
    def process_id(self) -> int:
        """The process, as the system numbers it."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_late(self) -> bool:
        """Whether its job has had its time."""
        return self._ends_at is not None and time.monotonic() > self._ends_at

    def start(self, job: Job[Any], timeout: float | None) -> None:
        """Give it ``job``, for ``timeout`` seconds."""
        self.job = job
        self._ends_at = None if timeout is None else time.monotonic() + timeout
        with suppress(OSError):  # its death, which ``receive`` tells of
            self.connection.send(job)

    def receive(self) -> Event:
        """What it says of its job.

        Raises:
            Lost: it died.
        """
        job = self.job
        assert job is not None
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise Lost(f"its process {_death(self._process.exitcode)}") from None
        self._pass_on_warnings()
        if kind == "part":
            return Part(job, content)
        self.job = None
        return Ended(job, content)

    def _pass_on_warnings(self) -> None:
        """Say what it warned of since the last time: the rest of its output is only for who asks why it died."""
        with suppress(OSError), self.output.open("rb") as file:
            file.seek(self._passed_on)
            new = file.read()
            self._passed_on += len(new)
            for line in new.decode(errors="replace").splitlines():
                if line.startswith("warning: "):
                    tqdm.write(line, file=sys.stderr)

    def end(self) -> None:
        """End it and all that it started."""
        if self.job:
            _signal_group(self.process_id, "SIGTERM")
        self.connection.close()  # which it waits at for a job
        self._process.join(GRACE)
        _signal_group(self.process_id, "SIGKILL")
        self._process.kill()  # which leads no group in its first moment
        self._process.join()


def _context() -> ForkServerContext | SpawnContext:
    """Where the system can fork, processes start with the libraries loaded: that takes seconds, a process may not."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The first optimiser of a process imports torch._dynamo.
    context.set_forkserver_preload([__name__, "benchmark.engine.jobs", "torch._dynamo"])
    return context


def _signal_group(leader: int, name: str) -> None:
    """Send a signal to a process and all that it started."""
    with suppress(OSError, AttributeError):  # it is gone; or it is Windows, where daemons end with their parent
        os.killpg(leader, getattr(signal, name))


def _death(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = ", as the system does where memory runs out: fewer --jobs take less" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _serve(connection: Connection, lifeline: Connection, environment: Mapping[str, str], output: Path) -> None:
    """Do the jobs that come by ``connection``, until it is closed."""
    _detach(output)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    os.environ.update(environment)
    tqdm.set_lock(threading.RLock())  # its default is shared by processes, and left behind by one that is killed
    prepare_process()
    with suppress(EOFError, OSError):
        while True:
            _do(connection.recv(), connection)


def _do(job: Job[Any], connection: Connection) -> None:
    from benchmark.api import Incompatible

    problem: InputError | Incompatible | Held | Lost | None = None
    try:
        load_plugins(job.cell.plugins)
        for part in job.run():
            connection.send(("part", part))
    except (InputError, Incompatible, Held, Lost) as reason:
        problem = reason
    except Exception as error:
        traceback.print_exc()
        problem = Lost(one_line(error))
    connection.send(("ended", problem))


def _detach(output: Path) -> None:
    """Lead a group of processes of its own, print to a file, and die before the command does where memory runs out."""
    if hasattr(os, "setsid"):
        os.setsid()
    with output.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    with suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("500")


def _end_with(lifeline: Connection) -> None:
    """End this process and all that it started once the command is gone, which holds the other end of ``lifeline``."""
    with suppress(EOFError, OSError):
        lifeline.recv()
    _signal_group(os.getpid(), "SIGKILL")
    os._exit(1)
