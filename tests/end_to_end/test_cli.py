"""The command line: grids, resuming, and one clear line for everything that a user can get wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from benchmark.results.error_matrix import decode
from tests.reference.processes import interruptible

from .conftest import QUICK, ROOT, Command


def stored(out: Path) -> list[Path]:
    return sorted(out.glob("results/*/*/*.json"))


def boards(out: Path) -> dict[str, str]:
    """The boards' text but for the times and memory, which no two grids share."""
    times = re.compile(r"^<details><summary>Time and memory.*?</details>", re.MULTILINE | re.DOTALL)
    return {path.name: times.sub("", path.read_text()) for path in out.glob("*.md")}


@pytest.mark.parametrize("module", ["benchmark.run", "benchmark.search", "benchmark.leaderboard", "datasets.download"])
def test_help_explains_the_options(command: Command, module: str) -> None:
    done = command(module, "--help")
    assert done.returncode == 0
    assert "usage:" in done.stdout


def test_list_prints_one_line_each_with_family_year_and_source(command: Command) -> None:
    done = command("benchmark.run", "--list")
    assert done.returncode == 0
    families = {"ale": "embedding", "clswgan": "generative", "remse": "re-weighted", "cub-sim": "simulated"}
    for name, family in families.items():
        assert re.search(rf"^  {name} +{family} +(19|20)\d\d  \S", done.stdout, re.MULTILINE), name


def test_dry_run_trains_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    done = command("benchmark.run", *QUICK, "--loss", "mse", "remse", "--out", tmp_path / "out", "--dry-run")
    assert done.returncode == 0
    assert "6 runs to do, 0 stored" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_grid_stores_one_file_a_run_and_is_not_run_again(command: Command, tmp_path: Path) -> None:
    arguments = ["benchmark.run", *QUICK, "--loss", "mse", "remse", "remse:scale=mean_one", "--out", tmp_path]
    done = command(*arguments)
    assert done.returncode == 0, done.stderr
    files = stored(tmp_path)
    assert len(files) == 9
    content = json.loads(files[0].read_text())
    assert content["schema_version"] == 1
    assert content["provenance"]["libraries"]["torch"]
    assert str(tmp_path) not in files[0].read_text(), "results hold no path of this machine"
    times = [path.stat().st_mtime_ns for path in files]
    again = command(*arguments)
    assert "9 ok (9 of them stored before)" in again.stdout
    assert [path.stat().st_mtime_ns for path in files] == times
    assert command("benchmark.leaderboard", "--out", tmp_path, "--check").returncode == 0
    forced = command(*arguments, "--force")
    assert "9 ok (0 of them stored before)" in forced.stdout
    assert [json.loads(path.read_text())["evaluation"] for path in files] == [
        json.loads(path.read_text())["evaluation"] for path in stored(tmp_path)
    ]
    assert [path.stat().st_mtime_ns for path in files] != times


def test_same_command_and_seed_give_the_same_numbers_in_another_process(command: Command, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert command("benchmark.run", *QUICK, "--loss", "remse", "--out", tmp_path / out).returncode == 0
    a, b = ([json.loads(path.read_text())["evaluation"] for path in stored(tmp_path / out)] for out in ("a", "b"))
    assert a == b
    assert a[0] != a[1], "seeds differ"


def test_kill_in_the_middle_then_the_same_command_gives_the_board_of_an_uninterrupted_grid(
    command: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["benchmark.run", "--method", "ale", "linear", "--set", "epochs=8", "--loss", "mse", "remse"]
    arguments += ["--dataset", "awa2-sim", "--seeds", "0-1"]
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments, "--out", str(tmp_path / "killed")],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not stored(tmp_path / "killed") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = stored(tmp_path / "killed")
    assert 0 < len(before) < 8, "killed in the middle"
    done = command(*arguments, "--out", tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    assert f"8 ok ({len(before)} of them stored before)" in done.stdout
    assert command(*arguments, "--out", tmp_path / "whole").returncode == 0
    assert boards(tmp_path / "killed") == boards(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_boards_that_a_killed_command_left_behind_are_rendered_by_the_next(
    command: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    """Even where nothing is left to run."""
    arguments = ["benchmark.run", *QUICK, "--loss", "mse", "--out", tmp_path]
    assert command(*arguments, "--seeds", "0").returncode == 0
    board = (tmp_path / "awa2-sim.md").read_text()
    killing = "import os, benchmark.boards.files as files, benchmark.run as run\n"
    killing += "files.write_boards = lambda *_: os._exit(9)\nrun.main()"
    words = [sys.executable, "-c", killing, *map(str, arguments[1:]), "--seeds", "0-1"]
    assert subprocess.run(words, cwd=ROOT, env=environment, capture_output=True).returncode == 9
    assert len(stored(tmp_path)) == 2
    assert (tmp_path / "awa2-sim.md").read_text() == board
    again = command(*arguments, "--seeds", "0-1")
    assert "2 ok (2 of them stored before)" in again.stdout
    assert (tmp_path / "awa2-sim.md").read_text() != board
    assert not (tmp_path / "results" / ".unrendered").exists()


def test_interrupt_exits_with_130_and_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark.run", "--method", "ale", "--loss", "mse", "--out", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **interruptible(),
    )
    deadline = time.monotonic() + 200
    while not stored(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "interrupted" in errors
    assert stored(tmp_path), "what was finished is kept"


def test_disk_full_says_so_and_loses_no_older_result(environment: dict[str, str], tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "benchmark.run", *QUICK, "--loss", "mse", "--out", str(tmp_path)]
    first = subprocess.run([*arguments, "--seeds", "0"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    before = {path: path.read_bytes() for path in stored(tmp_path)}

    # A limit on the size of files makes every longer write fail half-way, as a full disk does.
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *arguments]
    done = subprocess.run(limited, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert {path: path.read_bytes() for path in stored(tmp_path)} == before
    assert not list(tmp_path.rglob("*.tmp"))
    assert subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True).returncode == 0
    assert len(stored(tmp_path)) == 3


def test_a_failing_method_is_recorded_and_retried(command: Command, tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    body = (
        "from benchmark.api import Method\n"
        "from benchmark.registries import METHODS\n"
        "@METHODS.register('broken', title='Broken', family='embedding', year=2026, source='a test of failures')\n"
        "class Broken(Method):\n"
        "    def fit(self, data, slot, run):\n"
        "        {}\n"
        "        for _ in run.candidates(self, [None]): self.attributes = data.attributes\n"
        "    def scores(self, x, classes): return x[:, :1] + self.attributes[classes].sum(1)\n"
        "    def semantics(self, x): return None\n"
    )
    arguments = ["benchmark.run", "--plugin", plugin, "--method", "broken", "--dataset", "awa2-sim"]
    arguments += ["--out", tmp_path / "o"]
    plugin.write_text(body.format("raise ValueError('no luck')"))
    failed = command(*arguments, "--seeds", "0")
    assert failed.returncode == 1
    assert "ValueError: no luck (broken.py:6 in fit)" in failed.stderr
    assert "Traceback" not in failed.stderr
    (path,) = stored(tmp_path / "o")
    assert json.loads(path.read_text())["status"] == "failed"
    plugin.write_text(body.format("pass"))
    mended = command(*arguments, "--seeds", "0")
    assert mended.returncode == 0, mended.stderr
    assert json.loads(path.read_text())["status"] == "ok"
    assert "failed run" not in (tmp_path / "o" / "awa2-sim.md").read_text()


@pytest.mark.parametrize("protocol", ["strict", "literature"])
def test_protocols_and_partitions_have_boards_of_their_own(command: Command, tmp_path: Path, protocol: str) -> None:
    done = command(
        *("benchmark.run", *QUICK, "--loss", "mse", "--seeds", "0", "--splits", "random:2"),
        *("--protocol", protocol, "--out", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert len(stored(tmp_path)) == 2
    results = [json.loads(path.read_text()) for path in stored(tmp_path)]
    assert {r["spec"]["split"] for r in results} == {"random-0", "random-1"}
    assert {r["selection"]["on"] for r in results} == {"validation" if protocol == "strict" else "test"}
    name = "awa2-sim.md" if protocol == "strict" else "awa2-sim-literature.md"
    board = (tmp_path / name).read_text()
    assert "random" in board
    assert ("selected on test" in board) == (protocol == "literature")


@pytest.mark.parametrize("launcher", ["inline", "local"])
def test_what_is_wrong_with_one_cell_costs_no_other(command: Command, tmp_path: Path, launcher: str) -> None:
    """Its data are broken; the others' are not."""
    root = xlsa17_folder(tmp_path / "data", features=np.full((12, 120), np.nan))
    done = command(
        *("benchmark.run", "--method", "ale", "--set", "epochs=1", "--seeds", "0-1", "--launcher", launcher),
        *("--dataset", "tiny", "awa2-sim", "--data-root", root, "--out", tmp_path / "out"),
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "TINY" in done.stderr
    assert "2 ok (0 of them stored before), 0 failed" in done.stdout
    assert [path.parts[-3] for path in stored(tmp_path / "out")] == ["awa2-sim"] * 2
    assert (tmp_path / "out" / "awa2-sim.md").is_file()


ALE = ["--method", "ale", "--dataset", "awa2-sim"]
BAD_INPUT = {
    "unknown method": (["--method", "alle"], "did you mean 'ale'"),
    "unknown loss": ([*ALE, "--loss", "rmese"], "did you mean 'r"),
    "unknown data set": (["--method", "ale", "--dataset", "cub-sum"], "did you mean 'cub-sim'"),
    "no method": (["--loss", "mse"], "--method is missing"),
    "unknown setting": ([*ALE, "--set", "lerning_rate=1"], "unknown key 'lerning_rate'"),
    "setting of the loss": ([*ALE, "--loss", "remse", "--set", "alpha=1"], "--loss remse:alpha=VALUE"),
    "negative learning rate": ([*ALE, "--set", "lr=-1"], "lr must be greater than 0, got -1 instead"),
    "wrong type": ([*ALE, "--set", "epochs=many"], "epochs must be a valid integer"),
    "not finite": ([*ALE, "--set", "lr=.nan"], "lr must be a finite number"),
    "no assignment": ([*ALE, "--set", "lr"], "'lr' must be key=value"),
    "loss parameter out of range": ([*ALE, "--loss", "remse:alpha=-1"], "alpha must be greater than or equal to 0"),
    "unknown loss parameter": ([*ALE, "--loss", "remse:gama=1"], "unknown key 'gama'"),
    "data set option": (["--method", "ale", "--dataset", "cub-sim:size=huge"], "size must be 'small' or 'full'"),
    "seeds": ([*ALE, "--seeds", "5-1"], "--seeds must be numbers or ranges"),
    "splits": ([*ALE, "--splits", "random:0"], "--splits must be proposed or random:K"),
    "no such data root": ([*ALE, "--data-root", "/nonexistent"], "--data-root /nonexistent"),
    "no data root": (["--method", "ale", "--dataset", "cub"], "needs --data-root or $ZSL_DATA"),
    "unusable device": ([*ALE, "--device", "mps"], "--device mps is not usable here"),
    "no such plug-in": ([*ALE, "--plugin", "nowhere.py"], "--plugin nowhere.py: no such file"),
    "unknown launcher": ([*ALE, "--launcher", "slrum"], "unknown launcher 'slrum'"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_clear_line_and_exit_code_2(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from benchmark.run import main

    monkeypatch.delenv("ZSL_DATA", raising=False)
    arguments, message = BAD_INPUT[case]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    assert message in errors
    assert not stored(tmp_path)


def test_bad_input_through_the_real_command(command: Command, tmp_path: Path) -> None:
    done = command("benchmark.run", "--method", "alle", "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: unknown method 'alle'; did you mean 'ale'?\n"


def xlsa17_folder(root: Path, **changes: object) -> Path:
    """A small data set in the xlsa17 format: 6 classes, 4 of them seen, 20 images each."""
    rng = np.random.default_rng(0)
    folder = root / "TINY"
    folder.mkdir(parents=True)
    labels = np.repeat(np.arange(1, 7), 20)
    index = np.arange(1, 121).reshape(6, 20)
    attributes = rng.random((8, 6))
    features = (attributes[:, labels - 1].T @ rng.normal(size=(8, 12)) + 0.1 * rng.normal(size=(120, 12))).T
    mat = {
        "att": attributes / np.linalg.norm(attributes, axis=0),
        "allclasses_names": np.array([[f"c{i}"] for i in range(6)], dtype=object),
        "trainval_loc": index[:4, :15].reshape(-1, 1),
        "test_seen_loc": index[:4, 15:].reshape(-1, 1),
        "test_unseen_loc": index[4:].reshape(-1, 1),
        "features": features,
        "labels": labels[:, None],
    } | changes
    scipy.io.savemat(folder / "att_splits.mat", {k: v for k, v in mat.items() if k not in ("features", "labels")})
    scipy.io.savemat(folder / "res101.mat", {k: mat[k] for k in ("features", "labels")})
    return root


def test_real_format_end_to_end(command: Command, tmp_path: Path) -> None:
    root = xlsa17_folder(tmp_path / "data")
    done = command(
        *("benchmark.run", "--method", "ale", "eszsl", "--loss", "mse", "--dataset", "tiny", "--data-root", root),
        *("--seeds", "0", "--set", "preprocess=l2", "--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert "SIMULATED" not in done.stdout
    files = stored(tmp_path / "out")
    assert len(files) == 2
    for imbalance in (json.loads(file.read_text())["evaluation"]["imbalance"] for file in files):
        errors = decode(imbalance["errors"])  # kept for real data
        assert errors.shape == (6, 8)
        assert float(errors[:4].mean()) == pytest.approx(imbalance["seen"]["mean"], rel=1e-2)
        assert float(errors[4:].mean()) == pytest.approx(imbalance["unseen"]["mean"], rel=1e-2)


def _leak(root: Path) -> None:
    (root / "TINY" / "valclasses1.txt").write_text("c4\n")


def _truncate(root: Path) -> None:
    path = root / "TINY" / "res101.mat"
    path.write_bytes(path.read_bytes()[:2000])


def _remove(root: Path) -> None:
    (root / "TINY" / "res101.mat").unlink()


BAD_DATA = {
    "missing file": (_remove, {}, "res101.mat"),
    "truncated file": (_truncate, {}, "res101.mat"),
    "validation classes that are test classes": (_leak, {}, "validation classes"),
    "NaN features": (lambda root: None, {"features": np.full((12, 120), np.nan)}, "features"),
    "overlap": (lambda root: None, {"test_seen_loc": np.arange(1, 30).reshape(-1, 1)}, "trainval_loc"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_broken_data_gets_one_clear_line_that_names_the_file(
    case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from benchmark.run import main

    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    breaking, changes, key = BAD_DATA[case]
    root = xlsa17_folder(tmp_path / "data", **changes)
    breaking(root)
    arguments = ["--method", "ale", "--dataset", "tiny", "--data-root", str(root), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1, errors
    assert "TINY" in errors
    assert key in errors


def test_a_broken_yaml_beside_a_plugin_names_file_and_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from benchmark.run import main

    name = f"yaml_test_{os.getpid()}"
    (tmp_path / f"{name}.py").write_text(
        "from benchmark.registries import METHODS\nfrom methods.embedding.linear import Linear\n"
        f"@METHODS.register('{name}', title='X', family='embedding', year=2026, source='a test')\n"
        "class Mine(Linear):\n    '''Mine.'''\n"
    )
    (tmp_path / f"{name}.yaml").write_text("hparams: {lr: fast}\n")
    arguments = ["--plugin", str(tmp_path / f"{name}.py"), "--method", name, "--dataset", "awa2-sim"]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert f"{name}.yaml: hparams: lr must be a valid number" in errors
    (tmp_path / f"{name}.yaml").write_text("hparams: {lerning_rate: 1}\n")
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert "unknown key 'lerning_rate'" in capsys.readouterr().err
