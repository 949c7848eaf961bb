"""LisGAN's soul samples and objectives against loops from its formulas, and a short training on tiny data."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.api import TrainData
from methods.generative import lisgan
from methods.generative._synthesis import Round
from methods.generative.lisgan import LisGAN, soul_samples, to_nearest
from tests.reference.generative import Row, first_run, make_batch, normal, slopes, slow_features
from tests.reference.networks import slow_layer
from tests.reference.toy import class_slot, seeded, slow_class_loss
from tests.reference.wgan import check_trained_regressor, check_wgan, make_wgan, short_accuracy, wgan_descents

# Soul samples ---------------------------------------------------------------------------------------------------------


def slow_mean(rows: list[Row]) -> Row:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def clusters(n_classes: int = 3, n_clusters: int = 3, per_cluster: int = 7) -> tuple[TrainData, list[list[Row]]]:
    """Images of each class around places far apart, in random order, and the means of each class's clusters."""
    rng = seeded(0)
    order = torch.randperm(n_classes * n_clusters * per_cluster, generator=rng)
    places = order // per_cluster
    features = 10 * torch.randn(n_classes * n_clusters, 4, generator=rng)[places]
    features += 0.1 * torch.randn(len(order), 4, generator=rng)
    means = []
    for c in range(n_classes):
        own = []
        for place in range(c * n_clusters, (c + 1) * n_clusters):
            rows = [x for x, p in zip(features.tolist(), places.tolist(), strict=True) if p == place]
            own.append(slow_mean(rows))
        means.append(sorted(own))
    attributes = torch.rand(n_classes + 1, 2, generator=rng)
    return TrainData(features, places // n_clusters, attributes, n_classes), means


class TestSoulSamples:
    @pytest.mark.parametrize("seed", range(5))
    def test_they_are_the_means_of_clusters_that_lie_apart(self, seed: int):
        data, means = clusters()
        found = soul_samples(data, 3, seeded(seed))
        assert found.dtype == data.features.dtype
        for souls, expected in zip(found.tolist(), means, strict=True):
            assert sorted(souls) == [pytest.approx(mean, abs=1e-5) for mean in expected]

    def test_one_is_the_mean_of_its_class(self):
        data, _ = clusters()
        found = soul_samples(data, 1, seeded(0))
        for c in range(3):
            rows = [x for x, y in zip(data.features.tolist(), data.labels.tolist(), strict=True) if y == c]
            assert found[c].tolist() == [pytest.approx(slow_mean(rows), abs=1e-5)]

    def test_they_are_of_their_own_class(self):
        """Each is a mean of images of its class: it moves with them and with no other."""
        data, _ = clusters()
        before = soul_samples(data, 5, seeded(0))
        moved = data.features.clone()
        moved[data.labels == 1] += 1000
        after = soul_samples(TrainData(moved, data.labels, data.attributes, 3), 5, seeded(0))
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert (after[1] > 900).all()

    def test_the_generator_alone_decides(self):
        """Clusters that do not lie apart are divided by chance."""
        features, labels = torch.randn(60, 4, generator=seeded(0)), torch.arange(60) % 2
        data = TrainData(features, labels, torch.rand(3, 2, generator=seeded(0)), 2)
        one, again, other = (soul_samples(data, 5, seeded(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)

    def test_a_class_of_few_images_repeats_them(self):
        features = normal(0, 7, 4)
        labels = torch.tensor([1, 0, 2, 1, 2, 2, 1])
        data = TrainData(features, labels, normal(1, 4, 2), 3)
        found = soul_samples(data, 3, seeded(0))
        assert found.dtype == torch.float64
        assert torch.equal(found[0], features[[1, 1, 1]])
        assert {tuple(soul) for soul in found[1].tolist()} == {tuple(x) for x in features[[0, 3, 6]].tolist()}
        assert soul_samples(data, 5, seeded(0))[2].tolist() == features[[2, 4, 5, 2, 4]].tolist()


# The distance to the nearest ------------------------------------------------------------------------------------------


def slow_to_nearest(x: list[Row], souls: list[list[Row]]) -> float:
    total = 0.0
    for row, own in zip(x, souls, strict=True):
        total += min(sum((p - s) ** 2 for p, s in zip(row, soul, strict=True)) for soul in own)
    return total / len(x)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
def test_the_distance_agrees_with_the_loops(n: int, n_souls: int, d: int, seed: int):
    x, souls = normal(seed, n, d), normal(seed + 1, n, n_souls, d)
    expected = slow_to_nearest(x.tolist(), souls.tolist())
    assert to_nearest(x, souls).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_worked_example():
    # (3, 4) is 25 from the origin and 5 from (1, 3); the second image is at its soul, and far from that of the first.
    x = torch.tensor([[3.0, 4.0], [9.0, 9.0]])
    souls = torch.tensor([[[0.0, 0.0], [1.0, 3.0]], [[9.0, 9.0], [9.0, 9.0]]])
    assert to_nearest(x, souls).item() == pytest.approx(5 / 2)


def test_its_gradient_agrees_with_finite_differences():
    x, souls = normal(0, 4, 3).requires_grad_(), normal(1, 4, 2, 3)
    to_nearest(x, souls).backward()
    values = x.detach()
    assert x.grad is not None
    expected = slopes(values, lambda: slow_to_nearest(values.tolist(), souls.tolist()))
    assert torch.allclose(x.grad, expected, rtol=0, atol=1e-8)


# The objective --------------------------------------------------------------------------------------------------------

SETTINGS: Any = {"souls": 2, "sample_weight": 1.3, "class_weight": 2.1, "class_samples": 3}


def some_souls(data: TrainData) -> Tensor:
    """Not those of the data, so that it is they that are used; near what is generated, so that both are nearest."""
    return 2 * normal(7, data.n_seen, 2, data.meta.n_features)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TrainData, int, int]]:
    """What ``soul_samples``, which returns ``some_souls``, is asked for: the data, how many, the generator's seed."""
    calls = []

    def note(data: TrainData, n: int, rng: torch.Generator) -> Tensor:
        calls.append((data, n, rng.initial_seed()))
        return some_souls(data)

    monkeypatch.setattr(lisgan, "soul_samples", note)
    return calls


def slow_term(method: Any, data: TrainData, batch: TrainData, weight: float | None, fake: list[Row]) -> float:
    """Li et al. 2019, eq. 6 and 8, and the cycle over the classes of the batch."""
    config, souls = method.config, some_souls(data).tolist()
    value = config.sample_weight * slow_to_nearest(fake, [souls[y] for y in batch.labels.tolist()])
    noise = first_run().rng("class samples")
    classes = [c for c in range(data.n_seen) for _ in range(config.class_samples)]
    drawn = torch.randn(len(classes), method.generator.n_noise, generator=noise)
    generated = slow_features(method.generator, drawn, data.attributes[classes])
    pairs = list(zip(generated, classes, strict=True))
    means = [slow_mean([x for x, of in pairs if of == c]) for c in range(data.n_seen)]
    value += config.class_weight * slow_to_nearest(means, souls)
    if weight is None:
        return value
    return value + weight * slow_class_loss([slow_layer(method.regressor, x) for x in fake], batch)


@pytest.mark.parametrize("weight", [None, 2.5])
def test_every_objective_and_its_gradient(weight: float | None, asked: list[tuple[TrainData, int, int]]):
    data, batch = make_batch()
    method = make_wgan(LisGAN, data, **SETTINGS)
    prepare = partial(method.prepare, data, class_slot(data, weight))
    check_wgan(method, data, batch, prepare, partial(slow_term, method, data, batch, weight))
    ((of, n, seed),) = asked
    assert of is data
    assert n == 2
    assert seed == first_run().rng("soul samples").initial_seed()


def test_each_weight_is_of_its_own_term(asked: list[tuple[TrainData, int, int]]):
    """The objective is linear in both weights, each of which moves it."""
    data, batch = make_batch()
    values = {}
    for weights in itertools.product((0.0, 1.0), repeat=2):
        settings = {**SETTINGS, "sample_weight": weights[0], "class_weight": weights[1]}
        method = make_wgan(LisGAN, data, **settings)
        prepare = partial(method.prepare, data, class_slot(data, None))
        values[weights] = wgan_descents(method, data, batch, prepare)[-1].value
        if weights == (0, 0):
            check_wgan(method, data, batch, prepare)
    samples, classes = (values[weights] - values[0, 0] for weights in ((1, 0), (0, 1)))
    assert min(samples, classes) > 0.01
    assert values[1, 1] == pytest.approx(values[0, 0] + samples + classes)


def test_the_means_are_drawn_anew_in_every_batch():
    data, batch = make_batch()
    method = make_wgan(LisGAN, data, **SETTINGS)
    means = []

    def prepare(run: Any) -> Any:
        training = method.prepare(data, class_slot(data, None), run)

        def twice(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:
            training([(x, y)], epoch)
            return training([(x, y)], epoch)

        return Round(twice)

    def note(x: Tensor, souls: Tensor) -> Tensor:
        if len(x) == data.n_seen:
            means.append(x.detach().clone())
        return to_nearest(x, souls)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lisgan, "to_nearest", note)
        wgan_descents(method, data, batch, prepare)
    assert len(means) == 2
    assert not torch.isclose(means[0], means[1]).any()


def test_the_regressor_is_trained_by_the_loss_and_only_with_one():
    data, batch = make_batch()
    method = make_wgan(LisGAN, data, **SETTINGS)
    start = copy.deepcopy(method.regressor)
    wgan_descents(method, data, batch, partial(method.prepare, data, class_slot(data, None)))
    assert torch.equal(method.regressor.weight, start.weight)
    assert LisGAN.semantics_need_loss
    method = make_wgan(LisGAN, data, **SETTINGS)
    wgan_descents(method, data, batch, partial(method.prepare, data, class_slot(data, 1.0)))
    check_trained_regressor(start, method.regressor, data, lambda rows: slow_class_loss(rows, data))
    expected = [pytest.approx(slow_layer(method.regressor, x)) for x in batch.features.tolist()]
    assert method.semantics(batch.features).tolist() == expected


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    assert short_accuracy(LisGAN, loss_name) > 0.8
