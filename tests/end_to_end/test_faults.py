"""Deaths and rivals: no stored result is lost or changed, siblings go on, and the same command finishes the rest."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.reference.faults import LONG_PLUGIN, Grid, descendants, finished, measures, rubbish

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


def wait_until_finished(out: Path, n: int) -> None:
    deadline = time.monotonic() + 200
    while not (out / "results").is_dir() or len(finished(out)) < n:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_commands_on_one_folder_run_no_cell_twice(tmp_path: Path) -> None:
    grid = Grid(tmp_path, 10)
    commands = [grid.start(tmp_path / "out", "--launcher", launcher) for launcher in ("inline", "local")]
    for command in commands:
        output, errors = command.communicate(timeout=200)
        assert command.returncode == 0, errors
        assert errors == ""
        assert "10 runs: 10 ok" in output
    assert len(finished(tmp_path / "out")) == 10
    assert grid.n_fits == 20, "twice a run: to select, and on all data"
    assert rubbish(tmp_path / "out") == []


@pytest.mark.parametrize("launcher", ["inline", "local"])
def test_a_killed_command_leaves_no_process_and_goes_on(tmp_path: Path, launcher: str) -> None:
    grid, out = Grid(tmp_path, 8), tmp_path / "out"
    command = grid.start(out, "--launcher", launcher)
    wait_until_finished(out, 3)
    children = descendants(command.pid)
    command.kill()
    command.wait()
    before = finished(out)
    again = grid.start(out, "--launcher", launcher)
    output, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert "8 runs: 8 ok" in output
    after = finished(out)
    assert {name: after[name] for name in before} == before, "what was stored is as it was"
    assert len(after) == 8
    assert rubbish(out) == []
    deadline = time.monotonic() + 20
    while any(is_running(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(child) for child in children)
    whole = Grid(tmp_path / "whole", 8)
    assert whole.start(tmp_path / "undisturbed").wait(timeout=200) == 0
    assert measures(out) == measures(tmp_path / "undisturbed")


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_worker_costs_one_run_that_the_same_command_makes_good(tmp_path: Path) -> None:
    grid, out = Grid(tmp_path, 12), tmp_path / "out"
    command = grid.start(out, "--launcher", "local", "--jobs", "2")
    diary = tmp_path / "diary"
    deadline = time.monotonic() + 200
    while not diary.is_file() or not diary.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(int(diary.read_text().split()[-1]), signal.SIGKILL)
    output, errors = command.communicate(timeout=200)
    if "0 failed" not in output:  # it was between two runs otherwise
        assert command.returncode == 1
        assert "its process was ended by SIGKILL" in errors
        assert "12 runs: 11 ok" in output
    again = grid.start(out, "--launcher", "local")
    output, errors = again.communicate(timeout=200)
    assert again.returncode == 0, errors
    assert "12 runs: 12 ok" in output
    assert rubbish(out) == []


def test_a_long_fit_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """A worker dies while it selects, a command while it refits; the third one comes to what an unbroken does."""
    whole, grid, out = Grid(tmp_path / "whole", 1, LONG_PLUGIN), Grid(tmp_path, 1, LONG_PLUGIN), tmp_path / "out"
    undisturbed = whole.start(tmp_path / "undisturbed", "--loss", "remse")
    (tmp_path / "deaths").write_text("5 15")  # 12 epochs select, of which the fifth is done twice
    for launcher, code in (("local", 1), ("inline", -signal.SIGKILL), ("inline", 0)):
        command = grid.start(out, "--loss", "remse", "--launcher", launcher)
        output, errors = command.communicate(timeout=200)
        assert command.returncode == code, errors
    assert "1 runs: 1 ok" in output
    assert rubbish(out) == [], "the checkpoints go when the run is stored"
    assert undisturbed.wait(timeout=200) == 0
    assert measures(out) == measures(tmp_path / "undisturbed")
    assert len(whole.diary) > 12 + 2, "the second death was in a refit that had a checkpoint"
    assert len(grid.diary) == len(whole.diary) + 2, "a death costs the epoch that was under way"
    (stored,) = (out / "results").glob("*/*/*.json")
    cost = json.loads(stored.read_text())["cost"]
    assert cost["fit_s"] > 0.05 * len(whole.diary), "the time of the processes that died counts"


@pytest.mark.soak
def test_soak(tmp_path: Path) -> None:
    """Two commands fill one folder with 500 cells, while their processes are killed at random."""
    rng, grid, out = random.Random(0), Grid(tmp_path, 500), tmp_path / "out"
    commands = [grid.start(out), grid.start(out)]
    known: dict[str, tuple[int, int]] = {}
    n_kills, changed = 0, []
    while len(known) < grid.n_cells or n_kills < 50:
        time.sleep(rng.uniform(0.2, 2.0))
        now = finished(out) if (out / "results").is_dir() else {}
        changed += [name for name, identity in known.items() if now.get(name) != identity]
        known |= now
        if len(known) == grid.n_cells:
            break
        for place, command in enumerate(commands):
            if command.poll() is not None:
                commands[place] = grid.start(out)
        command = rng.choice(commands)
        victim = rng.choice([command.pid, *descendants(command.pid)])
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            n_kills += 1
    for command in commands:
        command.communicate(timeout=300)
    last = grid.start(out)
    output, errors = last.communicate(timeout=300)
    print(f"\n{grid.n_cells} cells, {n_kills} kills, {len(changed)} changed, {grid.n_fits} fits")
    assert n_kills >= 50
    assert changed == [], "nothing that was stored is run again"
    assert last.returncode == 0, errors
    assert "500 runs: 500 ok" in output
    assert rubbish(out) == []
    assert Grid(tmp_path / "whole", 500).start(tmp_path / "undisturbed").wait(timeout=600) == 0
    assert measures(out) == measures(tmp_path / "undisturbed")
