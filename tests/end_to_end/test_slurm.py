"""``--launcher slurm`` as users run it, on a real Slurm: boards, deaths, time limits, interrupts, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from benchmark.errors import InputError
from benchmark.launchers.slurm import _Task, parameters
from tests.reference.faults import LONG_PLUGIN, Grid, finished, measures, rubbish
from tests.reference.slurm import NODES, Slurm, slurm_cluster, wait_until

#: Every job imports torch anew: these take minutes on two cores.
cluster = pytest.mark.cluster


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    with slurm_cluster() as found:
        yield found


def running(slurm: Slurm) -> list[str]:
    return slurm.run("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i").split()


def process_of(slurm: Slurm, job: str) -> int | None:
    """The process that runs our code in a Slurm job."""
    number = slurm.run("squeue", "-h", "-r", "-j", job, "-o", "%A").encode()
    for process in slurm.processes():
        try:
            inside = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"SLURM_JOB_ID=" + number in inside and b"submitit.core._submit" in words and b"srun" not in words[0]:
            return process
    return None


@cluster
def test_a_grid_comes_through_a_death_and_a_time_limit_to_the_board_of_one_process(slurm: Slurm, tmp_path: Path):
    grid, out = Grid(tmp_path, 30), tmp_path / "out"
    (tmp_path / "wait").touch()
    # Slurm tells a job up to a minute too early that its time ends.
    options = "time=2,signal_delay_s=30,cpus=1,array_parallelism=4"
    command = grid.start(out, "--launcher", "slurm", "--slurm", options, env=slurm.environment)
    wait_until(lambda: grid.n_fits == 4, "jobs are not at their fits", 120)
    victim = process_of(slurm, running(slurm)[0])
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: grid.n_fits >= 8, "jobs that ran into their time limit did not make way for others", 240)
    (tmp_path / "wait").unlink()
    output, errors = command.communicate(timeout=500)
    assert command.returncode == 0, errors
    assert "30 runs: 30 ok (0 of them stored before), 0 failed" in output
    assert len(finished(out)) == 30
    assert rubbish(out) == []
    assert Grid(tmp_path / "alone", 30).start(tmp_path / "inline", "--launcher", "inline").wait(timeout=200) == 0
    assert measures(out) == measures(tmp_path / "inline")


@cluster
def test_a_requeued_job_goes_on_from_its_checkpoint(slurm: Slurm, tmp_path: Path):
    """It dies in the second epoch of its refit, and comes to what an unbroken one does."""
    whole, grid, out = Grid(tmp_path / "whole", 1, LONG_PLUGIN), Grid(tmp_path, 1, LONG_PLUGIN), tmp_path / "out"
    (tmp_path / "deaths").write_text("14")  # 12 epochs select
    command = grid.start(out, "--loss", "remse", "--launcher", "slurm", env=slurm.environment)
    output, errors = command.communicate(timeout=500)
    assert command.returncode == 0, errors
    assert "1 runs: 1 ok" in output
    assert rubbish(out) == []
    inline = whole.start(tmp_path / "inline", "--loss", "remse", "--launcher", "inline")
    assert inline.wait(timeout=200) == 0
    assert measures(out) == measures(tmp_path / "inline")
    assert len(whole.diary) > 12 + 1, "the death was in a refit that had a checkpoint"
    assert len(grid.diary) == len(whole.diary) + 1, "a death costs the epoch that was under way"


@cluster
def test_after_an_interrupt_the_jobs_go_on_and_the_same_command_attaches_again(slurm: Slurm, tmp_path: Path):
    grid, out = Grid(tmp_path, 2), tmp_path / "out"
    for node in NODES:
        slurm.drain(node)
    try:
        command = grid.start(out, "--launcher", "slurm", env=slurm.environment)
        wait_until(lambda: len(slurm.run("squeue", "-h", "-r", "-o", "%i").split()) == 2, "no job is submitted", 60)
        time.sleep(1)
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=60)
        assert command.returncode == 130
        assert "the same command attaches again; to end them: scancel" in errors
        assert "Traceback" not in errors
        jobs = slurm.run("squeue", "-h", "-r", "-o", "%i").split()
        assert len(jobs) == 2, "they wait for a node"
        again = grid.start(out, "--launcher", "slurm", env=slurm.environment)
        time.sleep(8)
        assert slurm.run("squeue", "-h", "-r", "-o", "%i").split() == jobs, "none is submitted twice"
    finally:
        for node in NODES:
            slurm.resume(node)
    output, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert "2 runs: 2 ok" in output
    assert grid.n_fits == 4


@cluster
def test_a_cancelled_job_is_a_failed_run(slurm: Slurm, tmp_path: Path):
    grid, out = Grid(tmp_path, 2), tmp_path / "out"
    (tmp_path / "wait").touch()
    command = grid.start(out, "--launcher", "slurm", env=slurm.environment)
    wait_until(lambda: grid.n_fits == 2, "jobs are not at their fits", 100)
    cancelled, _ = running(slurm)
    slurm.run("scancel", cancelled)
    wait_until(
        lambda: slurm.run("squeue", "-h", "-r", "-t", "all", "-j", cancelled, "-o", "%T") == "CANCELLED", "it lives"
    )
    (tmp_path / "wait").unlink()
    output, errors = command.communicate(timeout=200)
    assert command.returncode == 1, output + errors
    assert "ended as CANCELLED" in errors
    assert "2 runs: 1 ok (0 of them stored before), 1 failed" in output


@cluster
def test_where_a_queue_is_full_and_a_node_is_drained_the_jobs_wait_for_room(tmp_path: Path):
    grid = Grid(tmp_path, 4)
    # What has ended counts until Slurm forgets it.
    with slurm_cluster(MaxJobCount=3, MinJobAge=2) as slurm:
        slurm.drain(NODES[0])
        command = grid.start(tmp_path / "out", "--launcher", "slurm", env=slurm.environment)
        output, errors = command.communicate(timeout=600)
    assert command.returncode == 0, errors
    assert errors == "Slurm's queue is full: 4 jobs wait here for room\n"
    assert "4 runs: 4 ok" in output


@cluster
def test_more_jobs_than_an_array_may_have_are_several_arrays(tmp_path: Path):
    with slurm_cluster(MaxArraySize=2) as slurm:
        command = Grid(tmp_path, 3).start(tmp_path / "out", "--launcher", "slurm", env=slurm.environment)
        output, errors = command.communicate(timeout=300)
    assert command.returncode == 0, errors
    assert "3 runs: 3 ok" in output
    assert len(list((tmp_path / "out" / "results" / ".slurm").glob("*_submission.sh"))) == 2


def test_what_slurm_refuses_is_one_line(slurm: Slurm, tmp_path: Path):
    for options, problem in (
        ("partition=nowhere", "invalid partition specified: nowhere"),
        ("colour=red", "colour"),
    ):
        command = Grid(tmp_path, 2).start(
            tmp_path / "o", "--launcher", "slurm", "--slurm", options, env=slurm.environment
        )
        _, errors = command.communicate(timeout=100)
        assert command.returncode == 2
        assert errors.count("\n") == 1, errors
        assert errors.startswith("error: ")
        assert problem in errors


def test_without_slurm_it_is_one_line(tmp_path: Path):
    environment = {**os.environ, "PATH": str(tmp_path)}
    command = Grid(tmp_path, 2).start(tmp_path / "out", "--launcher", "slurm", env=environment)
    _, errors = command.communicate(timeout=100)
    assert command.returncode == 2
    assert errors.count("\n") == 1, errors
    assert "sbatch, srun, squeue, scontrol not found; run it where jobs can be submitted" in errors


def test_what_requeues_a_job_outlives_the_signal_that_ends_the_job():
    before = signal.getsignal(signal.SIGTERM)
    try:
        _Task(Mock()).checkpoint()
        requeue = subprocess.run(["sh", "-c", "kill -TERM $$ && echo told"], capture_output=True, text=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert requeue.stdout == "told\n"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("2:00:00", 120), ("10:30", 11), ("0:10", 1), ("1-12:00:00", 2160), ("1-0", 1440), ("0-0:05", 5)],
)
def test_times_are_whole_minutes(text: str, minutes: int):
    assert parameters(f"partition=gpu,time={text},gpus=1,mem=16G,array_parallelism=50") == {
        "partition": "gpu",
        "time": minutes,
        "gpus_per_node": 1,
        "mem": "16G",
        "array_parallelism": 50,
    }


@pytest.mark.parametrize("text", ["time", "=1", "time=", "time=soon", "time=1:2:3:4"])
def test_what_is_no_option_is_one_line(text: str):
    with pytest.raises(InputError, match=r"^--slurm: .*"):
        parameters(text)
