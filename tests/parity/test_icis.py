"""ICIS against figures of its authors' code, ExplainableML/ImageFreeZSL, on CUB2010.

The release's joint autoencoders were trained on the CPU on the same classifier of seen classes, with the same settings,
and scored after the last epoch: nothing was picked on test. Figures are means of seeds 0 and 1, in percent; each may
differ by three standard errors of the difference of two means.

Run ``python -m pytest -n 0 -m parity tests/parity/test_icis.py``: half a minute of one core.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmark.engine.evaluate import evaluate
from benchmark.engine.protocol import held_out, train_data
from benchmark.engine.runs import RefitRun
from benchmark.registries import DATASETS
from benchmark.toolkit.stages import evaluation_stage
from methods.embedding.icis import ICIS
from tests.reference.toy import CPU, seeded, slot_for

SEEDS = (0, 1)
#: Of one run's figures over seeds: pooled over both codes, on CUB2010 and CUB50, two seeds of each.
DEVIATIONS = {"T1": 2.5, "U": 3.4, "S": 2.9, "AUSUC": 1.3}
RELEASE = {"T1": 38.6, "U": 20.9, "S": 58.7, "AUSUC": 22.2}
CONFIG = ICIS.Config(
    preprocess="none",
    include_unseen=True,
    hidden=256,
    lr=1e-3,
    epochs=100,
    base_epochs=20,
    base_lr=1e-3,
    base_batch_size=64,
)


@pytest.mark.parity
@pytest.mark.real_data
def test_it_reaches_what_the_release_does(real_data_root: Path) -> None:
    dataset = DATASETS.resolve("cub2010", {"features": "effnetlite0"}, real_data_root)
    if not dataset.is_present:
        pytest.skip(f"{real_data_root} holds no features of cub2010")
    split = dataset.load()
    stage = evaluation_stage(split)
    data, transform = train_data(split, stage, CONFIG.preprocess, CPU)
    test, runs = held_out(split, stage, transform, CPU), []
    for seed in SEEDS:
        method = ICIS(data.meta, CONFIG, seeded(seed))
        method.fit(data, slot_for(method, data, None), RefitRun(CPU, seed, "parity", CONFIG.epochs))
        runs.append(evaluate(method, test, 0.0, with_semantics=False).metrics.model_dump())
    for name, theirs in RELEASE.items():
        ours = sum(run[name] for run in runs) / len(runs)
        error = DEVIATIONS[name] * math.sqrt(2 / len(runs))
        print(f"{name}: theirs {theirs}, ours {ours:.1f}, standard error {error:.1f}")
        assert abs(ours - theirs) <= 3 * error, name
