"""Where a method looks for each attribute, drawn over images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.api import Split
from benchmark.files import write_whole

Maps = npt.NDArray[Any]


def draw(image: npt.NDArray[np.uint8], title: str, rows: Mapping[str, Maps], titles: Sequence[str], file: Path) -> None:
    """A picture: the image, and in each row its map for each attribute laid over it, each scaled to its own maximum.

    Args:
        image: (H, W, 3).
        title: what it shows.
        rows: name of the row -> (K, h, w) maps.
        titles: what stands above the K columns.
        file: where the PNG goes.

    Raises:
        InputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 * (len(titles) + 1), 2.2 * len(rows) + 0.7), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(len(rows), len(titles) + 1, squeeze=False)
    extent = (0, image.shape[1], image.shape[0], 0)
    for line, (name, maps) in zip(axes, rows.items(), strict=True):
        line[0].imshow(image, extent=extent)
        line[0].set_ylabel(name, fontsize=7)
        for axis, found, above in zip(line[1:], maps, titles, strict=True):
            axis.imshow(image.mean(2), cmap="gray", extent=extent)
            axis.imshow(found, cmap="inferno", vmin=0, alpha=0.55, interpolation="bilinear", extent=extent)
            axis.set_title(above, fontsize=7)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    write_whole(file, png.getvalue())


def distinctive(split: Split, label: int, n: int) -> list[int]:
    """The ``n`` attributes whose value for class ``label`` is furthest above the mean of all classes with images."""
    mean = split.attributes[split.classes].mean(0)
    return [int(a) for a in np.argsort(mean - split.attributes[label], kind="stable")[:n]]


def first_of_classes(split: Split, n: int) -> list[int]:
    """The first test image of each of the first ``n`` unseen classes."""
    labels = split.labels[split.test_unseen]
    return [int(split.test_unseen[(labels == c).argmax()]) for c in split.unseen[:n]]
