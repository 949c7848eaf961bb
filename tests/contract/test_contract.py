"""What every registered class must do: each method with each loss, and with each data set that ships with the suite."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from benchmark.api import Method, MethodConfig, Split, TrainData, derive_seed
from benchmark.config import load_file
from benchmark.engine.experiment import run_cell
from benchmark.engine.plan import Cell
from benchmark.engine.protocol import facts, held_out, train_data
from benchmark.engine.runs import RefitRun
from benchmark.engine.settings import make_spec
from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.registry import Registry
from benchmark.results.record import Evaluation, Result
from benchmark.toolkit.stages import evaluation_stage
from losses import build
from tests.reference.toy import slot_for

#: Every method as it is, and those that a setting gives other networks to learn, keep and load.
VARIANTS = [
    *(pytest.param(name, {}, id=name) for name in METHODS.names()),
    pytest.param("zerodiff", {"contrast": "head"}, id="zerodiff-head"),
]
STAND_INS = [entry.name for entry in DATASETS if entry.simulated]


@cache
def load(dataset: str) -> Split:
    return DATASETS.resolve(dataset, {}, None).load()


def small_stand_in(method: str) -> str:
    """The stand-in of few classes whose features the method takes; both have 10 unseen classes of 50."""
    return "awa2-sim" if "global" in METHODS[method].obj.accepts else "cub-local-sim"


def quick_settings(method: str) -> dict[str, Any]:
    """The smallest training that a method's settings allow."""
    small = {"epochs": 1, "hidden": 16, "generated": 10, "codes": 10, "steps": 1, "embedding": 16, "semantic": 16}
    small |= {"samples": 1, "size": 512, "comparator": 16, "projection": 16}
    settings: dict[str, Any] = {}
    for name, field in METHODS[method].obj.Config.model_fields.items():
        if ... in get_args(field.annotation):
            settings[name] = [field.default[-1]]
        for part, value in small.items():
            if part in name.split("_") and isinstance(field.default, int):
                settings[name] = value
    return settings


def run(method: str, loss: str, dataset: str, **settings: Any) -> Result:
    source = DATASETS.resolve(dataset, {}, None)
    spec = make_spec(method, quick_settings(method) | settings, (loss, {}), source, {}, "proposed", "strict")
    (result,) = run_cell(Cell(spec, (0,), None, "cpu"))
    return result


def pairs() -> list[tuple[str, str, str]]:
    """(method, loss, data set), so that every two meet: more would find again what two of them break."""
    methods, losses = METHODS.names(), LOSSES.names()
    with_losses = [(method, loss, small_stand_in(method)) for method in methods for loss in losses]
    with_datasets = [
        (method, losses[(i + j) % len(losses)], dataset)
        for i, method in enumerate(methods)
        for j, dataset in enumerate(STAND_INS)
    ]
    return sorted({*with_losses, *with_datasets})


def test_every_two_meet() -> None:
    found = pairs()
    assert {(m, loss) for m, loss, _ in found} == set(product(METHODS.names(), LOSSES.names()))
    assert {(m, dataset) for m, _, dataset in found} == set(product(METHODS.names(), STAND_INS))
    assert {(loss, dataset) for _, loss, dataset in found} == set(product(LOSSES.names(), STAND_INS))


@pytest.mark.parametrize(("method", "loss", "dataset"), pairs())
def test_every_method_runs_with_every_loss_and_every_data_set(method: str, loss: str, dataset: str) -> None:
    result = run(method, loss, dataset)
    accepts, kind = METHODS[method].obj.accepts, load(dataset).kind
    if result.status == "skipped":
        assert result.error, "a skipped pair says why"
        assert kind in accepts or result.error.endswith(f" are {kind}")
        return
    assert kind in accepts
    assert result.status == "ok", result.error
    assert result.evaluation is not None
    metrics = result.evaluation.metrics
    for name, value in metrics.model_dump(exclude={"gamma"}).items():
        assert 0 <= value <= 100, f"{name} = {value}"
    assert pytest.approx(2 * metrics.U * metrics.S / max(metrics.U + metrics.S, 1e-12), abs=1e-9) == metrics.H
    assert math.isfinite(metrics.gamma)
    split = load(dataset)
    per_class = result.evaluation.per_class
    assert [c.name for c in per_class] == [split.class_names[c] for c in [*split.seen, *split.unseen]]
    t1 = [c.T1 for c in per_class if not c.seen and c.T1 is not None]
    assert pytest.approx(sum(t1) / len(t1)) == metrics.T1
    imbalance = result.evaluation.imbalance
    if not LOSSES[loss].absent:
        assert imbalance is not None, "a method that was given a regression loss predicts semantics"
    if imbalance is not None:
        assert 0 < imbalance.unseen.mean <= 4 / split.attributes.shape[1]  # of the squared distance of unit vectors


@pytest.mark.parametrize(("method", "settings"), VARIANTS)
def test_same_seed_same_numbers_and_global_random_state_is_untouched(method: str, settings: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    first, second = (run(method, "remse", small_stand_in(method), **settings) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.evaluation == second.evaluation
    assert first.selection == second.selection


@pytest.mark.parametrize("method", [m for m in METHODS.names() if "precision" in METHODS[m].obj.Config.model_fields])
def test_mixed_precision_changes_little(method: str) -> None:
    whole, mixed = (
        run(method, "mse", small_stand_in(method), precision=precision).evaluation
        for precision in ("float32", "bfloat16")
    )
    assert whole is not None
    assert mixed is not None
    assert whole != mixed
    assert whole.imbalance is not None
    assert mixed.imbalance is not None
    assert mixed.imbalance.seen.mean == pytest.approx(whole.imbalance.seen.mean, rel=0.05)


#: Enough for the semantics; softmax classifiers do not touch them.
FEW_EPOCHS = {"epochs": 3, "evaluate_every": 3, "regressor_epochs": 5, "classifier_epochs": 1, "n_generated": 20}
#: A share of what generators are given by default, in which they are far above chance already.
SHORT = {"epochs": 4, "evaluate_every": 4, "classifier_epochs": 10, "n_generated": 100}


def evaluation_with(method: str, settings: dict[str, Any]) -> Evaluation:
    source = DATASETS.resolve(small_stand_in(method), {}, None)
    spec = make_spec(method, settings, ("mse", {}), source, {}, "proposed", "strict")
    (result,) = run_cell(Cell(spec, (0,), None, "cpu"))
    assert result.evaluation is not None, result.error
    return result.evaluation


@pytest.mark.parametrize("method", METHODS.names())
def test_learns_classes(method: str) -> None:
    """With its own settings a method is far above chance, which is 10 % on the 10 unseen classes of 50."""
    known = METHODS[method].obj.Config.model_fields
    short = {key: value for key, value in SHORT.items() if key in known} if "n_generated" in known else {}
    metrics = evaluation_with(method, short).metrics
    assert metrics.T1 > 25
    assert metrics.S > 25
    assert metrics.AUSUC > 10


@pytest.mark.parametrize("method", METHODS.names())
def test_a_larger_regression_weight_lowers_the_error_of_the_semantics(method: str) -> None:
    """Or else, where the regressor is trained apart, they beat one guess for all: the mean of the seen classes' own."""
    few = {key: n for key, n in FEW_EPOCHS.items() if key in METHODS[method].obj.Config.model_fields}
    light, heavy = (evaluation_with(method, {"regression_weight": w} | few).imbalance for w in (0, 1000))
    split = load(small_stand_in(method))
    seen = torch.nn.functional.normalize(torch.from_numpy(split.attributes[split.seen]), dim=1)
    guess = torch.nn.functional.normalize(seen.mean(0), dim=0) - seen
    assert light is not None
    assert heavy is not None
    assert heavy.seen.mean < max(0.9 * light.seen.mean, float(guess.square().mean()))


@pytest.mark.parametrize("method", METHODS.names())
def test_remse_changes_what_is_predicted(method: str) -> None:
    """However small its weights are (on sun-sim hardly above 1), no method may take them for those of mse."""
    dataset = "sun-sim" if "global" in METHODS[method].obj.accepts else small_stand_in(method)
    plain, rebalanced = (run(method, loss, dataset).evaluation for loss in ("mse", "remse"))
    assert plain is not None
    assert rebalanced is not None
    assert plain.imbalance != rebalanced.imbalance


def fit(method: str, config: MethodConfig, data: TrainData) -> Method:
    rng = torch.Generator().manual_seed(derive_seed(0, "x"))
    fitted: Method = METHODS[method].obj(data.meta, config, rng)
    loss = build("mse", n_classes=len(data.attributes), n_attributes=data.meta.n_attributes)
    fitted.fit(data, slot_for(fitted, data, loss), RefitRun(torch.device("cpu"), 0, "", 1))
    return fitted


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *VARIANTS,
        ("cycle-clswgan", {"unseen": True}),
        ("icis", {"include_unseen": True}),
        ("genzsl", {"include_unseen": True}),
        ("gsmflow", {"anchors": "all"}),
        ("gsmflow", {"boundary_samples": True}),
    ],
)
def test_methods_say_whether_they_train_on_semantics_of_unseen_classes(method: str, settings: dict[str, Any]) -> None:
    """What is learnt, but for classifiers of generated features, depends on them where the method says so, only."""
    source = DATASETS.resolve(small_stand_in(method), {}, None)
    split = source.load()
    spec = make_spec(method, quick_settings(method) | settings, ("mse", {}), source, {}, "proposed", "strict")
    config = Cell(spec, (0,), None, "cpu").method_config(facts(split))
    data, _ = train_data(split, evaluation_stage(split), config.preprocess, torch.device("cpu"))
    other = data.attributes.clone()
    other[data.n_seen :] = other[: data.n_seen].flip(0)[: len(data.unseen)]
    found = [fit(method, config, each) for each in (data, replace(data, attributes=other))]
    learnt, with_others = (
        {name: value for name, value in one.named_parameters() if "classifier" not in name} for one in found
    )
    differs = [name for name, value in learnt.items() if not torch.equal(value, with_others[name])]
    assert bool(differs) == METHODS[method].trains_on_unseen(spec.hparams), differs


@pytest.mark.parametrize("method", METHODS.names())
def test_scores_have_a_column_for_each_class_asked_for(method: str) -> None:
    source = DATASETS.resolve(small_stand_in(method), {}, None)
    split = source.load()
    spec = make_spec(method, quick_settings(method), ("mse", {}), source, {}, "proposed", "strict")
    cell, cpu, stage = Cell(spec, (0,), None, "cpu"), torch.device("cpu"), evaluation_stage(split)
    config = cell.method_config(facts(split))
    data, transform = train_data(split, stage, config.preprocess, cpu)
    fitted = fit(method, config, data)
    test = held_out(split, stage, transform, cpu)
    x = test.unseen_features[:7]
    every, unseen = fitted.scores(x, test.all_classes), fitted.scores(x, test.all_classes[test.n_seen :])
    assert every.shape == (7, 50)
    assert unseen.shape == (7, 10)
    assert every.isfinite().all()
    predicted = fitted.semantics(x)
    assert predicted is not None
    assert predicted.shape == (7, split.attributes.shape[1])
    maps = fitted.attention(x)
    if maps is not None:
        assert maps.shape == (7, split.attributes.shape[1], *split.features.shape[1:3])
        assert (maps >= 0).all()


@pytest.mark.parametrize("registry", [METHODS, LOSSES, DATASETS], ids=lambda r: r.kind)
def test_every_registered_class_is_documented(registry: Registry[Any]) -> None:
    for entry in registry:
        assert entry.title
        assert len(entry.source) > 5, f"{entry.name} has no source"
        assert 1700 < entry.year < 2100  # least squares are older than computers
        assert entry.obj.__doc__, f"{entry.name} has no docstring"
        assert isinstance(entry.file, Path)


def test_every_method_has_settings_ranges_and_every_search_key_exists() -> None:
    for entry in METHODS:
        assert entry.config_file.is_file(), f"{entry.name} has no YAML beside it"
        file = load_file(entry.config_file)
        assert file.search, f"{entry.name} has no search ranges"
        assert set(file.search) <= set(entry.obj.Config.model_fields)
