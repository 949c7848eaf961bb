"""What the tests of feature-generating methods share: tiny data, their networks and terms by loops, short trainings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.api import RegressionLoss, Slot, TrainData
from benchmark.engine.runs import RefitRun
from losses import build
from methods.generative._blocks import FeatureGenerator, PairNet
from methods.generative._synthesis import Round
from tests.reference.networks import slow_layer
from tests.reference.toy import (
    CPU,
    ClassLoss,
    dot,
    make_float64,
    make_split,
    make_train,
    seeded,
    slot_for,
    slow_class_loss,
)

Row = list[float]

# Methods, data and slots ----------------------------------------------------------------------------------------------


def lively(method: Any) -> Any:
    """The method in float64, with weights and biases so large that no term is lost beside another."""
    method.double()
    rng = seeded(1)
    for parameter in method.parameters():
        parameter.data = 0.6 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
    return method


def make_batch() -> tuple[TrainData, TrainData]:
    """Training data of four seen and two unseen classes; a batch without one seen class, and one image of another."""
    data = make_float64(n=9, d=3, a=2, n_seen=4)
    images = [5, 0, 2, 8, 1, 4]
    batch = TrainData(data.features[images], data.labels[images], data.attributes, data.n_seen)
    assert batch.labels.tolist() == [1, 0, 2, 0, 1, 0]
    return data, batch


def round_of(batch: TrainData, n: int) -> list[TrainData]:
    """The batches of a round: the last is the ``batch``, each one before is without one more of its first images."""
    starts = reversed(range(n))
    return [TrainData(batch.features[k:], batch.labels[k:], batch.attributes, batch.n_seen) for k in starts]


def take_round(training: Round, batch: TrainData, epoch: int = 1) -> dict[str, Tensor]:
    """What ``training`` logs of ``round_of`` the batch."""
    return training([(one.features, one.labels) for one in round_of(batch, training.n_batches)], epoch)


def make_scaled_batch(output: str) -> tuple[TrainData, TrainData]:
    """``make_batch``, with features in [0, 1] where the ``output`` is."""
    data, batch = make_batch()
    if output != "sigmoid":
        return data, batch
    low, high = data.features.amin(0), data.features.amax(0)
    whole, part = (replace(some, features=(some.features - low) / (high - low)) for some in (data, batch))
    return whole, part


def own_slot(method: Any, data: TrainData, with_loss: bool) -> Slot:
    """The slot of the method's own weight: with ``ClassLoss``, or without a loss."""
    loss = ClassLoss(data.n_seen, data.meta.n_attributes, ClassLoss.Config()) if with_loss else None
    return slot_for(method, data, loss)


def learning_loss(data: TrainData) -> RegressionLoss:
    """A loss that learns a parameter of its own."""
    return build("balanced-mse", n_classes=data.n_seen, n_attributes=data.meta.n_attributes).double()


class RecordingLoss(ClassLoss):
    """Notes the labels and the targets that it is given."""

    def __init__(self, data: TrainData) -> None:
        super().__init__(len(data.attributes), data.meta.n_attributes, ClassLoss.Config())
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        assert predicted.shape == target.shape
        self.calls.append((labels, target))
        return super().forward(predicted, target, labels)


def first_run() -> RefitRun:
    """Its random numbers start anew: what a method draws with such a run, a test can draw again."""
    return RefitRun(CPU, 0, "toy", 1)


# Numbers --------------------------------------------------------------------------------------------------------------


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def slopes(values: Tensor, slow: Callable[[], float], step: float = 1e-6) -> Tensor:
    """Central differences of ``slow`` in each of the ``values`` that it reads."""

    def at(place: tuple[int, ...], move: float) -> float:
        values[place] += move
        found = slow()
        values[place] -= move
        return found

    places = np.ndindex(*values.shape)
    found = [(at(place, step) - at(place, -step)) / (2 * step) for place in places]
    return torch.tensor(found, dtype=torch.float64).view(values.shape)


def slow_adam(
    module: nn.Module, slow: Callable[[], float], lr: float, betas: tuple[float, float], n_steps: int
) -> float:
    """Kingma & Ba 2015, algorithm 1, down the differences of ``slow``; returns its value before the last step."""
    values = [p.detach() for p in module.parameters()]  # share their memory with the parameters
    moments, squares = ([torch.zeros_like(v) for v in values] for _ in range(2))
    for t in range(1, n_steps + 1):
        value, gradients = slow(), [slopes(v, slow) for v in values]
        for k, gradient in enumerate(gradients):
            moments[k] = betas[0] * moments[k] + (1 - betas[0]) * gradient
            squares[k] = betas[1] * squares[k] + (1 - betas[1]) * gradient**2
            root = (squares[k] / (1 - betas[1] ** t)).sqrt()
            values[k] -= lr * moments[k] / (1 - betas[0] ** t) / (root + 1e-8)
    return value


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(a.state_dict()[key], b.state_dict()[key]) for key in a.state_dict())


# Networks by loops ----------------------------------------------------------------------------------------------------


def leaky(x: Row) -> Row:
    return [h if h > 0 else 0.2 * h for h in x]


def slow_sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_mlp(net: Any, x: Row) -> Row:
    """Linear layers with a LeakyReLU between them."""
    first, *rest = net[::2]
    x = slow_layer(first, x)
    for layer in rest:
        x = slow_layer(layer, leaky(x))
    return x


def slow_pair(net: PairNet, x: Row, attributes: Row) -> float:
    """The score of one pair."""
    parts = slow_layer(net.of_features, x), slow_layer(net.of_attributes, attributes)
    return slow_layer(net.last, leaky([p + q for p, q in zip(*parts, strict=True)]))[0]


def slow_generated(generator: FeatureGenerator, code: Row, attributes: Row, addition: Row | None = None) -> Row:
    """Features; an ``addition`` is to the hidden layer."""
    hidden = leaky(slow_layer(generator.first, code + attributes))
    if addition is not None:
        hidden = [h + f for h, f in zip(hidden, addition, strict=True)]
    x = slow_layer(generator.last, hidden)
    if generator.output == "sigmoid":
        return [slow_sigmoid(v) for v in x]
    return [max(0.0, v) for v in x] if generator.output == "relu" else x


def slow_features(
    generator: FeatureGenerator, noise: Tensor, attributes: Tensor, feedback: Tensor | None = None
) -> list[Row]:
    """``slow_generated`` for each row."""
    additions = [None] * len(noise) if feedback is None else feedback.tolist()
    rows = zip(noise.tolist(), attributes.tolist(), additions, strict=True)
    return [slow_generated(generator, e, a, addition) for e, a, addition in rows]


def slow_encoding(encoder: Any, x: Row) -> tuple[Row, Row]:
    """Means and log-variances."""
    encoded = slow_mlp(encoder.net, x)
    half = len(encoded) // 2
    assert all(abs(v) < 10 for v in encoded[half:])  # where the log-variances are not clamped
    return encoded[:half], encoded[half:]


def slow_code(gaussian: tuple[Row, Row], noise: Row) -> Row:
    return [m + math.exp(v / 2) * e for m, v, e in zip(*gaussian, noise, strict=True)]


# Terms by loops -------------------------------------------------------------------------------------------------------


def slow_divergence(gaussian: tuple[Row, Row]) -> float:
    return 0.5 * sum(m**2 + math.exp(v) - 1 - v for m, v in zip(*gaussian, strict=True))


def slow_reconstruction(fake: list[Row], batch: TrainData, output: str) -> float:
    """Summed over the features, averaged over the images."""
    total = 0.0
    for row, real in zip(fake, batch.features.tolist(), strict=True):
        for p, x in zip(row, real, strict=True):
            if output == "sigmoid":
                total -= x * math.log(p) + (1 - x) * math.log(1 - p)
            else:
                total += (p - x) ** 2 / 2
    return total / len(fake)


def slow_critic_objective(method: Any, batch: TrainData, fake: list[Row], mix: Row) -> float:
    """Mean D(fake) - mean D(real) + the penalty, with the critic's gradient written out."""
    critic = method.critic.net
    first, last, total = critic[0], critic[2], 0.0
    for x, x_fake, y, share in zip(batch.features.tolist(), fake, batch.labels.tolist(), mix, strict=True):
        a = batch.attributes[y].tolist()
        between = [share * p + (1 - share) * q for p, q in zip(x, x_fake, strict=True)]
        outer = [
            v if h > 0 else 0.2 * v
            for v, h in zip(last.weight[0].tolist(), slow_layer(first, between + a), strict=True)
        ]
        gradient = [dot(outer, column) for column in first.weight.T.tolist()[: len(x)]]
        total += slow_mlp(critic, x_fake + a)[0] - slow_mlp(critic, x + a)[0]
        total += method.config.penalty_weight * (math.sqrt(dot(gradient, gradient)) - 1) ** 2
    return total / len(mix)


def slow_error(predicted: list[Row], batch: TrainData, with_loss: bool) -> float:
    """Of attributes: ``ClassLoss``, or the published self-weighted error, which is mean sum |e|^3 / ||e||."""
    if with_loss:
        return slow_class_loss(predicted, batch)
    total = 0.0
    for row, target in zip(predicted, batch.targets.tolist(), strict=True):
        errors = [p - t for p, t in zip(row, target, strict=True)]
        total += sum(abs(e) ** 3 for e in errors) / math.sqrt(dot(errors, errors))
    return total / len(predicted)


def slow_contrast(z: list[Row], labels: list[int], temperature: float) -> float:
    """Khosla et al. 2020, eq. 2, averaged over the images that have a positive."""
    of_images = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            total = sum(math.exp(dot(z[i], z[j]) / temperature) for j in others)
            logs = [math.log(math.exp(dot(z[i], z[j]) / temperature) / total) for j in positives]
            of_images.append(-sum(logs) / len(positives))
    return sum(of_images) / len(of_images) if of_images else 0.0


# Short trainings ------------------------------------------------------------------------------------------------------


def trained(kind: type[Any], data: TrainData, loss_name: str | None, epochs: int = 1, **changes: Any) -> Any:
    """A small one after a short training."""
    settings = {
        "hidden": 32,
        "lr": 1e-3,
        "batch_size": 16,
        "critic_steps": 2,
        "n_generated": 20,
        "classifier_epochs": 5,
    }
    method = kind(data.meta, kind.Config(**{**settings, **changes}, epochs=epochs), seeded(0))
    sizes = {"n_classes": len(data.attributes), "n_attributes": data.meta.n_attributes}
    slot = slot_for(method, data, build(loss_name, **sizes) if loss_name else None)
    method.fit(data, slot, RefitRun(CPU, 0, "toy", epochs))
    return method


def unseen_accuracy(
    kind: type[Any], loss_name: str | None, epochs: int, preprocess: str = "minmax", **settings: Any
) -> float:
    """Of ZSL among four unseen classes, after a short training; chance is 0.25."""
    split = make_split(3, n_seen=24, n_unseen=4, n_attributes=4, per_class=20, noise=0.05)
    data, held = make_train(split, preprocess)
    sizes = {"n_classes": len(data.attributes), "n_attributes": 4}
    loss = build(loss_name, **sizes, window="running") if loss_name else None
    small = {"batch_size": 32, "n_generated": 50, "classifier_epochs": 20, "classifier_lr": 0.01, **settings}
    method = kind(data.meta, kind.Config(**small, epochs=epochs), seeded(0))
    method.fit(data, slot_for(method, data, loss), RefitRun(CPU, 0, "toy", epochs))
    predicted = method.scores(held.unseen_features, data.unseen).argmax(1) + data.n_seen
    return float((predicted == held.unseen_labels).float().mean())
