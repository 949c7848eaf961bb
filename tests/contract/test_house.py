"""The house: which way imports point, which names the engine may not know, and how crowded a folder may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.api import MethodConfig
from benchmark.config import Config
from benchmark.files import ROOT
from benchmark.registries import DATASETS, LOSSES, METHODS

PACKAGES = ("benchmark", "methods", "losses", "datasets")
#: What everything stands on: no domain knowledge.
BASE = ("errors", "commands", "files", "sources", "config", "registry", "registries")
#: What plug-ins may import of the benchmark.
CONTRACT = (*BASE, "api", "parallel", "toolkit")
#: Sub-package -> those that it may import, beside the base and the contract.
BELOW: dict[str, tuple[str, ...]] = {
    "toolkit": (),
    "measures": (),
    "results": ("measures",),
    "models": ("results", "measures"),
    "engine": ("models", "results", "measures"),
    "launchers": ("engine", "models", "results", "measures"),
    "trackers": (),
    "boards": ("results", "measures"),
    "report": ("boards", "models", "results", "measures"),
}
#: Commands, and the options that they share.
_PACKAGES = ("models", "predict", "report")
_COMMANDS = ("attention", "cli.grid", "cli.options", "cli.zsl", "leaderboard", "run", "search")
COMMANDS = {f"benchmark.{name}" for name in (*_COMMANDS, *(f"{package}.__main__" for package in _PACKAGES))}


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), file


MODULES = dict(modules())


def imports(file: Path, *, top: bool = False) -> set[str]:
    """What a file imports; with ``top`` only what its import imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if top and id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {name for alias in node.names if (name := f"{node.module}.{alias.name}") in MODULES}
    return found


def room(module: str) -> str:
    """The second part of a module's name: ``engine`` of ``benchmark.engine.runs``."""
    return module.partition(".")[2].partition(".")[0]


@pytest.mark.parametrize("package", ["methods", "losses", "datasets"])
def test_plug_ins_import_the_contract_and_the_base_alone(package: str):
    for module, file in MODULES.items():
        if module.split(".")[0] == package:
            of_engine = {name for name in imports(file) if name.startswith("benchmark.")}
            assert {name for name in of_engine if room(name) not in CONTRACT} == set(), module


def test_methods_and_losses_do_not_import_data_sets_nor_each_other():
    for module, file in MODULES.items():
        package = module.split(".")[0]
        others = {
            "methods": {"datasets", "losses"},
            "losses": {"datasets", "methods"},
            "datasets": {"methods", "losses"},
        }
        if package in others:
            assert not {name for name in imports(file) if name.split(".")[0] in others[package]}, module


def test_nothing_below_the_commands_imports_a_plug_in():
    for module, file in MODULES.items():
        if module.split(".")[0] == "benchmark" and module not in COMMANDS:
            plug_ins = {name for name in imports(file) if name.split(".")[0] in ("methods", "losses", "datasets")}
            assert plug_ins == set(), module


@pytest.mark.parametrize("package", BELOW)
def test_arrows_point_one_way(package: str):
    allowed = {*CONTRACT, *BELOW[package], package}
    for module, file in MODULES.items():
        if module.startswith(f"benchmark.{package}") and module not in COMMANDS:
            of_engine = {name for name in imports(file) if name.startswith("benchmark.")}
            assert {name for name in of_engine if room(name) not in allowed} == set(), module


def test_the_base_and_the_contract_stand_on_nothing_above_them():
    """The registries name the contract alone, late: its import takes longer than a wrong name may to be refused."""
    order = [*BASE[:-1], "api", BASE[-1]]
    for place, name in enumerate(order):
        of_engine = {
            room(other) for other in imports(ROOT / "benchmark" / f"{name}.py") if other.startswith("benchmark.")
        }
        assert of_engine <= set(order[:place]), name
    assert not {name for name in imports(ROOT / "benchmark" / "parallel.py") if name.startswith("benchmark")}


def test_nothing_imports_a_command():
    for module, file in MODULES.items():
        if module not in COMMANDS:
            assert imports(file) & COMMANDS == set(), module


def test_no_module_takes_private_names_of_another_package():
    for module, file in MODULES.items():
        package = module.rpartition(".")[0] if file.name != "__init__.py" else module
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
                private = {alias.name for alias in node.names if alias.name.startswith("_")}
                hidden = node.module.rpartition(".")[2].startswith("_")
                owner = node.module.rpartition(".")[0] if hidden else node.module
                if private or hidden:
                    assert package == owner or package.startswith(f"{owner}."), f"{module}: {node.module} {private}"


def test_there_is_no_circle():
    """Not even one that hides in functions, but for what is imported late to be quick (the registries' contract)."""
    graph = {module: imports(file, top=True) & MODULES.keys() for module, file in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """The string literals of a file that are neither docstrings nor names of Python."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    exported = {
        id(name)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.walk(node.value)
    }
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | exported:
            yield node.lineno, node.value


def test_the_engine_knows_no_method_loss_or_data_set_by_name():
    """``none`` alone is a word of other meanings too: features that are not scaled."""
    names = {*METHODS.names(), *LOSSES.names(), *DATASETS.names()} - {"none"}
    for module, file in MODULES.items():
        if module.split(".")[0] == "benchmark":
            known = [(line, text) for line, text in strings(file) if text.partition(":")[0] in names]
            assert known == [], module


def calls(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """What a file calls, as it is written there, and the keywords that it gives."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {str(each.arg): ast.unparse(each.value) for each in node.keywords}


def test_nothing_is_unpickled():
    """A pickle is a program: whoever gives us a file would run it."""
    for module, file in MODULES.items():
        pickles = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
        assert not {name.split(".")[0] for name in imports(file)} & pickles, module
        for name, keywords in calls(file):
            assert name != "torch.load" or keywords.get("weights_only") == "True", module
            assert keywords.get("allow_pickle", "False") == "False", f"{module}: {name}"  # NumPy's default
            assert name != "yaml.load" or file.name == "config.py", module  # with a SafeLoader of its own
            assert name.rpartition(".")[2] not in ("read_pickle", "load_module", "unsafe_load", "full_load"), module


def test_mat_files_are_parsed_in_the_process_of_their_reader_alone():
    for module, file in MODULES.items():
        if module != "datasets.matreader":
            parsers = {"loadmat", "whosmat", "mat_reader_factory", "File"}
            assert not {name for name, _ in calls(file) if name.rpartition(".")[2] in parsers}, module


def test_code_is_imported_by_the_registries_or_by_the_name_that_the_user_gave():
    known = {
        "benchmark.commands": {"importlib.import_module"},
        "benchmark.registry": {"importlib.import_module"},
        "benchmark.registries": {"spec.loader.exec_module"},
        "benchmark.toolkit.lite0": {"import_module"},
        "datasets.features.name_vectors": {"importlib.import_module"},
    }
    ways = {"import_module", "exec_module", "__import__", "exec", "eval", "run_path", "run_module"}
    for module, file in MODULES.items():
        found = {name for name, _ in calls(file) if name in ways or name.rpartition(".")[2] in ways - {"exec", "eval"}}
        assert found == known.get(module, set()), module


def test_no_folder_is_crowded():
    folders: dict[Path, int] = {}
    for module, file in MODULES.items():
        if file.name != "__init__.py" and not module.startswith("methods."):  # a method is a file
            folders[file.parent] = folders.get(file.parent, 0) + 1
    assert {str(folder.relative_to(ROOT)): n for folder, n in folders.items() if n > 13} == {}


def test_a_method_is_a_file_of_its_family_with_its_numbers_beside_it():
    for entry in METHODS:
        assert entry.file.parent == ROOT / "methods" / entry.family
        assert entry.config_file.is_file()


def test_classes_of_methods_lie_at_most_two_steps_below_the_contract():
    for entry in METHODS:
        steps = [base for base in entry.obj.__mro__ if base.__module__.startswith("methods.")]
        assert len(steps) <= 2, entry.name


def test_settings_lie_at_most_two_steps_below_the_contract_and_without_a_diamond():
    for entry in METHODS:
        line = [base for base in entry.obj.Config.__mro__ if issubclass(base, MethodConfig)]
        assert len(line) <= 3, entry.name
        for schema in line:
            of_methods = [base for base in schema.__bases__ if issubclass(base, MethodConfig)]
            groups = [base for base in schema.__bases__ if base not in of_methods and issubclass(base, Config)]
            assert len(of_methods) <= 1, schema
            assert all(group.__bases__ == (Config,) for group in groups if schema is not MethodConfig), schema


def test_no_module_shadows_the_standard_library():
    import sys

    for module, file in MODULES.items():
        if file.name not in ("__init__.py", "__main__.py"):
            assert file.stem not in sys.stdlib_module_names, module
