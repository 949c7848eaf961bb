"""The registries of the suite: what can be plugged in, and what each kind tells of itself besides its name.

The packages ``methods``, ``losses`` and ``datasets`` fill them; the engine knows what they hold by these entries alone.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import InputError, did_you_mean, one_line
from benchmark.registry import Entry, Registry, moved, subclass_problem

if TYPE_CHECKING:  # the contract needs torch, whose import takes longer than a command may to refuse a wrong name
    from benchmark.api import Dataset, Method, RegressionLoss, Tracker


@dataclass
class MethodEntry(Entry[type["Method"]]):
    """A method.

    Attributes:
        unseen_semantics: semantics of unseen classes take part in training; boards mark it. That is: with other unseen
            classes the same images would train another method. What is generated for unseen classes, and a classifier
            of it, do not count: every generating method has them. True: always; ``{"setting": value}``: with it alone.
    """

    unseen_semantics: bool | dict[str, Any] = False

    def trains_on_unseen(self, settings: Mapping[str, Any]) -> bool:
        """Whether they do under the given settings, by name; those at their defaults may be absent."""
        when = self.unseen_semantics
        return when if isinstance(when, bool) else all(settings.get(name) == value for name, value in when.items())


@dataclass
class LossEntry(Entry[type["RegressionLoss"]]):
    """An attribute-regression loss.

    Attributes:
        absent: it stands for no loss at all: methods leave their regression out.
        reference: it is what all other losses are compared with.
        contrasts: (loss, loss that it is compared with), each as the user types them: the comparisons that say what
            this loss does. The first is its claim; the others leave explanations out that compete with it.
    """

    absent: bool = False
    reference: bool = False
    contrasts: tuple[tuple[str, str], ...] = ()


@dataclass
class DatasetEntry(Entry[type["Dataset"]]):
    """A data set; the family of what is not real is ``simulated``.

    Attributes:
        stands_in_for: the data set that a simulated one imitates where that one's files are absent.
        marker: the file by which a folder of the data root is known for a data set of this kind. A folder that no
            entry names is read by the class that is registered with its marker.
        note: what a reader of its boards has to know.
    """

    stands_in_for: str | None = None
    marker: str | None = None
    note: str = ""

    @property
    def simulated(self) -> bool:
        """Whether it is made up: its results are tagged wherever they are shown."""
        return self.family == "simulated"


@dataclass
class LauncherEntry(Entry[Callable[..., Any]]):
    """A way to do jobs: a ``Launcher`` of ``benchmark.launchers``.

    Attributes:
        takes: the options of commands that it heeds; what the user sets of the others is refused.
    """

    takes: tuple[str, ...] = ()


@dataclass
class TrackerEntry(Entry[type["Tracker"]]):
    """A way to show fits while they last."""


class LossRegistry(Registry[LossEntry]):
    """The losses, some of which play a part in every comparison."""

    @property
    def absent(self) -> str:
        """The name of the absent loss."""
        return self._only("absent").name

    @property
    def reference(self) -> str:
        """The name of the loss that all others are compared with."""
        return self._only("reference").name

    @property
    def studied(self) -> LossEntry:
        """The loss whose contrasts reports look into."""
        return self._only("contrasts")

    def order(self, name: str) -> int:
        """Where a loss stands among those of one method: the absent one, the reference, then all others."""
        if name not in self:
            return 2
        return 0 if self[name].absent else 1 if self[name].reference else 2

    def _only(self, part: str) -> LossEntry:
        """The entry that plays a part; raises ``InputError`` where a plug-in claims it too."""
        found = [entry for entry in self._entries.values() if getattr(entry, part)]
        if len(found) > 1:
            names = " and ".join(repr(entry.name) for entry in found)
            raise InputError(f"one loss alone may be registered with {part}, got {names} instead")
        return found[0]


class DatasetRegistry(Registry[DatasetEntry]):
    """The registered data sets, and those that lie under a data root."""

    def folders(self, data_root: Path | None) -> dict[str, Path]:
        """Lower-case name -> folder of the data root that a registered class can read.

        Raises:
            InputError: ``data_root`` is not a folder.
        """
        if data_root is None:
            return {}
        if not data_root.is_dir():
            raise InputError(f"--data-root {data_root}: must be a folder that exists")
        markers = {entry.marker for entry in self if entry.marker}
        found = (path.parent for marker in markers for path in data_root.glob(f"*/{marker}") if path.is_file())
        return {folder.name.lower(): folder for folder in sorted(found)}

    def folder(self, name: str, data_root: Path) -> Path:
        """The folder of the data set ``name``, in any case.

        Raises:
            InputError: there is none.
        """
        found = self.folders(data_root)
        if name.lower() not in found:
            raise InputError(f"no data set {name!r} under the data root; {did_you_mean(name.lower(), found)}")
        return found[name.lower()]

    def resolve(self, name: str, options: Mapping[str, Any], data_root: Path | None) -> Dataset:
        """The data set ``name``: a registered one, else a folder of ``data_root``, in any case.

        Args:
            name: what the command line gave.
            options: settings of the data set's own ``Config``.
            data_root: the folder of the data files, or None where there is none.

        Raises:
            InputError: there is no such data set, or an option is wrong. Its files are not looked at yet.
        """
        from benchmark.config import validate

        key = name if name in self else name.lower()
        entry = self[key] if key in self else self._reader_of(key, name, data_root)
        return entry.obj(key, validate(entry.obj.Config, options, f"--dataset {name}"), data_root)

    def check_name(self, name: str, data_root: Path | None) -> None:
        """Assert that ``resolve`` knows a data set, without importing what reads it.

        Raises:
            InputError: there is no such data set.
        """
        if name not in self and name.lower() not in self:
            self._reader_of(name.lower(), name, data_root)

    def defaults(self, data_root: Path | None) -> list[str]:
        """The data sets to run on where the user names none: those that are there, else their stand-ins.

        Raises:
            InputError: ``data_root`` is not a folder.
        """
        real = self.imitated()
        folders = self.folders(data_root)
        present = [name for name in real if name in folders and self.resolve(name, {}, data_root).is_present]
        stand_ins = {entry.stands_in_for: entry.name for entry in self}
        return present or [stand_ins[name] for name in real]

    def imitated(self) -> list[str]:
        """The data sets that have a stand-in, the older one first."""
        imitated = {entry.stands_in_for for entry in self}
        return [entry.name for entry in self if entry.name in imitated]

    def _reader_of(self, key: str, name: str, data_root: Path | None) -> DatasetEntry:
        found = self.folders(data_root)
        if key not in found:
            raise InputError(f"unknown data set {name!r}; {did_you_mean(key, [*self.names(), *found])}")
        # The suite's own entries come first.
        entries = self._entries.values()
        return next(entry for entry in entries if entry.marker and (found[key] / entry.marker).is_file())


def default_data_root() -> Path | None:
    """The folder that ``$ZSL_DATA`` names; None where it is not set.

    Raises:
        InputError: it is not a folder.
    """
    value = os.environ.get("ZSL_DATA")
    if not value:
        return None
    root = Path(value).expanduser()
    if not root.is_dir():
        raise InputError(f"ZSL_DATA: must be a folder that exists, got {value!r} instead")
    return root


def load_plugins(paths: Sequence[Path]) -> None:
    """Import files outside the repository, which register what they define.

    Raises:
        InputError: there is no such file, importing it failed, or it was written for an older contract.
    """
    for path in paths:
        _load_plugin(path)


def _load_plugin(path: Path) -> None:
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
        raise InputError(f"--plugin {path}: {one_line(error)}{moved(error)}") from error


def _method_problem(obj: object) -> str | None:
    from benchmark.api import Method

    if problem := subclass_problem(obj, Method):
        return problem
    assert isinstance(obj, type)
    taken = list(inspect.signature(obj.fit).parameters)  # type: ignore[attr-defined]
    if len(taken) == 4 and taken[2] == "loss":
        return (
            "fit(data, loss, run) is an older contract: it must be fit(data, slot, run), where slot(predicted, labels) "
            "is the weighted loss, or 0 without one"
        )
    return None


def _loss_problem(obj: object) -> str | None:
    from benchmark.api import RegressionLoss

    return subclass_problem(obj, RegressionLoss)


def _dataset_problem(obj: object) -> str | None:
    from benchmark.api import Dataset

    if hasattr(obj, "simulated"):
        return 'simulated = True is an older contract: register it with family="simulated" instead'
    return subclass_problem(obj, Dataset)


def _tracker_problem(obj: object) -> str | None:
    from benchmark.api import Tracker

    return subclass_problem(obj, Tracker)


def _launcher_problem(obj: object) -> str | None:
    return None if callable(obj) else f"{obj!r} is not callable"


METHODS = Registry("method", "METHODS", MethodEntry, "methods", _method_problem, ("embedding", "generative", "local"))
LOSSES = LossRegistry("loss", "LOSSES", LossEntry, "losses", _loss_problem)
DATASETS = DatasetRegistry("data set", "DATASETS", DatasetEntry, "datasets", _dataset_problem)
LAUNCHERS = Registry("launcher", "LAUNCHERS", LauncherEntry, "benchmark.launchers", _launcher_problem)
TRACKERS = Registry("tracker", "TRACKERS", TrackerEntry, "benchmark.trackers", _tracker_problem)
