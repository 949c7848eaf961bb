"""f-CLSWGAN's objectives against loops from its formulas, and that a short training does what it is for."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from benchmark.api import TrainData
from losses import build
from methods.generative.clswgan import CLSWGAN
from tests.reference.generative import make_batch, same, trained
from tests.reference.toy import class_slot, make_split, make_train, seeded, slow_class_loss
from tests.reference.wgan import (
    check_trained_regressor,
    check_wgan,
    make_wgan,
    short_accuracy,
    slow_cycle,
    wgan_descents,
)


@pytest.mark.parametrize("output", ["relu", "linear"])
@pytest.mark.parametrize("weight", [None, 0.0, 2.5])
def test_every_objective_and_its_gradient(weight: float | None, output: str):
    data, batch = make_batch()
    method = make_wgan(CLSWGAN, data, output=output)
    slot = class_slot(data, weight)
    check_wgan(method, data, batch, partial(method.prepare, data, slot), partial(slow_cycle, method, batch, weight))


def test_the_regressor_is_trained_by_the_loss_whatever_its_weight():
    data, batch = make_batch()
    method = make_wgan(CLSWGAN, data)
    start = copy.deepcopy(method.regressor)
    wgan_descents(method, data, batch, partial(method.prepare, data, class_slot(data, 0.0)))
    check_trained_regressor(start, method.regressor, data, lambda predicted: slow_class_loss(predicted, data))


@pytest.mark.parametrize("weight", [None, 2.5])
def test_steps_are_taken_with_the_published_betas(weight: float | None):
    data, batch = make_batch()
    method = make_wgan(CLSWGAN, data, lr=0.02)
    for descent in wgan_descents(method, data, batch, partial(method.prepare, data, class_slot(data, weight))):
        (group,) = descent.optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.02, (0.5, 0.999), 0)


# Tiny training --------------------------------------------------------------------------------------------------------


class TestRegressor:
    data, held = make_train(preprocess="minmax")

    def test_without_a_loss_there_is_none(self):
        method = trained(CLSWGAN, self.data, None)
        fresh = CLSWGAN(self.data.meta, method.config, seeded(0))
        assert same(method.regressor, fresh.regressor)
        assert not same(method.generator, fresh.generator)
        assert CLSWGAN.semantics_need_loss

    def test_with_one_it_learns_attributes(self):
        method = trained(CLSWGAN, self.data, "mse", regressor_epochs=100, regressor_lr=0.01)
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
        short, long = trained(CLSWGAN, self.data, "mse", 1), trained(CLSWGAN, self.data, "mse", 3)
        assert same(short.regressor, long.regressor)
        assert not same(short.generator, long.generator)

    def test_the_cycle_term_reaches_the_generator_by_its_weight_alone(self):
        none, zero, some = (
            trained(CLSWGAN, self.data, loss, 2, regression_weight=weight)
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
        method = trained(CLSWGAN, self.data, "mse")
        assert all(p.requires_grad for net in (method.generator, method.critic) for p in net.parameters())


@pytest.fixture(scope="module")
def few_classes() -> tuple[TrainData, CLSWGAN]:
    """Few classes that lie apart, and a generator that had time to tell them."""
    data, _ = make_train(make_split(3, n_seen=7, per_class=30, noise=0.05), preprocess="minmax")
    return data, trained(CLSWGAN, data, None, 60, critic_steps=5, hidden=256, lr=3e-3)


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


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    assert short_accuracy(CLSWGAN, loss_name) > 0.8
