"""From a ``Split`` to what a method may train on, and to the held-out images that only the evaluator opens.

The strict protocol: epoch, hyper-parameters and the calibration gamma are chosen on validation classes and images, all
taken from ``trainval``; the method is refitted on all of ``trainval`` with those choices; then the test images are
loaded, for the first time, and scored once. During ``Method.fit`` no test image is in memory and ``Dataset.load`` is
sealed (see ``benchmark.api.sealed``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import Facts, Split, TrainData
from benchmark.models.preprocessing import Preprocessing, fit_preprocessing
from benchmark.toolkit.stages import Indices, Stage

#: The share of their mean from which on classes' semantics are alike: CUB, AWA1 and the stand-ins have 0.43 to 0.65.
ALIKE = 0.75
#: Images, evenly spaced, that tell the sign of all: features on a grid are too many to look at them all.
LOOKED_AT = 1000


@dataclass(frozen=True)
class HeldOut:
    """Images that a fitted method is scored on.

    Attributes:
        seen_features: (Ns, D) preprocessed as the training features were.
        seen_labels: (Ns,) in 0..n_seen-1.
        unseen_features: (Nu, D).
        unseen_labels: (Nu,) in n_seen..n_seen+n_unseen-1.
        attributes: (n_seen + n_unseen, A).
        n_seen: the number of seen classes.
        class_names: the names of the classes, seen first.
    """

    seen_features: Tensor
    seen_labels: Tensor
    unseen_features: Tensor
    unseen_labels: Tensor
    attributes: Tensor
    n_seen: int
    class_names: tuple[str, ...]

    @property
    def all_classes(self) -> Tensor:
        """All class indices, seen first."""
        return torch.arange(len(self.attributes), device=self.seen_labels.device)


def facts(split: Split) -> Facts:
    """What settings are derived from: sizes and form of ``trainval``, of which ``LOOKED_AT`` images are looked at."""
    some = split.trainval[:: -(-len(split.trainval) // LOOKED_AT)]
    return Facts(
        n_images=len(split.trainval),
        n_features=split.features.shape[-1],
        n_attributes=split.attributes.shape[1],
        n_seen=len(split.seen),
        n_unseen=len(split.unseen),
        n_regions=math.prod(split.features.shape[1:-1]),
        signed=bool((split.features[some] < 0).any()),
        alike=_mean_share(split.attributes[split.seen]) >= ALIKE,
    )


def _mean_share(attributes: npt.NDArray[np.float32]) -> float:
    """What part of the mean square of (C, A) attributes, each of unit norm, that of their mean is."""
    norms = np.linalg.norm(attributes.astype(np.float64), axis=1, keepdims=True)
    unit = attributes / np.where(norms > 0, norms, 1)
    return float(np.square(unit.mean(0)).sum())


def train_data(split: Split, stage: Stage, preprocess: str, device: torch.device) -> tuple[TrainData, Preprocessing]:
    """The training images of ``stage`` on ``device``, and the preprocessing that was fitted on them alone."""
    features = torch.from_numpy(split.features[stage.train]).to(device)
    transform = fit_preprocessing(preprocess, features)
    order = _class_order(stage)
    attributes = torch.from_numpy(split.attributes[order]).to(device)
    labels = torch.from_numpy(_local_labels(split, stage, stage.train)).to(device)
    data = TrainData(
        transform(features),
        labels,
        attributes,
        len(stage.seen),
        attribute_vectors=_optional(split.attribute_vectors, device),
        class_vectors=_optional(None if split.class_vectors is None else split.class_vectors[order], device),
    )
    return data, transform


def held_out(split: Split, stage: Stage, transform: Preprocessing, device: torch.device) -> HeldOut:
    """The held-out images of ``stage`` on ``device``, preprocessed as the training images were."""

    def images(indices: Indices) -> tuple[Tensor, Tensor]:
        features = torch.from_numpy(split.features[indices]).to(device)
        return transform(features), torch.from_numpy(_local_labels(split, stage, indices)).to(device)

    order = _class_order(stage)
    return HeldOut(
        *images(stage.held_out_seen),
        *images(stage.held_out_unseen),
        attributes=torch.from_numpy(split.attributes[order]).to(device),
        n_seen=len(stage.seen),
        class_names=tuple(split.class_names[c] for c in order),
    )


def _optional(vectors: npt.NDArray[np.float32] | None, device: torch.device) -> Tensor | None:
    return None if vectors is None else torch.tensor(vectors, device=device)


def _class_order(stage: Stage) -> Indices:
    return np.concatenate([stage.seen, stage.unseen])


def _local_labels(split: Split, stage: Stage, images: Indices) -> npt.NDArray[np.int64]:
    """Labels of ``images`` as positions in the stage's class order: seen first."""
    position = np.full(len(split.attributes), -1, dtype=np.int64)
    position[_class_order(stage)] = np.arange(len(stage.seen) + len(stage.unseen))
    return position[split.labels[images]]
