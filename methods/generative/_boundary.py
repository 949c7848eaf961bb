"""Boundary samples: training features that are moved to where a network can hardly tell which class they relate to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Run, TrainData
from benchmark.config import Config
from benchmark.toolkit import descend, draw_batches
from methods.generative._blocks import PairNet, adam


def _later(default: Any, **limits: Any) -> Any:
    """A setting that is left out at its default, so that results from before it keep their keys."""
    return Field(default, exclude_if=lambda value: value == default, **limits)


class BoundarySettings(Config):
    """Settings of methods that can train on boundary samples; the defaults are those of GSMFlow's CUB script.

    Attributes:
        boundary_samples: train the generator on boundary samples too, one of each image.
        relation_lr: learning rate of the relation network.
        relation_epochs: its epochs.
        relation_weight_decay: its weight decay, inside the objective.
        boundary_lr: learning rate of the descent that moves features: of a mean over ``batch_size`` images.
        boundary_steps: steps of that descent.
        entropy_weight: what it gives for the entropy of relations, beside their error.
    """

    boundary_samples: bool = _later(False)
    relation_lr: float = _later(1e-4, gt=0)
    relation_epochs: int = _later(100, ge=1)
    relation_weight_decay: float = _later(1e-6, ge=0)
    boundary_lr: float = _later(20.0, gt=0)
    boundary_steps: int = _later(20, ge=1)
    entropy_weight: float = _later(10.0, ge=0)


def with_boundary_samples(
    relation: PairNet, data: TrainData, settings: BoundarySettings, batch_size: int, run: Run
) -> TrainData:
    """The training data, and a boundary sample of each image, of the same class, behind them.

    The ``relation`` network, whose outputs are relations r in (0, 1) of features and classes after a sigmoid, learns to
    tell which class of a batch an image has, by the squared error. Then it is frozen, and features x of each image
    descend from where they are on

        mean over c of (r_c(x) - [c is its class])^2 - entropy_weight * entropy of softmax_c r_c(x)

    over the classes c of a batch: they stay with their class, but near to others.

    Source: Chen et al., GSMFlow: Generation Shifts Mitigating Flow for Generalized Zero-Shot Learning, IEEE
    Transactions on Multimedia 2022; its code.

    Args:
        relation: the network, as it was made.
        data: N images.
        settings: how it is trained, and how features are moved.
        batch_size: images in a batch, of both.
        run: lends random numbers and the log.

    Returns:
        2 N images.
    """
    train_relation(relation, data, settings, batch_size, run)
    moved, images = [], draw_batches(data, batch_size, 0, run.rng("boundary samples"))
    for batch in images:
        y = data.labels[batch]
        moved.append(move(relation, data.features[batch], y, data.attributes, settings, batch_size))
    order, samples = torch.cat(list(images)), torch.cat(moved)
    run.log(moved=(samples - data.features[order]).norm(dim=1).mean())
    return replace(
        data, features=torch.cat([data.features, samples]), labels=torch.cat([data.labels, data.labels[order]])
    )


def train_relation(relation: PairNet, data: TrainData, settings: BoundarySettings, batch_size: int, run: Run) -> None:
    """Train and freeze the ``relation`` network; arguments as those of ``with_boundary_samples``."""
    optimiser = adam(settings.relation_lr, relation, betas=(0.9, 0.999))
    optimiser.param_groups[0]["weight_decay"] = settings.relation_weight_decay
    rng = run.rng("relation batches")
    for _ in range(settings.relation_epochs):
        for batch in draw_batches(data, batch_size, 0, rng):
            classes, wanted = classes_of(data.labels[batch])
            relations = relation(data.features[batch], data.attributes[classes]).sigmoid()
            value = descend(F.mse_loss(relations, wanted.to(relations)), optimiser)
    run.log(relation=value)
    relation.requires_grad_(False)


def move(
    relation: PairNet, x: Tensor, y: Tensor, attributes: Tensor, settings: BoundarySettings, batch_size: int
) -> Tensor:
    """(B, D) where features ``x`` (B, D) of classes ``y`` (B,) come to, whose ``attributes`` are (C, A)."""
    classes, wanted = classes_of(y)
    # As much for an image of a smaller batch, the last one.
    rate = settings.boundary_lr / batch_size
    for _ in range(settings.boundary_steps):
        x = x.detach().requires_grad_()
        relations = relation(x, attributes[classes]).sigmoid()
        log_share = relations.log_softmax(dim=1)
        entropy = -(log_share.exp() * log_share).sum(1)
        error = (relations - wanted.to(relations)).square().mean(1)
        (slope,) = torch.autograd.grad((error - settings.entropy_weight * entropy).sum(), x)
        x = x - rate * slope
    return x.detach()


def classes_of(y: Tensor) -> tuple[Tensor, Tensor]:
    """(W,) the classes that (B,) labels name, ascending, and (B, W) which of them each is."""
    classes, places = y.unique(return_inverse=True)
    return classes, F.one_hot(places, len(classes))
