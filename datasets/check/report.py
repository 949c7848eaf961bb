"""What there is to say of a data set in the xlsa17 format, read as a run would read it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmark.api import Dataset, Split
from benchmark.errors import InputError
from benchmark.registries import DATASETS
from datasets import cache, matfiles, semantics
from datasets.disk import reason
from datasets.xlsa17 import ATTRIBUTES, SPLITS, feature_sets

#: Images in trainval, test_seen and test_unseen of the Proposed Splits (Xian et al., arXiv 1707.00600).
PROPOSED = {
    "apy": (5932, 1483, 7924),
    "awa1": (19832, 4958, 5685),
    "awa2": (23527, 5882, 7913),
    "cub": (7057, 1764, 2967),
    "sun": (10320, 2580, 1440),
}
#: What circulated copies of the splits divide trainval into, some of them wrongly.
_DIVISION = ("train_loc", "val_loc")


class Report:
    """What a folder holds, line by line, and what is wrong with it.

    Attributes:
        folder: a data set.
        problems: what was found to be wrong so far, a line each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def lines(self) -> Iterator[tuple[str, str]]:
        """What kind of thing, and what there is to say of it; what cannot be read is added to ``problems``."""
        readable: dict[str, Split] = {}
        for name in feature_sets(self.folder):
            with self._noting():
                source = self._source(features=name)
                readable[name] = source.load()
                size = " x ".join(map(str, readable[name].features.shape[1:]))
                tuned = _fine_tuned(readable[name])
                yield "features", f"{name}: {readable[name].kind}, {size} an image, revision {source.revision}{tuned}"
        if readable:
            yield from self._of_split(*readable.popitem())
        else:
            self.problems.append(f"{self.folder}: no features can be read, without which its split is not looked at")
        for file in sorted(path for path in self.folder.iterdir() if path.is_file()):
            try:
                yield "sha256", f"{cache.sha256(file)}  {file.name}"
            except OSError as error:
                self.problems.append(f"{file}: cannot be read: {reason(error)}")

    def _of_split(self, features: str, split: Split) -> Iterator[tuple[str, str]]:
        yield "classes", _classes(split)
        yield "images", _images(split, PROPOSED.get(self.folder.name.lower()))
        yield "split", split_digest(split)
        for name in dict.fromkeys([*ATTRIBUTES, *semantics.known(self.folder)]):
            with self._noting():
                rows = self._source(features=features, attributes=name).load().attributes
                yield "semantics", f"{name}: {rows.shape[1]} a class, from {rows.min():.3g} to {rows.max():.3g}"
        with self._noting():
            if leak := _leak(self.folder / SPLITS, split):
                yield "beware", leak

    def _source(self, **options: str) -> Dataset:
        """What ``--dataset`` reads here."""
        return DATASETS.resolve(self.folder.name, options, self.folder.parent)

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Note what is wrong with the user's files, and go on."""
        try:
            yield
        except InputError as error:
            self.problems.append(str(error))


def split_digest(split: Split) -> str:
    """12 hexadecimal digits that stand for which image is in which part, whatever the order in the file.

    They tell copies of ``att_splits.mat`` apart: the Proposed Split has two versions, and no copy says which it is.
    """
    parts = (split.trainval, split.test_seen, split.test_unseen)
    content = b"|".join(np.sort(part).astype("<i8").tobytes() for part in parts)
    return hashlib.sha256(content).hexdigest()[:12]


def _fine_tuned(split: Split) -> str:
    if split.fine_tuned is None:
        return ""
    n, n_to_select = len(split.fine_tuned.trained_on), len(split.fine_tuned.to_select_trained_on)
    return f"; fine-tuned on {n} images, to select on {n_to_select} of them"


def _classes(split: Split) -> str:
    n = 0 if split.validation_classes is None else len(split.validation_classes)
    validation = f"{n} of the seen ones (valclasses1.txt)" if n else "drawn from the seen ones"
    return f"{len(split.seen)} seen, {len(split.unseen)} unseen; for validation {validation}"


def _images(split: Split, proposed: tuple[int, ...] | None) -> str:
    sizes = (len(split.trainval), len(split.test_seen), len(split.test_unseen))
    known = f", {'as' if sizes == proposed else 'unlike'} the Proposed Split" if proposed else ""
    rest = len(split.labels) - sum(sizes)
    return f"{sizes[0]} trainval, {sizes[1]} test_seen, {sizes[2]} test_unseen{known}; {rest} in none of them"


def _leak(file: Path, split: Split) -> str:
    """How many test images a copy has in what it divides ``trainval_loc`` into; empty where none."""
    content = matfiles.load(file, optional=_DIVISION)
    divided = [np.ravel(matfiles.numeric(values, f"{file}: {key}")) - 1 for key, values in content.items()]
    shared = np.isin(split.test_seen, np.concatenate(divided)).sum() if divided else 0
    if not shared:
        return ""
    what = f"{shared} of the {len(split.test_seen)} images of test_seen_loc"
    return f"{' and '.join(content)} hold {what}: do not validate on them (they are not read here)"
