"""The store of results: a folder with one JSON file a run, written whole or not at all and validated when read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from pydantic import ValidationError

from benchmark.errors import InputError
from benchmark.files import MODEL_SUFFIX, read_bytes, write_whole
from benchmark.results.record import Result, Spec

#: The fits of a run: one is selected on held-out images, the other is refitted on all of trainval.
Fit = Literal["select", "refit"]


class Stored(NamedTuple):
    """A result and where it was read: a file, and the number of its line where it has several."""

    place: Path | str
    result: Result


class Store:
    """The folder of result files: ``<dataset>/<method>+<loss>/<key>-s<seed>.json``.

    While a run lasts, the checkpoints of its fits lie beside the place of its result, ``<key>-s<seed>.<fit>.pt``; and
    afterwards its model, where that was kept, ``<key>-s<seed>.safetensors``.

    Each result is read once by one store, however often it is asked for, unless another process replaces it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[tuple[int, int], Result]] = {}

    def path(self, spec: Spec, seed: int) -> Path:
        """Where the result of a run lies."""
        return self.cell(spec).with_name(f"{spec.key}-s{seed}.json")

    def model(self, spec: Spec, seed: int) -> Path:
        """Where the fitted method of a run lies, if it was kept."""
        return self.path(spec, seed).with_suffix(MODEL_SUFFIX)

    def checkpoint(self, spec: Spec, seed: int, fit: Fit) -> Path:
        """Where the checkpoint of a run's fit lies."""
        return self.path(spec, seed).with_suffix(f".{fit}.pt")

    def checkpoints(self, spec: Spec, seed: int) -> list[Path]:
        """Where the checkpoints of a run lie."""
        return [self.checkpoint(spec, seed, fit) for fit in get_args(Fit)]

    def superfluous_checkpoints(self, spec: Spec) -> list[Path]:
        """Where checkpoints lie of those runs of a cell that are stored and did not fail."""
        start = f"{spec.key}-s"
        found = self.cell(spec).parent.glob(f"{start}*.pt")
        return [file for file in found if self.finished(spec, [int(file.name.removeprefix(start).partition(".")[0])])]

    def files(self, spec: Spec, seed: int) -> list[Path]:
        """All that may be written of a run: its result, its model and its checkpoints."""
        return [self.path(spec, seed), self.model(spec, seed), *self.checkpoints(spec, seed)]

    def fit_name(self, spec: Spec, seed: int, fit: Fit) -> str:
        """``<dataset>/<method>+<loss>/<key>-s<seed>/<fit>``, what trackers call a run's fit."""
        run = self.path(spec, seed).relative_to(self.folder).with_suffix("")
        return (run / fit).as_posix()

    @property
    def logs(self) -> Path:
        """The folder of what trackers write: beside that of results, which holds nothing else."""
        return self.folder.with_name("logs")

    def cell(self, spec: Spec) -> Path:
        """What the results of a cell lie beside, and what is claimed by whoever runs it; there is no such file."""
        return self.folder / spec.dataset / f"{spec.method}+{spec.loss}" / spec.key

    def save(self, result: Result) -> Path:
        """Write a result, whole or not at all.

        Raises:
            InputError: the file cannot be written (disk full, no permission); older results are untouched.
        """
        path = self.path(result.spec, result.seed)
        write_whole(path, result.model_dump_json(indent=1) + "\n")
        self._read[path] = (_identity(path), result)
        return path

    def load(self, spec: Spec, seed: int) -> Result | None:
        """The stored result of a run, or None."""
        path = self.path(spec, seed)
        return self._at(path) if path.is_file() else None

    def finished(self, spec: Spec, seeds: Sequence[int], *, with_models: bool = False) -> list[Result]:
        """Those of the runs of a cell that are stored and did not fail; only those whose model was kept, on demand."""
        found = (self.load(spec, seed) for seed in seeds if not with_models or self.model(spec, seed).is_file())
        return [result for result in found if result and result.status == "ok"]

    def of_method(self, dataset: str, method: str) -> Iterator[Result]:
        """The stored results of a method on a data set, with whatever loss."""
        return map(self._at, sorted(self.folder.glob(f"{escape(dataset)}/{escape(method)}+*/*.json")))

    def __iter__(self) -> Iterator[Result]:
        """All stored results, in the order of their paths."""
        return (result for _, result in self.stored())

    def stored(self, dataset: str | None = None) -> list[Stored]:
        """All stored results, or those of one data set, in the order of their paths.

        Raises:
            InputError: one is broken.
        """
        paths = sorted(self.folder.glob(f"{escape(dataset) if dataset else '*'}/*/*.json"))
        return [Stored(path, self._at(path)) for path in paths]

    def _at(self, path: Path) -> Result:
        identity = _identity(path)
        known, result = self._read.get(path, (None, None))
        if result is None or known != identity:
            result = read_result(path)
            self._read[path] = (identity, result)
        return result


def _identity(path: Path) -> tuple[int, int]:
    """What changes when another file takes the place of this one."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def read_result(path: Path) -> Result:
    """Read and validate a result file.

    Raises:
        InputError: it cannot be read, is no result of a known schema, or lies under a name that is not its own.
    """
    try:
        result = Result.model_validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path}: not a result file: {key or 'content'}: {first['msg']}; restore or delete it"
        ) from None
    expected = Store(Path()).path(result.spec, result.seed)
    if path.parts[-len(expected.parts) :] != expected.parts:
        raise InputError(f"{path}: its content belongs at {expected}: edited or moved by hand; restore or delete it")
    return result
