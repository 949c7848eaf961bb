"""ZeroDiff's diffusion by Bayes' rule, its objectives and gradients by loops, and a short training on tiny data."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from benchmark.api import TrainData
from methods.generative.zerodiff import Diffusion, StepEmbedding, ZeroDiff, disagreement
from tests.reference.descents import check_descent, descents_and_log, learning_rates, moved
from tests.reference.generative import (
    Row,
    leaky,
    make_batch,
    make_scaled_batch,
    own_slot,
    round_of,
    slow_code,
    slow_divergence,
    slow_encoding,
    slow_error,
    slow_generated,
    slow_mlp,
    slow_reconstruction,
    slow_sigmoid,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import dot, seeded
from tests.reference.vaegan import check_classifiers, check_the_critics_weight, make_method, noise_of_a_run

GENERATING = {"encoder", "generator", "generator_step"}
CRITICS = {"critic", "step_critic", "critic_step"}


# The diffusion --------------------------------------------------------------------------------------------------------


def slow_share(time: float) -> float:
    """The share of the variance that is left of the features: exp of minus the integral of the rate."""
    return math.exp(-(0.1 * time + (20.0 - 0.1) * time**2 / 2))


def test_the_four_steps_have_the_published_numbers() -> None:
    four = Diffusion(4)
    assert four.kept.tolist() == pytest.approx([1, 0.722, 0.281, 0.059, 0.007], abs=6e-4)
    assert (1 - four.rates).sqrt().tolist() == pytest.approx([0.722, 0.388, 0.209, 0.112], abs=6e-4)
    assert four.of_clean.tolist() == pytest.approx([1, 0.666, 0.269, 0.058], abs=6e-4)
    assert four.of_later.tolist() == pytest.approx([0, 0.202, 0.193, 0.112], abs=6e-4)
    assert four.deviation.square().tolist() == pytest.approx([0, 0.441, 0.884, 0.984], abs=6e-4)


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_factors_follow_the_rate_and_the_posterior_is_that_of_bayes(steps: int) -> None:
    chain = Diffusion(steps)
    shares = [slow_share(1e-3 + 0.999 * i / steps) for i in range(steps + 1)]
    for t in range(steps):
        rate = 1 - shares[t + 1] / shares[t]
        assert float(chain.rates[t]) == pytest.approx(rate, rel=1e-5)
        kept = math.sqrt(shares[t] / shares[0])  # x_0 is where the diffusion begins
        assert float(chain.kept[t]) == pytest.approx(kept, rel=1e-5)
        # x_t given x_0 is N(kept x_0, 1 - kept^2), and x_(t+1) given x_t is N(sqrt(1 - rate) x_t, rate).
        prior = 1 - kept**2
        variance = 0.0 if t == 0 else 1 / (1 / prior + (1 - rate) / rate)
        of_clean = 1.0 if t == 0 else variance * kept / prior
        of_later = variance * math.sqrt(1 - rate) / rate
        found = [float(each[t]) for each in (chain.of_clean, chain.of_later, chain.deviation)]
        assert found == pytest.approx([of_clean, of_later, math.sqrt(variance)], rel=1e-4, abs=1e-6)


def test_what_is_drawn_has_these_moments() -> None:
    chain, x = Diffusion(4), torch.tensor([[2.0, -1.0]]).expand(200_000, 2)
    t, earlier, later = chain.draw(x, seeded(0))
    back = chain.before(x, later, t, seeded(1))
    for step in range(4):
        own = t == step
        assert float(own.float().mean()) == pytest.approx(0.25, abs=0.01)
        for drawn, kept in ((earlier, chain.kept[step]), (later, chain.kept[step + 1]), (back, chain.kept[step])):
            assert drawn[own].mean(0).tolist() == pytest.approx((kept * x[0]).tolist(), abs=0.02)
            assert drawn[own].var(0).tolist() == pytest.approx([1 - float(kept) ** 2] * 2, abs=0.02)
    # What is drawn back goes with x_(t+1) as what it came from does.
    for step in range(1, 4):
        pairs = [torch.stack([drawn[t == step, 0], later[t == step, 0]]) for drawn in (earlier, back)]
        forth, again = (float(pair.cov()[0, 1]) for pair in pairs)
        assert forth == pytest.approx(again, abs=0.02)


@pytest.mark.parametrize("size", [2, 5])
def test_steps_are_embedded_by_waves_and_two_layers(size: int) -> None:
    embedding = StepEmbedding(4, size, seeded(0))
    found = embedding(torch.tensor([3, 0]))
    for t, row in zip((3, 0), found.tolist(), strict=True):
        assert row == pytest.approx(slow_embedding(embedding, t), abs=1e-6)


def slow_embedding(embedding: StepEmbedding, t: int) -> Row:
    size = embedding.waves.shape[1]
    n = size // 2
    angles = [t * 10_000 ** (-i / n) for i in range(n)]
    waves = [float(np.float32(f(v))) for f in (math.cos, math.sin) for v in angles] + [0.0] * (size - 2 * n)
    net: Any = embedding.net
    return slow_layer(net[2], [h * slow_sigmoid(h) for h in slow_layer(net[0], waves)])


# Objectives -----------------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """All that one pass through the generator draws, for each image."""

    t: list[int]
    first: list[Row]
    second: list[Row]
    code: list[Row]
    back: list[Row]


def draw(batch: TrainData, noise: torch.Generator) -> Drawn:
    (n, d), a = batch.features.shape, batch.targets.shape[1]
    t = torch.randint(4, (n,), generator=noise).tolist()
    sizes = (d, d, a, d)
    return Drawn(t, *(torch.randn(n, size, generator=noise, dtype=torch.float64).tolist() for size in sizes))


class Passed(NamedTuple):
    """An image's way: x_t, x_(t+1), what was guessed of it and drawn back, and the divergence of its code."""

    t: int
    earlier: Row
    later: Row
    clean: Row
    back: Row
    divergence: float


def slow_pass(method: Any, batch: TrainData, drawn: Drawn) -> list[Passed]:
    chain, found = method.diffusion, []
    for i, (x, a) in enumerate(zip(batch.features.tolist(), batch.targets.tolist(), strict=True)):
        t = drawn.t[i]
        kept, rate = float(chain.kept[t]), float(chain.rates[t])
        noise = math.sqrt(1 - kept**2)
        earlier = [kept * v + noise * e for v, e in zip(x, drawn.first[i], strict=True)]
        later = [math.sqrt(1 - rate) * v + math.sqrt(rate) * e for v, e in zip(earlier, drawn.second[i], strict=True)]
        gaussian = slow_encoding(method.encoder, x + a)
        code = slow_code(gaussian, drawn.code[i])
        clean = slow_generated(method.generator, code, a + later + slow_embedding(method.generator_step, t))
        factors = [float(each[t]) for each in (chain.of_clean, chain.of_later, chain.deviation)]
        back = [dot(factors, parts) for parts in zip(clean, later, drawn.back[i], strict=True)]
        found.append(Passed(t, earlier, later, clean, back, slow_divergence(gaussian)))
    return found


def slow_penalty(critic: Any, real: Row, fake: Row, told: Row, share: float) -> float:
    """(||gradient in the features between|| - 1)^2, the gradient written out."""
    first, _, last = critic.net
    between = [share * p + (1 - share) * q for p, q in zip(real, fake, strict=True)]
    weights = zip(last.weight[0].tolist(), slow_layer(first, between + told), strict=True)
    outer = [w if h > 0 else 0.2 * w for w, h in weights]
    gradient = [dot(outer, column) for column in first.weight.T.tolist()[: len(real)]]
    return (math.sqrt(dot(gradient, gradient)) - 1) ** 2


def told(method: Any, way: Passed, a: Row) -> Row:
    """What the second critic takes beside x_t."""
    return way.later + a + slow_embedding(method.critic_step, way.t)


def slow_differences(method: Any, batch: TrainData, ways: list[Passed]) -> list[tuple[float, float]]:
    """D(real) - D(generated) of both critics, for each image."""
    found = []
    for way, x, a in zip(ways, batch.features.tolist(), batch.targets.tolist(), strict=True):
        of_clean = slow_mlp(method.critic.net, x + a)[0] - slow_mlp(method.critic.net, way.clean + a)[0]
        beside = told(method, way, a)
        step = method.step_critic.net
        found.append((of_clean, slow_mlp(step, way.earlier + beside)[0] - slow_mlp(step, way.back + beside)[0]))
    return found


def slow_critics(
    method: Any, batch: TrainData, ways: list[Passed], shares: tuple[Row, Row], stopped: list[tuple[float, float]]
) -> float:
    """The objective of both critics; differences are compared with those ``stopped``, which have no gradient."""
    config, total = method.config, 0.0
    images = zip(ways, batch.features.tolist(), batch.targets.tolist(), strict=True)
    differences = slow_differences(method, batch, ways)
    for i, (way, x, a) in enumerate(images):
        penalty = slow_penalty(method.critic, x, way.clean, a, shares[0][i])
        penalty += slow_penalty(method.step_critic, way.earlier, way.back, told(method, way, a), shares[1][i])
        (w0, wt), (s0, st) = differences[i], stopped[i]
        weight = float(method.diffusion.kept[way.t]) ** 1.5
        total += config.penalty_weight * penalty - w0 - wt
        total += config.mutual_weight * weight * ((w0 - st) ** 2 + (wt - s0) ** 2)
    return total / len(ways)


def slow_hidden(method: Any, x: Row) -> Row:
    return leaky(slow_layer(method.decoder.first, x))


def slow_decoded(method: Any, x: Row) -> Row:
    attributes = slow_layer(method.decoder.last, slow_hidden(method, x))
    return [a / math.sqrt(dot(attributes, attributes)) for a in attributes]


def slow_regression(method: Any, features: list[Row], batch: TrainData, with_loss: bool) -> float:
    return slow_error([slow_decoded(method, x) for x in features], batch, with_loss)


def slow_objective(method: Any, batch: TrainData, drawn: Drawn, with_loss: bool) -> float:
    config, ways = method.config, slow_pass(method, batch, drawn)
    clean = [way.clean for way in ways]
    value = slow_reconstruction(clean, batch, config.output) + sum(way.divergence for way in ways) / len(ways)
    for way, a in zip(ways, batch.targets.tolist(), strict=True):
        criticism = slow_mlp(method.critic.net, way.clean + a)[0]
        criticism += slow_mlp(method.step_critic.net, way.back + told(method, way, a))[0]
        value -= config.adversarial_weight * criticism / len(ways)
    return value + config.regression_weight * slow_regression(method, clean, batch, with_loss)


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
@pytest.mark.parametrize("freeze_decoder", [False, True])
@pytest.mark.parametrize("with_loss", [False, True])
def test_every_objective_and_its_gradient(with_loss: bool, freeze_decoder: bool, output: str) -> None:
    data, batch = make_scaled_batch(output)
    rates: Any = {"lr": 0.02, "decoder_lr": 0.03, "mutual_weight": 0.7, "hidden": 5}
    method = make_method(ZeroDiff, data, output=output, freeze_decoder=freeze_decoder, critic_steps=2, **rates)
    found, logged = descents_and_log(method, data, batch, own_slot(method, data, with_loss))
    *steps, generator = found
    regressions, critics = steps[::2], steps[1::2]
    for regression, own in zip(regressions, round_of(batch, 2), strict=True):
        check_descent(
            method, regression, partial(slow_regression, method, own.features.tolist(), own, with_loss), "decoder"
        )
        assert learning_rates(method, regression) == {"decoder": 0.03}
    noise = noise_of_a_run()
    for critic, own in zip(critics, round_of(batch, 2), strict=True):
        ways = slow_pass(method, own, draw(own, noise))
        mixes = [torch.rand(len(ways), 1, generator=noise).flatten().tolist() for _ in range(2)]
        stopped = slow_differences(method, own, ways)
        check_descent(method, critic, partial(slow_critics, method, own, ways, (mixes[0], mixes[1]), stopped), *CRITICS)
        assert learning_rates(method, critic) == dict.fromkeys(CRITICS, 0.02)
    drawn = draw(batch, noise)
    of_modules = dict.fromkeys(GENERATING, 0.02) | ({} if freeze_decoder else {"decoder": 0.03})
    check_descent(method, generator, partial(slow_objective, method, batch, drawn, with_loss), *of_modules)
    assert learning_rates(method, generator) == of_modules
    assert {name: logged[name] for name in ("critic", "generator", "regression")} == pytest.approx(
        {"critic": critics[-1].value, "generator": generator.value, "regression": regressions[-1].value}, rel=1e-10
    )


def test_critics_that_agree_have_nothing_to_learn_from_each_other() -> None:
    kept = torch.tensor([1.0, 0.25])
    a, b = torch.tensor([2.0, 3.0], requires_grad=True), torch.tensor([2.0, 5.0], requires_grad=True)
    value = disagreement(a, b, kept)
    assert value.item() == pytest.approx((0.25**1.5 * 2 * 4) / 2)
    value.backward()
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.tolist() == pytest.approx([0, 0.125 * 2 * -2 / 2])
    assert b.grad.tolist() == pytest.approx([0, 0.125 * 2 * 2 / 2])


@pytest.mark.parametrize("freeze_decoder", [False, True])
def test_a_round_moves_all_but_the_diffusion(freeze_decoder: bool) -> None:
    data, batch = make_batch()
    method = make_method(ZeroDiff, data, freeze_decoder=freeze_decoder)
    assert moved(method, data, batch, own_slot(method, data, True)) == GENERATING | CRITICS | {"decoder"}


def test_features_are_guessed_from_noise_in_the_last_step() -> None:
    """What is generated for the classifiers takes codes and x_T from N(0, 1)."""
    data, _ = make_batch()
    method = make_method(ZeroDiff, data, n_generated=3)
    noise = seeded(5)
    torch.randn(6, data.meta.n_attributes, generator=noise)  # the codes, which the check hands over
    later = iter(torch.randn(6, data.meta.n_features, generator=noise).tolist())

    def generate(code: Row, a: Row) -> Row:
        return slow_generated(method.generator, code, a + next(later) + slow_embedding(method.generator_step, 3))

    def represent(x: Row) -> Row:
        return x + slow_hidden(method, x) + slow_decoded(method, x)

    check_classifiers(method, data, represent, generate)


@pytest.mark.parametrize("critic", ["critic", "step_critic"])
def test_an_adversarial_weight_of_0_leaves_the_critics_out(critic: str) -> None:
    check_the_critics_weight(ZeroDiff, critic, GENERATING)


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None) -> None:
    settings: Any = {"hidden": 128, "critic_steps": 2, "lr": 3e-3, "decoder_lr": 1e-3, "adversarial_weight": 1.0}
    weight = 1.0 if loss_name else 0.01
    assert unseen_accuracy(ZeroDiff, loss_name, 12, **settings, regression_weight=weight) > 0.8
