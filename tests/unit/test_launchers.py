"""Launchers: what they start processes by, what becomes of jobs, and what a problem or a death costs the others."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from benchmark.api import Incompatible
from benchmark.engine.jobs import Job
from benchmark.errors import InputError, Lost
from benchmark.launchers import Ended, Launcher, Part, Resources, Started, follow, local, machine
from benchmark.launchers.inline import inline
from benchmark.results.claims import Held
from tests.reference.jobs import toy_jobs

ALL = Resources()


def outcomes(launcher: Launcher, jobs: list[Any], resources: Resources = ALL) -> dict[str, list[Any]]:
    """Method of a job -> its parts, and its problem if it has one."""
    found: dict[str, list[Any]] = defaultdict(list)
    started: list[Job[Any]] = []
    for event in launcher(jobs, resources):
        name = event.job.cell.spec.method
        if isinstance(event, Started):
            started.append(event.job)
        assert any(event.job is job for job in started)
        if isinstance(event, Part):
            found[name].append(event.part)
        elif isinstance(event, Ended):
            found[name] += [event.problem] if event.problem else []
    return dict(found)


LAUNCHERS = pytest.mark.parametrize("launcher", [inline, local.local], ids=["inline", "local"])


@LAUNCHERS
def test_what_is_wrong_with_one_job_costs_no_other(launcher: Launcher, tmp_path: Path):
    found = outcomes(launcher, toy_jobs(tmp_path, "good", "broken", "held", "unfit", "better"), Resources(jobs=2))
    assert [len(found[name]) for name in ("good", "broken", "held", "unfit", "better")] == [2] * 5
    assert found["good"][1].startswith("good ")
    assert isinstance(found["broken"][1], InputError)
    assert str(found["broken"][1]) == "broken.mat: cannot be read"
    assert isinstance(found["unfit"][1], Incompatible)
    assert isinstance(found["held"][1], Held)
    assert found["held"][1].name == tmp_path / "held"


def test_processes_do_one_job_after_another(tmp_path: Path):
    found = outcomes(local.local, toy_jobs(tmp_path, *"abcdefgh"), Resources(jobs=2))
    processes = {parts[1].split()[1] for parts in found.values()}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes


def test_what_a_process_warns_of_is_said_once_by_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    outcomes(local.local, toy_jobs(tmp_path, "a", "warns", "b", "warns too"), Resources(jobs=1))
    assert capfd.readouterr().err == "warning: warns\nwarning: warns too\n"


def test_a_death_costs_only_the_job_that_died_and_its_output_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    names = ["a", "dies", "b", "faulty", "c", "dies too", "d"]
    found = outcomes(local.local, toy_jobs(tmp_path, *names), Resources(jobs=2))
    assert all(len(found[name]) == 2 and not isinstance(found[name][1], Exception) for name in "abcd")
    for name in ("dies", "dies too"):
        assert isinstance(found[name][-1], Lost)
        assert "its process was ended by SIGKILL, as the system does where memory runs out" in str(found[name][-1])
    assert str(found["faulty"][-1]) == "ZeroDivisionError: by zero"
    kept = capfd.readouterr().err.splitlines()
    assert len(kept) == 2
    for line in kept:
        assert "the last words" in Path(line.partition(": ")[2]).read_text()
    assert sorted((tmp_path / "diary").read_text().split("\n")[:-1]) == sorted(names), "nothing is done twice"


def test_a_time_limit_ends_the_whole_group(tmp_path: Path):
    found = outcomes(local.local, toy_jobs(tmp_path, "sleeps", "a"), Resources(jobs=2, timeout=4))
    assert str(found["sleeps"][-1]) == "it was ended after the 4 s of --timeout"
    assert len(found["a"]) == 2
    assert_dead((tmp_path / "child").read_text().split())


def test_an_interrupt_ends_all_processes(tmp_path: Path):
    events = local.local(toy_jobs(tmp_path, "sleeps", "a"), Resources(jobs=1))
    next(events)
    while not (tmp_path / "child").is_file() or not (tmp_path / "child").read_text():
        time.sleep(0.01)
    events.close()
    assert_dead((tmp_path / "child").read_text().split())


def assert_dead(processes: list[str]) -> None:
    """A zombie, whom nobody waits for, is dead too."""
    for process in processes:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        assert state == "Z"


def test_what_another_command_is_at_is_asked_for_again(tmp_path: Path):
    """Of which nobody holds a claim here, so that it's free at once."""
    with tqdm(disable=True) as bar:
        events = list(follow(toy_jobs(tmp_path, "held", "a"), inline, Resources(), bar))
    assert [event.part.split()[0] for event in events if isinstance(event, Part)] == ["held", "a", "a", "held", "held"]
    assert not any(event.problem for event in events if isinstance(event, Ended))


def test_what_is_lost_is_told_by_the_job(tmp_path: Path):
    with tqdm(disable=True) as bar:
        events = list(follow(toy_jobs(tmp_path, "dies"), local.local, Resources(), bar))
    parts = [event.part for event in events if isinstance(event, Part)]
    assert parts[0] == "dies began"
    assert parts[1].startswith("Lost after 1: its process was ended by SIGKILL")


def test_each_process_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of eight that there are not: a process asks for what its environment says, and for no other."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "8,9,10,GPU-11,12,13,14,15")
    names = [f"gpu {k}" for k in range(8)]
    jobs = toy_jobs(tmp_path, *names, device="cuda")
    environments = local._environments(jobs, Resources(jobs_per_gpu=2))
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["8", "9", "10", "GPU-11", "12", "13", "14", "15"]
    assert len(local._environments(jobs * 4, Resources(jobs_per_gpu=2))) == 16
    assert len(local._environments(jobs * 4, Resources(jobs_per_gpu=2, jobs=3))) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "8, GPU-11")
    found = outcomes(local.local, jobs[:4])
    assert {parts[1] for parts in found.values()} == {"8", "GPU-11"}


def test_a_further_job_waits_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One is done in any case; nothing would ever be done otherwise."""
    monkeypatch.setattr(machine, "memory_of", lambda process: 2**31)

    def n_processes(left: float) -> int:
        monkeypatch.setattr(machine, "memory_left", lambda: left)
        found = outcomes(local.local, toy_jobs(tmp_path, *"abcd"), Resources(jobs=2))
        return len({parts[1].split()[1] for parts in found.values()})

    assert n_processes(2**31) == 2
    assert n_processes(2**30 - 1) == 1


def test_where_the_system_cannot_fork_processes_are_spawned(monkeypatch: pytest.MonkeyPatch):
    """As on Windows."""
    assert local._context().get_start_method() == "forkserver"
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert local._context().get_start_method() == "spawn"


class TestMachine:
    @pytest.fixture
    def group(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The control group of this process, in one that holds it."""
        inner = tmp_path / "outer" / "inner"
        inner.mkdir(parents=True)
        monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
        monkeypatch.setattr(machine, "_groups", lambda: [inner, inner.parent])
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
        return inner

    @pytest.mark.parametrize(
        ("inner", "outer", "cores"),
        [
            ("max 100000", "max 100000", 16),
            ("400000 100000", "max 100000", 4),
            ("400000 100000", "250000 100000", 2),
            ("50000 100000", "max 100000", 1),
        ],
    )
    def test_cores_are_as_few_as_affinity_and_groups_allow(self, group: Path, inner: str, outer: str, cores: int):
        (group / "cpu.max").write_text(f"{inner}\n")
        (group.parent / "cpu.max").write_text(f"{outer}\n")
        assert machine.cores() == cores

    def test_affinity_alone(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
        monkeypatch.setattr(machine, "_groups", list)
        assert machine.cores() == 2

    def test_memory_is_what_the_tightest_group_leaves_and_may_give_back(self, group: Path):
        assert 2**20 < machine.memory_left() < 2**50
        (group / "memory.max").write_text("max\n")
        (group / "memory.current").write_text("5\n")
        (group.parent / "memory.max").write_text("1000000\n")
        (group.parent / "memory.current").write_text("900000\n")
        (group.parent / "memory.stat").write_text("anon 800000\ninactive_file 50000\n")
        assert machine.memory_left() == 150000

    def test_memory_of_a_process(self):
        assert machine.memory_of(os.getpid()) > 2**20
        assert machine.memory_of(2**30) == 0
