"""What the tests of f-VAEGAN-D2 and of the methods that grew from it share: its terms by loops, and what is stepped."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api import RegressionLoss, TrainData
from benchmark.train import RefitRun
from methods.generative import _adversarial
from methods.generative._blocks import FeatureGenerator
from tests.golden.test_cadavae import slow_code, slow_divergence, slow_encoding
from tests.golden.test_cegzsl import Descent, Row, leaky, lively, make_batch, slow_critic_objective, slow_mlp
from tests.golden.test_dem import slow_layer
from tests.unit.toy import CPU, class_loss, dot, seeded, slow_class_loss

#: Decodes codes (B, Z), drawn as standard normal noise: to features, and the mean divergence of the codes.
Rebuild = Callable[[Tensor], tuple[list[Row], float]]

# Methods and data -----------------------------------------------------------------------------------------------------


def make_method(kind: type[Any], data: TrainData, **settings: Any) -> Any:
    """A tiny method in float64 of which no term is lost beside another."""
    config = {
        "hidden": 3,
        "output": "linear",
        "critic_steps": 2,
        "penalty_weight": 2.0,
        "adversarial_weight": 1.3,
        "regression_weight": 2.5,
        **settings,
    }
    return lively(kind(data.meta, kind.Config(**config), seeded(0)))


def make_scaled_batch(output: str) -> tuple[TrainData, TrainData]:
    """``make_batch``, with features in [0, 1] where the ``output`` is."""
    data, batch = make_batch()
    if output != "sigmoid":
        return data, batch
    low, high = data.features.amin(0), data.features.amax(0)
    whole, part = (replace(some, features=(some.features - low) / (high - low)) for some in (data, batch))
    return whole, part


def noise_of_a_run() -> torch.Generator:
    """As the method gets it in ``descents``."""
    return RefitRun(CPU, 0, "toy", 1).generator("noise")


def draw(batch: TrainData, noise: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """As many numbers as codes have: one for each image and attribute."""
    return torch.randn(batch.targets.shape, generator=noise, dtype=dtype)


# What is stepped ------------------------------------------------------------------------------------------------------


def parameters_of(method: nn.Module, loss: RegressionLoss | None) -> dict[str, nn.Parameter]:
    return dict([*method.named_parameters(), *(loss.named_parameters("loss") if loss else ())])


def recorder(method: nn.Module, loss: RegressionLoss | None, found: list[Descent]) -> Callable[..., Tensor]:
    """Stands in for ``descend`` and takes no step; several optimisers appear as one that has the groups of all."""

    def note(value: Tensor, *optimizers: torch.optim.Optimizer) -> Tensor:
        learnt = {name: p for name, p in parameters_of(method, loss).items() if p.requires_grad}
        of_all = torch.autograd.grad(value, list(learnt.values()), retain_graph=True, allow_unused=True)
        slopes = {name: slope for name, slope in zip(learnt, of_all, strict=True) if slope is not None}
        joined = torch.optim.Adam([dict(group) for optimizer in optimizers for group in optimizer.param_groups])
        held = {id(p) for group in joined.param_groups for p in group["params"]}
        names = [name for name, p in learnt.items() if id(p) in held]
        assert len(names) == len(held)  # nothing is stepped that is frozen
        gradients = {name: slopes.get(name, torch.zeros_like(learnt[name])) for name in names}
        found.append(Descent(value.item(), gradients, {name.split(".")[0] for name in slopes}, joined))
        return value.detach()

    return note


def descents(
    method: Any, data: TrainData, batch: TrainData, loss: RegressionLoss | None, epoch: int = 1
) -> tuple[list[Descent], dict[str, float]]:
    """What a ``batch`` descends on, in this order, and what it logs; what ``prepare`` trains beforehand is trained."""
    found: list[Descent] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (sys.modules[type(method).__module__], _adversarial):
            patch.setattr(module, "descend", recorder(method, loss, found))
        step = method.prepare(data, loss, RefitRun(CPU, 0, "toy", 1))
        logged = step(batch.features, batch.labels, epoch)
    return found, {name: value.item() for name, value in logged.items()}


def moved(method: Any, data: TrainData, batch: TrainData, loss: RegressionLoss | None, epoch: int = 1) -> set[str]:
    """The modules that one real step moves; not those that ``prepare`` alone trains."""
    step = method.prepare(data, loss, RefitRun(CPU, 0, "toy", 1))
    before = {name: p.detach().clone() for name, p in parameters_of(method, loss).items()}
    step(batch.features, batch.labels, epoch)
    after = parameters_of(method, loss)
    return {name.split(".")[0] for name, p in before.items() if not torch.equal(p, after[name])}


def learning_rates(method: nn.Module, descent: Descent) -> dict[str, float]:
    """Of what is stepped, by module."""
    names = {id(p): name.split(".")[0] for name, p in method.named_parameters()}
    rates: dict[str, float] = {}
    for group in descent.optimizer.param_groups:
        assert (group["betas"], group["weight_decay"]) == ((0.5, 0.999), 0)
        for p in group["params"]:
            assert rates.setdefault(names[id(p)], group["lr"]) == group["lr"]
    return rates


def check_critics(
    method: Any, batch: TrainData, critics: list[Descent], rebuild: Rebuild, noise: torch.Generator
) -> None:
    """Each step of the critic is between the images and reconstructions of them, drawn anew."""
    assert len(critics) == method.config.critic_steps
    for critic in critics:
        fake, _ = rebuild(draw(batch, noise))
        mix = torch.rand(len(batch.labels), 1, generator=noise).flatten().tolist()
        assert critic.value == pytest.approx(slow_critic_objective(method, batch, fake, mix), rel=1e-10)
        assert critic.held == critic.reached == {"critic"}


def check_the_critics_weight(kind: type[Any], **settings: Any) -> None:
    """Which critic there is moves the gradient of the generator's objective, unless its weight is 0."""
    data, batch = make_batch()
    for weight in (0.0, 0.5):
        gradients = []
        for scale in (1, 2):
            method = make_method(kind, data, adversarial_weight=weight, **settings)
            method.critic.net[2].weight.data *= scale
            gradients.append(descents(method, data, batch, class_loss(data, 1.0))[0][-1].gradients)
        one, other = gradients
        differ = {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}
        assert differ == ({"encoder", "generator"} if weight else set())


def check_classifiers(
    method: Any, data: TrainData, represent: Callable[[Row], Row], generate: Callable[[Row, Row], Row]
) -> None:
    """The classifiers take and score what slow code makes of real images and of (noise, attributes) of unseen classes.

    Args:
        method: with three images generated for each of the two unseen classes.
        data: the training data.
        represent: features to what classifiers take.
        generate: noise and attributes to features.
    """
    inputs, labels = method.classifier_data(data, seeded(5))
    unseen = [data.n_seen] * 3 + [data.n_seen + 1] * 3
    assert labels.tolist() == data.labels.tolist() + unseen
    noise = torch.randn(6, data.meta.n_attributes, generator=seeded(5)).tolist()
    generated = [generate(row, data.attributes[y].tolist()) for row, y in zip(noise, unseen, strict=True)]
    expected = [represent(x) for x in data.features.tolist() + generated]
    assert inputs.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]
    for layer, classes in ((method.zsl_classifier, [5, 4]), (method.gzsl_classifier, [5, 0, 2, 3, 4, 1])):
        scores = method.scores(data.features, torch.tensor(classes)).tolist()
        first = data.n_seen if len(classes) == 2 else 0
        for x, found in zip(data.features.tolist(), scores, strict=True):
            of_all = slow_layer(layer, represent(x))
            assert found == pytest.approx([of_all[c - first] for c in classes], abs=1e-12)


# Terms ----------------------------------------------------------------------------------------------------------------


def slow_sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_generated(generator: FeatureGenerator, code: Row, attributes: Row, addition: Row | None = None) -> Row:
    """Features; an ``addition`` is to the hidden layer."""
    hidden = leaky(slow_layer(generator.first, code + attributes))
    if addition is not None:
        hidden = [h + f for h, f in zip(hidden, addition, strict=True)]
    x = slow_layer(generator.last, hidden)
    if generator.output == "sigmoid":
        return [slow_sigmoid(v) for v in x]
    return [max(0.0, v) for v in x] if generator.output == "relu" else x


def slow_rebuild(
    method: Any, batch: TrainData, noise: Tensor, additions: list[Row] | None = None
) -> tuple[list[Row], float]:
    """Features decoded from a code drawn for each image, and the mean divergence of the codes."""
    fake, divergence = [], 0.0
    for i, (x, a, e) in enumerate(zip(batch.features.tolist(), batch.targets.tolist(), noise.tolist(), strict=True)):
        gaussian = slow_encoding(method.encoder, x + a)
        divergence += slow_divergence(gaussian) / len(noise)
        fake.append(slow_generated(method.generator, slow_code(gaussian, e), a, additions[i] if additions else None))
    return fake, divergence


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


def slow_vaegan(method: Any, batch: TrainData, fake: list[Row], divergence: float) -> float:
    """Reconstruction + KL - adversarial_weight * mean D."""
    pairs = zip(fake, batch.targets.tolist(), strict=True)
    criticism = sum(slow_mlp(method.critic.net, x + a)[0] for x, a in pairs) / len(fake)
    config = method.config
    return slow_reconstruction(fake, batch, config.output) + divergence - config.adversarial_weight * criticism


def slow_error(predicted: list[Row], batch: TrainData, with_loss: bool) -> float:
    """Of attributes: ``ClassLoss``, or the published self-weighted error, which is mean sum |e|^3 / ||e||."""
    if with_loss:
        return slow_class_loss(predicted, batch)
    total = 0.0
    for row, target in zip(predicted, batch.targets.tolist(), strict=True):
        errors = [p - t for p, t in zip(row, target, strict=True)]
        total += sum(abs(e) ** 3 for e in errors) / math.sqrt(dot(errors, errors))
    return total / len(predicted)
