"""CE-GZSL's objectives and gradients against loops from its formulas, and a short training on tiny data."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Method, RegressionLoss, TrainData
from benchmark.train import RefitRun
from losses import build
from methods.generative import _adversarial
from methods.generative._blocks import FeatureGenerator, PairNet
from methods.generative.cegzsl import CEGZSL, supervised_contrast
from tests.golden.test_dem import slow_layer
from tests.unit.toy import CPU, class_loss, dot, make_float64, make_split, make_train, rankings, seeded, slow_class_loss

Row = list[float]
CLASSIFIERS = {"zsl_classifier", "gzsl_classifier"}

# What the tests of other methods that descend on several objectives share ---------------------------------------------


@dataclass(frozen=True)
class Descent:
    """One call of ``descend``.

    Attributes:
        value: of the objective.
        gradients: of what the optimiser holds, by name; zeros where the objective does not depend on it.
        reached: the modules that the objective depends on, held or not.
        optimizer: the one that would take the step.
    """

    value: float
    gradients: dict[str, Tensor]
    reached: set[str]
    optimizer: torch.optim.Optimizer

    @property
    def held(self) -> set[str]:
        """The modules that the optimiser holds; not the classifiers, which no objective reaches."""
        assert not self.reached & CLASSIFIERS
        return {name.split(".")[0] for name in self.gradients} - CLASSIFIERS


def descents(method: Any, data: TrainData, batch: TrainData, loss: RegressionLoss | None, epoch: int) -> list[Descent]:
    """What the method descends on for one ``batch``, in this order; no step is taken."""
    names = {p: name for name, p in [*method.named_parameters(), *(loss.named_parameters("loss") if loss else ())]}
    found = []

    def note(value: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        of_all = torch.autograd.grad(value, list(names), retain_graph=True, allow_unused=True)
        slopes = dict(zip(names, of_all, strict=True))
        held = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = {names[p]: torch.zeros_like(p) if slopes[p] is None else slopes[p] for p in held}
        reached = {names[p].split(".")[0] for p in names if slopes[p] is not None}
        found.append(Descent(value.item(), gradients, reached, optimizer))
        return value.detach()

    with pytest.MonkeyPatch.context() as patch:
        for module in (sys.modules[type(method).__module__], _adversarial):
            patch.setattr(module, "descend", note)
        method.prepare(data, loss, RefitRun(CPU, 0, "toy", 1))(batch.features, batch.labels, epoch)
    return found


def check_descent(method: Method, descent: Descent, slow: Callable[[], float], *held: str) -> None:
    """The value is that of ``slow``; the optimiser holds all of the modules ``held``; gradients are its slopes."""
    assert descent.value == pytest.approx(slow(), rel=1e-10)
    assert descent.held == set(held)
    step = 1e-6
    for name, parameter in method.named_parameters():
        if name.split(".")[0] not in held:
            continue
        values = parameter.detach()  # shares its memory with the parameter
        for place in np.ndindex(*values.shape):
            ends = []
            for move in (step, -2 * step):
                values[place] += move
                ends.append(slow())
            values[place] += step
            slope = (ends[0] - ends[1]) / (2 * step)
            assert descent.gradients[name][place].item() == pytest.approx(slope, rel=1e-6, abs=1e-7), (name, place)
    for module in held:
        assert any(g.abs().max() > 1e-3 for name, g in descent.gradients.items() if name.split(".")[0] == module)


def lively(method: Any) -> Any:
    """The method in float64, with weights and biases so large that no term is lost beside another."""
    method.double()
    generator = seeded(1)
    for parameter in method.parameters():
        parameter.data = 0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return method


def make_batch() -> tuple[TrainData, TrainData]:
    """Training data of four seen and two unseen classes; a batch without one seen class, and one image of another."""
    data = make_float64(n=9, d=3, a=2, n_seen=4)
    images = [5, 0, 2, 8, 1, 4]
    batch = TrainData(data.features[images], data.labels[images], data.attributes, data.n_seen)
    assert batch.labels.tolist() == [1, 0, 2, 0, 1, 0]
    return data, batch


def learning_loss(data: TrainData) -> RegressionLoss:
    """A loss that learns a parameter of its own."""
    return build("balanced-mse", n_classes=data.n_seen, n_attributes=data.meta.n_attributes).double()


def leaky(x: Row) -> Row:
    return [h if h > 0 else 0.2 * h for h in x]


def slow_mlp(net: Any, x: Row) -> Row:
    """Two linear layers with a LeakyReLU between them."""
    return slow_layer(net[2], leaky(slow_layer(net[0], x)))


def slow_generator(generator: FeatureGenerator, noise: Row, attributes: Row) -> Row:
    x = slow_layer(generator.last, leaky(slow_layer(generator.first, noise + attributes)))
    return [max(0.0, d) for d in x] if generator.output == "relu" else x


def slow_pair(net: PairNet, x: Row, attributes: Row) -> float:
    """The score of one pair."""
    parts = slow_layer(net.of_features, x), slow_layer(net.of_attributes, attributes)
    return slow_layer(net.last, leaky([p + q for p, q in zip(*parts, strict=True)]))[0]


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
    method.fit(data, loss, RefitRun(CPU, 0, "toy", epochs))
    predicted = method.scores(held.unseen_features, data.unseen).argmax(1) + data.n_seen
    return float((predicted == held.unseen_labels).float().mean())


# The contrast of images -----------------------------------------------------------------------------------------------


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


@given(rankings(), st.sampled_from([0.1, 0.7, 5.0]))
def test_the_contrast_of_images_agrees_with_the_loops(case: tuple[Tensor, Tensor], temperature: float):
    z, labels = F.normalize(case[0], dim=1), case[1]
    expected = slow_contrast(z.tolist(), labels.tolist(), temperature)
    assert supervised_contrast(z, labels, temperature).item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_worked_example():
    # Images 0 and 1 have each other; to 0, image 2 is as near as image 1, hence log 2; to 1 it is opposite, hence
    # log(1 + 1/e^2). Image 2 has no positive and is no part of the mean.
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert supervised_contrast(z, torch.tensor([4, 4, 1]), 0.5).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_its_gradient_agrees_with_finite_differences(seed: int):
    z = F.normalize(torch.randn(5, 3, generator=seeded(seed), dtype=torch.float64), dim=1).requires_grad_()
    labels = torch.tensor([0, 1, 0, 2, 0])
    supervised_contrast(z, labels, 0.3).backward()
    assert z.grad is not None
    for i, d in itertools.product(range(5), range(3)):
        ends = []
        for move in (1e-6, -1e-6):
            moved = z.detach().clone()
            moved[i, d] += move
            ends.append(slow_contrast(moved.tolist(), labels.tolist(), 0.3))
        assert z.grad[i, d].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("labels", [[0, 1, 2], [5]])
def test_without_any_positive_it_is_zero_with_a_zero_gradient(labels: list[int]):
    z = torch.eye(3)[: len(labels)].requires_grad_()
    value = supervised_contrast(z, torch.tensor(labels), 0.1)
    value.backward()
    assert value == 0
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros_like(z))


# The objectives -------------------------------------------------------------------------------------------------------


def make_method(data: TrainData, **settings: Any) -> Any:
    config: Any = {
        "hidden": 3,
        "embedding": 4,
        "projection": 3,
        "critic_steps": 2,
        "penalty_weight": 2.0,
        "temperature": 0.4,
        "class_temperature": 0.7,
        "instance_weight": 0.6,
        "class_weight": 1.7,
        **settings,
    }
    return lively(CEGZSL(data.meta, CEGZSL.Config(**config), seeded(0)))


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


def slow_embedding(method: Any, x: Row) -> Row:
    return [max(0.0, h) for h in slow_layer(method.embedding, x)]


def slow_projection(method: Any, x: Row) -> Row:
    z = slow_layer(method.projection, slow_embedding(method, x))
    return [v / math.sqrt(dot(z, z)) for v in z]


def slow_class_contrast(method: Any, h: list[Row], batch: TrainData) -> float:
    """Cross-entropy of the comparator's scores of the seen classes."""
    total = 0.0
    for row, y in zip(h, batch.labels.tolist(), strict=True):
        seen = batch.attributes[: batch.n_seen].tolist()
        scores = [slow_pair(method.comparator, row, a) / method.config.class_temperature for a in seen]
        total -= math.log(math.exp(scores[y]) / sum(math.exp(s) for s in scores))
    return total / len(h)


def slow_regression(method: Any, h: list[Row], batch: TrainData, weight: float | None) -> float:
    return weight * slow_class_loss([slow_layer(method.decoder, row) for row in h], batch) if weight else 0.0


def slow_embedding_objective(method: Any, batch: TrainData, weight: float | None) -> float:
    real = batch.features.tolist()
    h, z = [slow_embedding(method, x) for x in real], [slow_projection(method, x) for x in real]
    value = slow_contrast(z, batch.labels.tolist(), method.config.temperature)
    return value + slow_class_contrast(method, h, batch) + slow_regression(method, h, batch, weight)


def slow_fake(method: Any, batch: TrainData, noise: Tensor) -> list[Row]:
    rows = zip(noise.tolist(), batch.targets.tolist(), strict=True)
    return [slow_generator(method.generator, row, a) for row, a in rows]


def slow_generator_objective(method: Any, batch: TrainData, weight: float | None, noise: Tensor) -> float:
    config, labels = method.config, batch.labels.tolist()
    fake = slow_fake(method, batch, noise)
    pairs = zip(fake, batch.targets.tolist(), strict=True)
    value = -sum(slow_mlp(method.critic.net, x + a)[0] for x, a in pairs) / len(fake)
    z = [slow_projection(method, x) for x in fake + batch.features.tolist()]
    value += config.instance_weight * slow_contrast(z, labels + labels, config.temperature)
    h = [slow_embedding(method, x) for x in fake]
    return (
        value + config.class_weight * slow_class_contrast(method, h, batch) + slow_regression(method, h, batch, weight)
    )


@pytest.mark.parametrize("output", ["relu", "linear"])
@pytest.mark.parametrize("weight", [None, 2.5])
def test_every_objective_and_its_gradient(weight: float | None, output: str):
    data, batch = make_batch()
    method = make_method(data, output=output, regression_weight=weight or 0.0)
    *critic, embedding, generator = descents(method, data, batch, class_loss(data, weight), 1)
    noise = RefitRun(CPU, 0, "toy", 1).generator("noise")
    assert len(critic) == 2
    for descent in critic:
        fake = slow_fake(method, batch, torch.randn(6, 2, generator=noise))
        mix = torch.rand(6, 1, generator=noise).flatten().tolist()
        check_descent(method, descent, partial(slow_critic_objective, method, batch, fake, mix), "critic")
        assert descent.reached == {"critic"}
    parts = ["embedding", "projection", "comparator"] + (["decoder"] if weight else [])
    check_descent(method, embedding, partial(slow_embedding_objective, method, batch, weight), *parts)
    assert embedding.reached == set(parts)
    drawn = torch.randn(6, 2, generator=noise)
    check_descent(method, generator, partial(slow_generator_objective, method, batch, weight, drawn), "generator")


def test_a_regression_weight_of_0_leaves_the_objectives_of_no_loss():
    data, batch = make_batch()
    method = make_method(data, regression_weight=0.0)
    for without, zero in zip(
        *(descents(method, data, batch, class_loss(data, w), 1) for w in (None, 0.0)), strict=True
    ):
        assert without.value == zero.value
        for name, gradient in without.gradients.items():
            assert torch.equal(gradient, zero.gradients[name])


def test_what_the_loss_learns_is_trained_with_the_embedding():
    data, batch = make_batch()
    *critic, embedding, generator = descents(make_method(data), data, batch, learning_loss(data), 1)
    assert "loss" in embedding.held
    assert embedding.gradients["loss.log_noise"].abs() > 1e-3
    assert not any("loss" in descent.held for descent in [*critic, generator])


def test_steps_are_taken_with_the_published_betas():
    data, batch = make_batch()
    for descent in descents(make_method(data, lr=0.02), data, batch, None, 1):
        (group,) = descent.optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.02, (0.5, 0.999), 0)


def test_images_are_classified_and_regressed_from_the_embedding():
    data, batch = make_batch()
    method = make_method(data)
    assert method.represent(batch.features).tolist() == [
        pytest.approx(slow_embedding(method, x), abs=1e-12) for x in batch.features.tolist()
    ]
    descents(method, data, batch, class_loss(data, 1.0), 1)
    found = method.semantics(batch.features)
    assert found is not None
    for x, row in zip(batch.features.tolist(), found.tolist(), strict=True):
        assert row == pytest.approx(slow_layer(method.decoder, slow_embedding(method, x)), abs=1e-12)
    descents(method, data, batch, None, 1)
    assert method.semantics(batch.features) is None


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    settings: Any = {"hidden": 256, "embedding": 64, "projection": 32, "lr": 3e-3, "output": "linear"}
    assert unseen_accuracy(CEGZSL, loss_name, 15, **settings) > 0.5
