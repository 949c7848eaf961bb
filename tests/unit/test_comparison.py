"""The bootstrap of paired differences, and rankings over data sets, against slow or published figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, ttest_rel

from benchmark.boards.comparison import bootstrap, compare, comparisons, own_interval, ranking, rankings
from benchmark.boards.rows import Row, boards, metric
from benchmark.results.record import Result
from tests.reference.leaderboards import repeated, result, seeds

# Bootstrap ------------------------------------------------------------------------------------------------------------


def with_classes(loss: str, runs: Sequence[tuple[Iterable[float], Iterable[float]]], **changes: Any) -> list[Result]:
    """Runs, given the calibrated accuracies of their unseen classes, which are those of T1 too, and of seen ones."""
    made = []
    for seed, (unseen, seen) in enumerate(runs):
        per_class = [
            {
                "name": f"{part} {i}",
                "seen": part == "seen",
                "T1": None if part == "seen" else v,
                "gzsl": v,
                "calibrated": v,
            }
            for part, values in (("unseen", unseen), ("seen", seen))
            for i, v in enumerate(values)
        ]
        content = result(loss=loss, seed=seed, **changes).model_dump()
        content["evaluation"]["per_class"] = per_class
        made.append(Result.model_validate(content))
    return made


def rows_of(*results: list[Result]) -> list[Row]:
    (rows,) = boards([run for runs in results for run in runs]).values()
    return sorted(rows, key=lambda row: [runs[0].spec.loss for runs in results].index(row.spec.loss))


def test_intervals_agree_with_a_slow_bootstrap_of_other_draws() -> None:
    rng = np.random.default_rng(1)
    s, u, z = 5, 12, 30
    a = [(rng.uniform(30, 80, u), rng.uniform(40, 90, z)) for _ in range(s)]
    b = [(x - rng.normal(3, 6, u), y - rng.normal(0, 6, z)) for x, y in a]
    ours, theirs = rows_of(with_classes("remse", a), with_classes("mse", b))

    def harmonic(x: np.ndarray, y: np.ndarray) -> float:
        return 2 * x.mean() * y.mean() / (x.mean() + y.mean())

    t1, h, own = [], [], []
    for _ in range(4000):
        drawn, cu, cz = (rng.integers(n, size=n) for n in (s, u, z))
        t1.append(np.mean([a[i][0][cu].mean() - b[i][0][cu].mean() for i in drawn]))
        h.append(np.mean([harmonic(a[i][0][cu], a[i][1][cz]) - harmonic(b[i][0][cu], b[i][1][cz]) for i in drawn]))
        own.append(np.mean([harmonic(a[i][0][cu], a[i][1][cz]) for i in drawn]))
    found = [bootstrap(ours, theirs, "T1"), bootstrap(ours, theirs, "H_calibrated"), own_interval(ours, "H_calibrated")]
    for interval, slow in zip(found, (t1, h, own), strict=True):
        width = np.ptp(np.quantile(slow, (0.025, 0.975)))
        assert interval == pytest.approx(np.quantile(slow, (0.025, 0.975)), abs=0.08 * width)


def test_an_interval_is_of_the_runs_that_are_compared() -> None:
    """What was drawn of a row for one comparison is not taken for another of fewer seeds."""
    runs = [([20.0, 60.0], [50.0]), ([40.0, 80.0], [50.0])]
    both, first, theirs = rows_of(
        with_classes("remse", runs), with_classes("mae", runs[:1]), with_classes("mse", [([0.0, 0.0], [50.0])] * 2)
    )
    assert own_interval(both, "T1") == (20.0, 80.0)
    assert bootstrap(both, first, "T1") == (0.0, 0.0)
    assert bootstrap(both, theirs, "T1") == (20.0, 80.0)
    assert bootstrap(first, theirs, "T1") == (20.0, 60.0)


def test_intervals_are_paired_and_the_same_each_time() -> None:
    runs = [([20.0, 60.0, 90.0], [10.0, 70.0]), ([25.0, 65.0, 80.0], [15.0, 75.0])]
    shifted = [([v + 1.5 for v in unseen], seen) for unseen, seen in runs]
    ours, theirs = rows_of(with_classes("remse", shifted), with_classes("mse", runs))
    assert bootstrap(ours, theirs, "T1") == (1.5, 1.5)  # classes differ widely, the difference does not
    low, high = bootstrap(ours, theirs, "H_calibrated") or (0, 0)
    assert 0 < low < high < 1.5
    assert bootstrap(theirs, ours, "H_calibrated") == (-high, -low)


def test_there_is_no_interval_where_classes_or_runs_are_not_the_same() -> None:
    runs = [([50.0, 60.0], [70.0])]
    ours, theirs = rows_of(with_classes("remse", [*runs, *runs]), with_classes("mse", [([50.0], [70.0])]))
    assert bootstrap(ours, theirs, "T1") is None
    later = [run.model_copy(update={"seed": 7}) for run in with_classes("mse", runs)]
    ours, theirs = rows_of(with_classes("remse", runs), later)
    assert bootstrap(ours, theirs, "T1") is None
    partition = {"split": "random-0"}
    ours, theirs = rows_of(with_classes("remse", runs, **partition), with_classes("mse", runs, **partition))
    assert bootstrap(ours, theirs, "T1") is None
    assert own_interval(ours, "T1") is None


def test_remse_is_compared_with_its_control_where_there_is_one() -> None:
    results = [
        *(run for loss in ("mse", "remse", "mse-matched", "mae") for run in seeds(2, loss=loss)),
        *seeds(2, loss="remse", loss_overrides={"scale": "mean_one"}),
    ]
    (rows,) = boards(results).values()

    def pairs(*, controls: bool) -> set[tuple[str, str]]:
        found = comparisons(rows, {"T1": metric("T1")}, rows, controls=controls)
        return {(c.row.spec.loss_label, c.reference.spec.loss_label) for c in found if c.reference}

    others = {"remse", "mse-matched", "mae", "remse:scale=mean_one"}
    assert pairs(controls=False) == {(loss, "mse") for loss in others}
    assert pairs(controls=True) == {(loss, "mse") for loss in others} | {("remse", "mse-matched")}


def test_a_method_that_draws_no_random_number_is_one_run() -> None:
    (row,) = rows_of(repeated(3, "eszsl", "mse"))
    assert (row.deterministic, [run.seed for run in row.runs]) == (True, [0])
    assert row.summary(metric("T1")) == (50.0, None)


def test_a_deterministic_row_is_compared_at_every_seed_of_the_other() -> None:
    ours, theirs = rows_of(repeated(3, "gfzsl", "none", T1=53.0), seeds(3, "gfzsl", "mse"))
    for one, other, sign in ((ours, theirs, 1), (theirs, ours, -1)):
        found = compare(one, other, metric("T1"))
        assert found
        assert found.pairs == theirs.pairs
        expected = ttest_rel([53.0] * 3, [run.evaluation.metrics.T1 for run in theirs.runs if run.evaluation])
        assert found.p == pytest.approx(expected.pvalue)
        mean = theirs.summary(metric("T1"))
        assert mean
        assert found.mean == pytest.approx(sign * (53.0 - mean.mean))


# Rankings -------------------------------------------------------------------------------------------------------------


def test_critical_difference_of_the_paper() -> None:
    """Demšar, JMLR 7, 2006, section 3.2.2: 1.25 for four algorithms on 14 data sets."""
    found = ranking({f"m{i}": [float(i + d % 2) for d in range(14)] for i in range(4)}, [str(d) for d in range(14)])
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)


@given(st.lists(st.lists(st.integers(0, 5), min_size=4, max_size=4), min_size=3, max_size=5))
def test_ranks_are_positions_with_ties_shared(values: list[list[int]]) -> None:
    methods = {f"m{i}": of_method for i, of_method in enumerate(values)}
    found = ranking(methods, "abcd")
    positions = {
        name: [
            sum(other[d] > own[d] for other in values) + (sum(other[d] == own[d] for other in values) + 1) / 2
            for d in range(4)
        ]
        for name, own in methods.items()
    }
    assert found.ranks == pytest.approx({name: sum(of_method) / 4 for name, of_method in positions.items()})
    assert list(found.ranks.values()) == sorted(found.ranks.values())
    k = len(values)  # Friedman's statistic with its correction for ties, as Conover writes it
    between = sum((sum(of_method) - 4 * (k + 1) / 2) ** 2 for of_method in positions.values())
    within = sum(r * r for of_method in positions.values() for r in of_method) - 4 * k * (k + 1) ** 2 / 4
    assert found.p == (pytest.approx(chi2.sf((k - 1) * between / within, k - 1), abs=1e-9) if within else None)
    for group in found.groups:
        assert found.ranks[group[-1]] - found.ranks[group[0]] < found.critical_difference
    assert {name for group in found.groups for name in group} == set(methods)


def test_groups_part_where_ranks_differ() -> None:
    values = {f"m{i}": [float(10 - i)] * 30 for i in range(5)}
    found = ranking(values, [str(i) for i in range(30)])
    assert found.critical_difference == pytest.approx(2.728 * math.sqrt(5 * 6 / (6 * 30)), abs=0.001)  # q of k = 5
    assert found.groups == (("m0", "m1"), ("m1", "m2"), ("m2", "m3"), ("m3", "m4"))


def on(dataset: str, method: str, t1: float, **changes: Any) -> Result:
    return result(method, "mse", T1=t1, dataset=dataset, revision=f"revision{dataset}", **changes)


def test_methods_are_ranked_on_boards_that_they_share() -> None:
    results = [on(d, m, 50.0 + i) for d in ("x", "y", "z") for i, m in enumerate(("a", "b", "c"))]
    results += [on("x", "partial", 99.0), *(on(d, "twice", 98.0, hparams={"lr": r}) for d in "xyz" for r in (1, 2))]
    results += [on("x", m, 99.0, features="vit") for m in ("a", "b")]  # a smaller board of the same data set
    (found,) = rankings(boards(results), metric("T1")).values()
    assert found
    assert (found.datasets, found.ranks) == (("x", "y", "z"), {"c": 1.0, "b": 2.0, "a": 3.0})


@pytest.mark.parametrize("keep", [("xy", "abc"), ("xyz", "ab")])
def test_too_few_data_sets_or_methods_are_not_ranked(keep: tuple[str, str]) -> None:
    results = [on(d, m, 50.0 + ord(m)) for d in keep[0] for m in keep[1]]
    assert rankings(boards(results), metric("T1")) == {("mse", False): None}
