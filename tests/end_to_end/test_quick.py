"""Commands answer at once where nothing heavy is needed, and write where the user stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import QUICK, ROOT

#: Libraries whose import takes longer than the answer to a typing error should.
HEAVY = ("torch", "torchvision", "timm", "numpy", "scipy", "pydantic", "matplotlib", "optuna")

#: Runs a command as ``python -m`` does, and prints which of the heavy libraries it has imported.
PROBE = f"""
import runpy, sys
sys.argv = sys.argv[1:]
module = sys.argv[0]
code = 0
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
print("code", code, "heavy", *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""

ANSWERS = {
    "help of run": (["benchmark.run", "--help"], 0),
    "help of search": (["benchmark.search", "--help"], 0),
    "help of leaderboard": (["benchmark.leaderboard", "--help"], 0),
    "help of report": (["benchmark.report", "--help"], 0),
    "help of attention": (["benchmark.attention", "--help"], 0),
    "help of extract": (["datasets.features.extract", "--help"], 0),
    "help of vectors": (["datasets.features.vectors", "--help"], 0),
    "help of semantics": (["datasets.features.semantics", "--help"], 0),
    "help of download": (["datasets.download", "--help"], 0),
    "help of emoji": (["datasets.emoji", "--help"], 0),
    "list": (["benchmark.run", "--list"], 0),
    "mistyped option": (["benchmark.run", "--metod", "ale"], 2),
    "mistyped method": (["benchmark.run", "--method", "alee"], 2),
    "mistyped loss": (["benchmark.run", "--method", "ale", "--loss", "rmese"], 2),
    "mistyped data set": (["benchmark.run", "--method", "ale", "--dataset", "cub-sum"], 2),
    "mistyped launcher": (["benchmark.run", "--method", "ale", "--launcher", "inlin"], 2),
    "mistyped seeds": (["benchmark.run", "--method", "ale", "--seeds", "5-1"], 2),
    "mistyped method of a search": (["benchmark.search", "--method", "alee"], 2),
    "mistyped option of a report": (["benchmark.report", "cub", "--metod", "ale"], 2),
    "mistyped data set of a report": (["benchmark.report", "cub51"], 2),
    "help of all": (["benchmark.cli.zsl", "--help"], 0),
    "help of data": (["benchmark.cli.zsl", "data", "--help"], 0),
    "help of check": (["datasets.check", "--help"], 0),
    "mistyped command": (["benchmark.cli.zsl", "rum"], 2),
    "mistyped option of extract": (["datasets.features.extract", "CUB", "--image", "photos"], 2),
    "no folder to check": (["datasets.check", "nowhere"], 2),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_needs_no_heavy_library(case: str) -> None:
    arguments, code = ANSWERS[case]
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"code {code} heavy", done.stderr


def test_results_lie_in_the_working_folder_wherever_the_suite_is_installed(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.run", *QUICK, "--seeds", "0"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("runs/results/awa2-sim/*/*.json"))) == 1
    assert (tmp_path / "runs" / "README.md").is_file()


def test_checking_boards_needs_neither_torch_nor_a_method() -> None:
    arguments = ["benchmark.leaderboard", "--check"]
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].split()[3:] == ["numpy", "scipy", "pydantic"], done.stderr
