"""Jobs of a Slurm cluster, through submitit: one array of them, of which each does one job of the command.

A job stores what it makes in the folder that all share, and the command picks it up from there, whatever became of the
Slurm job. Which Slurm job is at what is noted beside the results, so that the same command attaches again after an
interrupt, a lost connection or a crash. Accounting (``sacct``), which small clusters lack, is not asked: states come
from ``squeue``, and what submitit does not requeue (all but its own signal before a time-out) is requeued here, once.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from benchmark.errors import InputError, Lost, one_line
from benchmark.files import write_whole
from benchmark.launchers import Ended, Event, Part, Resources, Started, prepare_process
from benchmark.registries import LAUNCHERS, load_plugins
from benchmark.results.claims import Held

if TYPE_CHECKING:
    from submitit import SlurmExecutor, SlurmJob

    from benchmark.engine.jobs import Job

#: The folder, beside results, of the notes on Slurm jobs and of submitit's own files.
FOLDER = ".slurm"
#: Seconds between two looks at the jobs.
LOOK = 2.0
#: Seconds until Slurm is asked again to take jobs, when its queue was full.
RETRY = 30.0
#: What ``sbatch`` says when jobs may be taken later.
FULL = ("temporarily unavailable", "MaxSubmitJob", "violates accounting/QOS policy")
#: Looks at an ended job that has left no outcome, until it is taken to be dead: what NFS takes to show its file.
PATIENCE = 5
#: Times that submitit requeues a job that ran into its time limit, each of which goes on where the last ended.
TIMEOUTS = 20
#: States in which a job has not ended.
GOING = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "RESIZING", "SUSPENDED", "SIGNALING", "STOPPED"}
#: What users say -> what submitit calls it.
NAMES = {"gpus": "gpus_per_node", "cpus": "cpus_per_task"}


@LAUNCHERS.register(
    "slurm",
    title="jobs of a Slurm cluster",
    family="cluster",
    year=2026,
    source="submitit (github.com/facebookincubator/submitit)",
    takes=("slurm",),
)
def slurm(jobs: Sequence[Job[Any]], resources: Resources) -> Generator[Event, None, None]:
    """Submit what no Slurm job is at yet, and follow all of them until they have ended.

    Raises:
        InputError: there is no Slurm or no submitit here, or it refuses an option or a job.
    """
    _check()
    logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it warns of accounting that is not there
    watched = _attached(jobs)
    queue = _Queue([job for job in jobs if not any(watch.job is job for watch in watched)], resources.slurm)
    yield from (Started(watch.job) for watch in watched)
    try:
        while watched or queue.waiting:
            submitted = queue.submit()
            yield from (Started(watch.job) for watch in submitted)
            watched += submitted
            yield from _look(watched)
            if watched or queue.waiting:
                time.sleep(LOOK)
    except KeyboardInterrupt:
        _leave_or_cancel(watched)
        raise


def parameters(text: str) -> dict[str, Any]:
    """``partition=gpu,time=2:00:00,gpus=1`` -> submitit's parameters, their times in whole minutes.

    Raises:
        InputError: something is no ``key=value``, or the time is none.
    """
    found: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise InputError(f"--slurm: {item!r} must be key=value, for instance partition=gpu,time=2:00:00,gpus=1")
        found[NAMES.get(key, key)] = _minutes(value) if key == "time" else int(value) if value.isdecimal() else value
    return found


def _minutes(text: str) -> int:
    """Slurm's ``M``, ``M:S``, ``H:M:S`` or ``D-H[:M[:S]]`` -> whole minutes, no fewer than asked for."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        raise InputError(f"--slurm: time must be as 90, 2:00:00 or 1-12:00:00, got {text!r} instead")
    # Without days a single number is minutes, and two are minutes and seconds.
    if not dash and len(parts) < 3:
        parts = ["0", *parts]
    hours, minutes, seconds = (int(part) for part in [*parts, "0", "0"][:3])
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return max(1, -(-total // 60))


def _check() -> None:
    if find_spec("submitit") is None:
        raise InputError("--launcher slurm needs submitit: pip install -e '.[slurm]'")
    missing = [program for program in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(program) is None]
    if missing:
        raise InputError(f"--launcher slurm: {', '.join(missing)} not found; run it where jobs can be submitted")


@dataclass
class _Task:
    """What a Slurm job does; submitit pickles it, and asks for its checkpoint before a time limit.

    Attributes:
        job: the job.
    """

    job: Job[Any]

    def __call__(self) -> tuple[str, str] | None:
        """Do the job, which stores what it makes; returns what went wrong, as kind and text."""
        from benchmark.api import Incompatible

        try:
            prepare_process()
            load_plugins(self.job.cell.plugins)
            for _ in self.job.run():
                pass
        except Held as reason:
            return "held", str(reason.name)
        except InputError as reason:
            return "input", str(reason)
        except Incompatible as reason:
            return "incompatible", str(reason)
        except Exception as reason:
            return "lost", str(reason) if isinstance(reason, Lost) else one_line(reason)
        return None

    def checkpoint(self) -> Any:
        """The same again: what is stored by then is not done again.

        Submitit then lets ``scontrol`` requeue the job, whose processes Slurm ends as soon as it has been told: the one
        that tells it, too, which submitit would take for a refusal. So that process, which inherits what is ignored
        here, is made deaf to the signal; this one exits by itself.
        """
        from submitit.helpers import DelayedSubmission

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return DelayedSubmission(self)


@dataclass
class _Watch:
    """A job of the command, and the Slurm job that does it.

    Attributes:
        job: the job.
        slurm_job: the Slurm job.
        parts: those that were told of.
        requeued: it was requeued once, after a death.
        looks: how often it was seen to have ended without an outcome.
    """

    job: Job[Any]
    slurm_job: SlurmJob[Any]
    parts: list[Any] = field(default_factory=list)
    requeued: bool = False
    looks: int = 0

    def new_parts(self, *, failed: bool) -> list[Any]:
        """The parts that were stored since the last call; those that failed may be of an earlier command."""
        new = [part for part in self.job.stored(failed=failed) if part not in self.parts]
        self.parts += new
        return new

    @property
    def has_outcome(self) -> bool:
        """Whether it has written what came of it."""
        folder = self.slurm_job.paths.folder
        with suppress(OSError):  # which makes NFS look again
            folder.chmod(folder.stat().st_mode)
        return self.slurm_job.paths.result_pickle.exists()

    def problem(self) -> InputError | Held | Lost | Any | None:
        """What went wrong, told by its outcome."""
        from benchmark.api import Incompatible

        try:
            outcome = self.slurm_job.result()
        except Exception as reason:  # of submitit itself: too many time-outs, or no way to load the job
            return Lost(f"Slurm job {self.slurm_job.job_id}: {' '.join(str(reason).split()[-30:])}")
        if outcome is None:
            return None
        kind, text = outcome
        if kind == "held":
            return Held(Path(text))
        return {"input": InputError, "incompatible": Incompatible, "lost": Lost}[kind](text)


def _note(job: Job[Any]) -> Path:
    """The file that says which Slurm job does ``job``."""
    return job.folder / FOLDER / f"{job.cell.spec.key}.json"


def _attached(jobs: Sequence[Job[Any]]) -> list[_Watch]:
    """Those of ``jobs`` that a Slurm job is at which an earlier command submitted, or another one."""
    from submitit import SlurmJob

    noted = [(job, _noted(job)) for job in jobs]
    states = _states([name for _, name in noted if name])
    return [
        _Watch(job, SlurmJob(job.folder / FOLDER, name, [0]))
        for job, name in noted
        if name and states.get(name, ("",))[0] in GOING
    ]


def _noted(job: Job[Any]) -> str | None:
    try:
        note = json.loads(_note(job).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(note["slurm_job"]) if note.get("seeds") == list(job.cell.seeds) else None


class _Queue:
    """The jobs that are to be submitted, in arrays of as many as Slurm takes at once.

    Args:
        jobs: the jobs.
        options: what they are submitted with.
    """

    def __init__(self, jobs: Sequence[Job[Any]], options: Mapping[str, Any]) -> None:
        self.waiting = list(jobs)
        self._options = options
        self._most = int(_setting("MaxArraySize") or len(jobs))
        self._not_before = 0.0

    def submit(self) -> list[_Watch]:
        """Submit an array; where the queue is full, the others wait here, and half as many are tried after a while.

        Raises:
            InputError: Slurm or submitit refuses an option.
        """
        if not self.waiting or time.monotonic() < self._not_before:
            return []
        jobs = self.waiting[: self._most]
        try:
            submitted = _submit(jobs, self._options)
        except _Full:
            if not self._not_before:
                tqdm.write(f"Slurm's queue is full: {len(self.waiting)} jobs wait here for room", file=sys.stderr)
            self._most = max(1, len(jobs) // 2)
            self._not_before = time.monotonic() + RETRY
            return []
        self.waiting = self.waiting[self._most :]
        return submitted


class _Full(Exception):
    """Slurm takes no more jobs for now."""


def _submit(jobs: Sequence[Job[Any]], options: Mapping[str, Any]) -> list[_Watch]:
    """Submit ``jobs`` as one array."""
    from submitit.core.utils import FailedJobError

    executor = _executor(jobs[0].folder / FOLDER, options)
    try:
        with redirect_stderr(io.StringIO()), executor.batch():  # what it prints, its error says
            submitted: list[Any] = [executor.submit(_Task(job)) for job in jobs]
    except FailedJobError as error:
        reasons = "; ".join(line.removeprefix("sbatch: error: ") for line in str(error).splitlines())
        if any(words in reasons for words in FULL):
            raise _Full from None
        raise InputError(f"--launcher slurm: sbatch refuses the jobs: {reasons}") from None
    for job, slurm_job in zip(jobs, submitted, strict=True):
        note = {"slurm_job": slurm_job.job_id, "seeds": list(job.cell.seeds)}
        write_whole(_note(job), json.dumps(note))
    return [_Watch(job, slurm_job) for job, slurm_job in zip(jobs, submitted, strict=True)]


def _setting(name: str) -> str | None:
    """What Slurm's configuration says of ``name``."""
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    found = (line.partition("=") for line in done.stdout.splitlines())
    return next((value.strip() for key, _, value in found if key.strip() == name), None)


def _executor(folder: Path, options: Mapping[str, Any]) -> SlurmExecutor:
    from submitit import SlurmExecutor

    folder.mkdir(parents=True, exist_ok=True)
    executor = SlurmExecutor(folder, max_num_timeout=TIMEOUTS)
    known = {"job_name": "zsl-benchmark", **options}
    try:
        executor.update_parameters(**known)
    except (ValueError, TypeError, NameError) as error:
        raise InputError(f"--slurm: {' '.join(str(error).split())}") from None
    return executor


def _look(going: list[_Watch]) -> Iterator[Event]:
    """What came of the jobs since the last look; those that have ended leave the list."""
    states = _states([watch.slurm_job.job_id for watch in going])
    for watch in list(going):
        ended = watch.has_outcome
        state, reason = states.get(watch.slurm_job.job_id, ("UNKNOWN", ""))
        problem = watch.problem() if ended else _death(watch, state, reason)
        yield from (Part(watch.job, part) for part in watch.new_parts(failed=ended and not problem))
        if ended or problem:
            going.remove(watch)
            yield Ended(watch.job, problem)


def _death(watch: _Watch, state: str, reason: str) -> Lost | None:
    """Why a job that has no outcome will have none; one that died is requeued the first time, and lives."""
    if state in GOING:
        watch.looks = 0
        return None
    watch.looks += 1
    if state != "CANCELLED" and not watch.requeued and _requeue(watch.slurm_job.job_id):
        watch.requeued, watch.looks = True, 0
        return None
    if watch.looks < PATIENCE:
        return None
    return Lost(f"Slurm job {watch.slurm_job.job_id} ended as {state}{f' ({reason})' if reason else ''}")


def _states(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Slurm job -> (state, reason) of those that Slurm still knows, ended ones too."""
    if not names:
        return {}
    arrays = ",".join(sorted({name.partition("_")[0] for name in names}))
    # Of one job that it does not know it says so by its exit code, of several by leaving them out.
    done = subprocess.run(
        ["squeue", "-h", "-r", "-t", "all", "-j", arrays, "-o", "%i|%T|%r"], capture_output=True, text=True
    )
    lines = [line.split("|", 2) for line in done.stdout.splitlines()]
    return {name: (state, reason) for name, state, reason in lines}


def _requeue(name: str) -> bool:
    return subprocess.run(["scontrol", "requeue", name], capture_output=True).returncode == 0


def _leave_or_cancel(watched: Sequence[_Watch]) -> None:
    """After an interrupt: the jobs go on, unless the user says otherwise."""
    states = _states([watch.slurm_job.job_id for watch in watched])
    going = [name for name, (state, _) in states.items() if state in GOING]
    if not going:
        return
    answer = ""
    if sys.stdin.isatty():
        with suppress(EOFError, KeyboardInterrupt):
            answer = input(f"{len(going)} Slurm jobs are going on; cancel them? [y/N] ")
    if answer.strip().lower() in ("y", "yes"):
        subprocess.run(["scancel", *going], check=False)
    else:
        print("Slurm jobs go on, and the same command attaches again; to end them: scancel", *going, file=sys.stderr)
