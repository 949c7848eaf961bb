"""Features of held-out classes: what their attributes alone tell of them, and a generator trained without them."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.api import Run, TrainData, derive_seed
from benchmark.engine.plan import Cell
from benchmark.engine.protocol import facts
from benchmark.registries import METHODS
from losses import build
from methods.generative._synthesis import GenerativeMethod
from tests.reference.toy import slot_for


def means_by_ridge(data: TrainData) -> Tensor:
    """(C, D) mean features of all classes, predicted from their attributes."""
    own = data.attributes[: data.n_seen]
    means = torch.stack([data.features[data.labels == c].mean(0) for c in range(data.n_seen)])
    gram = (own - own.mean(0)) @ (own - own.mean(0)).T + 0.1 * torch.eye(len(own))
    weights = (own - own.mean(0)).T @ torch.linalg.solve(gram, means - means.mean(0))
    return means.mean(0) + (data.attributes - own.mean(0)) @ weights


def fitted(cell: Cell, data: TrainData, run: Run) -> GenerativeMethod:
    """The method of ``cell``, trained on ``data`` with the loss of ``cell`` at its defaults and seed 0."""
    rng = torch.Generator().manual_seed(derive_seed(0, "initial weights"))
    method = METHODS[cell.spec.method].obj(data.meta, cell.method_config(facts(cell.dataset().load())), rng)
    assert isinstance(method, GenerativeMethod)
    loss = build(cell.spec.loss, n_classes=len(data.attributes), n_attributes=data.meta.n_attributes)
    method.fit(data, slot_for(method, data, loss), run)
    return method
