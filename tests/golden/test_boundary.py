"""Boundary samples against slow code: the relation network's training, the descent of features, and what is drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import TrainData
from benchmark.engine.runs import RefitRun
from benchmark.engine.settings import make_spec
from methods.generative import gsmflow
from methods.generative._blocks import PairNet
from methods.generative._boundary import BoundarySettings, move, train_relation, with_boundary_samples
from methods.generative.gsmflow import GSMFlow, class_means
from tests.reference.cells import TOY
from tests.reference.generative import Row, first_run, lively, make_batch, same, slopes, slow_adam, slow_sigmoid
from tests.reference.networks import slow_layer
from tests.reference.toy import class_slot, make_float64, make_split, make_train, seeded

SETTINGS: Any = {
    **{"relation_lr": 0.01, "relation_epochs": 3},
    **{"boundary_lr": 5.0, "boundary_steps": 4, "entropy_weight": 2},
}


def settings_with(**changes: Any) -> BoundarySettings:
    return BoundarySettings(**{**SETTINGS, **changes})


def make_net() -> PairNet:
    net: PairNet = lively(PairNet(3, 2, 4, seeded(0), slope=0.0))
    return net


def slow_relation(net: PairNet, x: Row, a: Row) -> float:
    """Through a ReLU and a sigmoid."""
    parts = slow_layer(net.of_features, x), slow_layer(net.of_attributes, a)
    return slow_sigmoid(slow_layer(net.last, [max(0.0, p + q) for p, q in zip(*parts, strict=True)])[0])


def slow_relations(net: PairNet, x: Row, attributes: Tensor, classes: list[int]) -> Row:
    return [slow_relation(net, x, attributes[c].tolist()) for c in classes]


def slow_entropy(values: Row) -> float:
    total = sum(math.exp(v) for v in values)
    return -sum(math.exp(v) / total * math.log(math.exp(v) / total) for v in values)


def mean_square(relations: Row, classes: list[int], y: int) -> float:
    return sum((r - (c == y)) ** 2 for r, c in zip(relations, classes, strict=True)) / len(classes)


@pytest.mark.parametrize("entropy_weight", [0.0, 2.0])
def test_features_descend_on_their_error_less_the_entropy_of_relations(entropy_weight: float):
    net, (_, batch) = make_net(), make_batch()
    settings = settings_with(entropy_weight=entropy_weight)
    found = move(net, batch.features, batch.labels, batch.attributes, settings, len(batch.labels))
    classes = sorted(set(batch.labels.tolist()))
    assert len(classes) < batch.n_seen
    x = batch.features.clone()

    def slow_objective() -> float:
        """The release's: means over the batch, whose slope its learning rate multiplies."""
        relations = [slow_relations(net, row, batch.attributes, classes) for row in x.tolist()]
        errors = [mean_square(r, classes, y) for r, y in zip(relations, batch.labels.tolist(), strict=True)]
        return (sum(errors) - entropy_weight * sum(map(slow_entropy, relations))) / len(x)

    for _ in range(settings.boundary_steps):
        x -= settings.boundary_lr * slopes(x, slow_objective)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-7)
    assert (found - batch.features).norm(dim=1).amin() > 0.01
    assert not found.requires_grad


def test_images_of_a_smaller_batch_move_as_far():
    net, (_, batch) = make_net(), make_batch()
    alone = batch.features[:1].repeat(3, 1), batch.labels[:1].repeat(3)
    all_classes = torch.cat([batch.features, alone[0]]), torch.cat([batch.labels, alone[1]])
    few = move(net, batch.features, batch.labels, batch.attributes, settings_with(), 6)
    many = move(net, *all_classes, batch.attributes, settings_with(), 6)
    torch.testing.assert_close(few, many[:6])


def test_the_relation_network_learns_which_class_of_the_batch_an_image_has():
    net, slow_net, (_, batch) = make_net(), make_net(), make_batch()
    decay = 0.3
    settings = settings_with(relation_weight_decay=decay)
    run = first_run()
    train_relation(net, batch, settings, 6, run)
    classes = sorted(set(batch.labels.tolist()))

    def slow_objective() -> float:
        errors = [
            mean_square(slow_relations(slow_net, x, batch.attributes, classes), classes, y)
            for x, y in zip(batch.features.tolist(), batch.labels.tolist(), strict=True)
        ]
        squares = sum(p.detach().square().sum().item() for p in slow_net.parameters())
        return sum(errors) / len(errors) + decay / 2 * squares

    slow_adam(slow_net, slow_objective, 0.01, (0.9, 0.999), settings.relation_epochs)
    assert not same(net, make_net())
    for name, expected in slow_net.named_parameters():
        torch.testing.assert_close(net.get_parameter(name), expected, rtol=0, atol=1e-6, check_stride=False)
    assert not any(p.requires_grad for p in net.parameters())


def test_each_image_has_one_sample_of_its_class_behind_the_images():
    data = make_float64(n=9, d=3, a=2, n_seen=4)
    still = with_boundary_samples(make_net(), data, settings_with(boundary_lr=1e-30), 4, first_run())
    assert len(still.labels) == 18
    assert torch.equal(still.features[:9], data.features)
    assert torch.equal(still.labels[:9], data.labels)
    where = [torch.cdist(sample[None], data.features).argmin().item() for sample in still.features[9:]]
    assert sorted(where) == list(range(9))
    assert where != list(range(9))  # in batches that are drawn
    assert torch.equal(still.labels[9:], data.labels[where])
    moved = with_boundary_samples(make_net(), data, settings_with(), 4, first_run())
    assert (moved.features[9:] - still.features[9:]).norm(dim=1).amin() > 1e-3
    assert replace(moved, features=data.features, labels=data.labels) == data


def test_samples_come_nearer_to_other_classes_and_stay_with_their_own():
    data, _ = make_train(make_split(3, n_seen=8, n_unseen=2, n_attributes=4, per_class=20, noise=0.05), "minmax")
    net = PairNet(data.meta.n_features, 4, 64, seeded(0), slope=0.0)
    settings = settings_with(relation_lr=0.03, relation_epochs=100, boundary_lr=10.0, boundary_steps=20)
    both = with_boundary_samples(net, data, settings, 32, first_run())
    with torch.no_grad():
        relations = net(both.features, both.attributes[both.seen]).sigmoid()
    n, right = len(data.labels), relations.argmax(1) == both.labels
    best = relations.topk(2, dim=1).values
    margin = best[:, 0] - best[:, 1]
    assert right[:n].float().mean() > 0.9
    assert right[n:].float().mean() > 0.6
    assert margin[n:].mean() < 0.7 * margin[:n].mean()


# In GSMFlow -----------------------------------------------------------------------------------------------------------


def fit(data: TrainData, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Any, list[Tensor], list[Tensor]]:
    """A fitted method, the perturbed features of each step of its flow, and the prototypes' means."""
    small: Any = {"hidden": 4, "position_hidden": 2, "blocks": 1, "perturbation": 0.0, "batch_size": 4, "epochs": 2}
    small |= {"n_generated": 2, "classifier_epochs": 1}
    batches: list[Tensor] = []
    means: list[Tensor] = []

    class Recorded(gsmflow.Flow):
        def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
            batches.append(x.detach())
            return super().forward(x, condition)

    def recorded(some: TrainData) -> Tensor:
        means.append(class_means(some))
        return means[-1]

    monkeypatch.setattr(gsmflow, "Flow", Recorded)
    monkeypatch.setattr(gsmflow, "class_means", recorded)
    method = GSMFlow(data.meta, GSMFlow.Config(**small, **settings), seeded(0)).double()
    method.fit(data, class_slot(data, None), RefitRun(torch.device("cpu"), 0, "toy", 2))
    return method, batches, means


def test_the_flow_sees_images_and_samples_in_as_many_steps(monkeypatch: pytest.MonkeyPatch):
    data = make_float64(n=9, d=3, a=2, n_seen=4)
    method, batches, means = fit(data, monkeypatch, boundary_samples=True, **SETTINGS)
    assert [len(batch) for batch in batches] == [4] * 6  # 9 images are 3 batches
    real = torch.cat([torch.cdist(batch, data.features).amin(1) < 1e-12 for batch in batches])
    assert real.any()
    assert not real.all()
    assert torch.equal(means[0], class_means(data))
    assert torch.equal(method.class_counts, data.class_counts)
    assert method.classifier_data(data, seeded(0))[0][:9].equal(data.features)


def test_without_them_nothing_changes(monkeypatch: pytest.MonkeyPatch):
    data = make_float64(n=9, d=3, a=2, n_seen=4)
    method, batches, _ = fit(data, monkeypatch, **SETTINGS)
    assert not hasattr(method, "relation")
    assert [len(batch) for batch in batches] == [4, 4, 1] * 2
    other, _, _ = fit(data, monkeypatch)
    assert same(method, other)
    names = BoundarySettings.model_fields.keys()
    plain, told, asked = (
        make_spec("gsmflow", settings, ("none", {}), TOY, {}, "proposed", "strict")
        for settings in ({}, {"boundary_samples": False}, {"boundary_samples": True})
    )
    assert plain.key == told.key != asked.key
    assert not names & plain.hparams.keys()
