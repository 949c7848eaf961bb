"""Tiny data, methods and losses that several tests share; nothing here is registered unless a test asks for it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from benchmark.api import (
    Dataset,
    DatasetConfig,
    LossConfig,
    Meta,
    Method,
    MethodConfig,
    RegressionLoss,
    Run,
    Slot,
    Split,
    Tracker,
    TrainData,
    derive_seed,
)
from benchmark.config import load_file
from benchmark.engine.protocol import HeldOut, held_out, train_data
from benchmark.engine.runs import RefitRun
from benchmark.registry import Entry, Registry
from benchmark.results.record import Cost, Evaluation, Metrics, Result, Selection, Spec
from benchmark.toolkit.stages import validation_stage
from benchmark.toolkit.training import Objective

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
    "base_epochs": 2,
    "classifier_batch_size": 32,
    "prototype_hidden": 16,
    "regressor_epochs": 2,
    "feature_ridge": (1.0,),
    "attribute_ridge": (1.0,),
    "reconstruction": (1.0,),
    "ridge": (1.0,),
    "n_maps": 2,
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


def make_float64(seed: int = 0, n: int = 40, d: int = 5, a: int = 4, n_seen: int = 6) -> TrainData:
    """Tiny training data in float64, so that agreement can be exact; more seen classes than attributes."""
    rng = seeded(seed)
    labels = torch.arange(n) % n_seen
    attributes = torch.rand(n_seen + 2, a, generator=rng, dtype=torch.float64)
    mapping = torch.randn(a, d, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, d, generator=rng, dtype=torch.float64)
    return TrainData(attributes[labels] @ mapping + 0.3 * noise, labels, attributes, n_seen)


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
    module = obj.__module__
    about = {"title": name, "family": "toy", "year": 2026, "source": "a test", "module": module}
    entry = registry._entry(name, **about, file=file or Path(str(sys.modules[module].__file__)))
    entry.fill(obj)
    monkeypatch.setitem(registry._entries, name, entry)


def make_spec(**changes: Any) -> Spec:
    values: dict[str, Any] = {
        "protocol": "strict",
        "partition": "proposed",
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

    class Config(DatasetConfig):
        seed: int = 0
        per_class: int = 12

    config: Config

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

    config: Config

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.register_buffer("means", torch.zeros(meta.n_seen + meta.n_unseen, meta.n_features))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
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


class Recorder(Tracker):
    """Remembers what it is told; all of them are in ``made``, which a test empties."""

    made: ClassVar[list[Recorder]] = []

    def __init__(self, name: str, settings: Mapping[str, Any], folder: Path) -> None:
        super().__init__(name, settings, folder)
        self.rows: list[dict[str, float]] = []
        self.closed = 0
        self.made.append(self)

    def log(self, number: int, values: Mapping[str, float]) -> None:
        self.rows.append({"epoch": number, **values})

    def close(self) -> None:
        self.closed += 1


class ClassLoss(ToyLoss):
    """A squared error that weighs later classes more, so that wrong labels do not go unnoticed."""

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        return ((1 + labels[:, None]) * (predicted - target).square()).mean()


def class_slot(data: TrainData, weight: float | None) -> Slot:
    """A slot with ``ClassLoss``; ``weight`` None: without a loss."""
    loss = None if weight is None else ClassLoss(data.n_seen, data.meta.n_attributes, ClassLoss.Config())
    return Slot(data.attributes, loss, weight or 0.0)


def slot_for(method: Method, data: TrainData, loss: RegressionLoss | None) -> Slot:
    """The slot that the engine would make for a method with this loss."""
    return Slot(data.attributes, loss, method.config.regression_weight)


def slow_class_loss(predicted: list[list[float]], data: TrainData) -> float:
    """``ClassLoss`` of the predictions for all images of ``data``, by loops."""
    pairs = zip(predicted, data.labels.tolist(), strict=True)
    squares = [
        (1 + y) * (p - t) ** 2 for row, y in pairs for p, t in zip(row, data.attributes[y].tolist(), strict=True)
    ]
    return sum(squares) / len(squares)


def dot(u: Sequence[float], v: Sequence[float]) -> float:
    return sum(p * q for p, q in zip(u, v, strict=True))


@st.composite
def rankings(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """(B, C) scores and labels (B,); a part lies on a grid, with ties and scores exactly on a margin of 0.5 or 1."""
    n, c = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    rng = seeded(draw(st.integers(0, 10_000)))
    if draw(st.booleans()):
        scores = torch.randint(-3, 4, (n, c), generator=rng).double() / 2
    else:
        spread = draw(st.sampled_from([0.01, 1.0, 10.0]))
        scores = spread * torch.randn(n, c, generator=rng, dtype=torch.float64)
    return scores, torch.randint(c, (n,), generator=rng)


@st.composite
def problems(draw: st.DrawFn) -> TrainData:
    """Training data in float64, down to one image, one attribute, one seen class alone and no unseen one."""
    n, d, a, seen = (draw(st.integers(1, most)) for most in (5, 4, 4, 4))
    rng = seeded(draw(st.integers(0, 10_000)))
    features = torch.randn(n, d, generator=rng, dtype=torch.float64)
    attributes = torch.rand(seen + draw(st.integers(0, 2)), a, generator=rng, dtype=torch.float64)
    return TrainData(features, torch.randint(seen, (n,), generator=rng), attributes, seen)


def objective_of(method: Method, data: TrainData, slot: Slot) -> Objective:
    """What ``method.fit`` hands to the training loop, which takes no step here."""
    found: list[Objective] = []
    with pytest.MonkeyPatch.context() as patch:
        module = sys.modules[type(method).fit.__module__]
        patch.setattr(module, "minimise", lambda method, objective, *rest, **options: found.append(objective))
        method.fit(data, slot, RefitRun(CPU, 0, "toy", 1))
    (objective,) = found
    return objective


def check_first_step(
    kind: type[Method], slow: Callable[[Any, TrainData, float | None], float], weight: float | None, **settings: Any
) -> Any:
    """One full-batch step of plain gradient descent moves each parameter by -lr times central differences of ``slow``.

    Args:
        kind: the method; its parameters become float64.
        slow: its objective by loops: ``slow(method, data, weight)``.
        weight: of ``ClassLoss``; None trains without a loss.
        **settings: of the method.

    Returns:
        The trained method.
    """
    data, lr, step = make_float64(n=15), 0.1, 1e-6
    changes = {**settings, "optimizer": "sgd", "lr": lr, "batch_size": len(data.labels), "epochs": 1}
    method = kind(data.meta, kind.Config(**changes, regression_weight=weight or 0.0), seeded(0)).double()
    expected = {}
    for name, parameter in method.named_parameters():
        values = parameter.detach()  # shares its memory with the parameter
        slopes = torch.zeros_like(values)
        for index in np.ndindex(*values.shape):
            value = values[index].item()
            values[index] = value + step
            up = slow(method, data, weight)
            values[index] = value - step
            slopes[index] = (up - slow(method, data, weight)) / (2 * step)
            values[index] = value
        expected[name] = values - lr * slopes
    start = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    method.fit(data, class_slot(data, weight), RefitRun(CPU, 0, "toy", 1))
    for name, parameter in method.named_parameters():
        assert torch.allclose(parameter, expected[name], rtol=0, atol=1e-8), name
    assert any((expected[name] - start[name]).abs().max() > 1e-3 for name in start)
    return method


class FixedWeights(RegressionLoss):
    """Element weights that do not depend on the errors: with it, a re-weighted problem is a weighted one."""

    def __init__(self, fixed: Tensor) -> None:
        super().__init__(1, fixed.shape[1], LossConfig())
        self.fixed = fixed

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        return (self.fixed * (predicted - target).square()).mean()

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        return self.fixed
