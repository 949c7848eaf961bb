"""What a result says of the code that made it: all files that decide it, as they were when they were imported."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmark.engine.plan import Cell
from benchmark.engine.settings import make_spec
from benchmark.files import ROOT
from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.sources import digests


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def test_digests_are_of_the_content():
    found = METHODS["ale"].code
    for module in ("methods.embedding.ale", "methods.embedding._bilinear", "benchmark.toolkit.training"):
        assert found[module] == digest(ROOT / f"{module.replace('.', '/')}.py")


@pytest.mark.parametrize(
    ("method", "loss", "module"),
    [
        ("eszsl", "remse", "losses._common"),
        ("eszsl", "remse", "methods._least_squares"),
        ("vaegan", "mse", "methods.generative._synthesis"),
        ("vaegan", "mse", "benchmark.toolkit.layers"),
        ("apn", "mse", "methods.local._local"),
        ("ale", "mse", "benchmark.toolkit.training"),
        ("ale", "mse", "benchmark.api"),
    ],
)
def test_all_files_that_decide_a_result_are_among_them(method: str, loss: str, module: str):
    source = DATASETS.resolve("awa2-sim", {}, None)
    cell = Cell(make_spec(method, {}, (loss, {}), source, {}, "proposed", "strict"), (0,), None, "cpu")
    found = cell.sources()
    assert found[module] == digest(ROOT / f"{module.replace('.', '/')}.py")
    assert {"method", "loss", "engine"} <= found.keys()
    assert None not in found.values()


def test_what_decides_no_figure_is_not_among_them():
    found = METHODS["ale"].code | LOSSES["remse"].code
    assert not {"benchmark.errors", "benchmark.registry", "benchmark.config"} & found.keys()
    assert not any(module.startswith(("benchmark.boards", "benchmark.engine", "datasets")) for module in found)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package of somebody else with two modules, one of which takes something from the other and from the suite."""
    folder = tmp_path / "their_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "shared.py").write_text("POWER = 2\n")
    (folder / "method.py").write_text("import json\nfrom benchmark.api import Method\nfrom .shared import POWER\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("their_package.method")
    yield folder
    for name in [name for name in sys.modules if name.startswith("their_package")]:
        del sys.modules[name]


def test_what_a_module_imports_of_its_own_package_and_of_the_suite(package: Path):
    found = digests("their_package.method")
    assert {"their_package.method", "their_package.shared", "benchmark.api"} <= found.keys()
    assert "json" not in found


def test_a_file_that_is_edited_later_changes_nothing(package: Path):
    """A grid that runs meanwhile goes on with the code that it imported, and its results must say so."""
    before = digests("their_package.method")
    (package / "shared.py").write_text("POWER = 3\n")
    assert digests("their_package.method") == before
    assert before["their_package.shared"] == hashlib.sha256(b"POWER = 2\n").hexdigest()[:12]


def test_code_without_a_file_has_no_digest():
    assert digests("a_notebook_that_is_not_there") == {}
