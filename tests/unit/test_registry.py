"""What plugs in: the registry's checks and messages, discovery of modules and entry points, and plug-in files."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import benchmark.registry
from benchmark.api import Dataset, LossConfig, Method, RegressionLoss
from benchmark.errors import InputError, did_you_mean
from benchmark.registries import DATASETS, LAUNCHERS, LOSSES, METHODS, TRACKERS, LossEntry, MethodEntry, load_plugins
from benchmark.registry import Registry, subclass_problem
from tests.reference.data_root import write_folder

ROOT = Path(__file__).resolve().parents[2]
ABOUT: dict[str, Any] = {"title": "T", "family": "f", "year": 2020, "source": "a paper"}


class Fine(RegressionLoss):
    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        return predicted.sum()


def losses(families: Sequence[str] = ()) -> Registry[LossEntry]:
    """An empty registry; its package is a module that registers nothing."""
    return Registry("loss", "LOSSES", LossEntry, "json", lambda obj: subclass_problem(obj, RegressionLoss), families)


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

    for wrong in (NoLoss, Fine(1, 1, LossConfig()), lambda: None, "text"):
        with pytest.raises(TypeError, match=r"cannot register 'x' as a loss: .* not a subclass of benchmark.api.Reg"):
            registry.register("x", **ABOUT)(wrong)
    assert len(registry) == 0


def test_what_an_abstract_class_lacks_is_named():
    class Half(Method):
        def fit(self, data, slot, run): ...

    registry = Registry("method", "METHODS", MethodEntry, "json", lambda obj: subclass_problem(obj, Method))
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


def test_a_field_that_is_missing_or_unknown_is_refused():
    with pytest.raises(TypeError, match="source"):
        losses().register("x", title="", family="", year=1)(Fine)
    with pytest.raises(TypeError, match="authors"):
        losses().register("x", **ABOUT, authors="somebody")(Fine)


def test_families_come_in_the_registrys_order_and_others_after_them():
    registry = losses(families=("z", "b"))
    for name, family in [("1", "a"), ("2", "b"), ("3", "z"), ("4", "c")]:
        registry.register(name, title="", family=family, year=1, source="")(Fine)
    assert registry.names() == ["3", "2", "1", "4"]


def test_iteration_is_by_family_year_and_name():
    registry = losses()
    for name, family, year in [("d", "b", 1), ("c", "a", 2), ("b", "a", 2), ("a", "a", 3), ("e", "a", 1)]:
        registry.register(name, title="", family=family, year=year, source="")(Fine)
    assert registry.names() == ["e", "b", "c", "a", "d"]
    assert [entry.name for entry in registry] == registry.names()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package whose modules register losses in ``TOYS``, one of them in a folder of a folder."""
    package = tmp_path / "toy_losses_package"
    (package / "deep" / "deeper").mkdir(parents=True)
    about = ", ".join(f"{key}={value!r}" for key, value in ABOUT.items())
    module = (
        "from tests.reference.toy import ToyLoss\nfrom toy_losses_package import TOYS\n"
        f"@TOYS.register(NAME, {about})\nclass Loss(ToyLoss):\n    pass\n"
    )
    (package / "__init__.py").write_text(
        "from benchmark.registries import LossEntry\nfrom benchmark.registry import Registry\n"
        "TOYS = Registry('loss', 'TOYS', LossEntry, 'toy_losses_package', lambda obj: None)\n"
    )
    (package / "top.py").write_text(module.replace("NAME", "'top'"))
    (package / "deep" / "__init__.py").touch()
    (package / "deep" / "deeper" / "__init__.py").touch()
    (package / "deep" / "deeper" / "inner.py").write_text(module.replace("NAME", "'inner'"))
    monkeypatch.syspath_prepend(tmp_path)
    yield package
    for name in [name for name in sys.modules if name.startswith("toy_losses_package")]:
        del sys.modules[name]


def test_what_a_package_registers_is_known_before_it_is_imported(package: Path):
    toys = importlib.import_module("toy_losses_package").TOYS
    assert toys.names() == ["inner", "top"]
    assert toys["inner"].title == "T"
    assert toys["inner"].file == package / "deep" / "deeper" / "inner.py"
    assert not any(name.startswith("toy_losses_package.") for name in sys.modules)
    assert toys["inner"].obj.__module__ == "toy_losses_package.deep.deeper.inner"
    assert "toy_losses_package.top" not in sys.modules


def test_a_module_that_cannot_be_imported_says_so_each_time_and_costs_no_other(package: Path):
    """Once the second call said that nothing was known."""
    toys = importlib.import_module("toy_losses_package").TOYS
    (package / "top.py").write_text("import a_module_that_is_not_there\n" + (package / "top.py").read_text())
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
            _ = toys["top"].obj
    assert toys.names() == ["inner", "top"]
    assert toys["inner"].obj.__name__ == "Loss"


def test_what_cannot_be_read_off_the_source_is_named(package: Path):
    file = package / "top.py"
    file.write_text(file.read_text().replace("'top'", "'to' + str(1)"))
    with pytest.raises(
        TypeError, match=r"top\.py:3: TOYS.register\(\) must be given a name and then keywords, all of them literals"
    ):
        importlib.import_module("toy_losses_package").TOYS.names()


def test_two_files_of_a_package_that_register_one_name_are_both_named(package: Path):
    (package / "another.py").write_text((package / "top.py").read_text())
    with pytest.raises(ValueError, match=r"loss 'top' is registered by .*another\.py and by .*top\.py"):
        importlib.import_module("toy_losses_package").TOYS.names()


def test_what_registers_elsewhere_is_none_of_the_registrys(package: Path):
    (package / "others.py").write_text(
        "import functools\nfrom benchmark.registries import METHODS\n"
        "@functools.singledispatch\ndef f(x): ...\n\n@f.register(int)\ndef g(x): ...\n\n"
        f"@METHODS.register('stranger', **{ABOUT!r})\nclass Stranger: ...\n"
    )
    assert importlib.import_module("toy_losses_package").TOYS.names() == ["inner", "top"]


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


def test_losses_have_one_reference_one_absence_and_one_that_is_studied():
    assert [entry.name for entry in LOSSES if entry.reference] == [LOSSES.reference]
    assert [entry.name for entry in LOSSES if entry.absent] == [LOSSES.absent]
    assert [entry for entry in LOSSES if entry.contrasts] == [LOSSES.studied]
    assert LOSSES.studied.contrasts[0] == (LOSSES.studied.name, LOSSES.reference)
    ranked = [LOSSES.order(name) for name in (LOSSES.absent, LOSSES.reference, LOSSES.studied.name, "a plug-in's")]
    assert ranked == [0, 1, 2, 2]


@pytest.mark.parametrize("part", ["reference", "absent"])
def test_a_plug_in_cannot_claim_a_part_that_is_taken(part: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LOSSES, "_known", dict(LOSSES._entries))
    taken = getattr(LOSSES, part)
    LOSSES.register("usurper", **ABOUT, **{part: True})(Fine)
    with pytest.raises(InputError, match=f"with {part}, got '{taken}' and 'usurper' instead"):
        getattr(LOSSES, part)


def test_folders_that_no_entry_names_are_read_by_the_suites_own_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "MINE").mkdir()
    (tmp_path / "MINE" / "att_splits.mat").touch()
    (tmp_path / "NONE" / "att_splits.mat").mkdir(parents=True)
    monkeypatch.setattr(DATASETS, "_known", dict(DATASETS._entries))
    theirs = {**ABOUT, "family": "aaa", "year": 1800, "marker": "att_splits.mat"}
    DATASETS.register("theirs", **theirs)(type("Theirs", (DATASETS["cub-sim"].obj,), {"__module__": __name__}))
    assert list(DATASETS.folders(tmp_path)) == ["mine"]
    assert type(DATASETS.resolve("mine", {}, tmp_path)) is DATASETS["cub"].obj


def test_without_data_the_stand_ins_are_the_default(tmp_path: Path):
    stand_ins = DATASETS.defaults(None)
    assert stand_ins == DATASETS.defaults(tmp_path)
    assert len(stand_ins) == 3
    assert all(DATASETS[name].simulated for name in stand_ins)


def test_kinds_are_in_the_singular():
    kinds = [registry.kind for registry in (METHODS, LOSSES, DATASETS, LAUNCHERS, TRACKERS)]
    assert kinds == ["method", "loss", "data set", "launcher", "tracker"]
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
            "import sys\nfrom tests.reference.toy import ToyLoss\n"
            f"sys.toy_registry.register('theirs', **{ABOUT!r})(ToyLoss)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        self.use(monkeypatch, "toy_third_party", "zsl_benchmark.data_set")
        registry = Registry("data set", "DATASETS", LossEntry, "json", lambda obj: None)
        monkeypatch.setattr(sys, "toy_registry", registry, raising=False)
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
        monkeypatch.setattr(registry, "_known", dict(registry._entries))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("zsl_plugin_"):
            del sys.modules[name]


PLUGIN = f"""
from benchmark.api import RegressionLoss
from benchmark.registries import LOSSES

@LOSSES.register("plugged", **{ABOUT!r})
class Plugged(RegressionLoss):
    def forward(self, predicted, target, labels):
        return (predicted - target).sum()
"""


OLD_METHOD = f"""
from benchmark.api import Method
from benchmark.registries import METHODS

@METHODS.register("old", **{ABOUT!r})
class Old(Method):
    def fit(self, data, loss, run):
        pass

    def scores(self, x, classes):
        pass

    def semantics(self, x):
        pass
"""


@pytest.mark.usefixtures("plugins")
class TestPlugins:
    def test_a_file_outside_the_repository_registers(self, tmp_path: Path):
        file = tmp_path / "my_loss.py"
        file.write_text(PLUGIN)
        load_plugins([file])
        entry = LOSSES["plugged"]
        assert entry.file == file
        assert entry.obj(1, 1, entry.obj.Config())(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1)) == 1
        load_plugins([file])  # once more is once only

    def test_a_relative_path_is_the_same_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "my_loss.py").write_text(PLUGIN)
        load_plugins([tmp_path / "my_loss.py"])
        monkeypatch.chdir(tmp_path)
        load_plugins([Path("my_loss.py")])

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
                load_plugins([file])
            assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("content", "change"),
        [
            ("from methods import METHODS", "METHODS, LOSSES and DATASETS are in benchmark.registries"),
            ("from benchmark.train import GradientConfig, fit", "minimise and linear in benchmark.toolkit"),
            ("from benchmark.protocol import train_data", "the contract is in benchmark.api"),
            (OLD_METHOD, r"it must be fit\(data, slot, run\), where slot\(predicted, labels\) is the weighted loss"),
        ],
    )
    def test_one_for_an_older_contract_says_what_to_change(self, tmp_path: Path, content: str, change: str):
        file = tmp_path / "older.py"
        file.write_text(content)
        with pytest.raises(InputError, match=change) as error:
            load_plugins([file])
        assert "\n" not in str(error.value)

    def test_a_missing_one(self, tmp_path: Path):
        for path in (tmp_path / "missing.py", tmp_path):
            with pytest.raises(InputError, match=f"--plugin {path}: no such file"):
                load_plugins([path])

    def test_one_that_is_no_python_file(self, tmp_path: Path):
        file = tmp_path / "notes.txt"
        file.touch()
        with pytest.raises(InputError, match=r"not a Python file; its name must end in \.py"):
            load_plugins([file])

    def test_two_of_one_name(self, tmp_path: Path):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "mine.py").touch()
        load_plugins([tmp_path / "a" / "mine.py"])
        with pytest.raises(InputError, match="another plug-in is called 'mine' too; rename one"):
            load_plugins([tmp_path / "b" / "mine.py"])

    def test_a_class_without_a_file_can_be_registered(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "toy_notebook", types.ModuleType("toy_notebook"))
        loss = type("Loss", (Fine,), {"__module__": "toy_notebook"})
        LOSSES.register("in-notebook", **ABOUT)(loss)
        assert not LOSSES["in-notebook"].config_file.is_file()


def test_a_plug_in_runs_only_where_it_is_named(tmp_path: Path):
    """Neither one that lies beside the data nor one in the folder that results are written to."""
    split = DATASETS.resolve("awa2-sim", {}, None).load()
    write_folder(tmp_path / "data" / "TOY", split, {"res101": split.features})
    for folder in ("data", "data/TOY", "out"):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("mine", "__init__", "conftest", "sitecustomize", "my_plugin"):
            (tmp_path / folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    arguments = ["--method", "eszsl", "--loss", "mse", "--dataset", "toy", "--seeds", "0", "--out", tmp_path / "out"]
    environment = os.environ | {"ZSL_DATA": str(tmp_path / "data")}
    run = [sys.executable, "-m", "benchmark.run", *map(str, arguments)]
    assert subprocess.run(run, cwd=ROOT, env=environment, capture_output=True).returncode == 0
    assert not (tmp_path / "ran").exists()
    named = [*run, "--plugin", str(tmp_path / "out" / "mine.py")]
    subprocess.run(named, cwd=ROOT, env=environment, capture_output=True)
    assert (tmp_path / "ran").exists()


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
