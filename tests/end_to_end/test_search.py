"""``benchmark.search`` as users run it: killed in the middle, resumed, and its settings used by ``benchmark.run``."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from .conftest import ROOT, Command

SEARCH = ["benchmark.search", "--method", "sae", "--loss", "mse", "--dataset", "awa2-sim", "--trials", "6"]


def trials(folder: Path) -> list[tuple[object, object]]:
    (file,) = folder.rglob("*.yaml")
    return [(trial["hparams"], trial["value"]) for trial in yaml.safe_load(file.read_text())["trials"]]


def test_a_killed_search_goes_on_and_its_settings_make_a_row(
    command: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-m", *SEARCH, "--tuned", str(killed)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    while not list(killed.rglob("*.yaml")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(trials(killed)) < 6, "killed in the middle"
    done = command(*SEARCH, "--tuned", killed)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "quiet in a pipe"
    assert command(*SEARCH, "--tuned", whole).returncode == 0
    assert trials(killed) == trials(whole)
    run = ["benchmark.run", *SEARCH[1:-2], "--seeds", "0", "--out", tmp_path / "out"]
    done = command(*run, "--tuned", whole)
    assert done.returncode == 0, done.stderr
    assert "sae tuned" in done.stdout
    done = command(*run)
    assert done.returncode == 0, done.stderr
    board = (tmp_path / "out" / "awa2-sim.md").read_text()
    assert "| SAE (2017), small, tuned by 6 trials | `mse` | 1 |" in board
    assert "| SAE (2017), small | `mse` | 1 |" in board


def test_without_settings_the_run_says_how_to_get_them(command: Command, tmp_path: Path) -> None:
    done = command("benchmark.run", "--method", "sae", "--dataset", "awa2-sim", "--tuned", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "python -m benchmark.search --method sae --loss none --dataset awa2-sim makes it" in done.stderr
