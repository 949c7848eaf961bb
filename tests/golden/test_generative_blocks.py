"""What the feature-generating methods share, against slow versions: networks, critic, Gaussians and synthesis."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, Run, Slot, TrainData
from benchmark.engine.protocol import HeldOut
from benchmark.engine.runs import RefitRun, SelectionRun
from benchmark.toolkit import descend, linear
from benchmark.toolkit.self_weighted import self_weighted_error
from methods import _softmax
from methods._softmax import train_softmax
from methods.generative import _adversarial, _synthesis
from methods.generative._adversarial import (
    Adversary,
    ClassificationSettings,
    Critic,
    CriticSettings,
    classifying_wgan,
    gan,
)
from methods.generative._blocks import FeatureGenerator, Output, PairNet, SemanticDecoder, adam, mlp
from methods.generative._synthesis import (
    CycleSettings,
    GenerativeConfig,
    GenerativeMethod,
    Round,
    Term,
    cycle_term,
)
from methods.generative._variational import (
    AutoencoderSettings,
    Deviation,
    GaussianEncoder,
    Noise,
    autoencode,
    autoencoding_gan,
    kl_divergence,
    reconstruct,
    reconstruction_error,
    sample,
)
from methods.generative.clswgan import CLSWGAN
from tests.reference.generative import (
    RecordingLoss,
    Row,
    first_run,
    leaky,
    learning_loss,
    lively,
    make_batch,
    make_scaled_batch,
    normal,
    same,
    slopes,
    slow_adam,
    slow_code,
    slow_critic_objective,
    slow_divergence,
    slow_error,
    slow_features,
    slow_mlp,
    slow_reconstruction,
    trained,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import CPU, class_slot, dot, make_train, seeded, slow_class_loss
from tests.reference.wgan import check_wgan, make_wgan, wgan_descents

# Networks -------------------------------------------------------------------------------------------------------------


def test_networks_are_as_described():
    net: Any = mlp([3, 5, 2, 1], seeded(0))
    assert [type(layer).__name__ for layer in net] == ["Linear", "LeakyReLU", "Linear", "LeakyReLU", "Linear"]
    assert [layer.negative_slope for layer in net[1::2]] == [0.2, 0.2]
    assert [tuple(layer.weight.shape) for layer in net[::2]] == [(5, 3), (2, 5), (1, 2)]
    wide: Any = mlp([400, 300, 1], seeded(0))
    assert float(wide[0].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not wide[0].bias.any()


def test_an_mlp_agrees_with_the_loops():
    net, x = mlp([3, 5, 2], seeded(0)).double(), normal(0, 4, 3)
    found = net(100 * x)  # so that the weights' scale of 0.02 leaves either sign
    assert found.tolist() == [pytest.approx(slow_mlp(net, row), abs=1e-12) for row in (100 * x).tolist()]


class TestFeatureGenerator:
    def make(self, output: Output = "linear") -> Any:
        return lively(FeatureGenerator(2, 3, 5, 4, output, seeded(0)))

    @pytest.mark.parametrize("output", ["relu", "sigmoid", "linear"])
    @pytest.mark.parametrize("with_feedback", [True, False])
    def test_agrees_with_the_loops(self, output: Output, with_feedback: bool):
        generator, noise, attributes = self.make(output), normal(0, 6, 2), normal(1, 6, 3)
        feedback = normal(2, 6, 5) if with_feedback else None
        expected = slow_features(generator, noise, attributes, feedback)
        found = generator(noise, attributes, feedback)
        assert found.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]
        assert any(v < 0 for row in expected for v in row) == (output == "linear")

    def test_the_feedback_carries_a_gradient(self):
        generator, noise, attributes = self.make("sigmoid"), normal(0, 2, 2), normal(1, 2, 3)
        feedback = normal(2, 2, 5).requires_grad_()
        generator(noise, attributes, feedback).sum().backward()
        values = feedback.detach()
        expected = slopes(values, lambda: sum(map(sum, slow_features(generator, noise, attributes, values))))
        assert feedback.grad is not None
        assert torch.allclose(feedback.grad, expected, rtol=0, atol=1e-8)

    def test_noise_is_standard_normal_with_a_row_for_each_image(self):
        attributes = torch.zeros(100_000, 3)
        one, again, other = (self.make().draw(attributes, seeded(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert one.mean(0).tolist() == pytest.approx([0, 0], abs=0.02)
        assert torch.allclose(torch.cov(one.T), torch.eye(2), atol=0.02)


def test_a_pair_net_agrees_with_the_concatenated_pairs():
    net, x, attributes = lively(PairNet(3, 2, 5, seeded(0))), normal(0, 4, 3), normal(1, 6, 2)
    weight = torch.cat([net.of_features.weight, net.of_attributes.weight], dim=1).tolist()
    bias = (net.of_features.bias + net.of_attributes.bias).tolist()
    found = net(x, attributes).tolist()
    assert len(found) == 4
    for row, values in zip(x.tolist(), found, strict=True):
        for a, value in zip(attributes.tolist(), values, strict=True):
            hidden = leaky([dot(w, row + a) + b for w, b in zip(weight, bias, strict=True)])
            assert value == pytest.approx(dot(net.last.weight[0].tolist(), hidden) + net.last.bias.item(), abs=1e-12)


def test_a_semantic_decoder_agrees_with_the_loops():
    net, x = lively(SemanticDecoder(3, 5, 2, seeded(0))), normal(0, 4, 3)
    hidden = [leaky(slow_layer(net.first, row)) for row in x.tolist()]
    assert net.hidden(x).tolist() == [pytest.approx(row, abs=1e-12) for row in hidden]
    assert net(x).tolist() == [pytest.approx(slow_layer(net.last, row), abs=1e-12) for row in hidden]


class TestSelfWeightedError:
    @pytest.mark.parametrize("seed", range(5))
    def test_it_and_its_gradient_agree_with_the_loops(self, seed: int):
        """The norm carries gradient too."""
        predicted, target = normal(seed, 4, 3).requires_grad_(), normal(seed + 10, 4, 3)
        value = self_weighted_error(predicted, target)
        value.backward()
        values, batch = predicted.detach(), TrainData(target, torch.arange(4), target, 4)

        def slow() -> float:
            return slow_error(values.tolist(), batch, with_loss=False)

        assert value.item() == pytest.approx(slow(), rel=1e-12)
        assert predicted.grad is not None
        assert torch.allclose(predicted.grad, slopes(values, slow), rtol=0, atol=1e-8)

    def test_worked_example(self):
        # (27 + 64) / 5 and 8 / 2.
        error = torch.tensor([[3.0, -4.0], [0.0, 2.0]])
        assert self_weighted_error(error + 1, torch.ones(2, 2)).item() == pytest.approx((91 / 5 + 4) / 2)

    def test_without_an_error_it_is_zero_with_a_zero_gradient(self):
        predicted = torch.ones(2, 3, requires_grad=True)
        value = self_weighted_error(predicted, torch.ones(2, 3))
        value.backward()
        assert value == 0
        assert predicted.grad is not None
        assert torch.equal(predicted.grad, torch.zeros(2, 3))


# Optimisers -----------------------------------------------------------------------------------------------------------


def numbers(*values: float) -> nn.ParameterList:
    return nn.ParameterList(torch.tensor(value, dtype=torch.float64) for value in values)


class TestAdam:
    @pytest.mark.parametrize("betas", [None, (0.9, 0.99)])
    def test_all_modules_and_groups_are_stepped_by_the_formula(self, betas: tuple[float, float] | None):
        first, second, third, learned = numbers(1.0), numbers(-2.0, 3.0), numbers(0.5), numbers(4.0)
        groups: Any = [{"params": list(third)}, {"params": list(learned), "lr": 0.01}]
        optimizer = adam(0.1, first, second, groups=groups, **({"betas": betas} if betas else {}))
        parts = [(copy.deepcopy(part), part) for part in (first, second, third, learned)]

        def value(part: nn.ParameterList) -> Tensor:
            return torch.stack([p**4 + p for p in part]).sum()

        for _ in range(3):
            optimizer.zero_grad()
            torch.stack([value(part) for _, part in parts]).sum().backward()
            optimizer.step()
        for start, part in parts:
            lr = 0.01 if part is learned else 0.1
            slow_adam(start, partial(lambda net: value(net).item(), start), lr, betas or (0.5, 0.999), 3)
            assert [p.item() for p in part] == pytest.approx([p.item() for p in start], abs=1e-6)


class TestDescend:
    def test_it_steps_and_returns_the_value_before(self):
        x = numbers(3.0)
        value = descend(x[0] ** 2, torch.optim.SGD(x, lr=0.1))
        assert value == 9
        assert not value.requires_grad
        assert x[0].item() == pytest.approx(3 - 0.1 * 6)

    def test_gradients_do_not_add_up(self):
        x = numbers(3.0)
        optimizer = torch.optim.SGD(x, lr=0.1)
        for expected in (2.0, 1.0):
            descend(10 * x[0], optimizer)
            assert x[0].item() == pytest.approx(expected)

    def test_only_the_own_parameters_get_gradients(self):
        """Those of others are left as they are, whether there are any or none."""
        own, other, stale = numbers(3.0), numbers(5.0), numbers(7.0)
        stale[0].grad = torch.tensor(11.0, dtype=torch.float64)
        descend(own[0] * other[0] * stale[0], torch.optim.SGD(own, lr=0.1))
        assert own[0].item() == pytest.approx(3 - 0.1 * 35)
        assert (other[0].item(), stale[0].item()) == (5, 7)
        assert other[0].grad is None
        assert stale[0].grad == 11

    def test_two_optimisers_step_down_one_value(self):
        first, second, other = numbers(3.0), numbers(5.0, 2.0), numbers(7.0)
        optimizers = torch.optim.SGD(first, lr=0.1), torch.optim.SGD(second, lr=0.01)
        for _ in range(2):  # the second time, what is left of the first is cleared for both
            start = first[0].item(), second[0].item(), second[1].item()
            descend(first[0] * second[0] * other[0] + second[1] ** 2, *optimizers)
            assert first[0].item() == pytest.approx(start[0] - 0.1 * start[1] * 7)
            assert second[0].item() == pytest.approx(start[1] - 0.01 * start[0] * 7)
            assert second[1].item() == pytest.approx(start[2] - 0.01 * 2 * start[2])
        assert other[0].grad is None

    def test_what_the_value_does_not_depend_on_stays(self):
        x = numbers(3.0, 5.0)
        optimizer = torch.optim.SGD(x, lr=0.1, momentum=0.9)
        descend(x[0] * x[1], optimizer)
        after = x[1].item()
        descend(x[0] ** 2, optimizer)
        assert x[1].item() == after  # no gradient, and so no momentum either


# The critic -----------------------------------------------------------------------------------------------------------


def slow_penalty(critic: Any, real: Tensor, fake: Tensor, attributes: Tensor, mix: Tensor) -> float:
    """Mean over i of (norm of the critic's gradient at mix_i real_i + (1 - mix_i) fake_i, minus 1)^2, no autograd."""
    total = 0.0
    for i in range(len(real)):
        between = mix[i] * real[i] + (1 - mix[i]) * fake[i]

        def criticism(between: Tensor = between, i: int = i) -> float:
            return slow_mlp(critic.net, between.tolist() + attributes[i].tolist())[0]

        squares = slopes(between, criticism).square().sum().item()
        total += (squares**0.5 - 1) ** 2
    return total / len(real)


def make_critic(**settings: Any) -> Any:
    """A critic, and its settings where ``slow_critic_objective`` looks for them."""
    values: Any = {"hidden": 4, "penalty_weight": 2.0, "critic_steps": 3, **settings}
    critic = Critic(3, 2, CriticSettings(**values), seeded(0)).double()
    for k, parameter in enumerate(critic.parameters()):
        parameter.data = 0.6 * normal(k, *parameter.shape)
    return SimpleNamespace(critic=critic, config=critic.settings)


class TestGradientPenalty:
    """It is what the weight of 1 adds to an objective of weight 0."""

    def case(self, seed: int) -> tuple[Any, tuple[Tensor, Tensor, Tensor]]:
        method, (_, batch) = make_critic(penalty_weight=1.0), make_batch()
        for k, parameter in enumerate(method.critic.parameters()):
            parameter.data = normal(10 * seed + k, *parameter.shape)
        return method.critic, (normal(seed, 6, 3), normal(seed + 1, 6, 3), batch.targets)

    def penalty(self, critic: Any, inputs: tuple[Tensor, Tensor, Tensor], seed: int = 4) -> Tensor:
        real, fake, attributes = inputs
        judged = critic(fake, attributes).mean() - critic(real, attributes).mean()
        value: Tensor = critic.objective(*inputs, seeded(seed)) - judged
        return value

    def mix(self, seed: int = 4) -> Tensor:
        return torch.rand(6, 1, generator=seeded(seed))

    @pytest.mark.parametrize("seed", range(5))
    def test_agrees_with_finite_differences(self, seed: int):
        critic, inputs = self.case(seed)
        expected = slow_penalty(critic, *inputs, self.mix())
        assert self.penalty(critic, inputs).item() == pytest.approx(expected, rel=1e-7)

    def test_so_does_its_gradient_in_the_weights(self):
        critic, inputs = self.case(7)
        self.penalty(critic, inputs).backward()
        for parameter in list(critic.parameters())[:-1]:
            expected = slopes(parameter.detach(), lambda: slow_penalty(critic, *inputs, self.mix()), 1e-3)
            assert torch.allclose(parameter.grad, expected, rtol=0, atol=1e-4)
        assert critic.net[0].weight.grad.abs().max() > 0.1

    @pytest.mark.parametrize("seed", range(3))
    def test_it_and_its_gradient_are_those_of_a_double_backward_pass(self, seed: int):
        critic, (real, fake, attributes) = self.case(seed)
        mix = self.mix().double()
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between, attributes).sum(), between, create_graph=True)
        expected = (gradient.norm(dim=1) - 1).square().mean()
        found = self.penalty(critic, (real, fake, attributes))
        assert found.item() == pytest.approx(expected.item(), rel=1e-12)
        weights = [critic.net[0].weight, critic.net[2].weight]
        pairs = zip(*(torch.autograd.grad(value, weights) for value in (found, expected)), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs)

    def test_a_critic_of_slope_one_has_none(self):
        """Of one unit that is always active."""
        _, inputs = self.case(0)
        critic = make_critic(hidden=1, penalty_weight=1.0).critic
        critic.net[0].weight.data = torch.tensor([[0.6, 0.0, 0.8, 5.0, 5.0]], dtype=torch.float64)
        critic.net[0].bias.data.fill_(100.0)
        for slope, expected in ((1.0, 0.0), (3.0, 4.0)):
            critic.net[2].weight.data.fill_(slope)
            assert self.penalty(critic, inputs).item() == pytest.approx(expected, abs=1e-12)

    def test_mix_is_the_share_of_the_real_ones(self, monkeypatch: pytest.MonkeyPatch):
        """Where the critic is steep at real features alone, only mix = 1 sees it."""
        critic = make_critic(hidden=1, penalty_weight=1.0).critic
        critic.net[0].weight.data = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
        critic.net[0].bias.data.zero_()
        critic.net[2].weight.data.fill_(5.0)
        ones = torch.ones(6, 3, dtype=torch.float64)
        for share, slope in ((1.0, 5.0), (0.0, 1.0)):
            mix = torch.full((6, 1), share, dtype=torch.float64)
            monkeypatch.setattr(torch, "rand", lambda *_, mix=mix, **__: mix)
            found = self.penalty(critic, (ones, -ones, torch.zeros(6, 2, dtype=torch.float64)))
            assert found.item() == pytest.approx((slope - 1) ** 2, abs=1e-12)

    def test_a_flat_critic_has_a_finite_gradient(self):
        critic, inputs = self.case(0)
        critic.net[2].weight.data.zero_()
        self.penalty(critic, inputs).backward()
        assert all(parameter.grad.isfinite().all() for parameter in critic.parameters())


class TestCritic:
    def test_agrees_with_the_loops(self):
        critic, (_, batch) = make_critic().critic, make_batch()
        found = critic(batch.features, batch.targets)
        assert found.shape == (6, 1)
        pairs = zip(batch.features.tolist(), batch.targets.tolist(), strict=True)
        assert found.flatten().tolist() == pytest.approx([slow_mlp(critic.net, x + a)[0] for x, a in pairs])

    def test_its_objective_and_gradient_agree_with_the_loops(self):
        method, (_, batch), fake = make_critic(), make_batch(), normal(3, 6, 3)
        value = method.critic.objective(batch.features, fake, batch.targets, seeded(4))
        value.backward()
        mix = torch.rand(6, 1, generator=seeded(4)).flatten().tolist()

        def slow() -> float:
            return slow_critic_objective(method, batch, fake.tolist(), mix)

        assert value.item() == pytest.approx(slow(), rel=1e-12)
        for parameter in method.critic.parameters():
            assert torch.allclose(parameter.grad, slopes(parameter.detach(), slow), rtol=0, atol=1e-7)
        assert method.critic.net[0].weight.grad.abs().max() > 1e-3


def test_the_networks_of_a_gan_are_those_of_the_published_ones():
    """Noise has as many dimensions as the attributes; an encoder is drawn before, and changes nothing else."""
    meta, settings = Meta(5, 3, 4, 2), CriticSettings(hidden=7, output="sigmoid", penalty_weight=2.0)
    generator, critic = gan(meta, settings, seeded(0))
    assert (generator.n_noise, generator.output) == (3, "sigmoid")
    shapes = [tuple(p.shape) for net in (generator, critic) for p in net.parameters()]
    assert shapes == [(7, 6), (7,), (5, 7), (5,), (7, 8), (7,), (1, 7), (1,)]
    assert critic.settings is settings
    rng = seeded(0)
    drawn = FeatureGenerator(3, 3, 7, 5, "sigmoid", rng), Critic(5, 3, settings, rng)
    assert same(generator, drawn[0])
    assert same(critic, drawn[1])
    rng = seeded(0)
    encoder = GaussianEncoder([8, 7, 6, 3], rng)
    rest = gan(meta, settings, rng)
    found = autoencoding_gan(meta, settings, 2, seeded(0))
    assert all(same(a, b) for a, b in zip(found, (encoder, *rest), strict=True))


class TestAdversary:
    def test_it_takes_its_steps_on_fresh_features(self, monkeypatch: pytest.MonkeyPatch):
        method, (_, batch), noise = make_critic(), make_batch(), seeded(4)
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)  # of the generator
        fakes, values, expected = [normal(k, 6, 3) for k in range(10)], [], []
        mixes, remaining = seeded(4), iter(fakes)

        def note(value: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
            mix = torch.rand(6, 1, generator=mixes).flatten().tolist()
            values.append(value.item())
            expected.append(slow_critic_objective(method, batch, fakes[len(values) - 1].tolist(), mix))
            return descend(value, optimizer)

        monkeypatch.setattr(_adversarial, "descend", note)
        adversary = Adversary(method.critic, 0.05, noise)
        start = copy.deepcopy(method.critic)
        last = [adversary.train(batch.features, batch.targets, lambda: scale * next(remaining)) for _ in range(3)][-1]
        assert len(values) == 3
        assert next(remaining) is fakes[3]
        assert values == pytest.approx(expected, rel=1e-10)
        assert last.item() == values[-1]
        assert scale.grad is None
        assert not any(torch.equal(before, after) for before, after in self.dependent(start, method.critic))

    def test_its_steps_are_those_of_one_optimiser(self):
        """Four of them; without a penalty, which is at another random place each time."""
        method, slow_method = (make_critic(penalty_weight=0.0) for _ in range(2))
        (_, batch), fake = make_batch(), normal(3, 6, 3)
        adversary = Adversary(method.critic, 0.05, seeded(4))
        for _ in range(4):
            adversary.train(batch.features, batch.targets, lambda: fake)

        def slow() -> float:
            return slow_critic_objective(slow_method, batch, fake.tolist(), [0.5] * 6)

        slow_adam(slow_method.critic, slow, 0.05, (0.5, 0.999), 4)
        for expected, found in self.dependent(slow_method.critic, method.critic):
            assert torch.allclose(found, expected, rtol=0, atol=1e-6)

    def dependent(self, first: Critic, second: Critic) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
        """The parameters that the objective depends on: not the last bias, which D(fake) - D(real) is without."""
        return list(zip(first.parameters(), second.parameters(), strict=True))[:-1]

    def test_its_value_is_minus_the_mean_criticism(self):
        method, (_, batch), fake = make_critic(), make_batch(), normal(3, 6, 3).requires_grad_()
        value = Adversary(method.critic, 0.05, seeded(0)).value(fake, batch.targets)
        pairs = zip(fake.tolist(), batch.targets.tolist(), strict=True)
        assert value.item() == pytest.approx(-sum(slow_mlp(method.critic.net, x + a)[0] for x, a in pairs) / 6)

    def test_a_step_of_the_generator_leaves_no_gradient_on_the_critic(self):
        method, (_, batch) = make_critic(), make_batch()
        generator = lively(FeatureGenerator(2, 2, 4, 3, "linear", seeded(0)))
        start = copy.deepcopy(generator), copy.deepcopy(method.critic)
        adversary = Adversary(method.critic, 0.05, seeded(0))
        fake = generator(normal(1, 6, 2), batch.targets)
        descend(adversary.value(fake, batch.targets), adam(0.01, generator))
        assert all(p.grad is None for p in method.critic.parameters())
        assert same(method.critic, start[1])
        assert not same(generator, start[0])
        assert adversary.value(generator(normal(1, 6, 2), batch.targets), batch.targets) < adversary.value(
            fake, batch.targets
        )


class TestClassifyingWGAN:
    settings = ClassificationSettings(classification_weight=1.7)

    def prepare(self, method: Any, data: TrainData, run: Run, term: Term = lambda fake, y: fake.new_zeros(())) -> Round:
        return classifying_wgan(method, method.critic, self.settings, data, run, term)

    def check(self, term: Term, slow: Callable[[list[Row]], float]) -> None:
        data, batch = make_batch()
        method = make_wgan(CLSWGAN, data)
        check_wgan(method, data, batch, lambda run: self.prepare(method, data, run, term), slow)

    def test_every_objective_and_its_gradient(self):
        self.check(lambda fake, y: fake.new_zeros(()), lambda fake: 0.0)

    def test_so_with_a_term_of_the_methods_own(self):
        """A term that weighs classes, so that wrong labels do not go unnoticed."""
        labels = make_batch()[1].labels.tolist()
        self.check(
            lambda fake, y: (fake.square() * (1 + y[:, None])).sum(),
            lambda fake: sum((1 + y) * v**2 for x, y in zip(fake, labels, strict=True) for v in x),
        )

    def test_what_it_logs(self):
        data, batch = make_batch()
        method = make_wgan(CLSWGAN, data)
        found = []

        def prepare(run: Run) -> Round:
            training = self.prepare(method, data, run)

            def noted(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:
                found.append(training([(x, y), (x, y)], epoch))
                return found[-1]

            return Round(noted)

        _, critic, generator = wgan_descents(method, data, batch, prepare)
        assert [{name: v.item() for name, v in values.items()} for values in found] == [
            {"critic": critic.value, "generator": generator.value}
        ]

    def test_the_frozen_classifier_is_trained_on_the_real_seen_features(self, monkeypatch: pytest.MonkeyPatch):
        data, _ = make_batch()
        calls = note_softmax(monkeypatch)
        method = make_wgan(CLSWGAN, data, classifier_epochs=3, classifier_lr=0.3, classifier_batch_size=7)
        self.prepare(method, data, first_run())
        (call,) = calls
        assert torch.equal(call.x, data.features)
        assert torch.equal(call.labels, data.labels)
        assert (call.n_classes, call.settings) == (4, {"epochs": 3, "lr": 0.3, "batch_size": 7})

    def test_the_frozen_classifier_stays_as_it_is(self):
        data, _ = make_train(preprocess="minmax")
        found = []
        with pytest.MonkeyPatch.context() as patch:

            def note(*args: Any, **settings: Any) -> nn.Linear:
                found.append(train_softmax(*args, **settings))
                found.append(copy.deepcopy(found[-1]))
                return found[-2]

            patch.setattr(_synthesis, "train_softmax", note)
            trained(CLSWGAN, data, None, 2)
        assert same(found[0], found[1])


# Gaussians ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_agrees_with_the_loop_and_with_that_of_normal_distributions(seed: int):
    mean, log_variance = normal(seed, 4, 3), normal(seed + 10, 4, 3)
    found = kl_divergence((mean, log_variance)).item()
    rows = zip(mean.tolist(), log_variance.tolist(), strict=True)
    pairs = [(m, v) for row in rows for m, v in zip(*row, strict=True)]
    assert found == pytest.approx(sum((m**2 + math.exp(v) - 1 - v) / 2 for m, v in pairs) / 4, rel=1e-12)
    normals = torch.distributions.Normal(mean, (0.5 * log_variance).exp()), torch.distributions.Normal(0.0, 1.0)
    assert found == pytest.approx(torch.distributions.kl_divergence(*normals).sum(1).mean().item(), rel=1e-10)


def test_of_standard_normal_codes_the_divergence_is_zero():
    assert kl_divergence((torch.zeros(3, 2), torch.zeros(3, 2))) == 0


class TestSample:
    def test_it_has_the_moments_of_the_gaussians(self):
        mean, log_variance = torch.tensor([1.0, -3.0, 0.0]), torch.tensor([0.0, 2.0, -4.0])
        codes = sample((mean.expand(20_000, 3), log_variance.expand(20_000, 3)), seeded(0))
        deviation = (log_variance / 2).exp()
        assert ((codes.mean(0) - mean) / deviation).tolist() == pytest.approx([0, 0, 0], abs=0.03)
        assert torch.allclose(codes.std(0), deviation, rtol=0.03)
        assert torch.allclose(torch.corrcoef(codes.T), torch.eye(3), atol=0.03)  # a draw for each dimension

    @pytest.mark.parametrize("noise", ["shared", "independent"])
    @pytest.mark.parametrize(("deviation", "scale"), [("exp", 1.0), ("root", 0.5)])
    def test_noise_is_scaled_by_the_deviation(self, noise: Noise, deviation: Deviation, scale: float):
        mean, log_variance = normal(0, 4, 3), normal(1, 4, 3)
        numbers = normal(2, 4, 1 if noise == "shared" else 3).expand(4, 3).tolist()
        rows = zip(mean.tolist(), log_variance.tolist(), numbers, strict=True)
        expected = [[m + math.exp(scale * v) * e for m, v, e in zip(*row, strict=True)] for row in rows]
        found = sample((mean, log_variance), seeded(2), noise, deviation).tolist()
        assert found == [pytest.approx(row, rel=1e-12) for row in expected]

    def test_it_is_the_generators(self):
        gaussian = normal(0, 4, 3), normal(1, 4, 3)
        one, again, other = (sample(gaussian, seeded(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)

    def test_gradients_flow_to_both_parameters(self):
        mean, log_variance = normal(0, 4, 3).requires_grad_(), normal(1, 4, 3).requires_grad_()
        weight = normal(2, 4, 3)
        (weight * sample((mean, log_variance), seeded(1))).sum().backward()
        noise = normal(1, 4, 3)
        assert mean.grad is not None
        assert log_variance.grad is not None
        assert torch.allclose(mean.grad, weight)
        assert torch.allclose(log_variance.grad, weight * 0.5 * (log_variance.detach() / 2).exp() * noise)


class TestReconstructionError:
    def slow(self, reconstructed: Tensor, x: Tensor, output: Output) -> float:
        return slow_reconstruction(reconstructed.tolist(), TrainData(x, torch.arange(len(x)), x, len(x)), output)

    @pytest.mark.parametrize("output", ["relu", "linear"])
    def test_it_is_half_the_squared_error(self, output: Output):
        reconstructed, x = normal(0, 4, 3), normal(1, 4, 3)
        found = reconstruction_error(reconstructed, x, output).item()
        assert found == pytest.approx(self.slow(reconstructed, x, output), rel=1e-12)

    @pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
    def test_or_the_cross_entropy_of_features_between_0_and_1(self, dtype: torch.dtype, precision: float):
        reconstructed, x = torch.rand(2, 4, 3, generator=seeded(0), dtype=dtype)
        reconstructed.requires_grad_()
        value = reconstruction_error(reconstructed, x, "sigmoid")
        value.backward()
        p = reconstructed.detach()
        assert value.item() == pytest.approx(self.slow(p, x, "sigmoid"), rel=precision)
        assert reconstructed.grad is not None
        assert torch.allclose(reconstructed.grad, ((1 - x) / (1 - p) - x / p) / 4, rtol=precision)

    def test_features_outside_are_clamped(self):
        reconstructed = torch.rand(2, 3, generator=seeded(0))
        x = torch.tensor([[-0.5, 0.5, 1.5], [2.0, -3.0, 0.2]])
        clamped = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.2]])
        found = reconstruction_error(reconstructed, x, "sigmoid").item()
        assert found == pytest.approx(self.slow(reconstructed, clamped, "sigmoid"), rel=1e-5)

    def test_mixed_precision_takes_it_in_float32(self):
        reconstructed, x = torch.rand(2, 4, 3, generator=seeded(0))
        with torch.autocast("cpu", torch.bfloat16):
            found = reconstruction_error(reconstructed.bfloat16(), x, "sigmoid")
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(self.slow(reconstructed.bfloat16(), x, "sigmoid"), rel=1e-5)


def slow_gaussian(encoder: GaussianEncoder, x: Row) -> tuple[Row, Row]:
    """Means and log-variances, these in [-10, 10]."""
    encoded = slow_mlp(encoder.net, x)
    half = len(encoded) // 2
    return encoded[:half], [min(10.0, max(-10.0, v)) for v in encoded[half:]]


class TestGaussianEncoder:
    def make(self) -> Any:
        return lively(GaussianEncoder([5, 4, 2], seeded(0)))

    def test_means_come_first_and_log_variances_are_clamped(self):
        encoder, x, attributes = self.make(), 30 * normal(0, 20, 3), 30 * normal(1, 20, 2)
        mean, log_variance = encoder(x, attributes)
        expected = [slow_gaussian(encoder, u + v) for u, v in zip(x.tolist(), attributes.tolist(), strict=True)]
        assert mean.tolist() == [pytest.approx(row) for row, _ in expected]
        assert log_variance.tolist() == [pytest.approx(row) for _, row in expected]
        assert {-10, 10} < set(log_variance.flatten().tolist())
        assert max(v for row, _ in expected for v in row) > 10  # means are not

    def test_it_draws_codes_and_takes_their_divergence(self):
        encoder, x, attributes = self.make(), normal(0, 6, 3), normal(1, 6, 2)
        code, divergence = encoder.draw(x, attributes, rng=seeded(2))
        expected = self.slow_codes(encoder, x, attributes, normal(2, 6, 2))
        assert code.tolist() == [pytest.approx(row) for row in expected[0]]
        assert divergence.item() == pytest.approx(expected[1])

    def slow_codes(self, encoder: Any, x: Tensor, attributes: Tensor, noise: Tensor) -> tuple[list[Row], float]:
        codes, divergence = [], 0.0
        for u, v, e in zip(x.tolist(), attributes.tolist(), noise.tolist(), strict=True):
            gaussian = slow_gaussian(encoder, u + v)
            codes.append(slow_code(gaussian, e))
            divergence += slow_divergence(gaussian)
        return codes, divergence / len(x)

    @pytest.mark.parametrize("output", ["relu", "sigmoid"])
    def test_reconstructions_are_decoded_from_the_codes(self, output: Output):
        encoder, x, attributes = self.make(), normal(0, 6, 3), normal(1, 6, 2)
        generator = lively(FeatureGenerator(2, 2, 4, 3, output, seeded(0)))
        found, divergence = reconstruct(encoder, generator, x, attributes, seeded(2))
        codes, expected = self.slow_codes(encoder, x, attributes, normal(2, 6, 2))
        rows = slow_features(generator, torch.tensor(codes), attributes)
        assert found.tolist() == [pytest.approx(row, abs=1e-6) for row in rows]
        assert divergence.item() == pytest.approx(expected)
        (gradient,) = torch.autograd.grad(found.sum(), encoder.net[0].weight)
        assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
def test_a_batch_is_reconstructed_and_criticised(output: Output):
    """The critic is not trained by it."""
    method, (_, batch) = make_critic(), make_scaled_batch(output)
    fakes: list[Tensor] = []
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    start = copy.deepcopy(method.critic)

    def rebuild(x: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        assert x is batch.features
        assert torch.equal(attributes, batch.targets)
        fakes.append(torch.sigmoid(normal(len(fakes), 6, 3)))
        return scale * fakes[-1], torch.tensor(0.7)

    settings = AutoencoderSettings(output=output, adversarial_weight=1.3)
    adversary = Adversary(method.critic, 0.05, seeded(4))
    fake, value, noted = autoencode(batch.features, batch.targets, rebuild, adversary, settings)
    assert len(fakes) == 1
    assert torch.equal(fake, fakes[-1])
    assert same(start, method.critic)
    autoencoder = slow_reconstruction(fakes[-1].tolist(), batch, output) + 0.7
    pairs = zip(fakes[-1].tolist(), batch.targets.tolist(), strict=True)
    criticism = sum(slow_mlp(method.critic.net, x + a)[0] for x, a in pairs) / 6
    assert value.item() == pytest.approx(autoencoder - 1.3 * criticism)
    (slope,) = torch.autograd.grad(value, scale)
    assert slope.abs() > 1e-3
    assert noted["autoencoder"].item() == pytest.approx(autoencoder)
    assert list(noted) == ["autoencoder"]
    assert not any(term.requires_grad for term in noted.values())


# The softmax classifier -----------------------------------------------------------------------------------------------


class SoftmaxCall(SimpleNamespace):
    """What ``train_softmax`` was asked for: x, labels, n_classes, settings, first (the first number of its ``rng``)."""


def note_softmax(monkeypatch: pytest.MonkeyPatch) -> list[SoftmaxCall]:
    """The calls from now on; each gets a layer whose weights are all the number of its call, from 1."""
    calls: list[SoftmaxCall] = []

    def note(x: Tensor, labels: Tensor, n_classes: int, *, rng: torch.Generator, **settings: Any) -> nn.Linear:
        first = torch.rand((), generator=rng).item()
        calls.append(SoftmaxCall(x=x, labels=labels, n_classes=n_classes, settings=settings, first=first))
        layer = nn.Linear(x.shape[1], n_classes)
        for parameter in layer.parameters():
            nn.init.constant_(parameter, len(calls))
        return layer

    monkeypatch.setattr(_synthesis, "train_softmax", note)
    return calls


def clouds(n: int = 600) -> tuple[Tensor, Tensor]:
    """(n, 6) features around four centres, and their labels."""
    rng = seeded(0)
    labels = torch.arange(n) % 4
    centres = 1.5 * torch.randn(4, 6, generator=rng)
    return centres[labels] + torch.randn(n, 6, generator=rng), labels


class TestTrainSoftmax:
    def test_it_comes_near_logistic_regression(self):
        features, labels = clouds()
        train, test = slice(0, 400), slice(400, None)
        layer = train_softmax(features[train], labels[train], 4, epochs=60, lr=0.02, batch_size=50, rng=seeded(1))
        assert not any(p.requires_grad for p in layer.parameters())
        accuracy = float((layer(features[test]).argmax(1) == labels[test]).float().mean())
        reference = LogisticRegression().fit(features[train], labels[train]).score(features[test], labels[test])
        assert 0.6 < reference < 0.99  # neither hopeless nor trivial
        assert accuracy >= reference - 0.03

    def test_its_steps_are_those_of_adam(self):
        features, labels = clouds(30)
        found = train_softmax(features, labels, 5, epochs=3, lr=0.02, batch_size=30, rng=seeded(1))
        start = nn.Linear(6, 5)  # the last of its classes has no image
        nn.init.normal_(start.weight, std=0.02, generator=seeded(1))
        nn.init.zeros_(start.bias)
        start.double()

        def slow() -> float:
            total = 0.0
            for x, y in zip(features.tolist(), labels.tolist(), strict=True):
                logits = slow_layer(start, x)
                total += math.log(sum(math.exp(v) for v in logits)) - logits[y]
            return total / len(labels)

        slow_adam(start, slow, 0.02, (0.5, 0.999), 3)
        assert torch.allclose(found.weight.double(), start.weight, rtol=0, atol=1e-5)
        assert torch.allclose(found.bias.double(), start.bias, rtol=0, atol=1e-5)

    def test_every_epoch_goes_through_all_images_in_an_order_of_its_own(self, monkeypatch: pytest.MonkeyPatch):
        batches = []

        def note(logits: Tensor, labels: Tensor) -> Tensor:
            batches.append(labels.tolist())
            return F.cross_entropy(logits, labels)

        monkeypatch.setattr(_softmax, "F", SimpleNamespace(cross_entropy=note))
        images = torch.arange(25)  # each a class of its own
        train_softmax(clouds(25)[0], images, 25, epochs=3, lr=0.02, batch_size=10, rng=seeded(1))
        assert [len(batch) for batch in batches] == [10, 10, 5] * 3
        orders = [[y for batch in batches[k : k + 3] for y in batch] for k in (0, 3, 6)]
        assert all(sorted(order) == images.tolist() for order in orders)
        assert len({tuple(order) for order in orders}) == 3


# Synthesis ------------------------------------------------------------------------------------------------------------


class Scripted(GenerativeMethod):
    """Trains nothing; generates the attributes times the number that its script has for the epoch, plus noise.

    Attributes:
        script: a number for each epoch.
        said: what its steps return, by epoch and step, both from 1; 0 where it says nothing.
        n_batches: of a round.
        steps: of each of the generator: the epoch, the labels, the mode.
        criticised: of each of the critic: the epoch, the labels.
        generated: for each call, what it returned, the attributes, the mode.
    """

    def __init__(self, meta: Meta, config: GenerativeConfig, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng, n_represented=meta.n_features + 1)
        self.factor = nn.Parameter(torch.zeros(()))
        self.script = [1.0] * 10
        self.said: dict[tuple[int, int], float] = {}
        self.n_batches = 1
        self.steps: list[tuple[int, list[int], bool]] = []
        self.criticised: list[tuple[int, list[int]]] = []
        self.generated: list[tuple[Tensor, Tensor, bool]] = []

    def prepare(self, data: TrainData, slot: Slot, run: Run) -> Round:
        def step(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:
            assert torch.equal(x, data.features[y])  # there is one image a class
            self.factor.data.fill_(self.script[epoch - 1])
            self.steps.append((epoch, y.tolist(), self.training))
            number = sum(other == epoch for other, *_ in self.steps)
            return {"calm": torch.ones(()), "wild": torch.tensor(self.said.get((epoch, number), 0.0))}

        def criticise(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:
            assert torch.equal(x, data.features[y])
            self.criticised.append((epoch, y.tolist()))
            return {}

        return Round(step, criticise, self.n_batches)

    def generate(self, attributes: Tensor, rng: torch.Generator) -> Tensor:
        features = self.factor * attributes + 0.01 * torch.randn(attributes.shape, generator=rng)
        self.generated.append((features, attributes, self.training))
        return features

    def represent(self, x: Tensor) -> Tensor:
        return torch.cat([torch.full((len(x), 1), 7.0), 2 * x], dim=1)


def make_scripted(**settings: Any) -> tuple[Any, TrainData, HeldOut]:
    """Nine seen classes of one image each, three unseen ones; features are attributes, but for a little noise."""
    rng = seeded(0)
    attributes = torch.randn(12, 4, generator=rng)

    def images(labels: Tensor) -> tuple[Tensor, Tensor]:
        return attributes[labels] + 0.1 * torch.randn(len(labels), 4, generator=rng), labels

    data = TrainData(*images(torch.arange(9)), attributes, 9)
    held = HeldOut(
        *images(torch.arange(9).repeat(4)),
        *images(torch.arange(9, 12).repeat(12)),
        attributes=attributes,
        n_seen=9,
        class_names=tuple("abcdefghijkl"),
    )
    small = {"batch_size": 4, "n_generated": 5, "epochs": 3, "evaluate_every": 1, "classifier_lr": 0.05, **settings}
    return Scripted(data.meta, GenerativeConfig(**small), seeded(1)), data, held


class TestFit:
    def test_every_epoch_goes_through_all_images_in_batches(self):
        method, data, _ = make_scripted()
        method.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 3))
        assert [epoch for epoch, *_ in method.steps] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
        assert [len(labels) for _, labels, _ in method.steps] == [4, 4, 1] * 3
        for epoch in (1, 2, 3):
            assert sorted(y for e, labels, _ in method.steps if e == epoch for y in labels) == list(range(9))

    def test_every_step_of_a_critic_has_a_fresh_batch(self):
        """The generator takes the last, as often as without; images are gone through as evenly as can be."""
        method, data, _ = make_scripted()
        method.n_batches = 3
        method.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 2))
        assert [epoch for epoch, *_ in method.steps] == [1] * 3 + [2] * 3
        assert [labels for _, labels, _ in method.steps] == [labels for _, labels in method.criticised[2::3]]
        for epoch in (1, 2):
            batches = [labels for e, labels in method.criticised if e == epoch]
            assert [len(batch) for batch in batches] == [4] * 9
            shown = [y for batch in batches for y in batch]
            assert sorted(shown[:9]) == sorted(shown[9:18]) == list(range(9))
            assert len({tuple(batch) for batch in batches}) == 9

    @pytest.mark.parametrize("selects", [True, False])
    def test_steps_are_in_training_mode_and_synthesis_is_not(self, selects: bool):
        method, data, held = make_scripted()
        run = SelectionRun(CPU, 0, "toy", held) if selects else RefitRun(CPU, 0, "toy", 3)
        method.fit(data, Slot(data.attributes), run)
        assert {training for *_, training in method.steps} == {True}
        assert {training for *_, training in method.generated} == {False}

    def test_it_logs_the_mean_of_each_epoch(self):
        method, data, _ = make_scripted()
        method.said = {(1, 1): 4.0, (1, 3): 5.0, (2, 2): -1.0}
        run = RefitRun(CPU, 0, "toy", 2)
        method.fit(data, Slot(data.attributes), run)
        expected = [{"epoch": 1, "calm": 1, "wild": 3}, {"epoch": 2, "calm": 1, "wild": -1 / 3}]
        assert run.history == [pytest.approx(row) for row in expected]

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_told_with_its_epoch_and_step(self, value: float):
        method, data, _ = make_scripted()
        method.said = {(2, 2): value, (2, 3): 1.0}
        with pytest.raises(FloatingPointError, match=rf"^wild became {value} at epoch 2, step 2$"):
            method.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 3))
        assert max(epoch for epoch, *_ in method.steps) == 2

    def test_the_first_step_is_told(self):
        method, data, _ = make_scripted()
        method.said = {(1, 2): math.inf, (1, 3): math.nan}
        with pytest.raises(FloatingPointError, match="wild became inf at epoch 1, step 2"):
            method.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 1))

    def test_means_are_taken_in_float32(self):
        """Between these two numbers, mixed precision has no third."""
        values = [{"loss": torch.tensor(value, dtype=torch.bfloat16)} for value in (1.0, 1.0078125)]
        assert _synthesis._means(values, 1)["loss"].item() == 1.00390625


class TestClassifiers:
    def test_they_are_trained_on_real_seen_and_generated_unseen_features(self):
        method, data, _ = make_scripted()
        method.factor.data.fill_(3.0)
        x, labels = method.classifier_data(data, seeded(2))
        assert torch.bincount(labels).tolist() == [1] * 9 + [5] * 3
        assert x[:9].tolist() == [[7.0, *(2 * v for v in row)] for row in data.features.tolist()]
        for row, y in zip(x[9:].tolist(), labels[9:].tolist(), strict=True):
            assert row == pytest.approx([7.0, *(6 * a for a in data.attributes[y].tolist())], abs=0.1)
        (generated, attributes, _) = method.generated[0]
        assert torch.equal(attributes, data.attributes[labels[9:]])
        assert x[9:, 1:].tolist() == (2 * generated).tolist()
        assert len({tuple(row) for row in x.tolist()}) == 24  # of one class, too, they differ

    def test_one_is_of_unseen_classes_alone(self, monkeypatch: pytest.MonkeyPatch):
        method, data, _ = make_scripted(classifier_epochs=4, classifier_lr=0.3, classifier_batch_size=11)
        calls = note_softmax(monkeypatch)
        method.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 1))
        gzsl, zsl = calls
        assert torch.equal(method.generated[0][0], method.generated[1][0])  # from the same noise
        (generated, *_), fixed = method.generated[0], torch.full((15, 1), 7.0)
        assert torch.equal(zsl.x, torch.cat([fixed, 2 * generated], dim=1))
        assert zsl.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
        assert torch.equal(gzsl.x, torch.cat([method.represent(data.features), zsl.x]))
        assert gzsl.labels.tolist() == [*range(9), *(9 + y for y in zsl.labels.tolist())]
        assert (zsl.n_classes, gzsl.n_classes) == (3, 12)
        for call in calls:
            assert call.settings == {"epochs": 4, "lr": 0.3, "batch_size": 11}
            assert not call.x.requires_grad
        # The first call's layer is all ones, the second's all twos.
        assert {v for p in method.gzsl_classifier.parameters() for v in p.flatten().tolist()} == {1}
        assert {v for p in method.zsl_classifier.parameters() for v in p.flatten().tolist()} == {2}

    def test_of_unseen_classes_alone_the_scores_are_that_ones(self):
        method, data, held = make_scripted()
        method = lively(method)
        x = held.unseen_features.double()
        everything = torch.arange(12)
        for classes in (data.unseen, data.unseen.flip(0), everything, everything.flip(0)):
            alone = len(classes) == 3
            layer = method.zsl_classifier if alone else method.gzsl_classifier
            found = method.scores(x, classes)
            assert found.shape == (36, len(classes))
            for row, scores in zip(x.tolist(), found.tolist(), strict=True):
                outputs = slow_layer(layer, [7.0, *(2 * v for v in row)])
                assert scores == pytest.approx([outputs[c - 9 if alone else c] for c in classes.tolist()])

    def test_every_scoring_trains_them_anew_with_the_same_noise(self, monkeypatch: pytest.MonkeyPatch):
        """Of an unchanged generator they are the same to the bit, however many epochs went by."""
        short, long = make_scripted()[0], make_scripted()[0]
        _, data, held = make_scripted()
        calls = note_softmax(monkeypatch)
        short.fit(data, Slot(data.attributes), SelectionRun(CPU, 0, "toy", held))
        assert len(short.generated) == 4
        assert all(torch.equal(features, short.generated[0][0]) for features, *_ in short.generated)
        *gzsl, zsl = calls
        assert [call.n_classes for call in calls] == [12] * 3 + [3]
        assert len({call.first for call in gzsl}) == 1
        assert gzsl[0].first != zsl.first
        monkeypatch.undo()
        short.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 1))
        long.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 3))
        assert same(short, long)

    def test_the_one_of_all_classes_does_not_depend_on_the_other(self, monkeypatch: pytest.MonkeyPatch):
        """The other is trained when the state to keep is found, with random numbers of its own."""
        (one, data, _), (other, *_) = make_scripted(), make_scripted()
        one.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 2))
        monkeypatch.setattr(GenerativeMethod, "train_zsl_classifier", lambda *_: None)
        other.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 2))
        assert same(one.gzsl_classifier, other.gzsl_classifier)
        assert not same(one.zsl_classifier, other.zsl_classifier)

    def test_another_seed_has_other_noise(self):
        (one, data, _), (other, *_) = make_scripted(), make_scripted()
        for seed, method in enumerate((one, other)):
            method.fit(data, Slot(data.attributes), RefitRun(CPU, seed, "toy", 1))
        assert not torch.equal(one.generated[0][0], other.generated[0][0])
        assert not same(one.zsl_classifier, other.zsl_classifier)

    @pytest.mark.parametrize("best", [1, 2, 3])
    def test_validation_selects_the_epoch_by_them(self, best: int):
        """Only in the best epoch are features of the right sign generated."""
        method, data, held = make_scripted()
        method.script = [1.0 if epoch == best else -1.0 for epoch in (1, 2, 3)]
        run = SelectionRun(CPU, 0, "toy", held)
        method.fit(data, Slot(data.attributes), run)
        assert run.choice == best
        assert run.value > 50
        others = [row["held-out AUSUC"] for row in run.history if row["epoch"] != best]
        assert max(others) < run.value - 30
        again = make_scripted()[0]
        again.script = method.script
        again.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", best))
        assert same(method, again)  # classifiers and all
        right = method.scores(held.unseen_features, data.unseen).argmax(1) + 9 == held.unseen_labels
        assert right.float().mean() > 0.9

    @pytest.mark.parametrize(("patience", "scored"), [(5, [3, 6, 7]), (1, [3, 6])])
    def test_it_scores_every_so_many_epochs_until_its_patience_ends(self, patience: int, scored: list[int]):
        method, data, held = make_scripted(epochs=7, evaluate_every=3, patience=patience)
        run = SelectionRun(CPU, 0, "toy", held)
        method.fit(data, Slot(data.attributes), run)
        assert [row["epoch"] for row in run.history if "held-out AUSUC" in row] == scored
        assert len(method.generated) == len(scored) + 1  # and once more for the classifier of unseen classes alone


class TestPrecision:
    def test_mixed_precision_trains_and_keeps_weights_in_float32(self):
        data, held = make_train(preprocess="minmax")
        whole, mixed = (trained(CLSWGAN, data, "mse", 2, precision=p) for p in ("float32", "bfloat16"))
        fresh = CLSWGAN(data.meta, mixed.config, seeded(0))
        for name, parameter in mixed.named_parameters():
            assert parameter.dtype == torch.float32
            assert parameter.isfinite().all(), name
        for name in ("generator", "critic"):
            assert not same(getattr(mixed, name), getattr(whole, name))
            assert not same(getattr(mixed, name), getattr(fresh, name))
        scores = mixed.scores(held.unseen_features, data.unseen)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()

    def test_only_steps_are_in_it(self):
        """What is trained beforehand, and the classifiers, are not."""
        data, _ = make_train(preprocess="minmax")
        whole, mixed = (trained(CLSWGAN, data, "mse", 1, precision=p) for p in ("float32", "bfloat16"))
        assert same(whole.regressor, mixed.regressor)
        first, second = (make_scripted(precision=p)[0] for p in ("float32", "bfloat16"))
        data = make_scripted()[1]
        for method in (first, second):
            method.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 2))
        assert same(first, second)


# The cycle ------------------------------------------------------------------------------------------------------------


def plain_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Of no loss, and not the same for all classes."""
    return ((1 + target) * (predicted - target).square()).mean()


def slow_plain_error(predicted: list[Row], batch: TrainData) -> float:
    pairs = zip(predicted, batch.targets.tolist(), strict=True)
    errors = [(1 + t) * (p - t) ** 2 for row, target in pairs for p, t in zip(row, target, strict=True)]
    return sum(errors) / len(errors)


class TestCycleTerm:
    settings = CycleSettings(regressor_epochs=3, regressor_lr=0.05)

    def make(self, slot: Slot, batch_size: int = 9) -> tuple[Any, Any, Any, TrainData, RefitRun]:
        """The regressor before and after, the term, the data, the run."""
        data, run = make_batch()[0], first_run()
        regressor = lively(linear(3, 2, seeded(0)))
        start = copy.deepcopy(regressor)
        return start, regressor, cycle_term(regressor, slot, data, self.settings, batch_size, run), data, run

    @pytest.mark.parametrize("with_loss", [False, True])
    def test_the_regressor_is_trained_by_the_loss_and_frozen(self, with_loss: bool):
        """Or by what stands in its place; and whatever the weight of the term."""
        slot = class_slot(make_batch()[0], 2.5 if with_loss else None).or_else(plain_error)
        start, regressor, _, data, run = self.make(slot)

        def slow() -> float:
            predicted = [slow_layer(start, x) for x in data.features.tolist()]
            return (slow_class_loss if with_loss else slow_plain_error)(predicted, data)

        last = slow_adam(start, slow, 0.05, (0.9, 0.999), 3)
        for expected, parameter in zip(start.parameters(), regressor.parameters(), strict=True):
            assert torch.allclose(parameter, expected, rtol=0, atol=1e-6)
            assert not parameter.requires_grad
        for _ in run.epochs(regressor, 1, 1):
            pass
        assert run.history == [{"epoch": 1, "regressor": pytest.approx(last)}]

    def test_without_any_error_it_is_left_as_it_is_and_the_term_is_zero(self):
        start, regressor, term, _, run = self.make(class_slot(make_batch()[0], None))
        assert same(start, regressor)
        fake = normal(4, 6, 3).requires_grad_()
        value = term(fake, torch.tensor([0, 5, 2, 2, 4, 1]))
        assert value == 0
        assert not value.requires_grad
        for _ in run.epochs(regressor, 1, 1):
            pass
        assert run.history == [{"epoch": 1}]

    def test_every_epoch_goes_through_all_images_in_batches(self):
        data = make_batch()[0]
        loss = RecordingLoss(data)
        self.make(Slot(data.attributes, loss), batch_size=4)
        batches = [labels.tolist() for labels, _ in loss.calls]
        for labels, target in loss.calls:
            assert torch.equal(target, data.attributes[labels])
        assert [len(batch) for batch in batches] == [4, 4, 1] * 3
        for k in (0, 3, 6):
            assert sorted(y for batch in batches[k : k + 3] for y in batch) == sorted(data.labels.tolist())
        assert batches[:3] != batches[3:6]

    def test_the_term_is_the_weighted_loss_of_generated_features(self):
        _, regressor, term, data, _ = self.make(class_slot(make_batch()[0], 2.5))
        fake, labels = normal(4, 6, 3).requires_grad_(), torch.tensor([0, 5, 2, 2, 4, 1])
        batch = TrainData(fake.detach(), labels, data.attributes, data.n_seen)

        def slow() -> float:
            return 2.5 * slow_class_loss([slow_layer(regressor, x) for x in batch.features.tolist()], batch)

        value = term(fake, labels)
        (gradient,) = torch.autograd.grad(value, fake)
        assert value.item() == pytest.approx(slow())
        assert torch.allclose(gradient, slopes(batch.features, slow), rtol=0, atol=1e-7)
        assert gradient.abs().max() > 1e-3

    def test_what_the_loss_learns_is_trained_with_the_regressor(self):
        data = make_batch()[0]
        loss: Any = learning_loss(data)
        before = loss.log_noise.item()
        _, _, term, *_ = self.make(Slot(data.attributes, loss, 2.5))
        after = loss.log_noise.item()
        assert abs(after - before) > 0.01
        descend(term(normal(4, 2, 3).requires_grad_(), torch.tensor([0, 1])), torch.optim.SGD(numbers(1.0), lr=0.1))
        assert loss.log_noise.item() == after
