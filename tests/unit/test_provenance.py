"""Where a result comes from, and what it must not tell: paths, hosts and users."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.api import Run, Slot, TrainData
from benchmark.engine import provenance
from benchmark.engine.experiment import run_cell
from benchmark.engine.plan import Cell
from benchmark.engine.provenance import describe
from benchmark.engine.settings import make_spec
from benchmark.files import ROOT
from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.sources import SUITE
from tests.reference.toy import CPU, ToyDataset, ToyLoss, ToyMethod, register

FOLDER = "/home/ada-lovelace/secret folder"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Git is asked once a process; here anew for each test."""
    provenance._git.cache_clear()
    yield
    provenance._git.cache_clear()


def argv_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    monkeypatch.setattr(sys, "argv", [f"{FOLDER}/benchmark/run.py", *arguments])
    return list(describe(CPU, {})["argv"])


class TestArguments:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            (["--method", "ale", "--set", "lr=0.1"], ["--method", "ale", "--set", "lr=0.1"]),
            (["--loss", "remse:alpha=0.1,scale=mean_one"], ["--loss", "remse:alpha=0.1,scale=mean_one"]),
            (["--splits", "random:3", "--seeds", "0-4"], ["--splits", "random:3", "--seeds", "0-4"]),
            (["--data-root", f"{FOLDER}/xlsa17/data"], ["--data-root", "data"]),
            ([f"--data-root={FOLDER}/xlsa17/data"], ["--data-root=data"]),
            (["--plugin", "../../ada-lovelace/mine.py"], ["--plugin", "mine.py"]),
        ],
    )
    def test_paths_are_cut_to_their_last_part(self, monkeypatch: pytest.MonkeyPatch, given: list[str], kept: list[str]):
        assert argv_of(monkeypatch, *given) == ["run.py", *kept]

    @pytest.mark.parametrize(
        "argument",
        [
            f"--data-root={FOLDER}/data",
            f"{FOLDER}/",
            f"{FOLDER}/a=b/c",
            f"--data-root={FOLDER}/a=b/c",
            f"cub:features={FOLDER}/x",
            "/home/ada-lovelace",
            "/home/ada-lovelace/",
            "--out=/home/ada-lovelace",
        ],
    )
    def test_no_folder_and_no_user_is_told(self, monkeypatch: pytest.MonkeyPatch, argument: str):
        monkeypatch.setenv("HOME", "/home/ada-lovelace")
        text = " ".join(argv_of(monkeypatch, argument))
        assert "lovelace" not in text
        assert "/" not in text


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *strings(inner))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)
    elif value is not None:
        yield str(value)


def test_no_path_host_or_user_is_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "run.py"), "--out", str(tmp_path)])
    found = describe(CPU, {"method": "0123456789ab"})
    private = [socket.gethostname(), getpass.getuser(), str(Path.home()), str(ROOT), str(tmp_path)]
    for text in strings(found):
        words = set(re.split(r"[^\w.-]+", text))
        assert not words & set(private), text
        assert not any(len(name) > 4 and name in text for name in private), text
        if not text.startswith(str(found["cpu"])):
            assert not text.startswith("/")
    json.dumps(found, allow_nan=False)  # it can be stored


def test_what_it_says_is_so():
    found = describe(CPU, {})
    age = datetime.now(UTC) - datetime.fromisoformat(found["started"])
    assert -1 <= age.total_seconds() < 60
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["libraries"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(found["libraries"]) == {"torch", "numpy", "scipy", "pydantic"}
    assert provenance._version("a-library-that-is-not-there") is None


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
class TestGit:
    @pytest.fixture
    def repository(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """A repository with the folders of this one, all committed; git commands run in it."""
        root = tmp_path / "repository"
        for folder in (*SUITE, "leaderboards", "tests"):
            (root / folder).mkdir(parents=True)
            (root / folder / "a.py").write_text("x = 1\n")
        for name in ("AUTHOR", "COMMITTER"):
            monkeypatch.setenv(f"GIT_{name}_NAME", "a")
            monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b")

        def git(*arguments: str) -> str:
            done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
            return done.stdout.strip()

        git("init", "-q")
        git("add", ".")
        git("-c", "commit.gpgsign=false", "commit", "-q", "-m", "all")
        monkeypatch.setattr("benchmark.engine.provenance.ROOT", root)
        return git

    def test_the_commit_of_a_clean_tree(self, repository: Callable[..., str]):
        found = describe(CPU, {})
        assert found["commit"] == repository("rev-parse", "HEAD")
        assert re.fullmatch("[0-9a-f]{40}", found["commit"])
        assert found["dirty"] is False

    @pytest.mark.parametrize("folder", ["leaderboards", "tests"])
    def test_results_and_documents_leave_it_clean(self, repository: Callable[..., str], tmp_path: Path, folder: str):
        for name in ("a.py", "new.json"):
            (tmp_path / "repository" / folder / name).write_text("changed")
        (tmp_path / "repository" / "README.md").write_text("new")
        assert describe(CPU, {})["dirty"] is False

    @pytest.mark.parametrize("folder", SUITE)
    @pytest.mark.parametrize("name", ["a.py", "new.py"])
    def test_changed_or_new_code_makes_it_dirty(
        self, repository: Callable[..., str], tmp_path: Path, folder: str, name: str
    ):
        (tmp_path / "repository" / folder / name).write_text("changed")
        assert describe(CPU, {})["dirty"] is True

    def test_staged_and_removed_code_make_it_dirty(self, repository: Callable[..., str], tmp_path: Path):
        (tmp_path / "repository" / "losses" / "a.py").unlink()
        assert describe(CPU, {})["dirty"] is True

    def test_it_does_not_depend_on_the_working_folder(
        self, repository: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        assert describe(CPU, {})["commit"] == repository("rev-parse", "HEAD")


@pytest.mark.parametrize("without", ["repository", "git"])
def test_without_a_repository_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, without: str):
    monkeypatch.setattr("benchmark.engine.provenance.ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if without == "git":
        monkeypatch.setenv("PATH", "")
    found = describe(CPU, {})
    assert found["commit"] is None
    assert found["dirty"] is not False


def test_the_error_of_a_failed_run_tells_no_folder(monkeypatch: pytest.MonkeyPatch):
    class Broken(ToyMethod):
        def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
            Path(f"{FOLDER}/weights.pt").read_bytes()

    register(monkeypatch, DATASETS, "toy", ToyDataset)
    register(monkeypatch, METHODS, "broken", Broken)
    register(monkeypatch, LOSSES, "toy", ToyLoss)
    spec = make_spec("broken", {}, ("toy", {}), DATASETS.resolve("toy", {}, None), {}, "proposed", "strict")
    (result,) = run_cell(Cell(spec, (0,), None, "cpu"))
    assert result.status == "failed"
    assert "FileNotFoundError" in str(result.error)
    assert "weights.pt" in str(result.error)
    assert "lovelace" not in str(result.error)
