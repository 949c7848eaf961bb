"""A split as files of the xlsa17 layout, so that tests can read it as users read their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from benchmark.api import Split


def write_folder(folder: Path, split: Split, features: dict[str, npt.NDArray[Any]]) -> None:
    """Write ``att_splits.mat`` and the feature sets: those of vectors as .mat, others as .npy with their labels."""
    folder.mkdir(parents=True)
    names = np.empty((len(split.class_names), 1), dtype=object)
    names[:, 0] = split.class_names
    parts = {f"{part}_loc": getattr(split, part)[:, None] + 1 for part in ("trainval", "test_seen", "test_unseen")}
    scipy.io.savemat(folder / "att_splits.mat", {**parts, "allclasses_names": names, "att": split.attributes.T})
    for name, values in features.items():
        of_vectors = {"features": values.T} if values.ndim == 2 else {}
        scipy.io.savemat(folder / f"{name}.mat", {**of_vectors, "labels": split.labels[:, None] + 1})
        if not of_vectors:
            np.save(folder / f"{name}.npy", values)
