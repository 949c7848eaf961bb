"""A dress rehearsal of CUB, SUN and AWA2: real splits, labels and attributes, features of the real shape made up.

The features are 2,048 random mixtures of an image's attributes with noise, cut off at 0, as ResNet-101's are, so that
accuracies mean nothing; what is seen is whether the commands of ``docs/findings.md`` get through, how long a run
takes, and what memory it needs.

Run ``python -m pytest -n 0 -s -m benchmark tests/benchmarks/bench_full_shapes.py``: half an hour of one core.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from benchmark.results.record import Result
from benchmark.results.store import Store

METHODS = ("eszsl", "ale", "vaegan")
N_FEATURES = 2048

pytestmark = [pytest.mark.benchmark, pytest.mark.real_data]


def make_up(source: Path, folder: Path) -> int:
    """Write the data set of ``source``, which has no features, with made-up ones; returns the number of images."""
    folder.mkdir()
    for file in ("att_splits.mat", "valclasses1.txt"):
        shutil.copy(source / file, folder / file)
    labels = np.load(source / "labels.npy").reshape(-1)
    rng = np.random.default_rng(0)
    attributes = scipy.io.loadmat(source / "att_splits.mat")["att"].T.astype(np.float32)
    attributes = (attributes - attributes.mean(0)) / attributes.std(0)
    mixing = rng.standard_normal((attributes.shape[1], N_FEATURES), dtype=np.float32) / attributes.shape[1] ** 0.5
    features = (attributes @ mixing)[labels - 1]
    features += rng.standard_normal(features.shape, dtype=np.float32)
    scipy.io.savemat(folder / "res101.mat", {"features": features.clip(0).T, "labels": labels[:, None]})
    return len(labels)


@pytest.fixture(scope="module", autouse=True)
def heading() -> None:
    print("\n| data set | images | method | loss | fit, s | evaluation, s | peak memory, MiB |")
    print("| --- | ---: | --- | --- | ---: | ---: | ---: |")


@pytest.mark.parametrize("name", ["cub", "sun", "awa2"])
def test_full_shape(name: str, real_data_root: Path, tmp_path: Path) -> None:
    source = real_data_root / name.upper()
    if not (source / "labels.npy").is_file():
        pytest.skip(f"{source} holds no labels.npy")
    n_images = make_up(source, tmp_path / name.upper())
    words = ["--method", *METHODS, "--loss", "mse", "remse", "--dataset", name, "--seeds", "0", "--profile", "small"]
    words += ["--data-root", str(tmp_path), "--out", str(tmp_path / "runs"), "--launcher", "inline"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "benchmark.run", *words], env=environment, check=True, capture_output=True)
    found = list(Store(tmp_path / "runs" / "results"))
    assert len(found) == 2 * len(METHODS)
    for result in found:
        print(f"| {name} | {n_images:,} | {_line(result)} |")


def _line(result: Result) -> str:
    assert result.cost is not None, result.error
    cost = result.cost
    figures = (f"{cost.fit_s:.0f}", f"{cost.evaluate_s:.1f}", f"{cost.peak_memory_mib:,.0f}")
    return " | ".join([result.spec.method_label, result.spec.loss_label, *figures])
