"""The cluster that the tests of the launcher ``slurm`` use: it runs jobs, and says what became of them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest

from tests.reference.slurm import Slurm, slurm_cluster, wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with slurm_cluster() as slurm:
        yield slurm


def submit(cluster: Slurm, script: str, *options: str) -> str:
    """The number of a new job of one shell script, which writes to ``NUMBER.out`` or ``NUMBER_TASK.out``."""
    file = "%A_%a.out" if any(option.startswith("--array") for option in options) else "%j.out"
    return cluster.run("sbatch", "--parsable", f"--output={file}", *options, f"--wrap={script}")


def shown(cluster: Slurm, job: str, name: str) -> str:
    """What ``scontrol`` shows of a job under a name, such as ``JobState``."""
    found = re.search(rf"\b{name}=(\S+)", cluster.run("scontrol", "show", "job", "-o", job))
    assert found
    return found[1]


def wait_for(cluster: Slurm, job: str, state: str) -> None:
    wait_until(lambda: shown(cluster, job, "JobState") == state, f"job {job} is not {state}")


def output(cluster: Slurm, job: str) -> str:
    """What a job has written; nothing before it starts."""
    file = cluster.folder / f"{job}.out"
    return file.read_text(encoding="utf-8").strip() if file.exists() else ""


def running_process(cluster: Slurm, job: str) -> int:
    """The number of a running job's process, which it writes itself."""
    wait_until(lambda: output(cluster, job) != "", f"job {job} does not start")
    return int(output(cluster, job))


def test_a_job_runs_and_is_still_shown_when_done(cluster: Slurm):
    job = submit(cluster, "echo done")
    wait_for(cluster, job, "COMPLETED")
    assert output(cluster, job) == "done"


def test_every_task_of_an_array_runs(cluster: Slurm):
    job = submit(cluster, "echo $SLURM_ARRAY_TASK_ID", "--array=0-2")
    for task in range(3):
        wait_for(cluster, f"{job}_{task}", "COMPLETED")
        assert output(cluster, f"{job}_{task}") == str(task)


def test_a_killed_job_has_failed_and_runs_again_when_requeued(cluster: Slurm):
    job = submit(cluster, 'test "$SLURM_RESTART_COUNT" && exit; echo $$; exec sleep 600', "--open-mode=append")
    os.kill(running_process(cluster, job), signal.SIGKILL)
    wait_for(cluster, job, "FAILED")
    assert shown(cluster, job, "ExitCode") == "0:9"
    cluster.run("scontrol", "requeue", job)
    wait_for(cluster, job, "COMPLETED")
    assert shown(cluster, job, "Restarts") == "1"


def test_a_job_waits_while_its_node_is_drained(cluster: Slurm):
    cluster.drain("two")
    job = submit(cluster, "true", "--nodelist=two")
    wait_until(lambda: shown(cluster, job, "Reason").startswith("ReqNodeNotAvail"), "the job does not wait")
    cluster.resume("two")
    wait_for(cluster, job, "COMPLETED")


def test_without_accounting_there_is_no_sacct(cluster: Slurm):
    with pytest.raises(RuntimeError, match="Slurm accounting storage is disabled"):
        cluster.run("sacct")


def test_nothing_is_left_running():
    with slurm_cluster() as slurm:
        job = submit(slurm, "echo $$; sleep 600 & sleep 600")
        process = running_process(slurm, job)
        assert process in slurm.processes()
    assert slurm.processes() == []
    assert not slurm.folder.exists()


def test_without_slurm_the_reason_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.reference.slurm.SEARCH_PATH", "")
    with pytest.raises(pytest.skip.Exception, match=r"^no Slurm: munged, slurmctld, .* not found$"), slurm_cluster():
        raise AssertionError
