"""From a ``Split`` to what a method may train on, and to the held-out images that only the evaluator opens.

The strict protocol: epoch, hyper-parameters and the calibration gamma are chosen on validation classes and images, all
taken from ``trainval``; the method is refitted on all of ``trainval`` with those choices; then the test images are
loaded, for the first time, and scored once. During ``Method.fit`` no test image is in memory and ``Dataset.load`` is
sealed (see ``benchmark.api.sealed``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmark.api import Facts, Split, TrainData, derive_seed, n_held_out
from benchmark.errors import InputError
from benchmark.models.preprocessing import Preprocessing, fit_preprocessing

Indices = npt.NDArray[np.int64]
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


@dataclass(frozen=True)
class Stage:
    """One division of a ``Split``'s images and classes: what is trained on and what is held out, as indices."""

    train: Indices
    held_out_seen: Indices
    held_out_unseen: Indices
    seen: Indices
    unseen: Indices


def validation_stage(split: Split, name: str) -> Stage:
    """Train on some seen classes, hold out 20 % of their images and all trainval images of the validation classes.

    Args:
        split: the data; only ``trainval`` and the class lists are used.
        name: the data set's name, from which everything that is drawn is seeded: all methods, losses and seeds share
            one validation division.

    Raises:
        InputError: there are too few seen classes to validate on.
    """
    rng = np.random.default_rng(derive_seed("validation", name))
    unseen = _validation_classes(split, name, rng)
    seen = np.setdiff1d(split.seen, unseen)
    labels = split.labels[split.trainval]
    rest = split.trainval[np.isin(labels, seen)]
    held_out = _hold_out(split.labels, rest, rng)
    if not len(held_out):
        needed = "a class with at least 2 training images, one of which is held out"
        raise InputError(f"{name}: validation needs {needed}, got none among {len(seen)} classes instead")
    return Stage(np.setdiff1d(rest, held_out), held_out, split.trainval[np.isin(labels, unseen)], seen, unseen)


def evaluation_stage(split: Split) -> Stage:
    """Train on all of ``trainval``, hold out the test images."""
    return Stage(split.trainval, split.test_seen, split.test_unseen, split.seen, split.unseen)


def random_partition(split: Split, name: str, index: int) -> Split:
    """Another seeded division of all classes into as many seen and unseen ones, with 20 % of the seen images to test.

    Args:
        split: the published split.
        name: the data set's name; with ``index`` it seeds the draw.
        index: which partition, from 0.
    """
    rng = np.random.default_rng(derive_seed("partition", name, index))
    images = np.sort(np.concatenate([split.trainval, split.test_seen, split.test_unseen]))
    classes = np.unique(split.labels[images])
    unseen = np.sort(rng.choice(classes, len(split.unseen), replace=False))
    is_unseen = np.isin(split.labels[images], unseen)
    test_seen = _hold_out(split.labels, images[~is_unseen], rng)
    partition = replace(
        split,
        trainval=np.setdiff1d(images[~is_unseen], test_seen),
        test_seen=test_seen,
        test_unseen=images[is_unseen],
        validation_classes=None,
    )
    partition.check(f"{name} partition {index}")
    return partition


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


def _validation_classes(split: Split, name: str, rng: np.random.Generator) -> Indices:
    if split.validation_classes is not None:
        return np.sort(split.validation_classes)
    n = min(len(split.unseen), len(split.seen) // 3)
    if n == 0:
        raise InputError(f"{name}: validation needs at least 3 seen classes, got {len(split.seen)} instead")
    return np.sort(rng.choice(split.seen, n, replace=False))


def _hold_out(labels: npt.NDArray[np.int64], images: Indices, rng: np.random.Generator) -> Indices:
    """Some of each class's ``images``, drawn at random: as many as ``n_held_out`` says."""
    shuffled = rng.permutation(images)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, start, count = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(by_class)) - np.repeat(start, count)
    return np.sort(by_class[rank < np.repeat(n_held_out(count), count)])


def _class_order(stage: Stage) -> Indices:
    return np.concatenate([stage.seen, stage.unseen])


def _local_labels(split: Split, stage: Stage, images: Indices) -> npt.NDArray[np.int64]:
    """Labels of ``images`` as positions in the stage's class order: seen first."""
    position = np.full(len(split.attributes), -1, dtype=np.int64)
    position[_class_order(stage)] = np.arange(len(stage.seen) + len(stage.unseen))
    return position[split.labels[images]]
