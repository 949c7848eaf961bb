"""ZeroDiff's diffusion by Bayes' rule, its objectives and gradients by loops, and short trainings on tiny data."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.api import TrainData
from benchmark.toolkit import draw_batches
from methods.generative import _contrast, zerodiff
from methods.generative._adversarial import CriticSettings
from methods.generative._contrast import ContrastiveFeatures, ContrastiveHead
from methods.generative._diffusion import Diffusion, StepEmbedding
from methods.generative.zerodiff import ZeroDiff, disagreement, mutual
from tests.reference.descents import Descent, check_descent, descents_and_log, learning_rates, moved, recorder
from tests.reference.generative import (
    Row,
    first_run,
    leaky,
    lively,
    make_batch,
    make_scaled_batch,
    own_slot,
    round_of,
    slopes,
    slow_code,
    slow_contrast,
    slow_divergence,
    slow_encoding,
    slow_error,
    slow_generated,
    slow_mlp,
    slow_reconstruction,
    slow_sigmoid,
    take_round,
    trained,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import class_slot, dot, make_split, make_train, seeded
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
    return slow_silu(embedding.net, waves)


def slow_silu(net: Any, x: Row) -> Row:
    return slow_layer(net[2], [h * slow_sigmoid(h) for h in slow_layer(net[0], x)])


# Contrastive features -------------------------------------------------------------------------------------------------


@pytest.fixture
def _few_contrasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contrastive features, and all that comes of them, are so few that loops can follow them."""
    few = {"HIDDEN": 8, "SIZE": 3, "WAYS": 3, "SHOTS": 2, "EPOCHS": 2, "LR": 0.02}
    for name, value in few.items():
        monkeypatch.setattr(_contrast, name, value)
    monkeypatch.setattr(zerodiff, "SIZE", few["SIZE"])


def slow_unit(head: Any, x: Row) -> Row:
    """n(MLP(x)) with ReLU."""
    first, _, last = head.net
    r = slow_layer(last, [max(0.0, h) for h in slow_layer(first, x)])
    return [v / math.sqrt(dot(r, r)) for v in r]


def slow_head_objective(head: Any, images: list[Row], labels: list[int]) -> float:
    return slow_contrast([slow_unit(head, x) for x in images], labels, 0.1)


def slow_head(head: Any, data: TrainData, x: Row) -> Row:
    """The same, each where it lies between the least and the largest of the training images."""
    columns = list(zip(*(slow_unit(head, row) for row in data.features.tolist()), strict=True))
    ends = [(min(column), max(column)) for column in columns]
    return [(v - low) / ((high - low) or 1.0) for v, (low, high) in zip(slow_unit(head, x), ends, strict=True)]


@pytest.mark.usefixtures("_few_contrasts")
def test_the_head_descends_on_the_contrast_of_the_images_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = make_batch()
    head = lively(ContrastiveHead(3, seeded(0)))
    found: list[Descent] = []
    monkeypatch.setattr(_contrast, "descend", recorder(head, class_slot(data, None), found))
    head.learn(data, first_run())
    drawn = first_run().rng("contrast batches")
    batches = [batch for _ in range(2) for batch in draw_batches(data, 6, 2, drawn)]
    assert len(found) == len(batches) == 4
    for descent, batch in zip(found, batches, strict=True):
        labels = data.labels[batch].tolist()
        assert sorted(map(labels.count, labels)) == [2] * 6
        images = data.features[batch].tolist()
        check_descent(head, descent, partial(slow_head_objective, head, images, labels), "net")
    (group,) = found[0].optimizer.param_groups
    assert (group["lr"], group["betas"]) == (0.02, (0.9, 0.999))


def test_images_of_a_class_lie_together_in_what_the_head_makes() -> None:
    """Also of classes that it has not seen; and training images span 0 to 1 in each dimension."""
    data, held = make_train(make_split(3, n_seen=24, n_unseen=4, n_attributes=4, per_class=20, noise=0.3), "minmax")
    head = ContrastiveHead(data.meta.n_features, seeded(0))
    head.learn(data, first_run())
    assert not any(parameter.requires_grad for parameter in head.parameters())
    r = head(data.features)
    assert torch.equal(r.amin(0), torch.zeros(128))
    assert torch.equal(r.amax(0), torch.ones(128))
    for x, labels in ((data.features, data.labels), (held.unseen_features, held.unseen_labels)):
        assert share_between(head(x), labels) > share_between(x, labels) + 0.05


def share_between(x: Tensor, labels: Tensor) -> float:
    """The share of the variance of (N, D) features that lies between classes."""
    within = sum(float((own - own.mean(0)).square().sum()) for c in labels.unique() for own in [x[labels == c]])
    return 1 - within / float((x - x.mean(0)).square().sum())


# Objectives -----------------------------------------------------------------------------------------------------------


class Drawn(NamedTuple):
    """All that one pass through the generator draws, for each image."""

    t: list[int]
    first: list[Row]
    second: list[Row]
    code: list[Row]
    back: list[Row]


def draw(batch: TrainData, noise: torch.Generator, d: int, of_code: torch.dtype = torch.float64) -> Drawn:
    """For features of ``d`` dimensions."""
    n, a = batch.targets.shape
    t = torch.randint(4, (n,), generator=noise).tolist()
    kinds = ((d, torch.float64), (d, torch.float64), (a, of_code), (d, torch.float64))
    return Drawn(t, *(torch.randn(n, size, generator=noise, dtype=kind).tolist() for size, kind in kinds))


class Passed(NamedTuple):
    """An image's way: x_t, x_(t+1), what was guessed of it and drawn back, its code's divergence, and its contrasts."""

    t: int
    earlier: Row
    later: Row
    clean: Row
    back: Row
    divergence: float
    contrast: Row


def slow_noised(chain: Diffusion, x: Row, drawn: Drawn, i: int) -> tuple[Row, Row]:
    """x_t and x_(t+1) of image i."""
    t = drawn.t[i]
    kept, rate = float(chain.kept[t]), float(chain.rates[t])
    noise = math.sqrt(1 - kept**2)
    earlier = [kept * v + noise * e for v, e in zip(x, drawn.first[i], strict=True)]
    later = [math.sqrt(1 - rate) * v + math.sqrt(rate) * e for v, e in zip(earlier, drawn.second[i], strict=True)]
    return earlier, later


def slow_back(chain: Diffusion, clean: Row, later: Row, drawn: Drawn, i: int) -> Row:
    """x_t of image i, for a guess of x_0."""
    factors = [float(each[drawn.t[i]]) for each in (chain.of_clean, chain.of_later, chain.deviation)]
    return [dot(factors, parts) for parts in zip(clean, later, drawn.back[i], strict=True)]


def slow_pass(method: Any, batch: TrainData, drawn: Drawn, contrasts: list[Row]) -> list[Passed]:
    found = []
    for i, (x, a) in enumerate(zip(batch.features.tolist(), batch.targets.tolist(), strict=True)):
        t, (earlier, later) = drawn.t[i], slow_noised(method.diffusion, x, drawn, i)
        gaussian = slow_encoding(method.encoder, x + a)
        code, of_r = slow_code(gaussian, drawn.code[i]), slow_told(method.generator_contrast, contrasts[i])
        clean = slow_generated(method.generator, code, a + of_r + later + slow_embedding(method.generator_step, t))
        back = slow_back(method.diffusion, clean, later, drawn, i)
        found.append(Passed(t, earlier, later, clean, back, slow_divergence(gaussian), contrasts[i]))
    return found


def slow_contrasts(method: Any, data: TrainData, batch: TrainData) -> list[Row]:
    """Those of the images of a batch; without any, none."""
    features = batch.features.tolist()
    return [slow_head(method.contrast.head, data, x) if method.contrast else [] for x in features]


def slow_told(embedding: Any, contrast: Row) -> Row:
    """What a network is told of contrastive features: nothing where there are none."""
    return slow_silu(embedding, contrast) if contrast else []


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
    return way.later + a + slow_told(method.critic_contrast, way.contrast) + slow_embedding(method.critic_step, way.t)


def slow_differences(method: Any, batch: TrainData, ways: list[Passed]) -> list[Row]:
    """D(real) - D(generated) of each critic, for each image."""
    found = []
    for way, x, a in zip(ways, batch.features.tolist(), batch.targets.tolist(), strict=True):
        of_clean = slow_mlp(method.critic.net, x + a)[0] - slow_mlp(method.critic.net, way.clean + a)[0]
        beside = told(method, way, a)
        step = method.step_critic.net
        found.append([of_clean, slow_mlp(step, way.earlier + beside)[0] - slow_mlp(step, way.back + beside)[0]])
        if way.contrast:
            third, of_r = method.contrast_critic, slow_silu(method.contrast_critic.embedding, way.contrast)
            found[-1].append(slow_mlp(third.net, x + of_r)[0] - slow_mlp(third.net, way.clean + of_r)[0])
    return found


def slow_critics(method: Any, batch: TrainData, ways: list[Passed], shares: list[Row], stopped: list[Row]) -> float:
    """The objective of all critics; differences are compared with those ``stopped``, which have no gradient."""
    config, total = method.config, 0.0
    images = zip(ways, batch.features.tolist(), batch.targets.tolist(), strict=True)
    differences = slow_differences(method, batch, ways)
    for i, (way, x, a) in enumerate(images):
        penalty = slow_penalty(method.critic, x, way.clean, a, shares[0][i])
        penalty += slow_penalty(method.step_critic, way.earlier, way.back, told(method, way, a), shares[1][i])
        if way.contrast:
            of_r = slow_silu(method.contrast_critic.embedding, way.contrast)
            penalty += slow_penalty(method.contrast_critic, x, way.clean, of_r, shares[2][i])
        total += config.penalty_weight * penalty - sum(differences[i])
        total += config.mutual_weight * slow_mutual(float(method.diffusion.kept[way.t]), differences[i], stopped[i])
    return total / len(ways)


def slow_mutual(kept: float, differences: Row, stopped: Row) -> float:
    """Of one image; the differences are of the critics of x_0, of x_t, and of x_0 with r, if there is one."""
    f = kept**1.5
    (w0, wt, *w_r), (s0, st, *s_r) = differences, stopped
    total = f * ((w0 - st) ** 2 + (wt - s0) ** 2)
    for wr, sr in zip(w_r, s_r, strict=True):
        total += f * ((wr - st) ** 2 + (wt - sr) ** 2) + (w0 - sr) ** 2 + (wr - s0) ** 2
    return total


def slow_hidden(method: Any, x: Row) -> Row:
    return leaky(slow_layer(method.decoder.first, x))


def slow_decoded(method: Any, x: Row) -> Row:
    attributes = slow_layer(method.decoder.last, slow_hidden(method, x))
    return [a / math.sqrt(dot(attributes, attributes)) for a in attributes]


def slow_regression(method: Any, features: list[Row], batch: TrainData, with_loss: bool) -> float:
    return slow_error([slow_decoded(method, x) for x in features], batch, with_loss)


def slow_objective(method: Any, batch: TrainData, drawn: Drawn, with_loss: bool, contrasts: list[Row]) -> float:
    config, ways = method.config, slow_pass(method, batch, drawn, contrasts)
    clean = [way.clean for way in ways]
    value = slow_reconstruction(clean, batch, config.output) + sum(way.divergence for way in ways) / len(ways)
    for way, a in zip(ways, batch.targets.tolist(), strict=True):
        criticism = slow_mlp(method.critic.net, way.clean + a)[0]
        criticism += slow_mlp(method.step_critic.net, way.back + told(method, way, a))[0]
        if way.contrast:
            third = method.contrast_critic
            criticism += slow_mlp(third.net, way.clean + slow_silu(third.embedding, way.contrast))[0]
        value -= config.adversarial_weight * criticism / len(ways)
    return value + config.regression_weight * slow_regression(method, clean, batch, with_loss)


OBJECTIVES = [(*of, "none") for of in itertools.product([False, True], [False, True], ["sigmoid", "linear"])]
OBJECTIVES += [(False, False, "sigmoid", "head"), (True, True, "linear", "head")]


@pytest.mark.usefixtures("_few_contrasts")
@pytest.mark.parametrize(("with_loss", "freeze_decoder", "output", "contrast"), OBJECTIVES)
def test_every_objective_and_its_gradient(with_loss: bool, freeze_decoder: bool, output: str, contrast: str) -> None:
    """With contrastive features but for those of their own, of which no step is recorded here."""
    data, batch = make_scaled_batch(output)
    rates: Any = {"lr": 0.02, "decoder_lr": 0.03, "mutual_weight": 0.7, "hidden": 5, "contrast": contrast}
    method = make_method(ZeroDiff, data, output=output, freeze_decoder=freeze_decoder, critic_steps=2, **rates)
    found, logged = descents_and_log(method, data, batch, own_slot(method, data, with_loss))
    *steps, generator = found
    regressions, critics = steps[::2], steps[1::2]
    for regression, own in zip(regressions, round_of(batch, 2), strict=True):
        check_descent(
            method, regression, partial(slow_regression, method, own.features.tolist(), own, with_loss), "decoder"
        )
        assert learning_rates(method, regression) == {"decoder": 0.03}
    noise, n_features = noise_of_a_run(), data.meta.n_features
    judging = CRITICS | ({"critic_contrast", "contrast_critic"} if contrast == "head" else set())
    for critic, own in zip(critics, round_of(batch, 2), strict=True):
        ways = slow_pass(method, own, draw(own, noise, n_features), slow_contrasts(method, data, own))
        n_critics = 3 if contrast == "head" else 2
        shares = [torch.rand(len(ways), 1, generator=noise).flatten().tolist() for _ in range(n_critics)]
        stopped = slow_differences(method, own, ways)
        check_descent(method, critic, partial(slow_critics, method, own, ways, shares, stopped), *judging)
        assert learning_rates(method, critic) == dict.fromkeys(judging, 0.02)
    drawn = draw(batch, noise, n_features)
    generating = GENERATING | ({"generator_contrast"} if contrast == "head" else set())
    of_modules = dict.fromkeys(generating, 0.02) | ({} if freeze_decoder else {"decoder": 0.03})
    slow = partial(slow_objective, method, batch, drawn, with_loss, slow_contrasts(method, data, batch))
    check_descent(method, generator, slow, *of_modules)
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


def slow_r_net(net: Any, z: Row, a: Row, later: Row, t: int) -> Row:
    return slow_generated(net.generator, z, a + later + slow_embedding(net.generator_step, t))


def slow_r_passes(net: Any, real: list[Row], batch: TrainData, drawn: Drawn) -> list[Passed]:
    """The ways of contrastive features; ``drawn`` are codes from N(0, 1)."""
    found = []
    for i, (r, a) in enumerate(zip(real, batch.targets.tolist(), strict=True)):
        earlier, later = slow_noised(net.diffusion, r, drawn, i)
        clean = slow_r_net(net, drawn.code[i], a, later, drawn.t[i])
        back = slow_back(net.diffusion, clean, later, drawn, i)
        found.append(Passed(drawn.t[i], earlier, later, clean, back, 0.0, []))
    return found


def slow_r_critics(net: Any, real: list[Row], batch: TrainData, ways: list[Passed], shares: tuple[Row, Row]) -> float:
    """Of both: D(generated) - D(real) + the weighted penalty."""
    total = 0.0
    for i, (way, r, a) in enumerate(zip(ways, real, batch.targets.tolist(), strict=True)):
        beside = way.later + a + slow_embedding(net.critic_step, way.t)
        critic, step = net.critic, net.step_critic
        total += slow_mlp(critic.net, way.clean + a)[0] - slow_mlp(critic.net, r + a)[0]
        total += slow_mlp(step.net, way.back + beside)[0] - slow_mlp(step.net, way.earlier + beside)[0]
        total += 2.0 * slow_penalty(critic, r, way.clean, a, shares[0][i])
        total += 2.0 * slow_penalty(step, way.earlier, way.back, beside, shares[1][i])
    return total / len(ways)


def slow_r_objective(net: Any, batch: TrainData, real: list[Row], drawn: Drawn, with_loss: bool) -> float:
    ways, total = slow_r_passes(net, real, batch, drawn), 0.0
    for way, a in zip(ways, batch.targets.tolist(), strict=True):
        total -= slow_mlp(net.critic.net, way.clean + a)[0] / len(ways)
        beside = way.later + a + slow_embedding(net.critic_step, way.t)
        total -= slow_mlp(net.step_critic.net, way.back + beside)[0] / len(ways)
    return total + with_loss * 2.5 * slow_regression(net, [way.clean for way in ways], batch, True)


@pytest.mark.usefixtures("_few_contrasts")
@pytest.mark.parametrize(("with_loss", "n_batches", "n_steps"), [(False, 5, 1), (True, 6, 1), (True, 3, 2)])
def test_every_objective_of_contrastive_features(
    with_loss: bool, n_batches: int, n_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The critics take five steps in a round of ``n_batches``, or more."""
    data, batch = make_batch()
    settings = CriticSettings(hidden=3, penalty_weight=2.0, critic_steps=n_batches)
    net = lively(ContrastiveFeatures(data.meta, settings, 4, seeded(0)))
    slot = class_slot(data, 2.5 if with_loss else None)
    run, found = first_run(), list[Descent]()
    train_generator, train_critic = net.prepare(data, slot, run, 0.02, 0.03)
    monkeypatch.setattr(_contrast, "descend", recorder(net, slot, found))
    for step in (train_critic, train_generator):
        step(batch.features, batch.labels, 1)
    critics, (*regression, generator) = found[:n_steps], found[n_steps:]
    real = [slow_head(net.head, data, x) for x in batch.features.tolist()]
    noise = first_run().rng("contrast noise")
    for critic in critics:
        ways = slow_r_passes(net, real, batch, draw(batch, noise, 3, torch.float32))
        first, second = (torch.rand(len(ways), 1, generator=noise).flatten().tolist() for _ in range(2))
        check_descent(net, critic, partial(slow_r_critics, net, real, batch, ways, (first, second)), *CRITICS)
        assert learning_rates(net, critic) == dict.fromkeys(CRITICS, 0.02)
    assert len(regression) == with_loss
    for descent in regression:
        check_descent(net, descent, partial(slow_regression, net, real, batch, True), "decoder")
        assert learning_rates(net, descent) == {"decoder": 0.03}
    drawn = draw(batch, noise, 3, torch.float32)
    slow = partial(slow_r_objective, net, batch, real, drawn, with_loss)
    check_descent(net, generator, slow, "generator", "generator_step")
    assert learning_rates(net, generator) == {"generator": 0.02, "generator_step": 0.02}


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_three_critics_learn_of_each_other_as_the_loops_say(seed: int, n: int) -> None:
    rng = seeded(seed)
    kept = torch.rand(n, generator=rng, dtype=torch.float64)
    differences = torch.randn(3, n, generator=rng, dtype=torch.float64, requires_grad=True)
    value = mutual(kept, *differences)
    value.backward()
    assert differences.grad is not None
    stopped = differences.detach().T.tolist()

    def slow(rows: list[Row]) -> float:
        return sum(slow_mutual(k, own, still) for k, own, still in zip(kept.tolist(), rows, stopped, strict=True)) / n

    moving = differences.detach().T.clone()
    assert value.item() == pytest.approx(slow(stopped), rel=1e-10)
    assert differences.grad.T.tolist() == [
        pytest.approx(row, abs=1e-7) for row in slopes(moving, lambda: slow(moving.tolist())).tolist()
    ]


@pytest.mark.parametrize("freeze_decoder", [False, True])
def test_a_round_moves_all_but_the_diffusion(freeze_decoder: bool) -> None:
    data, batch = make_batch()
    method = make_method(ZeroDiff, data, freeze_decoder=freeze_decoder)
    assert moved(method, data, batch, own_slot(method, data, True)) == GENERATING | CRITICS | {"decoder"}


@pytest.mark.usefixtures("_few_contrasts")
@pytest.mark.parametrize("with_loss", [False, True])
def test_contrastive_features_move_along_but_for_their_head(with_loss: bool) -> None:
    """Their decoder moves where a loss asks for it."""
    data, batch = make_batch()
    method = make_method(ZeroDiff, data, contrast="head")
    training = method.prepare(data, own_slot(method, data, with_loss), first_run())
    before = {name: parameter.detach().clone() for name, parameter in method.contrast.named_parameters()}
    take_round(training, batch)
    after = dict(method.contrast.named_parameters())
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"generator", "generator_step", *CRITICS} | ({"decoder"} if with_loss else set())


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


@pytest.mark.usefixtures("_few_contrasts")
def test_contrastive_features_are_generated_first_and_classified_beside_the_others() -> None:
    data, _ = make_batch()
    method = make_method(ZeroDiff, data, n_generated=3, contrast="head")
    method.contrast.head.learn(data, first_run())
    inputs, labels = method.classifier_data(data, seeded(5))
    noise, (d, a) = seeded(5), (data.meta.n_features, data.meta.n_attributes)
    later_r, z, code, later = (torch.randn(6, size, generator=noise).tolist() for size in (3, a, a, d))

    def represent(x: Row, r: Row) -> Row:
        return x + slow_hidden(method, x) + slow_decoded(method, x) + r

    real = [represent(x, slow_head(method.contrast.head, data, x)) for x in data.features.tolist()]
    generated, features = [], []
    for i, y in enumerate(labels.tolist()[len(real) :]):
        own = data.attributes[y].tolist()
        r = slow_r_net(method.contrast, z[i], own, later_r[i], 3)
        told = own + slow_silu(method.generator_contrast, r) + later[i] + slow_embedding(method.generator_step, 3)
        features.append(slow_generated(method.generator, code[i], told))
        generated.append(represent(features[-1], r))
    assert inputs.tolist() == [pytest.approx(row, abs=1e-12) for row in real + generated]
    found = method.generate(data.attributes[labels[len(real) :]], seeded(5))
    assert found.tolist() == [pytest.approx(x, abs=1e-12) for x in features]
    scores = method.scores(data.features, torch.tensor([5, 4]))
    expected = [slow_layer(method.zsl_classifier, row)[::-1] for row in real]
    assert scores.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


def test_both_kinds_of_generated_features_have_the_statistics_of_real_ones() -> None:
    """Means are those of the own class, of 24, and deviations within a class neither collapse nor explode."""
    data, _ = make_train(make_split(3, n_seen=24, n_unseen=4, n_attributes=4, per_class=20, noise=0.1), "minmax")
    settings: Any = {"hidden": 128, "lr": 3e-3, "adversarial_weight": 1.0, "condition": "standard"}
    method = trained(ZeroDiff, data, None, 12, **settings, regression_weight=0.01, contrast="head")
    conditions = method.conditions(data.attributes)[data.labels]
    with torch.no_grad():
        generated = method._generate(conditions.repeat(10, 1), seeded(5))
    for fake, real in zip(generated, (data.features, method.contrast(data.features)), strict=True):
        (means, spread), (fake_means, fake_spread) = moments(real, data.labels), moments(fake, data.labels.repeat(10))
        own = torch.cdist(fake_means, means).argmin(1) == data.seen
        assert own.float().mean() > 0.7
        assert 0.2 < fake_spread / spread < 2


def moments(x: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """(C, D) the mean features of each class, and the root mean square of deviations from them."""
    means = torch.stack([x[labels == c].mean(0) for c in labels.unique()])
    return means, float((x - means[labels]).square().mean().sqrt())


@pytest.mark.parametrize("critic", ["critic", "step_critic"])
def test_an_adversarial_weight_of_0_leaves_the_critics_out(critic: str) -> None:
    check_the_critics_weight(ZeroDiff, critic, GENERATING)


@pytest.mark.parametrize("loss_name", [None, "remse"])
@pytest.mark.parametrize("further", [{}, {"contrast": "head", "condition": "standard"}], ids=["plain", "head"])
def test_unseen_classes_are_recognised(loss_name: str | None, further: dict[str, Any]) -> None:
    settings: Any = {"hidden": 128, "critic_steps": 2, "lr": 3e-3, "decoder_lr": 1e-3, "adversarial_weight": 1.0}
    weight = 1.0 if loss_name else 0.01
    assert unseen_accuracy(ZeroDiff, loss_name, 12, **settings, **further, regression_weight=weight) > 0.8
