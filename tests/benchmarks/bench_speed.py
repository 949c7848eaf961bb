"""What the suite is fast at, as ratios of two ways taken in turns, and how its stages grow with the data.

Run ``python -m pytest -n 0 -s -m benchmark tests/benchmarks/bench_speed.py``: about ten minutes, 3 GB of disk and 8 GB
of memory. ``docs/speed.md`` has its tables, and ``docs/growth.png`` is what it draws.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.api import Method, Split, TrainData
from benchmark.config import load_file
from benchmark.engine.evaluate import evaluate
from benchmark.engine.memory import reuse_freed_memory
from benchmark.engine.protocol import HeldOut, held_out, train_data
from benchmark.engine.runs import RefitRun
from benchmark.files import ROOT
from benchmark.registries import DATASETS, METHODS
from benchmark.report.canvas import grid, render
from benchmark.toolkit.stages import evaluation_stage, validation_stage
from datasets.xlsa17 import Xlsa17
from losses import build
from tests.benchmarks.bench_losses import BATCH, SIZES, interleaved, ratio, training_step
from tests.benchmarks.bench_metrics import SWEEP, exact_and_swept
from tests.reference.faults import Grid
from tests.reference.remse import SlowReMSE
from tests.reference.toy import CPU, slot_for
from tests.reference.xlsa17 import cells, write

N_SEEN, N_ATTRIBUTES = SIZES["cub"]
N_CELLS = 26
ROUNDS = 3
PICTURE = ROOT / "docs" / "growth.png"

pytestmark = pytest.mark.benchmark


def report(what: str, times: dict[str, list[float]], one: str, other: str) -> None:
    a, b = (statistics.median(times[name]) for name in (one, other))
    print(f"| {what} | {a:.4g} ms | {other} | {b:.4g} ms | {ratio(times, other, one):.3g} |")


def test_ratios_of_remse_and_of_the_metrics() -> None:
    sizes = {"n_classes": N_SEEN, "n_attributes": N_ATTRIBUTES}
    mse, remse = (training_step(build(name, **sizes), N_SEEN, N_ATTRIBUTES, "cpu") for name in ("mse", "remse"))
    times = interleaved({"with MSE": mse, "with ReMSE": remse}, time.thread_time)
    print("\n| what | time | against | time | times as long |\n| --- | ---: | --- | ---: | ---: |")
    report("a training step with MSE", times, "with MSE", "with ReMSE")

    rng = torch.Generator().manual_seed(0)
    predicted, attributes = torch.rand(BATCH, N_ATTRIBUTES, generator=rng), torch.rand(N_SEEN, N_ATTRIBUTES)
    labels = torch.randint(N_SEEN, (BATCH,), generator=rng)
    loss = build("remse", **sizes)
    slow = SlowReMSE(window="batch", momentum=0.9, scale="raw", floor=0.0, alpha=0.1, beta=0.75, normalize=True)

    def loop() -> float:
        return slow.step(slow.squared(predicted.tolist(), attributes[labels].tolist()), labels.tolist())[1]

    def ours() -> float:
        return float(loss(predicted, attributes[labels], labels))

    assert ours() == pytest.approx(loop(), rel=1e-4)
    times = interleaved({"ours": ours, "a loop over images and semantics": loop}, time.thread_time, 5, 1)
    report("ReMSE of a batch", times, "ours", "a loop over images and semantics")

    exact, sweep = exact_and_swept()
    other = f"a sweep over {SWEEP} gammas"
    times = interleaved({"ours": exact, other: sweep}, time.thread_time, 5, 1)
    report("T1, U, S, H, exact AUSUC and best H", times, "ours", other)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for gigabytes: pytest's own would keep them."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def mat_files(folder: Path) -> Path:
    """A data root with CUB's shape in the files that the release has: doubles, compressed."""
    split = DATASETS.resolve("cub-sim", {"size": "full"}, None).load()
    write(
        folder / "CUB",
        {"features": split.features.T.astype(np.float64), "labels": split.labels[:, None] + 1},
        {
            "att": split.attributes.T.astype(np.float64),
            "allclasses_names": cells(list(split.class_names)),
            "trainval_loc": split.trainval[:, None] + 1,
            "test_seen_loc": split.test_seen[:, None] + 1,
            "test_unseen_loc": split.test_unseen[:, None] + 1,
        },
    )
    return folder


def test_cached_load(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads by the wall clock, each with a look at every feature, which a memory map would else put off."""
    root = mat_files(scratch / "data")
    dataset = Xlsa17("cub", Xlsa17.Config(), root)

    def load(cache: str) -> float:
        monkeypatch.setenv("ZSL_CACHE", str(scratch / cache))
        return float(dataset.load().features.sum())

    def first() -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as cache:
            return load(cache)

    def plain() -> float:
        matrix = scipy.io.loadmat(root / "CUB" / "res101.mat")["features"]
        return float(np.ascontiguousarray(matrix.T, dtype=np.float32).sum())

    assert load("kept") == first() == plain()
    ways: dict[str, Callable[[], float]] = {
        "cached": lambda: load("kept"),
        "its first load": first,
        "scipy.io.loadmat": plain,
    }
    times = interleaved(dict(ways), time.perf_counter, 5, 0)
    print()
    report("a cached load of CUB's shape", times, "cached", "scipy.io.loadmat")
    report("a cached load of CUB's shape", times, "cached", "its first load")


def launch(folder: Path, options: list[str]) -> tuple[float, list[float], list[float]]:
    """Run a grid whose cells differ in the loss alone, one after another.

    Returns:
        Seconds until the first cell is stored; of each further cell the milliseconds since the one before was stored;
        and what its run says that it took of these.
    """
    losses = [f"remse:alpha={i / 100}" for i in range(1, N_CELLS + 1)]
    start = time.time()
    process = Grid(folder, 1).start(folder / "out", *options, "--loss", *losses)
    _, errors = process.communicate()
    files = sorted((folder / "out" / "results").glob("*/*/*.json"), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == N_CELLS, errors
    stored = np.array([path.stat().st_mtime for path in files])
    costs = [json.loads(path.read_text())["cost"] for path in files]
    runs = [1e3 * (cost["fit_s"] + cost["evaluate_s"]) for cost in costs]
    return stored[0] - start, (1e3 * np.diff(stored)).tolist(), runs[1:]


def test_launch_overhead(tmp_path: Path) -> None:
    """What a cell takes beside its run; ``local`` has one process, so that cells come one after another there too."""
    launchers = {"inline": ["--launcher", "inline"], "local": ["--launcher", "local", "--jobs", "1"]}
    found: dict[str, list[tuple[float, list[float], list[float]]]] = {name: [] for name in launchers}
    for round_ in range(ROUNDS):
        for name, options in launchers.items():
            found[name].append(launch(tmp_path / f"{name}{round_}", options))
    print("\n| launcher | until the first cell is stored | a further cell | its own run | beside it |")
    print(f"| --- {'| ---: ' * 4}|")
    for name, launched in found.items():
        starts, cells_ms, runs_ms = zip(*launched, strict=True)
        whole, own = np.concatenate(cells_ms), np.concatenate(runs_ms)
        medians = [float(np.median(values)) for values in (whole, own, whole - own)]
        print(f"| {name} | {np.median(starts):.1f} s | {' | '.join(f'{value:.0f} ms' for value in medians)} |")


@dataclass(frozen=True)
class Size:
    """How much is simulated: a tenth of the classes are unseen; a fifth of the images of the others are for tests."""

    images: int = 50_000
    classes: int = 200
    semantics: int = 100


N_FEATURES = 128
AXES: dict[str, tuple[int, ...]] = {
    "images": (10_000, 31_600, 100_000, 316_000, 1_000_000),
    "classes": (100, 316, 1_000, 3_160, 10_000),
    "semantics": (32, 100, 316, 1_000),
}
#: Colours of Okabe and Ito.
STAGES = {
    "prepare": ("#0072B2", "o"),
    "fit ESZSL, MSE": ("#009E73", "s"),
    "an epoch of ALE, ReMSE": ("#D55E00", "^"),
    "evaluate": ("#CC79A7", "D"),
}


def simulated(size: Size, file: Path) -> Split:
    """Images around a linear map of their class's semantics; their features are mapped from ``file``."""
    rng = np.random.default_rng(0)
    attributes = rng.random((size.classes, size.semantics), dtype=np.float32)
    means = attributes @ rng.standard_normal((size.semantics, N_FEATURES), dtype=np.float32) / size.semantics**0.5
    image = np.arange(size.images)
    labels, rank = image % size.classes, image // size.classes
    features = np.lib.format.open_memmap(file, "w+", np.float32, (size.images, N_FEATURES))
    for rows in np.array_split(image, -(-size.images // 10_000)):
        features[rows] = means[labels[rows]] + rng.standard_normal((len(rows), N_FEATURES), dtype=np.float32)
    features.flush()
    is_unseen, is_test = labels >= size.classes - size.classes // 10, rank % 5 == 4
    return Split(
        features=np.load(file, mmap_mode="r"),
        labels=labels,
        attributes=attributes,
        class_names=tuple(f"class {c}" for c in range(size.classes)),
        trainval=image[~is_unseen & ~is_test],
        test_seen=image[~is_unseen & is_test],
        test_unseen=image[is_unseen],
    )


def prepared(split: Split) -> tuple[TrainData, HeldOut]:
    split.check()
    validation_stage(split, "simulated")
    stage = evaluation_stage(split)
    data, transform = train_data(split, stage, "standard", CPU)
    return data, held_out(split, stage, transform, CPU)


def fitted(name: str, loss: str, data: TrainData) -> Method:
    """The method after its first epoch or candidate."""
    entry = METHODS[name]
    config = entry.obj.Config(**load_file(entry.config_file).hparams)
    method: Any = entry.obj(data.meta, config, torch.Generator().manual_seed(0))
    n_classes, n_attributes = data.attributes.shape
    slot = slot_for(method, data, build(loss, n_classes=n_classes, n_attributes=n_attributes))
    method.fit(data, slot, RefitRun(CPU, 0, name, 1))
    return method


def seconds_of_stages(split: Split) -> list[float]:
    marks = [time.thread_time()]

    def mark(value: Any) -> Any:
        marks.append(time.thread_time())
        return value

    data, test = mark(prepared(split))
    mark(fitted("eszsl", "mse", data))
    method = mark(fitted("ale", "remse", data))
    mark(evaluate(method, test, 0.0))
    return np.diff(marks).tolist()


@pytest.fixture
def splits(scratch: Path) -> dict[tuple[str, int], Split]:
    return {
        (axis, n): simulated(replace(Size(), **{axis: n}), scratch / f"{axis}{n}.npy")
        for axis, values in AXES.items()
        for n in values
    }


def slope(n: tuple[int, ...], seconds: np.ndarray) -> float:
    """Of time over size on logarithmic axes, over the three largest sizes: below them constant parts weigh most."""
    return float(np.polyfit(np.log(n[-3:]), np.log(seconds[-3:]), 1)[0])


def test_growth(splits: dict[tuple[str, int], Split]) -> None:
    reuse_freed_memory()  # as commands do
    seconds_of_stages(splits["images", min(AXES["images"])])  # what only the first one pays for: imports
    rounds: list[dict[tuple[str, int], list[float]]] = []
    for _ in range(ROUNDS):
        rounds.append({})
        for key, split in splits.items():
            rounds[-1][key] = seconds_of_stages(split)
            gc.collect()
    medians = {key: np.median([times[key] for times in rounds], axis=0) for key in splits}
    curves = {axis: np.array([medians[axis, n] for n in values]) for axis, values in AXES.items()}
    print(f"\n| stage |{'|'.join(f' {axis}, {v[0]:,} to {v[-1]:,} | slope ' for axis, v in AXES.items())}|")
    print(f"| --- {'| ---: ' * 2 * len(AXES)}|")
    for i, stage in enumerate(STAGES):
        columns = [(c[0, i], c[-1, i], slope(AXES[axis], c[:, i])) for axis, c in curves.items()]
        print(f"| {stage} |{'|'.join(f' {a:.3g} to {b:.3g} s | {s:.2f} ' for a, b, s in columns)}|")
    PICTURE.write_bytes(render(lambda: picture(curves))[0])
    assert all((c > 0).all() for c in curves.values())


def picture(curves: dict[str, np.ndarray]) -> Figure:
    figure, axes = grid("Seconds on one core; dotted: in proportion to the size", 1, len(AXES), 3.0, sharey=True)
    for axis, (name, seconds) in zip(axes, curves.items(), strict=True):
        draw(axis, name, seconds)
    axes[0].set_ylabel("seconds")
    every = np.concatenate(list(curves.values()))
    axes[0].set_ylim(0.5 * every.min(), 2 * every.max())
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STAGES), frameon=False)
    return figure


def draw(axis: Axes, name: str, seconds: np.ndarray) -> None:
    sizes = np.array(AXES[name])
    for (stage, (color, marker)), curve in zip(STAGES.items(), seconds.T, strict=True):
        axis.loglog(sizes, curve, color=color, marker=marker, label=stage)
    for start in 10.0 ** np.arange(-5, 4):
        axis.loglog(sizes, start * sizes / sizes[0], color="0.75", linestyle=":", linewidth=0.8, zorder=0)
    axis.set_xlabel(name)
