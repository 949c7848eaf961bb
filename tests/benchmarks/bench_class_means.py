"""How far synthesise-then-classify goes on a data set, and which part of it fails: on validation classes alone.

Each class plays unseen as a Gaussian with the pooled covariance of the training classes around a mean: that of its own
images (what no method can know), or the one that kernel ridge regression predicts from its attributes. Below them the
generators, with the share of the variation of the class means that they explain (R2), on training and on held-out
classes. A low second line says that attributes do not tell the means, a generator far below it that it is the
generator.

Run ``python -m pytest -n 0 -s -m benchmark tests/benchmarks/bench_class_means.py``; needs the real data sets.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmark.api import TrainData
from benchmark.engine.evaluate import evaluate
from benchmark.engine.plan import Cell
from benchmark.engine.protocol import HeldOut, facts, held_out, train_data
from benchmark.engine.runs import SelectionRun
from benchmark.engine.settings import make_spec
from benchmark.registries import DATASETS, METHODS
from benchmark.toolkit.stages import validation_stage
from methods.generative._synthesis import GenerativeMethod
from methods.generative.clswgan import CLSWGAN
from tests.reference.class_means import fitted, means_by_ridge

CPU = torch.device("cpu")
N_GENERATED = 800

pytestmark = pytest.mark.benchmark


class Gaussians(CLSWGAN):
    """Generates N(mean of the class, pooled covariance within training classes); trains its classifiers alone."""

    def know(self, means: Tensor, data: TrainData) -> None:
        """(C, D) ``means`` of all classes."""
        within = data.features - means[data.labels]
        covariance = within.T @ within / len(within)
        self.factor = torch.linalg.cholesky(covariance + 1e-6 * covariance.trace() * torch.eye(len(covariance)))
        self.means, self.attributes = means, data.attributes
        self.train_gzsl_classifier(data, torch.Generator().manual_seed(0))
        self.train_zsl_classifier(data, *(torch.Generator().manual_seed(seed) for seed in (0, 1)))

    def generate(self, attributes: Tensor, rng: torch.Generator) -> Tensor:
        classes = torch.cdist(attributes, self.attributes).argmin(1)
        noise = torch.randn(len(classes), len(self.factor), generator=rng)
        return self.means[classes] + noise @ self.factor.T


def class_means(x: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    return torch.stack([x[labels == c].mean(0) for c in classes.tolist()])


def explained(predicted: Tensor, real: Tensor, centre: Tensor) -> float:
    return float(1 - (predicted - real).square().sum() / (real - centre).square().sum())


def line(name: str, method: GenerativeMethod, held: HeldOut, means: Tensor, real: Tensor) -> None:
    metrics = evaluate(method, held, 0.0, keep_errors=False).metrics
    centre = real[: held.n_seen].mean(0)
    parts = [explained(means[part], real[part], centre) for part in (slice(held.n_seen), slice(held.n_seen, None))]
    figures = " ".join(f"{key} {getattr(metrics, key):5.1f}" for key in ("T1", "U", "S", "H", "AUSUC"))
    print(f"{name:28} {figures}  R2 of means: training {parts[0]:6.2f}, held-out {parts[1]:6.2f}")


@pytest.mark.parametrize("name", ["awa1", "cub50"])
def test_means(name: str, real_data_root: Path) -> None:
    source = DATASETS.resolve(name, {}, real_data_root)
    split = source.load()
    stage = validation_stage(split, name)
    print(f"\n{name}, validation classes")
    for method in ["clswgan", "lisgan", "cegzsl", "vaegan", "free", "sdgzsl", "cadavae"]:
        cell = Cell(make_spec(method, {}, ("mse", {}), source, {}, "proposed", "strict"), (0,), real_data_root, "cpu")
        config = cell.method_config(facts(split))
        data, transform = train_data(split, stage, config.preprocess, CPU)
        held = held_out(split, stage, transform, CPU)
        every = torch.arange(len(data.attributes))
        real = torch.cat(
            [
                class_means(data.features, data.labels, every[: data.n_seen]),
                class_means(held.unseen_features, held.unseen_labels, every[data.n_seen :]),
            ]
        )
        if method == "clswgan":
            for how, means in (("their own means", real), ("means by ridge", means_by_ridge(data))):
                gaussians = Gaussians(
                    data.meta,
                    CLSWGAN.Config.model_validate(config.model_dump()),
                    torch.Generator().manual_seed(0),
                )
                gaussians.know(torch.cat([real[: data.n_seen], means[data.n_seen :]]), data)
                line(f"Gaussians, {how}", gaussians, held, means, real)
        run = SelectionRun(CPU, 0, method, held)
        trained = fitted(cell, data, run)
        with torch.no_grad():
            labels = every.repeat_interleave(N_GENERATED)
            generated = trained.generate(trained.conditions(data.attributes[labels]), torch.Generator().manual_seed(0))
        line(METHODS[method].title, trained, held, class_means(generated, labels, every), real)
