"""The README's commands and code, run exactly as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from benchmark.boards.rows import boards, metric
from benchmark.results.published import stored

from .conftest import ROOT, Command

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_main_command_ends_in_a_table_of_three_stand_ins(command: Command, tmp_path: Path) -> None:
    (line,) = [block for block in blocks("sh") if "pip install -e ." in block and "zsl run" in block]
    arguments = shlex.split(line.split("&&")[1])
    assert arguments[:2] == ["zsl", "run"]
    done = command("benchmark.cli.zsl", *arguments[1:], "--seeds", "0", "--out", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "quiet in a pipe"
    for name in ("cub-sim", "sun-sim", "awa2-sim", "SIMULATED", "remse"):
        assert name in done.stdout
    for name in ("README", "cub-sim", "sun-sim", "awa2-sim"):
        assert (tmp_path / "runs" / f"{name}.md").is_file()


def test_the_method_of_the_readme_runs_as_it_stands_in_at_most_25_lines(command: Command, tmp_path: Path) -> None:
    (code,) = [block for block in blocks("python") if "@METHODS.register" in block]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 25
    assert " if " not in code, "no branch on the loss"
    (line,) = [block for block in blocks("sh") if "--plugin my_method.py" in block]
    (tmp_path / "my_method.py").write_text(code, encoding="utf-8")
    arguments = shlex.split(line)
    assert arguments.pop(0) == "zsl"
    arguments[arguments.index("my_method.py")] = str(tmp_path / "my_method.py")
    arguments[arguments.index("--out") + 1] = str(tmp_path / "out")
    done = command("benchmark.cli.zsl", *arguments, "--seeds", "0")
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


def test_it_is_short_and_its_pages_are_there() -> None:
    assert README.count("\n") <= 120
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_its_table_says_what_the_boards_say() -> None:
    lines = re.findall(r"^\| \[(\w+)\]\(leaderboards/\w+\.md\) \|(.*)\|$", README, re.MULTILINE)
    assert lines
    for dataset, cells in lines:
        features, method, loss, n, *figures = (cell.strip() for cell in cells.split("|"))
        found = [
            row
            for board, rows in boards(
                run for _, run in stored(ROOT / "leaderboards" / "results", dataset) if run.spec.method_label == method
            ).items()
            for row in rows
            if (board.features, board.protocol, row.spec.loss_label) == (features, "strict", loss)
        ]
        (row,) = found
        means = [row.summary(metric(name)) for name in ("T1", "H_calibrated", "AUSUC")]
        assert [n, *figures] == [str(len(row.runs)), *(f"{mean.mean:.1f}" for mean in means if mean)], cells
