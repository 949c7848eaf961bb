"""Which images of a ``Split`` are trained on and which are held out, in validation and in evaluation.

It is here, below the engine, as a data set whose features depend on it has to know it too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmark.api import Split, derive_seed, n_held_out
from benchmark.errors import InputError

Indices = npt.NDArray[np.int64]


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


def features_to_select(split: Split, stage: Stage, name: str) -> Split:
    """``split`` with the features to validate on: where they are fine-tuned, other ones than those to test on.

    Args:
        split: the data.
        stage: how it is divided for validation.
        name: the data set's name, for the message.

    Raises:
        InputError: a held-out image trained the backbone.
    """
    tuned = split.fine_tuned
    if tuned is None:
        return split
    if strange := len(np.setdiff1d(tuned.to_select_trained_on, stage.train)):
        raise InputError(
            f"{name}: fine-tuned features to select on must come from training on its {len(stage.train)} training "
            f"images of validation, got {strange} others; they fit the validation classes alone that they were made for"
        )
    return replace(split, features=tuned.to_select, fine_tuned=None)


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
