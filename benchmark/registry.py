"""One registry for everything that plugs in: methods, losses, data sets and launchers.

What a package registers is read off its source, so that names and descriptions are known before any of its modules,
and the libraries that they need, are imported; an object is imported when it is asked for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from benchmark import sources
from benchmark.errors import InputError, did_you_mean, one_line

T = TypeVar("T")
E = TypeVar("E", bound="Entry[Any]")
Registered = TypeVar("Registered")


@dataclass
class Entry(Generic[T]):
    """What is registered under a name, and what ``--list`` and the leaderboards say of it.

    Attributes:
        name: what the command line calls it.
        title: what a leaderboard calls it.
        family: the group it belongs to, for instance ``embedding`` or ``generative``.
        year: the year of publication.
        source: the paper or page that defines it.
        module: the module that registers it.
        file: the file of that module; in a notebook one that does not exist.
    """

    name: str
    title: str
    family: str
    year: int
    source: str
    module: str = ""
    file: Path = field(default_factory=Path)
    _obj: T | None = None
    _code: dict[str, str] = field(default_factory=dict)

    @property
    def obj(self) -> T:
        """The registered object; its module is imported where it was not yet."""
        if self._obj is None:
            importlib.import_module(self.module)  # whose decorator calls ``fill``
        assert self._obj is not None, f"{self.file} did not register {self.name!r}"
        return self._obj

    @property
    def code(self) -> dict[str, str]:
        """Module -> digest of the object's file and of all that it is built on, as they were when imported."""
        _ = self.obj
        return self._code

    @property
    def config_file(self) -> Path:
        """The YAML of defaults and overrides, which lies beside the module; it need not exist."""
        return self.file.with_suffix(".yaml")

    def may_become(self, obj: object) -> bool:
        """Whether ``obj`` is what the entry stands for: what its module defines, maybe imported or typed once more."""
        if self.module != getattr(obj, "__module__", ""):
            return False
        return self._obj is None or getattr(self._obj, "__qualname__", "") == getattr(obj, "__qualname__", None)

    def fill(self, obj: T) -> None:
        """Keep the object, and the digests of its code."""
        self._obj, self._code = obj, sources.digests(self.module)


class Registry(Generic[E]):
    """Names -> entries.

    Args:
        kind: what is registered, in the singular; third parties use the entry-point group ``zsl_benchmark.<kind>``,
            whose entries name modules that register on import.
        name: what the registry is called in the source of the package, as in ``@METHODS.register("ale", ...)``.
        entry: the class of the entries; its fields are what ``register`` takes.
        package: the package, or the module, whose source registers objects by the decorator ``register``.
        check: says what is wrong with an object that is not of the kind, or None.
        families: the order in which families are shown; others come after them.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        entry: type[E],
        package: str,
        check: Callable[[object], str | None],
        families: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self._name = name
        self._entry = entry
        self._package = package
        self._check = check
        self._families = families
        self._known: dict[str, E] | None = None
        self._third_parties_loaded = False

    def register(self, name: str, **about: Any) -> Callable[[Registered], Registered]:
        """Decorate a class or function to register it under ``name``.

        Args:
            name: what the command line calls it.
            about: the other fields of the registry's entries; literals, since they are read off the source too.

        Raises:
            TypeError: the object is not of this registry's kind, or a field is missing or unknown.
            ValueError: another object has this name.
        """

        def decorate(obj: Registered) -> Registered:
            if problem := self._check(obj):
                raise TypeError(f"cannot register {name!r} as a {self.kind}: {problem}")
            module = getattr(obj, "__module__", "")
            known = self._entries.get(name)
            if known is not None and not known.may_become(obj):
                raise ValueError(f"{self.kind} {name!r} is registered already, by {known.file}")
            # Code in a notebook has no file; its module's name then stands for one that does not exist.
            file = Path(getattr(sys.modules.get(module), "__file__", None) or f"<{module}>")
            entry = self._entry(name, **about, module=module, file=file)
            if known is not None:  # whoever holds the entry that was read off the source holds the object too
                vars(known).update(vars(entry))
            entry = self._entries.setdefault(name, entry)
            entry.fill(obj)
            return obj

        return decorate

    def __getitem__(self, name: str) -> E:
        """The entry of ``name``.

        Raises:
            InputError: there is none; the message has the nearest known name.
        """
        if name not in self:
            raise InputError(f"unknown {self.kind} {name!r}; {did_you_mean(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            self._load_third_parties()
        return name in self._entries

    def __iter__(self) -> Iterator[E]:
        """Entries, sorted by family, year and name."""
        self._load_third_parties()
        return iter(sorted(self._entries.values(), key=lambda e: (*self.rank(e.family), e.year, e.name)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def names(self) -> list[str]:
        """All registered names, sorted as by iteration."""
        return [entry.name for entry in self]

    def rank(self, family: str) -> tuple[int, str]:
        """What to sort a family by."""
        known = family in self._families
        return self._families.index(family) if known else len(self._families), family

    @property
    def _entries(self) -> dict[str, E]:
        if self._known is None:
            known: dict[str, E] = {}
            for entry in self._read_source():
                first = known.setdefault(entry.name, entry)
                if first is not entry:
                    raise ValueError(f"{self.kind} {entry.name!r} is registered by {first.file} and by {entry.file}")
            self._known = known
        return self._known

    def _read_source(self) -> Iterator[E]:
        spec = importlib.util.find_spec(self._package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin)
        files = sorted(root.parent.rglob("*.py")) if spec.submodule_search_locations else [root]
        for file in files:
            text = file.read_text(encoding="utf-8")
            if f"{self._name}.register(" not in text:
                continue
            inside = file.relative_to(root.parent).with_suffix("").parts if len(files) > 1 else ()
            module = ".".join([self._package, *(part for part in inside if part != "__init__")])
            for name, about in _registrations(text, self._name, file):
                yield self._entry(name, **about, module=module, file=file)

    def _load_third_parties(self) -> None:
        if self._third_parties_loaded:
            return
        for point in entry_points(group=f"zsl_benchmark.{self.kind.replace(' ', '_')}"):
            try:
                point.load()
            except Exception as error:
                where = f"entry point {point.name} = {point.value}"
                raise InputError(f"{where}: {one_line(error)}{moved(error)}") from error
        self._third_parties_loaded = True


def _registrations(text: str, registry: str, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the decorators ``@<registry>.register("name", key=literal, ...)`` of a source file say."""
    for node in ast.walk(ast.parse(text)):
        for call in getattr(node, "decorator_list", ()):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == f"{registry}.register":
                try:
                    about = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
                    (name,) = [ast.literal_eval(argument) for argument in call.args]
                except ValueError:
                    problem = f"{registry}.register() must be given a name and then keywords, all of them literals"
                    raise TypeError(f"{file}:{call.lineno}: {problem}") from None
                yield name, about


def moved(error: Exception) -> str:
    """What to change in code that imports what another version of the suite had elsewhere; else nothing."""
    suite = (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if suite not in sources.SUITE:
        return ""
    return (
        "; METHODS, LOSSES and DATASETS are in benchmark.registries, the contract is in benchmark.api, InputError in "
        "benchmark.errors, GradientConfig, minimise and linear in benchmark.toolkit, and run.generator is run.rng"
    )


def subclass_problem(obj: object, base: type) -> str | None:
    """What is wrong with an object that should be a subclass of ``base`` that leaves nothing abstract, or None."""
    if not (isinstance(obj, type) and issubclass(obj, base)):
        return f"{obj!r} is not a subclass of {base.__module__}.{base.__name__}"
    missing = sorted(getattr(obj, "__abstractmethods__", ()))
    return f"{obj.__name__} does not define {', '.join(missing)}" if missing else None
