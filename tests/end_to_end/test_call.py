"""``benchmark.run.run``, the one call from Python."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmark.errors import InputError
from benchmark.files import ROOT
from benchmark.registries import METHODS
from benchmark.results.store import Store
from benchmark.run import main, run
from tests.reference.toy import ToyMethod, register


def test_the_script_of_the_tutorial_prints_all_and_leaves_no_file(environment: dict[str, str], tmp_path: Path):
    page = (ROOT / "docs" / "tutorials" / "comparing-losses.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(from benchmark.run import run\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    words = [sys.executable, "-c", script]
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "minus mse, with p of a paired t-test" in done.stdout
    assert "method loss" in done.stdout
    command = "python -m benchmark.run --method eszsl --loss none --dataset awa2-sim --seeds 0 --profile small"
    assert done.stdout.endswith(f"{command}\n")
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_it_is_the_command_line(tmp_path: Path):
    found = run("ale", ["none", "remse:scale=mean_one"], "awa2-sim", seeds=[1], settings={"epochs": 2})
    words = ["--method", "ale", "--loss", "none", "remse:scale=mean_one", "--dataset", "awa2-sim"]
    assert main([*words, "--seeds", "1", "--set", "epochs=2", "--out", str(tmp_path)]) == 0
    stored = {result.spec.key: result for result in Store(tmp_path / "results")}
    assert [result.spec.loss_label for result in found] == ["none", "remse:scale=mean_one"]
    for result in found:
        assert result.evaluation == stored[result.spec.key].evaluation
        assert result.spec == stored[result.spec.key].spec
        assert main(["--out", str(tmp_path), *result.command.split()[3:]]) == 0
    assert len(list(Store(tmp_path / "results"))) == 2, "its command is for the very run"


def test_a_method_that_the_process_registered_needs_no_file(monkeypatch: pytest.MonkeyPatch):
    register(monkeypatch, METHODS, "toy", ToyMethod)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    (result,) = run("toy", dataset="awa2-sim", seeds=1)
    assert result.status == "ok"
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_trackers_write_beside_the_results_and_not_without_a_folder(tmp_path: Path):
    run("ale", "mse", "awa2-sim", seeds=1, settings={"epochs": 2}, log="tensorboard", out=tmp_path)
    assert list((tmp_path / "logs").rglob("events.*"))
    with pytest.raises(InputError, match="log needs out"):
        run("ale", "mse", "awa2-sim", log="tensorboard")
    with pytest.raises(InputError, match=r"unknown tracker 'tensorbord'; did you mean 'tensorboard'\?"):
        run("ale", "mse", "awa2-sim", log="tensorbord", out=tmp_path)


def test_what_fails_is_a_result_and_what_is_wrong_an_error(monkeypatch: pytest.MonkeyPatch):
    class Broken(ToyMethod):
        def fit(self, *_: object) -> None:
            raise ValueError("no luck")

    register(monkeypatch, METHODS, "toy", Broken)
    found = run("toy", dataset="awa2-sim", seeds=1)
    assert found[0].status == "failed"
    assert "no luck" in str(found)
    assert found.to_pandas()["error"][0].startswith("ValueError: no luck")
    with pytest.raises(InputError, match="unknown method 'al'; did you mean 'ale'"):
        run("al")
    with pytest.raises(InputError, match="unknown key 'lrr'; did you mean 'lr'"):
        run("ale", dataset="awa2-sim", settings={"lrr": 1})
