"""f-CLSWGAN's parts against slow versions, and that a short training on tiny data does what it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmark.api import TrainData
from benchmark.train import RefitRun
from losses import build
from methods.generative.blocks import gradient_penalty, mlp, train_softmax
from methods.generative.clswgan import CLSWGAN
from tests.unit.toy import CPU, make_split, make_train, seeded

STEP = 1e-5


def critic_value(parameters: list[Tensor], x: Tensor, attributes: Tensor) -> Tensor:
    first, second = parameters
    return torch.tanh(torch.cat([x, attributes], dim=1) @ first) @ second


def slow_penalty(parameters: list[Tensor], real: Tensor, fake: Tensor, attributes: Tensor, mix: Tensor) -> float:
    """Mean over i of (norm of the critic's gradient at mix_i real_i + (1 - mix_i) fake_i, minus 1)^2, no autograd."""
    total = 0.0
    for i in range(len(real)):
        between = mix[i] * real[i] + (1 - mix[i]) * fake[i]
        squares = 0.0
        for d in range(len(between)):
            ends = []
            for sign in (1, -1):
                moved = between.clone()
                moved[d] += sign * STEP
                ends.append(float(critic_value(parameters, moved[None], attributes[i : i + 1])))
            squares += ((ends[0] - ends[1]) / (2 * STEP)) ** 2
        total += (squares**0.5 - 1) ** 2
    return total / len(real)


class TestGradientPenalty:
    def case(self, seed: int) -> tuple[list[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]:
        generator = seeded(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        mix = torch.rand(4, 1, generator=generator, dtype=torch.float64)
        return [draw(5, 6), draw(6, 1)], (draw(4, 3), draw(4, 3), draw(4, 2), mix)

    @pytest.mark.parametrize("seed", range(5))
    def test_agrees_with_finite_differences(self, seed: int):
        parameters, inputs = self.case(seed)
        found = gradient_penalty(lambda x, a: critic_value(parameters, x, a), *inputs).detach()
        assert float(found) == pytest.approx(slow_penalty(parameters, *inputs), rel=1e-7)

    def test_so_does_its_gradient_in_the_weights(self):
        parameters, inputs = self.case(7)
        for parameter in parameters:
            parameter.requires_grad_()
        gradient_penalty(lambda x, a: critic_value(parameters, x, a), *inputs).backward()
        gradients = [parameter.grad for parameter in parameters]
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                assert gradient is not None
                for place in np.ndindex(*parameter.shape):
                    ends = []
                    for sign in (1, -2):
                        parameter[place] += sign * 1e-3
                        ends.append(slow_penalty(parameters, *inputs))
                    parameter[place] += 1e-3
                    assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-3, abs=1e-4)

    def test_a_critic_of_slope_one_has_none(self):
        _, (real, fake, attributes, mix) = self.case(0)
        direction = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
        assert float(gradient_penalty(lambda x, a: x @ direction[:, None], real, fake, attributes, mix)) < 1e-25
        assert float(gradient_penalty(lambda x, a: 3 * x @ direction[:, None], real, fake, attributes, mix)) == (
            pytest.approx(4)
        )

    def test_mix_is_the_share_of_the_real_ones(self):
        """Where the critic is steep at real features alone, only mix = 1 sees it."""
        real, fake = torch.ones(3, 2), -torch.ones(3, 2)

        def critic(x: Tensor, attributes: Tensor) -> Tensor:
            return 5 * x.clamp(min=0).sum(1, keepdim=True)

        steep, flat = (gradient_penalty(critic, real, fake, real, torch.full((3, 1), share)) for share in (1.0, 0.0))
        assert float(steep) == pytest.approx((5 * 2**0.5 - 1) ** 2, rel=1e-6)
        assert float(flat) == pytest.approx(1)


def test_networks_are_as_described():
    net = mlp([3, 5, 2], seeded(0), torch.nn.ReLU())
    assert [type(layer).__name__ for layer in net] == ["Linear", "LeakyReLU", "Linear", "ReLU"]
    assert net[1].negative_slope == 0.2
    assert [type(layer).__name__ for layer in mlp([3, 5, 1], seeded(0))] == ["Linear", "LeakyReLU", "Linear"]
    wide = mlp([400, 300, 1], seeded(0))
    assert float(wide[0].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not wide[0].bias.any()


def test_softmax_comes_near_logistic_regression():
    generator = seeded(0)
    labels = torch.arange(600) % 4
    centres = 1.5 * torch.randn(4, 6, generator=generator)
    features = centres[labels] + torch.randn(600, 6, generator=generator)
    train, test = slice(0, 400), slice(400, None)
    layer = train_softmax(features[train], labels[train], 4, epochs=60, lr=0.02, batch_size=50, generator=seeded(1))
    assert not any(p.requires_grad for p in layer.parameters())
    accuracy = float((layer(features[test]).argmax(1) == labels[test]).float().mean())
    reference = LogisticRegression().fit(features[train], labels[train]).score(features[test], labels[test])
    assert 0.6 < reference < 0.99  # neither hopeless nor trivial
    assert accuracy >= reference - 0.03


# Tiny training --------------------------------------------------------------------------------------------------------


def trained(data: TrainData, loss_name: str | None, epochs: int = 1, **changes: Any) -> CLSWGAN:
    settings = {
        "hidden": 32,
        "lr": 1e-3,
        "batch_size": 16,
        "critic_steps": 2,
        "n_generated": 20,
        "classifier_epochs": 5,
    }
    method = CLSWGAN(data.meta, CLSWGAN.Config(**{**settings, **changes}, epochs=epochs), seeded(0))
    loss = build(loss_name, n_classes=data.n_seen, n_attributes=data.meta.n_attributes) if loss_name else None
    method.fit(data, loss, RefitRun(CPU, 0, "toy", epochs))
    return method


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(a.state_dict()[key], b.state_dict()[key]) for key in a.state_dict())


class TestRegressor:
    data, held = make_train(preprocess="minmax")

    def test_without_a_loss_there_is_none(self):
        method = trained(self.data, None)
        fresh = CLSWGAN(self.data.meta, method.config, seeded(0))
        assert same(method.regressor, fresh.regressor)
        assert not same(method.generator, fresh.generator)
        assert method.semantics(self.held.seen_features) is None

    def test_with_one_it_learns_attributes(self):
        method = trained(self.data, "mse", regressor_epochs=100, regressor_lr=0.01)
        fresh = CLSWGAN(self.data.meta, method.config, seeded(0))
        loss = build("mse", n_classes=self.data.n_seen, n_attributes=self.data.meta.n_attributes)
        x, y = self.held.seen_features, self.held.seen_labels
        predicted = method.semantics(x)
        assert predicted is not None
        target = self.data.attributes[y]
        mean = self.data.attributes[: self.data.n_seen].mean(0).expand_as(target)
        after = float(loss(predicted.detach(), target, y))
        assert after < 0.5 * float(loss(fresh.regressor(x).detach(), target, y))
        assert after < 0.5 * float(loss(mean, target, y))  # better than a guess

    def test_it_is_frozen_while_the_generator_learns(self):
        short, long = trained(self.data, "mse", 1), trained(self.data, "mse", 3)
        assert same(short.regressor, long.regressor)
        assert not same(short.generator, long.generator)

    def test_the_cycle_term_reaches_the_generator_by_its_weight_alone(self):
        none, zero, some = (
            trained(self.data, loss, 2, regression_weight=weight)
            for loss, weight in ((None, 1.0), ("mse", 0.0), ("mse", 10.0))
        )
        assert same(none.generator, zero.generator)  # to the bit: the regressor's draws move no other
        assert not same(none.generator, some.generator)
        x, y = some.generate(self.data.attributes[self.data.labels], seeded(9)), self.data.labels
        before = none.generate(self.data.attributes[self.data.labels], seeded(9))
        loss = build("mse", n_classes=self.data.n_seen, n_attributes=self.data.meta.n_attributes)
        errors = [float(loss(some.regressor(features).detach(), self.data.targets, y)) for features in (x, before)]
        assert errors[0] < errors[1]

    def test_everything_can_be_trained_again_afterwards(self):
        method = trained(self.data, "mse")
        assert all(p.requires_grad for net in (method.generator, method.critic) for p in net.parameters())


@pytest.fixture(scope="module")
def few_classes() -> tuple[TrainData, CLSWGAN]:
    """Few classes that lie apart, and a generator that had time to tell them."""
    data, _ = make_train(make_split(3, n_seen=7, per_class=30, noise=0.05), preprocess="minmax")
    return data, trained(data, None, 60, critic_steps=5, hidden=256, lr=3e-3)


class TestGenerator:
    def test_a_generated_feature_is_near_its_own_class(self, few_classes: tuple[TrainData, CLSWGAN]):
        data, method = few_classes
        means = torch.stack([data.features[data.labels == c].mean(0) for c in range(data.n_seen)])
        labels = data.seen.repeat_interleave(40)

        def share(of: CLSWGAN) -> float:
            generated = of.generate(data.attributes[labels], seeded(5)).detach()
            assert (generated >= 0).all()
            return float((torch.cdist(generated, means).argmin(1) == labels).float().mean())

        assert share(method) > 0.6  # chance: 0.2
        assert share(CLSWGAN(data.meta, method.config, seeded(0))) < 0.4

    def test_noise_makes_them_differ(self, few_classes: tuple[TrainData, CLSWGAN]):
        data, method = few_classes
        attributes = data.attributes[[0, 0, 0]]
        one, again, other = (method.generate(attributes, seeded(seed)).detach() for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert not torch.equal(one[0], one[1])

    def test_a_linear_output_has_either_sign(self, few_classes: tuple[TrainData, CLSWGAN]):
        data, method = few_classes
        linear = CLSWGAN(data.meta, method.config.model_copy(update={"output": "linear"}), seeded(0))
        assert (linear.generate(data.attributes, seeded(1)) < 0).any()

    def test_columns_are_the_classes_that_are_asked_for(self, few_classes: tuple[TrainData, CLSWGAN]):
        data, method = few_classes
        x, unseen, everything = data.features, data.unseen, torch.arange(len(data.attributes))
        assert torch.equal(method.scores(x, unseen.flip(0)), method.scores(x, unseen).flip(1))
        assert torch.equal(method.scores(x, everything.flip(0)), method.scores(x, everything).flip(1))
        assert method.scores(x, everything).shape == (len(x), len(everything))

    def test_unseen_classes_are_recognised(self):
        split = make_split(3, n_seen=24, n_unseen=4, n_attributes=4, per_class=20, noise=0.05)
        data, held = make_train(split, preprocess="minmax")
        settings = {"critic_steps": 5, "hidden": 256, "lr": 3e-3, "classifier_epochs": 40, "classifier_lr": 0.01}
        method = trained(data, None, 15, **settings)
        scores = method.scores(held.unseen_features, data.unseen)
        assert scores.shape == (len(held.unseen_labels), 4)
        accuracy = (scores.argmax(1) + data.n_seen == held.unseen_labels).float().mean()
        assert float(accuracy) > 0.5  # chance: 0.25
