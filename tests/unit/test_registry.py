"""What plugs in: the registry's checks and messages, discovery of modules and entry points, and plug-in files."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import benchmark.registry
from benchmark.api import Dataset, Method, RegressionLoss
from benchmark.launch import LAUNCHERS
from benchmark.registry import InputError, Registry, did_you_mean, load_plugin, subclass_check
from datasets import DATASETS
from losses import LOSSES
from methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
ABOUT: dict[str, Any] = {"title": "T", "family": "f", "year": 2020, "source": "a paper"}


class Fine(RegressionLoss):
    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        return predicted.sum()


def losses() -> Registry[type[RegressionLoss]]:
    """An empty registry; its package is a module that registers nothing."""
    return Registry("loss", "json", subclass_check(RegressionLoss))


def test_an_entry_keeps_what_is_said_of_it():
    registry = losses()
    assert registry.register("fine", title="A", family="b", year=1999, source="c")(Fine) is Fine
    entry = registry["fine"]
    assert (entry.name, entry.obj, entry.title, entry.family, entry.year, entry.source) == (
        "fine",
        Fine,
        "A",
        "b",
        1999,
        "c",
    )
    assert entry.file == Path(__file__)
    assert entry.config_file == Path(__file__).with_name("test_registry.yaml")
    assert "fine" in registry
    assert "other" not in registry
    assert len(registry) == 1


def test_a_duplicate_is_refused_and_the_first_one_stays():
    registry = losses()
    registry.register("fine", **ABOUT)(Fine)

    class Second(Fine):
        pass

    with pytest.raises(ValueError, match=r"loss 'fine' is registered already, by .*test_registry\.py"):
        registry.register("fine", **ABOUT)(Second)
    assert registry["fine"].obj is Fine


def test_another_base_is_refused():
    registry = losses()

    class NoLoss(torch.nn.Module):
        pass

    for wrong in (NoLoss, Fine(1, 1, None), lambda: None, "text"):
        with pytest.raises(TypeError, match=r"cannot register 'x' as a loss: .* not a subclass of benchmark.api.Reg"):
            registry.register("x", **ABOUT)(wrong)
    assert len(registry) == 0


def test_what_an_abstract_class_lacks_is_named():
    class Half(Method):
        def fit(self, data, loss, run): ...

    registry: Registry[type[Method]] = Registry("method", "json", subclass_check(Method))
    with pytest.raises(TypeError, match="Half does not define scores, semantics"):
        registry.register("half", **ABOUT)(Half)


def test_an_unknown_name_gets_the_nearest_one_or_all():
    registry = losses()
    for name in ("remse", "mse-matched"):
        registry.register(name, **ABOUT)(Fine)
    with pytest.raises(InputError, match=r"^unknown loss 'rmese'; did you mean 'remse'\?$"):
        registry["rmese"]
    with pytest.raises(InputError, match=r"^unknown loss 'xyz'; known: mse-matched, remse$"):
        registry["xyz"]
    assert did_you_mean("x", []) == "known: (none)"


def test_iteration_is_by_family_year_and_name():
    registry = losses()
    for name, family, year in [("d", "b", 1), ("c", "a", 2), ("b", "a", 2), ("a", "a", 3), ("e", "a", 1)]:
        registry.register(name, title="", family=family, year=year, source="")(Fine)
    assert registry.names() == ["e", "b", "c", "a", "d"]
    assert [entry.name for entry in registry] == registry.names()


def test_all_modules_of_a_package_register_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "toy_losses_package"
    (package / "deep" / "deeper").mkdir(parents=True)
    about = ", ".join(f"{key}={value!r}" for key, value in ABOUT.items())
    module = (
        "from tests.unit.test_registry import Fine\nfrom toy_losses_package import TOYS\n"
        f"@TOYS.register(NAME, {about})\nclass Loss(Fine):\n    pass\n"
    )
    (package / "__init__.py").write_text(
        "from benchmark.registry import Registry, subclass_check\nfrom benchmark.api import RegressionLoss\n"
        "TOYS = Registry('loss', 'toy_losses_package', subclass_check(RegressionLoss))\n"
    )
    (package / "top.py").write_text(module.replace("NAME", "'top'"))
    (package / "_private.py").write_text("raise RuntimeError('modules with an underscore are not for this')")
    (package / "deep" / "__init__.py").touch()
    (package / "deep" / "deeper" / "__init__.py").touch()
    (package / "deep" / "deeper" / "inner.py").write_text(module.replace("NAME", "'inner'"))
    monkeypatch.syspath_prepend(tmp_path)
    toys = __import__("toy_losses_package").TOYS
    assert toys.names() == ["inner", "top"]


@pytest.mark.parametrize(("registry", "folder"), [(METHODS, "methods"), (LOSSES, "losses"), (DATASETS, "datasets")])
def test_all_that_our_folders_register_is_found(registry: Registry[Any], folder: str):
    decorator = re.compile(r"^@[A-Z]+\.register\(\s*\"([^\"]+)\"", re.MULTILINE)
    written = {name: path for path in (ROOT / folder).rglob("*.py") for name in decorator.findall(path.read_text())}
    assert written
    assert {name: registry[name].file for name in written} == written
    for entry in registry:
        assert entry.title
        assert entry.source
        assert entry.family
        assert 1700 < entry.year < 2100


def test_kinds_are_in_the_singular():
    assert [r.kind for r in (METHODS, LOSSES, DATASETS, LAUNCHERS)] == ["method", "loss", "data set", "launcher"]
    assert {"inline", "local"} <= set(LAUNCHERS.names())
    assert all(issubclass(entry.obj, Dataset) for entry in DATASETS)


class TestEntryPoints:
    def use(self, monkeypatch: pytest.MonkeyPatch, module: str, group: str) -> None:
        point = importlib.metadata.EntryPoint("theirs", module, group)

        def entry_points(*, group: str) -> list[importlib.metadata.EntryPoint]:
            return [point] if group == point.group else []

        monkeypatch.setattr(benchmark.registry, "entry_points", entry_points)

    def test_modules_of_third_parties_are_loaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "toy_third_party.py").write_text(
            "from tests.unit.test_registry import ABOUT, Fine, HOOK\nHOOK[0].register('theirs', **ABOUT)(Fine)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        self.use(monkeypatch, "toy_third_party", "zsl_benchmark.data_set")
        registry: Registry[Any] = Registry("data set", "json", subclass_check(RegressionLoss))
        sys.modules["tests.unit.test_registry"].HOOK = [registry]  # type: ignore[attr-defined]
        assert registry.names() == ["theirs"]

    def test_those_of_another_kind_are_not(self, monkeypatch: pytest.MonkeyPatch):
        self.use(monkeypatch, "toy_that_does_not_exist", "zsl_benchmark.method")
        assert losses().names() == []

    def test_a_broken_one_is_one_clear_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "toy_broken.py").write_text("raise RuntimeError('two\\nlines')")
        monkeypatch.syspath_prepend(tmp_path)
        self.use(monkeypatch, "toy_broken", "zsl_benchmark.loss")
        with pytest.raises(InputError, match="entry point theirs = toy_broken: RuntimeError: two") as error:
            losses().names()
        assert "\n" not in str(error.value)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Forgets afterwards what the test's plug-ins registered and imported."""
    for registry in (METHODS, LOSSES):
        registry.names()
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("zsl_plugin_"):
            del sys.modules[name]


PLUGIN = f"""
from benchmark.api import RegressionLoss
from losses import LOSSES

@LOSSES.register("plugged", **{ABOUT!r})
class Plugged(RegressionLoss):
    def forward(self, predicted, target, labels):
        return (predicted - target).sum()
"""


@pytest.mark.usefixtures("plugins")
class TestPlugins:
    def test_a_file_outside_the_repository_registers(self, tmp_path: Path):
        file = tmp_path / "my_loss.py"
        file.write_text(PLUGIN)
        load_plugin(file)
        entry = LOSSES["plugged"]
        assert entry.file == file
        assert entry.obj(1, 1, entry.obj.Config())(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1)) == 1
        load_plugin(file)  # once more is once only

    def test_a_relative_path_is_the_same_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "my_loss.py").write_text(PLUGIN)
        load_plugin(tmp_path / "my_loss.py")
        monkeypatch.chdir(tmp_path)
        load_plugin(Path("my_loss.py"))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("def broken(:", "SyntaxError: "),
            ("import json\n\njson.nothing", "AttributeError: .*nothing"),
            ("import a_module_that_is_not_there", "ModuleNotFoundError: .*a_module_that_is_not_there"),
            (PLUGIN.replace("    def forward", "    def backward"), "TypeError: cannot register 'plugged'.*forward"),
            (PLUGIN.replace('"plugged"', '"mse"'), "ValueError: loss 'mse' is registered already"),
            ("raise ValueError('two\\nlines')", "ValueError: two"),
        ],
    )
    def test_what_is_wrong_with_one_is_one_clear_line(self, tmp_path: Path, content: str, message: str):
        file = tmp_path / "wrong.py"
        file.write_text(content)
        for _ in range(2):  # the second time is no different: nothing half-imported stays
            with pytest.raises(InputError, match=f"--plugin .*wrong.py: {message}") as error:
                load_plugin(file)
            assert "\n" not in str(error.value)

    def test_a_missing_one(self, tmp_path: Path):
        for path in (tmp_path / "missing.py", tmp_path):
            with pytest.raises(InputError, match=f"--plugin {path}: no such file"):
                load_plugin(path)

    def test_one_that_is_no_python_file(self, tmp_path: Path):
        file = tmp_path / "notes.txt"
        file.touch()
        with pytest.raises(InputError, match=r"not a Python file; its name must end in \.py"):
            load_plugin(file)

    def test_two_of_one_name(self, tmp_path: Path):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "mine.py").touch()
        load_plugin(tmp_path / "a" / "mine.py")
        with pytest.raises(InputError, match="another plug-in is called 'mine' too; rename one"):
            load_plugin(tmp_path / "b" / "mine.py")

    def test_a_class_without_a_file_can_be_registered(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "toy_notebook", types.ModuleType("toy_notebook"))
        loss = type("Loss", (Fine,), {"__module__": "toy_notebook"})
        LOSSES.register("in-notebook", **ABOUT)(loss)
        assert not LOSSES["in-notebook"].config_file.is_file()


def test_a_plug_in_that_takes_our_name_is_one_clear_line(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN.replace('"plugged"', '"mse"'))
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.run", "--plugin", file, "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr[-500:]
    assert done.stderr.count("\n") == 1
    assert "'mse' is registered already" in done.stderr
