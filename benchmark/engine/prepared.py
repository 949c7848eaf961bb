"""What is trained and selected on, prepared once for all runs that a process does one after another on the same data.

Test images are no part of it: they are loaded for one evaluation, and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from benchmark.api import Dataset, Facts, FeatureKind, Split, TrainData
from benchmark.engine.plan import Cell
from benchmark.engine.protocol import HeldOut, facts, held_out, train_data
from benchmark.models.preprocessing import Preprocessing
from benchmark.toolkit.stages import Stage, evaluation_stage, features_to_select, random_partition, validation_stage

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A partition of a data set; equal ones are the same data.

    Attributes:
        dataset: the data set.
        reader: its class, which a plug-in may put in another's place.
        name: what the command line calls it.
        revision: the digest of all that defines it.
        data_root: the folder of its files, if any.
        partition: ``proposed``, or ``random-<i>``.
        index: the ``i`` of a random partition; None for the proposed one.
    """

    dataset: Dataset = field(compare=False)
    reader: type[Dataset]
    name: str
    revision: str
    data_root: Path | None
    partition: str
    index: int | None

    @classmethod
    def of(cls, cell: Cell) -> Source:
        """The data of ``cell``."""
        spec, dataset = cell.spec, cell.dataset()
        return cls(
            dataset,
            type(dataset),
            spec.dataset,
            spec.revision,
            cell.data_root,
            spec.partition,
            spec.partition_index,
        )

    def load(self) -> Split:
        """All images of it.

        Raises:
            InputError: the data cannot be loaded.
        """
        split = self.dataset.load()
        return split if self.index is None else random_partition(split, self.name, self.index)


@dataclass(frozen=True)
class Training:
    """What is trained on in one stage, as the preprocessing that was fitted on it leaves it."""

    stage: Stage
    data: TrainData
    transform: Preprocessing


def _kept(make: Callable[P, T]) -> Callable[P, T]:
    """``make``, whose last result is kept for a call with the same arguments, and let go before another is made."""
    kept: dict[Hashable, T] = {}

    @wraps(make)
    def once(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (*args, *kwargs.items())
        if key not in kept:
            kept.clear()
            kept[key] = make(*args, **kwargs)
        return kept[key]

    return once


@_kept
def look(source: Source) -> tuple[FeatureKind, Facts]:
    """What features there are, and what settings are derived from."""
    split = source.load()
    return split.kind, facts(split)


@_kept
def trainval(source: Source, preprocess: str, device: torch.device) -> Training:
    """All that may be trained on."""
    split = source.load()
    return _training(split, evaluation_stage(split), preprocess, device)


@_kept
def selection(source: Source, preprocess: str, device: torch.device) -> tuple[Training, HeldOut]:
    """Training data without validation classes and images, and these.

    Raises:
        InputError: there are too few classes to validate on, or a held-out image trained the backbone of the features.
    """
    name, split = f"{source.name} {source.partition}", source.load()
    stage = validation_stage(split, name)
    split = features_to_select(split, stage, name)
    training = _training(split, stage, preprocess, device)
    return training, held_out(split, stage, training.transform, device)


def _training(split: Split, stage: Stage, preprocess: str, device: torch.device) -> Training:
    return Training(stage, *train_data(split, stage, preprocess, device))
