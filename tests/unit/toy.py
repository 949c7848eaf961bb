"""Tiny data, methods and losses that several tests share; nothing here is registered unless a test asks for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.api import (
    Config,
    Dataset,
    LossConfig,
    Meta,
    Method,
    MethodConfig,
    RegressionLoss,
    Run,
    Split,
    TrainData,
    derive_seed,
)
from benchmark.config import load_file
from benchmark.protocol import HeldOut, held_out, train_data, validation_stage
from benchmark.registry import Entry, Registry
from benchmark.results import Cost, Evaluation, Metrics, Result, Selection, Spec

CPU = torch.device("cpu")

#: Makes any method's training take milliseconds; keys that a method does not have are left out.
TINY = {
    "epochs": 2,
    "patience": 2,
    "batch_size": 16,
    "hidden": 16,
    "n_generated": 6,
    "evaluate_every": 1,
    "critic_steps": 1,
    "classifier_epochs": 2,
    "classifier_batch_size": 32,
    "regressor_epochs": 2,
    "feature_ridge": (1.0,),
    "attribute_ridge": (1.0,),
    "reweightings": 2,
}


def make_split(
    seed: int = 0,
    *,
    n_seen: int = 6,
    n_unseen: int = 3,
    n_attributes: int = 8,
    n_features: int = 10,
    per_class: int = 12,
    noise: float = 0.1,
) -> Split:
    """Features that are a linear map of the class's attributes plus noise; classes and images are in random order."""
    rng = np.random.default_rng(seed)
    n_classes = n_seen + n_unseen
    attributes = rng.random((n_classes, n_attributes)).astype(np.float32)
    labels = rng.permutation(np.repeat(np.arange(n_classes), per_class))
    mapping = rng.standard_normal((n_attributes, n_features)) / np.sqrt(n_attributes)
    features = attributes[labels] @ mapping + noise * rng.standard_normal((len(labels), n_features))
    unseen = rng.choice(n_classes, n_unseen, replace=False)
    of_seen = rng.permutation(np.flatnonzero(~np.isin(labels, unseen)))
    # The last fifth of each seen class's images are its test images.
    rank = np.array([np.sum(labels[of_seen[:i]] == labels[image]) for i, image in enumerate(of_seen)])
    is_test = rank >= per_class - max(1, per_class // 5)
    split = Split(
        features=features.astype(np.float32),
        labels=labels,
        attributes=attributes,
        class_names=tuple(f"class {c}" for c in range(n_classes)),
        trainval=of_seen[~is_test],
        test_seen=of_seen[is_test],
        test_unseen=np.flatnonzero(np.isin(labels, unseen)),
    )
    split.check("toy")
    return split


def make_train(split: Split | None = None, preprocess: str = "none") -> tuple[TrainData, HeldOut]:
    """Training data and held-out images of a validation stage."""
    split = make_split() if split is None else split
    stage = validation_stage(split, "toy")
    data, transform = train_data(split, stage, preprocess, CPU)
    return data, held_out(split, stage, transform, CPU)


def seeded(seed: int, name: str = "initial weights") -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, name))


def tiny_config(entry: Entry[type[Method]], **changes: Any) -> Any:
    """The method's settings from its YAML, but small."""
    schema = entry.obj.Config
    tiny = {key: value for key, value in TINY.items() if key in schema.model_fields}
    return schema(**{**load_file(entry.config_file).hparams, **tiny, **changes})


def register(
    monkeypatch: pytest.MonkeyPatch, registry: Registry[Any], name: str, obj: object, file: Path | None = None
) -> None:
    """Put ``obj`` into a registry until the test ends; ``file`` stands for its module, beside which its YAML lies."""
    registry.names()  # load what registers itself first
    module = Path(str(sys.modules[obj.__module__].__file__))
    monkeypatch.setitem(registry._entries, name, Entry(name, obj, name, "toy", 2026, "a test", file or module))


def make_spec(**changes: Any) -> Spec:
    values: dict[str, Any] = {
        "protocol": "strict",
        "split": "proposed",
        "dataset": "toy",
        "simulated": True,
        "features": "toy",
        "revision": "1",
        "method": "toy",
        "loss": "toy",
        "hparams": {"lr": 0.1, "epochs": 2},
        "loss_parameters": {"normalize": True},
    }
    return Spec(**{**values, **changes})


def make_result(spec: Spec | None = None, seed: int = 0, status: Any = "ok", **changes: Any) -> Result:
    """A result of any figures; like a real one, it has them only where ``status`` is ok."""
    figures = {
        "evaluation": Evaluation(
            metrics=Metrics(**dict.fromkeys(Metrics.model_fields, 1.0)), per_class=[], imbalance=None
        ),
        "selection": Selection(on="validation", criterion="AUSUC", value=1.0, choice=1, gamma=0.0, history=[]),
        "cost": Cost(fit_s=1.0, evaluate_s=1.0, peak_memory_mib=1.0),
    }
    values: dict[str, Any] = {**(figures if status == "ok" else {"error": "a reason"}), **changes}
    return Result(spec=spec or make_spec(), seed=seed, status=status, **values)


class ToyDataset(Dataset):
    """``make_split``, made anew by each ``read``, so that no test image outlives its use."""

    class Config(Config):
        seed: int = 0
        per_class: int = 12

    @property
    def features(self) -> str:
        return "toy"

    @property
    def revision(self) -> str:
        return f"toy {self.config.seed}"

    def read(self) -> Split:
        return make_split(self.config.seed, per_class=self.config.per_class)


class ToyMethod(Method):
    """Scores by the mean feature of the classes it saw; unseen ones get the mean of all. It trains nothing."""

    class Config(MethodConfig):
        lr: float = 0.1
        epochs: int = 2

    def __init__(self, meta: Meta, config: Any, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        self.register_buffer("means", torch.zeros(meta.n_seen + meta.n_unseen, meta.n_features))

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:
        for _ in run.epochs(self, self.config.epochs, 1):
            means = data.features.mean(0).repeat(len(data.attributes), 1)
            for c in range(data.n_seen):
                means[c] = data.features[data.labels == c].mean(0)
            self.means = means

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return -torch.cdist(x, self.means[classes])

    def semantics(self, x: Tensor) -> None:
        return None


class ToyLoss(RegressionLoss):
    """Squared error; its weights fall with the error, so that re-weighted problems differ from plain ones."""

    class Config(LossConfig):
        alpha: float = 1.0
        beta: float = 1.0

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        return (predicted - target).square().mean()

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        return 1 / (0.3 + (predicted - target).abs())
