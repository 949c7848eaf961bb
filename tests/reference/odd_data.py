"""Folders of the xlsa17 format that are small and odd, as people's own data are; some are beyond use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from tests.reference.xlsa17 import Variables, cells, write, write_v73

Matrix = npt.NDArray[Any]
TRAINVAL, TEST_SEEN, TEST_UNSEEN = range(3)


@dataclass(frozen=True)
class Odd:
    """What the files of a folder hold.

    Attributes:
        features: (D, N) of any type.
        labels: (N,) from 1.
        part: (N,) what each image is for.
        att: (A, C) of any type.
        names: the classes' names; None: nothing names them.
        row: labels are a row.
        v73: both files are of MATLAB's v7.3.
        validation: the validation classes, from 1; None: there is no such file.
    """

    features: Matrix
    labels: Matrix
    part: Matrix
    att: Matrix
    names: list[str] | None = None
    row: bool = False
    v73: bool = False
    validation: tuple[int, ...] | None = None

    def put(self, folder: Path) -> None:
        """Write the folder."""
        names = [] if self.names is None else self.names
        locations = [np.flatnonzero(self.part == part)[:, None] + 1 for part in range(3)]
        splits: Variables = dict(zip(("trainval_loc", "test_seen_loc", "test_unseen_loc"), locations, strict=True))
        splits |= {"att": self.att, "original_att": self.att} | ({"allclasses_names": cells(names)} if names else {})
        features = {"features": self.features, "labels": self.labels[None] if self.row else self.labels[:, None]}
        write(folder, None if self.v73 else features, splits)
        if self.v73:
            write_v73(folder / "res101.mat", features)
            write_v73(folder / "att_splits.mat", splits)
        if self.validation is not None:
            lines = [names[c - 1] if names else f"class {c}" for c in self.validation]
            (folder / "valclasses1.txt").write_text("\n".join(lines))


def odd(
    seed: int = 0,
    *,
    seen: int = 6,
    unseen: int = 3,
    without: int = 0,
    images: int = 6,
    fewest: int | None = None,
    test: int = 2,
    d: int = 10,
    a: int = 5,
) -> Odd:
    """Unit attributes, and features that depend on them, of classes in random order.

    Args:
        seed: of all numbers.
        seen: seen classes.
        unseen: unseen classes.
        without: classes without images, anywhere among the others.
        images: the most images of a class to train on, or of an unseen one to test on.
        fewest: the fewest; None: all have ``images``.
        test: test images of each seen class.
        d: D.
        a: A.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(seen + unseen + without) + 1
    counts = rng.integers(images if fewest is None else fewest, images + 1, seen + unseen)
    parts = [TRAINVAL] * seen + [TEST_UNSEEN] * unseen
    blocks = [(order[i], part, counts[i]) for i, part in enumerate(parts)]
    blocks += [(order[i], TEST_SEEN, test) for i in range(seen)]
    shuffle = rng.permutation(sum(block[2] for block in blocks))
    labels = np.concatenate([np.full(n, c) for c, _, n in blocks])[shuffle]
    part = np.concatenate([np.full(n, p) for _, p, n in blocks])[shuffle]
    att = rng.random((a, len(order)))
    att /= np.linalg.norm(att, axis=0)
    features = rng.standard_normal((d, a)) @ att[:, labels - 1] + 0.3 * rng.standard_normal((d, len(labels)))
    return Odd(features, labels, part, att)


#: What attributes may look like.
ATTRIBUTES = {
    "unit": lambda att: att,
    "whole": lambda att: np.round(9 * att).astype(np.int16),
    "binary": lambda att: (att > 0.3).astype(np.uint8),
    "percent": lambda att: 100 * att,
    "signed": lambda att: att - 0.5,
    "missing": lambda att: np.where(att < 0.2, -1.0, 100 * att),
    "equal": lambda att: np.repeat(att[:, :1], att.shape[1], axis=1),
    "tiny": lambda att: 1e-9 * att,
    "huge": lambda att: 1e14 * att,
    "endless": lambda att: np.where(att < 0.02, np.inf, att),
}
#: What features may look like.
FEATURES = {
    "signed": lambda x: x,
    "sparse": lambda x: np.maximum(x, 0).astype(np.float32),
    "whole": lambda x: np.round(5 * x).astype(np.int32),
    "bytes": lambda x: np.clip(50 * x + 128, 0, 255).astype(np.uint8),
    "constant columns": lambda x: np.where(np.arange(len(x))[:, None] % 2, x, 3.7),
    "zeros": lambda x: 0 * x,
    "equal images": lambda x: np.repeat(x[:, :1], x.shape[1], axis=1),
    "huge": lambda x: 1e14 * x,
    "tiny": lambda x: 1e-9 * x,
    "an outlier": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, 1e6, x),
    "an endless one": lambda x: np.where(np.arange(x.size).reshape(x.shape) == 0, np.inf, x),
}


@st.composite
def odd_folders(draw: st.DrawFn) -> Odd:
    """Folders of every oddity at once; about a third of them are to be refused."""
    pick = st.sampled_from
    without = draw(pick([0, 0, 4]))
    images = draw(pick([1, 2, 3, 9]))
    found = odd(
        draw(st.integers(0, 999)),
        seen=draw(pick([2, 3, 4, 6, 9])),
        unseen=draw(pick([1, 2, 3])),
        without=without,
        images=images,
        fewest=draw(pick([1, images])),
        test=draw(pick([1, 1, 2, 5])),
        d=draw(pick([1, 2, 10, 52])),
        a=draw(pick([1, 2, 5, 30])),
    )
    att = ATTRIBUTES[draw(pick(sorted(ATTRIBUTES)))](found.att)
    features = FEATURES[draw(pick(sorted(FEATURES)))](found.features)
    absent = np.setdiff1d(np.arange(1, att.shape[1] + 1), found.labels)
    if att.dtype.kind == "f":
        att[:, absent - 1] = draw(pick([0.0, np.nan, 7.0]))
    part = found.part.copy()
    if draw(st.booleans()):  # one class is not tested
        part[(part == TEST_SEEN) & (found.labels == found.labels[part == TEST_SEEN][0])] = TRAINVAL
    seen = np.unique(found.labels[part == TRAINVAL])
    return replace(
        found,
        features=features,
        att=att,
        part=part,
        names=[f"bird {c}" for c in range(att.shape[1])] if draw(st.booleans()) else None,
        row=draw(st.booleans()),
        v73=draw(st.booleans()) and find_spec("h5py") is not None,
        validation=tuple(seen[: draw(st.integers(1, len(seen)))]) if draw(pick([True, False, False])) else None,
    )
