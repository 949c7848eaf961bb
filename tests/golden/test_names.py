"""Classification by class names: the ridge against dense problems and scikit-learn, the shared space by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from benchmark.api import Facts, Incompatible, RegressionLoss, TrainData
from benchmark.engine.runs import RefitRun
from losses import build
from methods.embedding.names import Names
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
