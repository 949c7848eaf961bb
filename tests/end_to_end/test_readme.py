"""The README's commands and code, run exactly as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from .conftest import ROOT, Command

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_main_command_ends_in_a_table_of_three_stand_ins(command: Command, tmp_path: Path) -> None:
    (line,) = [block for block in blocks("sh") if "pip install -e ." in block and "benchmark.run" in block]
    arguments = shlex.split(line.split("&&")[1])
    assert arguments[:3] == ["python", "-m", "benchmark.run"]
    arguments[arguments.index("--out") + 1] = str(tmp_path / "my-leaderboards")
    done = command(*arguments[2:], "--seeds", "0")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "quiet in a pipe"
    for name in ("cub-sim", "sun-sim", "awa2-sim", "SIMULATED", "remse"):
        assert name in done.stdout
    for name in ("README", "cub-sim", "sun-sim", "awa2-sim"):
        assert (tmp_path / "my-leaderboards" / f"{name}.md").is_file()


def test_the_method_of_the_readme_runs_as_it_stands_in_at_most_25_lines(command: Command, tmp_path: Path) -> None:
    (code,) = [block for block in blocks("python") if "@METHODS.register" in block]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 25
    assert " if " not in code, "no branch on the loss"
    (line,) = [block for block in blocks("sh") if "--plugin my_method.py" in block]
    (tmp_path / "my_method.py").write_text(code, encoding="utf-8")
    arguments = shlex.split(line)[2:]
    arguments[arguments.index("my_method.py")] = str(tmp_path / "my_method.py")
    done = command(*arguments, "--out", tmp_path / "out", "--seeds", "0")
    assert done.returncode == 0, done.stderr
    assert "mlp-regressor" in done.stdout
    assert len(list(tmp_path.glob("out/results/awa2-sim/mlp-regressor+*/*.json"))) == 2


def test_a_plugin_runs_in_the_processes_of_the_local_launcher_too(command: Command, tmp_path: Path) -> None:
    (code,) = [block for block in blocks("python") if "@METHODS.register" in block]
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    done = command(
        *("benchmark.run", "--plugin", tmp_path / "mine.py", "--method", "mlp-regressor", "--loss", "mse", "none"),
        *("--dataset", "awa2-sim", "--set", "epochs=1", "--launcher", "local", "--seeds", "0"),
        *("--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert "skipped: mlp-regressor" in done.stderr
    assert "it regresses attributes and does nothing else, so it needs a loss" in done.stderr
    assert "1 ok" in done.stdout


def test_the_loss_of_the_readme_builds(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    (code,) = [block for block in blocks("python") if "from losses import build" in block]
    names = {
        "predicted": torch.rand(64, 312),
        "target": torch.rand(64, 312),
        "labels": torch.randint(150, (64,), generator=torch.Generator().manual_seed(0)),
    }
    exec(code, names)
    assert names["value"].isfinite()
