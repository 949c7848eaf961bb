"""ZLA's prior, its training and its scores, against loops from its formula."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from benchmark.api import Facts, Slot
from benchmark.boards.rows import boards
from benchmark.boards.view import title_of
from benchmark.engine.runs import RefitRun, SelectionRun
from benchmark.registries import METHODS
from benchmark.toolkit import descend
from methods.generative import _zla
from methods.generative._synthesis import GenerativeMethod
from methods.generative._zla import log_prior, train_zla
from methods.generative.clswgan import CLSWGAN
from tests.contract.test_contract import run
from tests.reference.networks import slow_layer
from tests.reference.toy import CPU, dot, make_train, seeded, slot_for, tiny_config


def slow_prior(counts: list[int], n_unseen: int, ratio: float) -> list[float]:
    seen = [math.log(n / sum(counts) * ratio / (1 + ratio)) for n in counts]
    return seen + [math.log(1 / n_unseen / (1 + ratio))] * n_unseen


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1000.0])
def test_the_prior(ratio: float):
    labels = torch.tensor([0] * 3 + [1] * 5 + [2] * 12 + [3, 4, 5, 6] * 2)[torch.randperm(28, generator=seeded(0))]
    found = log_prior(labels, 3, 4, torch.tensor(ratio))
    assert found.tolist() == pytest.approx(slow_prior([3, 5, 12], 4, ratio), rel=1e-5)
    assert found.exp().sum().item() == pytest.approx(1, rel=1e-5)


def test_its_objective_and_its_weights(monkeypatch: pytest.MonkeyPatch):
    """Each step descends on the loops' cross-entropy; the weights are the prototypes over the temperature."""
    rng = seeded(0)
    features, attributes = torch.randn(8, 5, generator=rng), torch.rand(4, 3, generator=rng)
    labels, prior = torch.arange(8) % 4, torch.tensor([-1.0, -2.0, -3.0, -0.5])
    values: list[float] = []
    networks: list[nn.Module] = []
    make = _zla._network

    def note_network(*args: Any) -> nn.Module:
        networks.append(make(*args))
        return networks[-1]

    def prototypes() -> list[list[float]]:
        rows = []
        for a in attributes.tolist():
            hidden = slow_layer(networks[0][0], [v * math.sqrt(3) for v in a])  # type: ignore[index]
            row = slow_layer(networks[0][2], [v if v > 0 else 0.2 * v for v in hidden])  # type: ignore[index]
            rows.append([v / math.sqrt(dot(row, row)) for v in row])
        return rows

    def slow() -> float:
        total = 0.0
        for x, y in zip(features.tolist(), labels.tolist(), strict=True):
            logits = [
                dot(x, p) / math.sqrt(dot(x, x)) / 0.1 + b for p, b in zip(prototypes(), prior.tolist(), strict=True)
            ]
            total += (math.log(sum(math.exp(v) for v in logits)) - logits[y]) / len(labels)
        return total

    def check(value: torch.Tensor, *optimisers: torch.optim.Optimizer) -> torch.Tensor:
        assert value.item() == pytest.approx(slow(), rel=1e-4)
        values.append(value.item())
        return descend(value, *optimisers)

    monkeypatch.setattr(_zla, "_network", note_network)
    monkeypatch.setattr(_zla, "descend", check)
    settings: dict[str, Any] = {"hidden": 6, "temperature": 0.1, "epochs": 6, "lr": 0.05, "batch_size": 8}
    layer = train_zla(features, labels, attributes, prior, rng=seeded(1), **settings)
    assert len(values) == 6
    assert values[-1] < values[0]
    for row, expected in zip(layer.weight.tolist(), prototypes(), strict=True):
        assert row == pytest.approx([v / 0.1 for v in expected], abs=1e-4)
    assert not layer.bias.any()


def test_only_with_it_is_a_method_selected_by_h():
    assert CLSWGAN.selected_by({"classifier": "zla"}) == "H"
    assert CLSWGAN.selected_by({}) == "AUSUC"


GENERATING = [entry.name for entry in METHODS if issubclass(entry.obj, GenerativeMethod)]


@pytest.mark.parametrize("name", GENERATING)
def test_every_generating_method_takes_it(name: str):
    """Its ratio is chosen by H without calibration, which the history tells by each."""
    data, held = make_train(preprocess="minmax")
    config = tiny_config(METHODS[name], classifier="zla", ratio=(1.0, 1e6))
    method, selecting = METHODS[name].obj(data.meta, config, seeded(0)), SelectionRun(CPU, 0, "toy", held)
    method.fit(data, slot_for(method, data, None), selecting)
    assert selecting.criterion == "H"
    row = selecting.history[selecting.choice - 1]
    assert max(row["held-out H, ratio 1"], row["held-out H, ratio 1e+06"]) == row["held-out H"] == selecting.value


def test_the_row_says_so():
    ((row,),) = boards([run("clswgan", "none", "awa2-sim", classifier="zla")]).values()
    assert title_of(row) == "f-CLSWGAN (2018; selected by H)"


def test_the_ratio_moves_from_seen_to_unseen_and_is_kept_with_the_classifier():
    """In selection and refit alike, the classifiers that remain are those of the chosen ratio; both score the same."""
    data, held = make_train(preprocess="minmax")
    settings: dict[str, Any] = {"classifier": "zla", "hidden": 8, "epochs": 1, "classifier_lr": 0.01}
    means = []
    for ratio in (0.01, 100.0):
        method = CLSWGAN(data.meta, CLSWGAN.Config(**settings, ratio=(ratio,)), seeded(0))
        method.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 1))
        assert float(method.ratio) == pytest.approx(ratio)
        scores = method.scores(held.seen_features, torch.arange(len(data.attributes))).detach()
        of_unseen = method.scores(held.seen_features, data.unseen).detach()
        torch.testing.assert_close(of_unseen, scores[:, data.n_seen :])  # products of other sizes round differently
        assert torch.allclose(method.gzsl_classifier.weight.norm(dim=1), torch.tensor(1 / 0.04), rtol=1e-4)
        means.append(float((scores[:, data.n_seen :].mean(1) - scores[:, : data.n_seen].mean(1)).mean()))
    # What the prior takes from unseen classes in training, their cosines have to make up for.
    assert means[1] > means[0]

    method = CLSWGAN(data.meta, CLSWGAN.Config(**settings, ratio=(0.01, 100.0)), seeded(0))
    selecting = SelectionRun(CPU, 0, "toy", held)
    method.fit(data, Slot(data.attributes), selecting)
    assert float(method.ratio) == pytest.approx((0.01, 100.0)[selecting.way])
    again = CLSWGAN(data.meta, method.config, seeded(0))
    again.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", selecting.choice, selecting.way))
    assert torch.equal(again.gzsl_classifier.weight, method.gzsl_classifier.weight)


def test_other_classes_are_taken_by_the_same_ratio():
    data, _ = make_train(preprocess="minmax")
    config = CLSWGAN.Config(classifier="zla", hidden=8, epochs=1, ratio=(7.0,), n_generated=3)
    method = CLSWGAN(data.meta, config, seeded(0))
    method.fit(data, Slot(data.attributes), RefitRun(CPU, 0, "toy", 1))
    assert not any("ratio" in name for name in CLSWGAN(data.meta, CLSWGAN.Config(hidden=8), seeded(0)).state_dict())
    more = torch.cat([data.attributes, data.attributes[:1]])
    method.meta = replace(method.meta, n_unseen=method.meta.n_unseen + 1)
    method.take_classes(more, seeded(1))
    assert float(method.ratio) == 7
    assert method.scores(data.features, torch.arange(len(more))).shape == (len(data.labels), len(more))


@pytest.mark.parametrize(("classifier", "expected"), [("zla", (10, 512)), ("softmax", (320, 256))])
def test_what_is_derived_for_it(classifier: str, expected: tuple[int, int]):
    facts = Facts(6000, 100, 20, 150, 50)
    settings = {"classifier": classifier, "n_generated": "auto", "classifier_batch_size": "auto"}
    config = CLSWGAN.Config.derive(settings, facts)
    assert (config.n_generated, config.classifier_batch_size) == expected
