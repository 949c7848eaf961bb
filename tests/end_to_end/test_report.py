"""``benchmark.report`` as users run it, and the check of what it wrote."""

from __future__ import annotations

from pathlib import Path

from .conftest import QUICK, Command


def test_a_report_of_a_grid_and_the_check_that_guards_it(command: Command, tmp_path: Path) -> None:
    done = command("benchmark.run", *QUICK, "--loss", "mse", "remse", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    done = command("benchmark.report", "awa2-sim", "--out", tmp_path, "--method", "ale")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "quiet in a pipe"
    page = tmp_path / "report" / "awa2-sim" / "README.md"
    assert str(page) in done.stdout
    content = page.read_text()
    assert "(SIMULATED)" in content
    assert "- `remse` \N{MINUS SIGN} `mse`: lower mean in" in content
    assert "before curves were stored" not in content
    assert command("benchmark.leaderboard", "--check", "--out", tmp_path).returncode == 0
    picture = next(page.parent.rglob("curves-default.svg"))
    assert "SIMULATED" in picture.read_text()
    picture.write_text(picture.read_text().replace("SIMULATED", "real"))
    done = command("benchmark.leaderboard", "--check", "--out", tmp_path)
    assert done.returncode == 1
    assert (
        "curves-default.svg: was edited; python -m benchmark.report awa2-sim --method ale makes it anew" in done.stdout
    )


def test_a_wrong_name_costs_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    done = command("benchmark.report", "awa3", "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no runs of 'awa3'" in done.stderr
