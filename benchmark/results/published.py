"""The published results of a folder of boards: read, and merged with runs that are to be published."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from glob import escape
from math import lcm
from pathlib import Path

from benchmark.errors import InputError
from benchmark.files import check_complete, read_bytes
from benchmark.results import compact
from benchmark.results.compact import Classes
from benchmark.results.error_matrix import is_coarse
from benchmark.results.record import ClassAccuracy, Result, without_repetitions
from benchmark.results.store import Store, Stored

#: The keys (``Spec.key``) of those of some results whose errors and logged terms a report draws.
InDetail = Callable[[Sequence[Result]], Collection[str]]
#: No class of a data set whose sizes are not told has more test images than this.
_MOST_IMAGES = 10_000


class Published:
    """The compact results in a folder; see ``benchmark.results.compact`` for its files.

    Args:
        folder: the folder of results.
        pending: files that are to be written there, and are read as if they were there already.
    """

    def __init__(self, folder: Path, pending: Mapping[Path, bytes] | None = None) -> None:
        self.folder = folder
        self._pending = pending or {}

    def __iter__(self) -> Iterator[Result]:
        """All results, in the order of files and lines."""
        return (result for _, result in self.stored())

    def stored(self, dataset: str | None = None) -> list[Stored]:
        """All results, or those of one data set, each with its file and line.

        Raises:
            InputError: a line is broken, or an import was cut off in the middle.
        """
        check_complete(self.folder.parent)
        found: list[Stored] = []
        divisions: dict[str, dict[tuple[str, str], Classes]] = {}
        for path in self._files(f"{escape(dataset) if dataset else '*'}/*.jsonl"):
            name = path.parent.name
            if name not in divisions:
                divisions[name] = self._divisions(name)
            found += compact.parse(path, self._read(path), divisions[name])
        return found

    def merged(self, results: Iterable[Result], in_detail: InDetail) -> dict[Path, bytes]:
        """The files that change when ``results`` are added, with their new content.

        What is published already stays; a run takes the place of one that failed or was skipped. Of a method that drew
        no random number one seed is kept. Runs that are not ``in_detail`` lose their error matrix and all of their
        history but the criterion.

        Raises:
            InputError: accuracies are no shares of a class's test images.
        """
        old = list(self)
        kept = _one_a_seed(old, results)
        detailed = set(in_detail(kept)) | {result.spec.key for result in kept if _is_detailed(result)}
        known = {(result.spec.key, result.seed) for result in old}
        reduced = [
            result if (result.spec.key, result.seed) in known or result.spec.key in detailed else _plain(result)
            for result in kept
        ]
        files: dict[Path, str] = {}
        for dataset in sorted({result.spec.dataset for result in reduced}):
            of_dataset = [result for result in reduced if result.spec.dataset == dataset]
            divisions = _divided(of_dataset)
            for revision in {revision for revision, _ in divisions}:
                classes = [found for (of, _), found in divisions.items() if of == revision]
                files[self.folder / dataset / "classes" / f"{revision}.jsonl"] = compact.dump_classes(classes)
            for method in {result.spec.method for result in of_dataset}:
                of_method = (result for result in of_dataset if result.spec.method == method)
                files[self.folder / dataset / f"{method}.jsonl"] = compact.dump(of_method, divisions)
        present = {path: self._read(path) for path in files if path.is_file()}
        return {path: text.encode() for path, text in files.items() if present.get(path) != text.encode()}

    def _files(self, pattern: str) -> list[Path]:
        depth = len(self.folder.parts) + len(Path(pattern).parts)
        pending = {path for path in self._pending if len(path.parts) == depth and path.match(pattern)}
        return sorted({*self.folder.glob(pattern), *pending})

    def _divisions(self, dataset: str) -> dict[tuple[str, str], Classes]:
        found: dict[tuple[str, str], Classes] = {}
        for path in self._files(f"{escape(dataset)}/classes/*.jsonl"):
            found |= compact.parse_classes(path, self._read(path))
        return found

    def _read(self, path: Path) -> bytes:
        return self._pending[path] if path in self._pending else read_bytes(path)


def stored(folder: Path, dataset: str | None = None) -> list[Stored]:
    """The results in a folder, or those of one data set: published ones or, where there are none, those of runs.

    Raises:
        InputError: one is broken.
    """
    if is_published(folder):
        return Published(folder).stored(dataset)
    return Store(folder).stored(dataset)


def is_published(folder: Path) -> bool:
    """Whether the results in a folder are published ones."""
    return any(folder.glob("*/*.jsonl"))


def _one_a_seed(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """The results that are kept: earlier ones before later ones, and one seed of what does not depend on it."""
    cells: dict[str, dict[int, Result]] = {}
    for result in (*old, *new):
        seeds = cells.setdefault(result.spec.key, {})
        if result.seed not in seeds or seeds[result.seed].status != "ok":
            seeds[result.seed] = result
    kept: list[Result] = []
    for seeds in cells.values():
        kept += without_repetitions([run for run in seeds.values() if run.status == "ok"])
        kept += [run for run in seeds.values() if run.status != "ok"]
    return kept


def _is_detailed(result: Result) -> bool:
    """Whether its errors are in the form in which they are published."""
    report = result.evaluation.imbalance if result.evaluation else None
    return bool(report and report.errors and is_coarse(report.errors))


def _plain(result: Result) -> Result:
    """The result without its error matrix, and with the criterion alone in its history."""
    evaluation, selection = result.evaluation, result.selection
    if evaluation and evaluation.imbalance:
        imbalance = evaluation.imbalance.model_copy(update={"errors": None})
        evaluation = evaluation.model_copy(update={"imbalance": imbalance})
    if selection:
        kept = ("epoch", "candidate", f"held-out {selection.criterion}")
        rows = [{name: row[name] for name in kept if name in row} for row in selection.history]
        selection = selection.model_copy(update={"history": rows})
    return result.model_copy(update={"evaluation": evaluation, "selection": selection})


def _divided(results: Sequence[Result]) -> dict[tuple[str, str], Classes]:
    """The classes of each revision and split, with the sizes that the runs tell, or that their accuracies ask for."""
    groups: dict[tuple[str, str], list[Sequence[ClassAccuracy]]] = {}
    for result in results:
        if result.evaluation:
            spec = result.spec
            groups.setdefault((spec.revision, spec.partition), []).append(result.evaluation.per_class)
    return {(revision, split): _classes(split, runs) for (revision, split), runs in groups.items()}


def _classes(split: str, runs: Sequence[Sequence[ClassAccuracy]]) -> Classes:
    sizes = [(of_class[0], _size(of_class)) for of_class in zip(*runs, strict=True)]
    seen, unseen = ([(c.name, size) for c, size in sizes if c.seen == part] for part in (True, False))
    return Classes(split=split, seen=seen, unseen=unseen)


def _size(of_class: Sequence[ClassAccuracy]) -> int:
    """The number of a class's test images: what runs tell, else the smallest that all accuracies are shares of."""
    told = {c.images for c in of_class if c.images is not None}
    values = {v for c in of_class if c.images is None for v in (c.T1, c.gzsl, c.calibrated) if v is not None}
    if not (told or values):
        return 0
    shares = (Fraction(value / 100).limit_denominator(_MOST_IMAGES).denominator for value in values)
    size = lcm(*told, *shares)
    if told and size != max(told):
        raise InputError(
            f"per_class {of_class[0].name}: the number of its images must be one, {max(told)}, and accuracies shares "
            f"of it; got {size} instead"
        )
    return size
