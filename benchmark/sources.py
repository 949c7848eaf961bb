"""Which files of code a result depends on, with their digests as of the moment when the code was imported.

A file that is edited while a grid runs must not change what the results say of themselves: each file is read once in a
process, when the first object that is built on it is registered.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

#: The packages of the suite.
SUITE = ("benchmark", "methods", "losses", "datasets")
#: What everything stands on and what no measure depends on.
_BASE = {f"benchmark.{name}" for name in ("errors", "files", "sources", "config", "registry", "registries")}


def digests(module: str) -> dict[str, str]:
    """Module -> digest, of an imported module and of all that it imports of the suite and of its own distribution.

    A module without a file, as in a notebook, has no digest.
    """
    roots = {*SUITE, module.partition(".")[0]}
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if name in found or name in _BASE or name.partition(".")[0] not in roots or file is None:
            continue
        found[name], imported = _read(file, name)
        waiting += imported
    return found


def joined(files: Iterable[Path]) -> str:
    """One digest of several files."""
    return hashlib.sha256("\n".join(_read(file, "")[0] for file in files).encode()).hexdigest()[:12]


def _file(module: str) -> Path | None:
    name = getattr(sys.modules.get(module), "__file__", None)
    return Path(name) if name else None


@cache
def _read(file: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """12 hex digits of the sha256 of a file, and the names of what it may import, modules among them."""
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:12]
    if file.suffix != ".py":  # a compiled module, whose imports nobody can read
        return digest, ()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    return digest, tuple(_imports(ast.parse(content), package))


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            name = ".".join([*above, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)
