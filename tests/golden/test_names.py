"""Classification by class names: the ridge against dense problems and scikit-learn, the rest written out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from benchmark.api import Facts, Incompatible, RegressionLoss, TrainData
from benchmark.engine.runs import RefitRun
from losses import build
from methods.embedding.names import Names
from methods.embedding.names_adapter import NamesAdapter
from tests.reference.least_squares import REWEIGHTED, close, iterate_to_the_end, loss_for
from tests.reference.toy import CPU, FixedWeights, make_float64, seeded, slot_for

RIDGES = [0.1, 30.0]


def fit(data: TrainData, loss: RegressionLoss | None, ridge: float = 1.0, space: str = "ridge") -> Names:
    method = Names(data.meta, Names.Config(ridge=(ridge,), space=space), seeded(0))
    method.fit(data, slot_for(method, data, loss), RefitRun(CPU, 0, "toy", 1))
    return method


def mse() -> RegressionLoss:
    return build("mse", n_classes=6, n_attributes=4)


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("loss", [None, mse()])
def test_the_ridge_is_that_of_scikit_learn(ridge: float, loss: RegressionLoss | None) -> None:
    data = make_float64()
    reference = Ridge(alpha=ridge, fit_intercept=False).fit(data.features.numpy(), data.targets.numpy())
    assert close(fit(data, loss, ridge).weight, reference.coef_.T, 1e-12)


@pytest.mark.parametrize("ridge", RIDGES)
def test_element_weights_scale_their_squared_errors_and_the_ridge(
    ridge: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterate_to_the_end(monkeypatch)
    data = make_float64()
    weights = torch.exp(torch.randn(40, 4, generator=seeded(0, "weights"), dtype=torch.float64))
    x, t, w = data.features.numpy(), data.targets.numpy(), weights.numpy()
    columns = [
        np.linalg.solve(x.T @ (w[:, [k]] * x) + ridge * w.mean() * np.eye(5), x.T @ (w[:, k] * t[:, k]))
        for k in range(4)
    ]
    assert close(fit(data, FixedWeights(weights), ridge).weight, np.stack(columns, axis=1), 1e-9)


@pytest.mark.parametrize("name", [name for name in REWEIGHTED if name != "mae"])
def test_the_fixed_point_is_stationary_under_its_own_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    iterate_to_the_end(monkeypatch)
    data = make_float64(1, n=48)
    v = fit(data, loss_for(name, data), 2.0).weight
    weights = loss_for(name, data).weights(data.features @ v, data.targets, data.labels)
    assert weights is not None
    left = data.features.T @ (weights * (data.features @ v - data.targets)) + 2.0 * weights.mean() * v
    assert left.norm() < 1e-7 * (data.features.T @ (weights * data.targets)).norm()


@pytest.mark.parametrize("space", ["ridge", "shared"])
def test_scores_are_cosines(space: str) -> None:
    data = make_float64(d=4)
    method = fit(data, None, space=space)
    x, classes = data.features[:3], torch.tensor([6, 1, 7])
    predicted = (x @ method.weight if space == "ridge" else x).tolist()
    for row, p in zip(method.scores(x, classes).tolist(), predicted, strict=True):
        for score, c in zip(row, classes.tolist(), strict=True):
            a = data.attributes[c].tolist()
            dot = sum(u * v for u, v in zip(p, a, strict=True))
            assert score == pytest.approx(dot / (sum(u * u for u in p) * sum(v * v for v in a)) ** 0.5, rel=1e-12)
    assert method.semantics(x).tolist() == predicted


def test_in_a_shared_space_nothing_is_trained_and_no_loss_has_a_place() -> None:
    data = make_float64(d=4)
    assert not fit(data, None, space="shared").weight.any()
    with pytest.raises(Incompatible, match="it regresses nothing; --loss none, or --set space=ridge"):
        fit(data, mse(), space="shared")
    with pytest.raises(Incompatible, match="as many features as semantics, and these are 5 and 4"):
        fit(make_float64(d=5), None, space="shared")


def test_the_space_is_shared_where_the_dimensions_agree() -> None:
    def chosen(n_features: int, n_attributes: int) -> str:
        facts = Facts(100, n_features, n_attributes, n_seen=8, n_unseen=2)
        return Names.Config.derive({"space": "auto"}, facts).space

    assert (chosen(512, 512), chosen(2048, 512)) == ("shared", "ridge")


# --- the adapter


def adapted(data: TrainData, loss: RegressionLoss | None, **settings: Any) -> NamesAdapter:
    config = NamesAdapter.Config(**{"epochs": 1, "batch_size": len(data.labels), "temperature": 0.1} | settings)
    method = NamesAdapter(data.meta, config, seeded(0)).double()
    method.fit(data, slot_for(method, data, loss), RefitRun(CPU, 0, "toy", config.epochs))
    return method


def unit(row: list[float]) -> list[float]:
    return [value / math.sqrt(sum(v * v for v in row)) for value in row]


def slow_embedding(method: NamesAdapter, x: list[float]) -> list[float]:
    if method.config.space == "ridge":
        x = [sum(x[d] * v for d, v in enumerate(column)) for column in method.weight.T.tolist()]
    z, adapter = unit(x), method.adapter.tolist()
    moved = [sum(z[j] * adapter[j][k] for j in range(len(z))) for k in range(len(z))]
    return unit([z[k] + method.config.strength * moved[k] for k in range(len(z))])


@pytest.mark.parametrize("space", ["ridge", "shared"])
def test_the_adapter_starts_at_names(space: str) -> None:
    data, every = make_float64(d=4), torch.arange(8)
    method = adapted(data, None, space=space, lr=1e-12, base_ridge=3.0)
    plain = fit(data, None, ridge=3.0, space=space)
    scores = method.scores(data.features, every)
    assert torch.allclose(0.1 * scores, plain.scores(data.features, every), rtol=0, atol=1e-9)
    with pytest.raises(Incompatible, match="as many features as semantics"):
        adapted(make_float64(d=5), None, space="shared")


@pytest.mark.parametrize("space", ["ridge", "shared"])
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_the_adapter_descends_the_objective(space: str, weight: float) -> None:
    """One step from a random matrix: the logged loss against loops, and what moves against differences of them."""
    data = make_float64(d=4)
    settings: dict[str, Any] = {"space": space, "strength": 0.7, "regression_weight": weight, "optimizer": "sgd"}
    config = NamesAdapter.Config(epochs=1, batch_size=40, temperature=0.5, lr=1e-7, **settings)
    method = NamesAdapter(data.meta, config, seeded(0)).double()
    before = 0.3 * torch.randn(4, 4, generator=seeded(1), dtype=torch.float64)
    method.adapter.data.copy_(before)
    run = RefitRun(CPU, 0, "toy", 1)
    method.fit(data, slot_for(method, data, build("mse", n_classes=6, n_attributes=4, normalize=False)), run)
    step = (before - method.adapter.detach()) / 1e-7

    def objective() -> float:
        total = 0.0
        for x, y in zip(data.features.tolist(), data.labels.tolist(), strict=True):
            v, targets = slow_embedding(method, x), data.attributes.tolist()
            logits = [sum(a * b for a, b in zip(v, unit(targets[c]), strict=True)) / 0.5 for c in range(6)]
            total += math.log(sum(map(math.exp, logits))) - logits[y]
            total += weight * sum((a - b) ** 2 for a, b in zip(v, targets[y], strict=True)) / 4
        return total / 40

    with torch.no_grad():
        method.adapter.copy_(before)
        assert run.history[0]["loss"] == pytest.approx(objective(), rel=1e-6)
        for j, k in ((0, 0), (1, 3), (3, 2)):
            values = []
            for shift in (1e-5, -1e-5):
                method.adapter[j, k] = before[j, k] + shift
                values.append(objective())
            method.adapter[j, k] = before[j, k]
            assert step[j, k].item() == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-6)
