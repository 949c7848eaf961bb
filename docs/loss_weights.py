"""Draws ``loss_weights.png`` beside it: how much each loss weighs an error, over label value and error.

Run ``python docs/loss_weights.py`` (needs ``pip install -e '.[report]'``) when a loss is added or changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.config import parse_spec
from benchmark.files import write_whole
from benchmark.registries import DATASETS
from benchmark.report.canvas import outer_labels, panels, render
from losses import build

PICTURE = Path(__file__).with_suffix(".png")
LOSSES = (
    "mse",
    "mse-matched",
    "remse",
    "self-weighted",
    "group-dro",
    "group-dro:groups=semantics",
    "uncertainty",
    "standardised",
    "lds",
    "lds:kind=inverse",
    "lds:kind=dense",
    "balanced-mse",
    "balanced-mse:prior=training",
    "focal",
    "mae",
    "rmse",
)
BATCHES, BATCH = 60, 64
CELLS = 14
#: Cells of fewer elements stay empty.
FEWEST = 30
#: The largest label value and error that are drawn, in the unit rows of CUB's semantics; few are beyond.
EXTENT = (0.16, 0.12)
#: Purple and orange, which the colour-blind tell apart; black is none of them.
COLOURS, AWAY = "PuOr_r", "black"
LARGEST = 4.0


class Errors(NamedTuple):
    """Images of simulated predictions.

    Attributes:
        attributes: (C, A) unit rows.
        labels: (N,) classes.
        errors: (N, A) what is predicted, less the attributes of the class.
    """

    attributes: Tensor
    labels: Tensor
    errors: Tensor


def simulate() -> Errors:
    """Errors that grow with the label value, and differ between classes and between semantics."""
    split = DATASETS.resolve("cub-sim", {}, None).load()
    rng = torch.Generator().manual_seed(0)
    attributes = normalize(torch.from_numpy(split.attributes[split.seen]), dim=1)
    labels = torch.randint(len(attributes), (BATCHES * BATCH,), generator=rng)
    of_class = (0.3 * torch.randn(len(attributes), 1, generator=rng)).exp()
    of_semantic = (0.4 * torch.randn(attributes.shape[1], generator=rng)).exp()
    deviation = ((0.02 + 0.3 * attributes) * of_class * of_semantic)[labels]
    return Errors(attributes, labels, deviation * torch.randn(deviation.shape, generator=rng))


def pulls(text: str, data: Errors) -> Tensor:
    """(N, A) gradients of the loss ``text`` for predictions, times B A / 2: the errors themselves for MSE."""
    name, parameters = parse_spec(text, "docs")
    n_classes, n_attributes = data.attributes.shape
    loss = build(name, n_classes=n_classes, n_attributes=n_attributes, normalize=False, **parameters)
    loss.prepare(data.attributes, torch.bincount(data.labels, minlength=n_classes))

    def of_batches() -> Iterator[Tensor]:
        for labels, errors in zip(data.labels.split(BATCH), data.errors.split(BATCH), strict=True):
            target = data.attributes[labels]
            predicted = (target + errors).requires_grad_()
            loss(predicted, target, labels).backward()
            assert predicted.grad is not None
            yield predicted.grad * predicted.numel() / 2

    return torch.cat(list(of_batches()))


def weights(text: str, data: Errors) -> tuple[npt.NDArray[np.float64], float]:
    """(CELLS, CELLS) weights over error and label value, relative to the mean weight, and that mean.

    A weight is the slope of the pull over the error within a cell: the W of the least-squares form where there is one.
    """
    pull, errors = pulls(text, data), data.errors
    place = errors.abs().flatten().numpy(), data.attributes[data.labels].flatten().numpy()
    of_value, of_error = EXTENT
    cells = [
        np.histogram2d(*place, bins=CELLS, range=((0, of_error), (0, of_value)), weights=w.flatten().numpy())[0]
        for w in (pull * errors, errors.square(), torch.ones_like(errors))
    ]
    mean = float((pull * errors).sum() / errors.square().sum())
    with np.errstate(invalid="ignore"):
        return np.where(cells[2] < FEWEST, np.nan, cells[0] / cells[1] / mean), mean


def draw() -> Figure:
    """A panel a loss."""
    data = simulate()
    figure, axes = panels("Weight of a squared error, relative to its mean over all", LOSSES, sharex=True, sharey=True)
    value_edges, error_edges = (np.linspace(0, most, CELLS + 1) for most in EXTENT)
    for text, axis in zip(LOSSES, axes, strict=False):
        found, mean = weights(text, data)
        colours = axis.pcolormesh(
            value_edges, error_edges, found.clip(1 / LARGEST, LARGEST), cmap=COLOURS, norm=LogNorm(1 / LARGEST, LARGEST)
        )
        axis.pcolormesh(value_edges, error_edges, np.where(found <= 0, 0.0, np.nan), cmap="gray")
        axis.set_title(f"{text.replace(':', chr(10))}\nmean {mean:.2g}")
    outer_labels(axes, len(LOSSES), "label value", "|error|")
    bar = figure.colorbar(colours, ax=axes, shrink=0.4, ticks=[1 / 4, 1 / 2, 1, 2, 4])
    bar.minorticks_off()
    bar.ax.set_yticklabels(["≤ 1/4", "1/2", "1", "2", "≥ 4"])
    return figure


if __name__ == "__main__":
    write_whole(PICTURE, render(draw)[0])
