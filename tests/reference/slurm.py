"""A real Slurm on this machine: two nodes of four CPUs on loopback addresses, all of it in a temporary folder."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NODES = ("one", "two")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "squeue", "scancel")
#: Daemons lie outside the search path of users other than root.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])

#: Where this cluster differs from Slurm's defaults.  There is no accounting, as on small clusters.
SETTINGS: dict[str, object] = {
    "ClusterName": "tests",
    "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
    # Seconds; what requeues a job has to be through by then on a busy machine.
    "KillWait": 5,
    "MpiDefault": "none",
    "ProctrackType": "proctrack/linuxproc",
    "ReturnToService": 2,
    "SchedulerParameters": "sched_interval=1,bf_interval=1,batch_sched_delay=0",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core",
    # The nodes may have more CPUs than the machine.
    "SlurmdParameters": "config_overrides",
    "TaskPlugin": "task/none",
}


class Slurm:
    """A cluster in a folder; ``environment`` is what commands need to find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": SEARCH_PATH}

    def run(self, *command: object) -> str:
        """What a command prints; it runs in the cluster's folder and must succeed."""
        done = subprocess.run(
            [*map(str, command)], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def drain(self, node: str) -> None:
        """Give the node no more jobs; those that run there go on."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")

    def resume(self, node: str) -> None:
        """Give jobs to a drained node again."""
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def processes(self) -> list[int]:
        """The daemons and all that runs in jobs: the processes that have this cluster in their environment."""
        mark = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            # Others' processes cannot be read, and some end meanwhile.
            with contextlib.suppress(OSError):
                if mark in file.read_bytes().split(b"\0"):
                    found.append(int(file.parent.name))
        return found

    def kill(self) -> None:
        """End all processes, and what they started meanwhile."""
        while found := self.processes():
            for process in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)


@contextlib.contextmanager
def slurm_cluster(**settings: object) -> Iterator[Slurm]:
    """A cluster whose nodes are idle; all that runs in it is ended when the block is left.

    The test is skipped with the reason where Slurm is not installed or munge does not run.

    Args:
        **settings: lines of ``slurm.conf``, beside and above ``SETTINGS``.
    """
    missing = [program for program in PROGRAMS if not shutil.which(program, path=SEARCH_PATH)]
    if missing:
        pytest.skip(f"no Slurm: {', '.join(missing)} not found")
    # Not in pytest's folder: a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        cluster = Slurm(Path(folder))
        try:
            start_munge(cluster)
            start_slurm(cluster, SETTINGS | settings)
            yield cluster
        finally:
            cluster.kill()


def start_munge(cluster: Slurm) -> None:
    """Start the daemon by which Slurm's daemons and commands know each other, with a key of its own."""
    key, *files = (cluster.folder / f"munge.{name}" for name in ("key", "socket", "pid", "log", "seed"))
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    options = [f"--{file.suffix[1:]}{'' if file.suffix == '.socket' else '-file'}={file}" for file in (key, *files)]
    try:
        # Forced, as only this user may enter the folder.
        cluster.run("munged", "--force", *options)
    except RuntimeError as error:
        pytest.skip(f"no Slurm: {error}")


def start_slurm(cluster: Slurm, settings: dict[str, object]) -> None:
    """Start the controller and the nodes, and wait until jobs can run; an error tells what is in their logs."""
    controller, *nodes = free_ports(1 + len(NODES))
    text = configuration(cluster.folder, controller, nodes, settings)
    (cluster.folder / "slurm.conf").write_text(text, encoding="utf-8")
    (cluster.folder / "state").mkdir()
    try:
        start_daemons(cluster, controller)
    except (RuntimeError, TimeoutError) as error:
        logs = [file.read_text(encoding="utf-8") for file in sorted(cluster.folder.glob("*.log"))]
        raise RuntimeError("\n".join([str(error), *logs])) from error


def start_daemons(cluster: Slurm, controller: int) -> None:
    """Start the controller, which listens at the port ``controller``, and the nodes."""
    cluster.run("slurmctld")
    # Commands that come too early try again only after seconds.
    wait_until(lambda: accepts(controller), "slurmctld does not listen")
    for node in NODES:
        cluster.run("slurmd", "-N", node)
    wait_until(lambda: set(cluster.run("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"}, "nodes are not idle")


def configuration(folder: Path, controller: int, nodes: list[int], settings: dict[str, object]) -> str:
    """The text of ``slurm.conf``; the daemons listen at the ports ``controller`` and ``nodes``."""
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    own: dict[str, object] = {
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmUser": user,
        "SlurmdUser": user,
        # A requeued job waits until its old credential has expired.
        "AuthInfo": f"socket={folder}/munge.socket,cred_expire=5",
        "StateSaveLocation": f"{folder}/state",
        "SlurmctldLogFile": f"{folder}/slurmctld.log",
        "SlurmctldPidFile": f"{folder}/slurmctld.pid",
        "SlurmdLogFile": f"{folder}/%n.log",
        "SlurmdPidFile": f"{folder}/%n.pid",
        "SlurmdSpoolDir": f"{folder}/%n",
    }
    lines = [f"{key}={value}" for key, value in (own | settings).items()]
    for node, port in zip(NODES, nodes, strict=True):
        lines.append(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=1000")
    return "\n".join([*lines, "PartitionName=main Nodes=ALL Default=YES", ""])


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nothing listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def accepts(port: int) -> bool:
    """Whether something listens at a port of the loopback address."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def wait_until(true: Callable[[], bool], otherwise: str, seconds: float = 30) -> None:
    """Wait until ``true()``; after ``seconds`` a ``TimeoutError`` says ``otherwise``."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(0.1)
