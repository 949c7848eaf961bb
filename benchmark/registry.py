"""One registry for everything that plugs in: methods, losses, data sets and launchers."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class InputError(Exception):
    """Something that the user gave is wrong; its text is one clear line: what, where, what would be right."""


def one_line(error: BaseException) -> str:
    """``ValueError: what it says``, without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"


def did_you_mean(name: str, known: list[str]) -> str:
    """The tail of an error about an unknown ``name``: the nearest known one, else all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or '(none)'}"


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered object with what ``--list`` and the leaderboards say of it."""

    name: str
    obj: T
    title: str
    family: str
    year: int
    source: str
    file: Path

    @property
    def config_file(self) -> Path:
        """The YAML of defaults and overrides, which lies beside the module; it need not exist."""
        return self.file.with_suffix(".yaml")


class Registry(Generic[T]):
    """Names -> objects, filled by decorator; all modules of ``package`` and all entry points are found by themselves.

    Args:
        kind: what is registered, in the singular; third parties use the entry-point group ``zsl_benchmark.<kind>``,
            whose entries name modules that register on import.
        package: the package whose modules register themselves when imported (or one module that does).
        check: says what is wrong with an object that is not of the kind, or None.
    """

    def __init__(self, kind: str, package: str, check: Callable[[object], str | None]) -> None:
        self.kind = kind
        self._package = package
        self._check = check
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = False

    def register(self, name: str, *, title: str, family: str, year: int, source: str) -> Callable[[T], T]:
        """Decorate a class or function to register it under ``name``.

        Args:
            name: what the command line calls it.
            title: what a leaderboard calls it.
            family: the group it belongs to, for instance ``embedding`` or ``generative``.
            year: the year of publication.
            source: the paper or page that defines it.

        Raises:
            TypeError: the object is not of this registry's kind.
            ValueError: another object has this name.
        """

        def decorate(obj: T) -> T:
            if problem := self._check(obj):
                raise TypeError(f"cannot register {name!r} as a {self.kind}: {problem}")
            module = getattr(obj, "__module__", "")
            # Code in a notebook has no file; its name then stands for one that does not exist.
            file = Path(getattr(sys.modules.get(module), "__file__", None) or f"<{module}>")
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered already, by {self._entries[name].file}")
            self._entries[name] = Entry(name, obj, title, family, year, source, file)
            return obj

        return decorate

    def __getitem__(self, name: str) -> Entry[T]:
        """The entry of ``name``; raises ``InputError`` with the nearest known name."""
        self._load()
        if name not in self._entries:
            raise InputError(f"unknown {self.kind} {name!r}; {did_you_mean(name, list(self._entries))}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[Entry[T]]:
        """Entries, sorted by family, year and name."""
        self._load()
        return iter(sorted(self._entries.values(), key=lambda e: (e.family, e.year, e.name)))

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def names(self) -> list[str]:
        """All registered names, sorted as by iteration."""
        return [entry.name for entry in self]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(getattr(package, "__path__", []), prefix=f"{self._package}."):
            if not module.name.rpartition(".")[2].startswith("_"):
                importlib.import_module(module.name)
        for point in entry_points(group=f"zsl_benchmark.{self.kind.replace(' ', '_')}"):
            try:
                point.load()
            except Exception as error:
                raise InputError(f"entry point {point.name} = {point.value}: {one_line(error)}") from error


def subclass_check(base: type) -> Callable[[object], str | None]:
    """A registry check: the object must be a subclass of ``base`` that leaves nothing abstract."""

    def check(obj: object) -> str | None:
        if not (isinstance(obj, type) and issubclass(obj, base)):
            return f"{obj!r} is not a subclass of {base.__module__}.{base.__name__}"
        missing = sorted(getattr(obj, "__abstractmethods__", ()))
        return f"{obj.__name__} does not define {', '.join(missing)}" if missing else None

    return check


def load_plugin(path: Path) -> None:
    """Import a file outside the repository, which registers what it defines.

    Raises:
        InputError: there is no such file, or importing it failed.
    """
    if not path.is_file():
        raise InputError(f"--plugin {path}: no such file")
    name = f"zsl_plugin_{path.stem}"
    if name in sys.modules:
        if sys.modules[name].__file__ == str(path.resolve()):
            return
        raise InputError(f"--plugin {path}: another plug-in is called {path.stem!r} too; rename one")
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise InputError(f"--plugin {path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"--plugin {path}: {one_line(error)}") from error
