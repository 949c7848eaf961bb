"""``benchmark.report`` as users run it, and the check of what it wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmark.report.__main__ import main
from benchmark.run import run

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


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models of a method that generates features and of one that does not."""
    out = tmp_path_factory.mktemp("kept")
    assert {
        result.status for result in run(["gfzsl", "eszsl"], "mse", "awa2-sim", seeds=1, keep_models=True, out=out)
    } == {"ok"}
    return {file.parent.name.partition("+")[0]: file for file in out.rglob("*.safetensors")}


@pytest.mark.parametrize("method", ["gfzsl", "eszsl"])
def test_the_page_of_a_kept_model_is_the_same_each_time_and_tells_what_was_scored(
    kept: dict[str, Path], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.report.inside.IMAGES", 8)  # t-SNE takes most of the time
    arguments = [str(kept[method]), "--out", str(tmp_path)]
    assert main(arguments) == 0
    (folder,) = (tmp_path / "models").iterdir()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert main(arguments) == 0
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert {*before} == {"README.md", "report.json", "confusion.png", "confusion.svg", "map.png", "map.svg"}
    page, map_ = before["README.md"].decode(), before["map.svg"].decode()
    t1 = json.loads(kept[method].with_suffix(".json").read_text())["evaluation"]["metrics"]["T1"]
    assert re.search(r"T1 is ([\d.]+):", page)[1] == f"{t1:.1f}"  # type: ignore[index]
    assert "(SIMULATED)" in page
    assert "SIMULATED" in map_
    generates = method == "gfzsl"
    assert ("generated features, in the same map" in map_) is generates
    assert ("predicted semantics" in map_) is not generates
    assert ("The method generates no features." in page) is not generates


def test_a_model_that_cannot_be_looked_into_is_one_line(
    kept: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.simulated

    (tmp_path / "none.safetensors").write_text("none")
    for file, problem in ((tmp_path / "no.safetensors", "cannot be read"), (tmp_path / "none.safetensors", "no")):
        assert main([str(file), "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {file}: ")
        assert problem in line
    monkeypatch.setattr(datasets.simulated.Simulated, "revision", "other")
    assert main([str(kept["eszsl"]), "--out", str(tmp_path / "out")]) == 2
    assert "awa2-sim: must be of revision sim1-" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
