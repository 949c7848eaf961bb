"""Reports: the numbers against slow code, the page, its pictures, and the manifest that guards them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmark.boards.comparison import compare
from benchmark.boards.rows import boards, imbalance, metric
from benchmark.errors import InputError
from benchmark.files import ROOT
from benchmark.measures.imbalance import summarise
from benchmark.registries import DATASETS
from benchmark.report import manifest
from benchmark.report.analysis import (
    COMPARED,
    CONTRASTS,
    REFERENCE,
    STUDIED,
    Group,
    classes,
    effect,
    grouped,
    mean_errors,
    most_and_least,
    tally,
    trend,
)
from benchmark.report.pages import render
from benchmark.results.error_matrix import encode
from benchmark.results.record import (
    ClassAccuracy,
    CurvePoints,
    Evaluation,
    ImbalanceReport,
    Metrics,
    Result,
    Selection,
    SemanticErrors,
)
from benchmark.results.store import Store
from tests.reference.data_root import write_folder
from tests.reference.toy import make_result, make_spec, make_split

SPLIT = make_split()
N_SEEN, (N_CLASSES, A) = len(SPLIT.seen), SPLIT.attributes.shape
NAMES = [SPLIT.class_names[c] for c in (*SPLIT.seen, *SPLIT.unseen)]
LOSSES = {
    "none": ("none", {}),
    "mse": ("mse", {}),
    "mse-matched": ("mse-matched", {}),
    "remse": ("remse", {}),
    "remse:scale=mean_one": ("remse", {"scale": "mean_one"}),
}


def run(method: str, label: str, seed: int, errors: torch.Tensor, **changes: Any) -> Result:
    """A run with an error matrix, per-class accuracies, a curve and a history of two terms."""
    loss, overrides = LOSSES[label]
    values = torch.arange(N_CLASSES * A, dtype=torch.float64).reshape(N_CLASSES, A) ** 1.5
    parts = [
        SemanticErrors(**vars(summarise(errors[part], values[part]))) for part in (slice(N_SEEN), slice(N_SEEN, None))
    ]
    figures = dict.fromkeys(Metrics.model_fields, 40.0) | {"AUSUC": 30.0 + seed + len(label), "U": 10.0, "S": 70.0}
    evaluation = Evaluation(
        metrics=Metrics(**figures),
        per_class=[
            ClassAccuracy(
                name=NAMES[c],
                seen=c < N_SEEN,
                T1=None if c < N_SEEN else 50.0 + c + seed,
                gzsl=30.0,
                calibrated=35.0,
            )
            for c in range(N_CLASSES)
        ],
        imbalance=ImbalanceReport(seen=parts[0], unseen=parts[1], errors=encode(errors.double().numpy())),
        curve=CurvePoints(unseen=[0.0, 10.0, 60.0], seen=[80.0, 70.0, 0.0]),
    )
    history = [{"epoch": e, "loss": 3.0 / e, "held-out AUSUC": 20.0 + e} for e in (1.0, 2.0, 3.0)]
    selection = Selection(on="validation", criterion="AUSUC", value=23.0, choice=2, gamma=0.1, history=history)
    spec = {"dataset": "toy", "simulated": False, "method": method, "loss": loss, "loss_overrides": overrides}
    spec |= {"loss_parameters": overrides, "features": "res101", **changes}
    return make_result(make_spec(**spec), seed, evaluation=evaluation, selection=selection)


def errors_of(method: str, label: str, seed: int) -> torch.Tensor:
    """Errors that fall from mse to remse for ``even``, and rise for ``odd``."""
    rng = torch.Generator().manual_seed(100 * seed + len(label) + len(method))
    base = 1e-3 * (1 + torch.arange(A, dtype=torch.float64)) * (1 + torch.arange(N_CLASSES)[:, None] / 9)
    factor = {STUDIED: 0.5 if method == "even" else 1.5, "mse-matched": 0.8}.get(label, 1.0)
    return base * factor * (1 + 0.05 * torch.rand(N_CLASSES, A, generator=rng, dtype=torch.float64))


def all_runs(methods: tuple[str, ...] = ("even", "odd"), **changes: Any) -> list[Result]:
    return [run(m, label, s, errors_of(m, label, s), **changes) for m in methods for label in LOSSES for s in range(3)]


def groups_of(runs: list[Result]) -> list[Group]:
    ((_, rows),) = boards(runs).items()
    return grouped(rows)


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    return groups_of(all_runs())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    store = Store(tmp_path / "out" / "results")
    for result in all_runs():
        store.save(result)
    return tmp_path / "out"


# Numbers --------------------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_students_t() -> None:
    ours, theirs = [1.0, 2.5, 2.0, 4.0], [0.5, 1.0, 2.2, 3.0]
    runs = [
        make_result(
            make_spec(loss=loss),
            s,
            evaluation=Evaluation(metrics=Metrics(**{**_ONES, "T1": v}), per_class=[], imbalance=None),
        )
        for loss, values in (("a", ours), ("b", theirs))
        for s, v in enumerate(values)
    ]
    ((_, rows),) = boards(runs).items()
    by_loss = {row.spec.loss: row for row in rows}
    found = compare(by_loss["a"], by_loss["b"], metric("T1"))
    assert found
    assert found.interval
    d = np.subtract(ours, theirs)
    half = stats.t.ppf(0.975, 3) * np.std(d, ddof=1) / 2
    assert found.interval == pytest.approx((d.mean() - half, d.mean() + half))


_ONES = dict.fromkeys(Metrics.model_fields, 1.0)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25]) | st.floats(0, 1), st.floats(0, 5)), min_size=1, max_size=60),
    st.integers(1, 12),
)
def test_a_trend_keeps_equal_values_together_and_the_mean_of_all(pairs: list[tuple[float, float]], bins: int) -> None:
    values, errors = np.array(pairs).T
    middles, means = trend(values, errors, bins)
    assert len(middles) == len(means) <= bins
    assert (np.diff(middles) > 0).all()
    # Slowly: the group of an element is the number of cuts below it.
    cuts = sorted(set(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]).tolist()))
    slow: dict[int, list[tuple[float, float]]] = {}
    for value, error in pairs:
        slow.setdefault(sum(cut < value for cut in cuts), []).append((value, error))
    expected = [np.mean(slow[key], axis=0) for key in sorted(slow)]
    assert np.allclose(np.stack([middles, means], axis=1), expected)


def test_an_effect_is_the_paired_difference_in_percent_of_the_reference(groups: list[Group]) -> None:
    (even,) = (group for group in groups if group.label == "even")
    found = effect(even, (STUDIED, REFERENCE), "unseen", "mean")
    means = {
        label: [float(errors_of("even", label, s)[N_SEEN:].mean(dim=0).mean()) for s in range(3)] for label in LOSSES
    }
    reference = np.mean(means[REFERENCE])
    test = stats.ttest_rel(means[STUDIED], means[REFERENCE])
    assert found
    assert found.value == pytest.approx(100 * (np.mean(means[STUDIED]) - reference) / reference)
    assert found.interval == pytest.approx(100 * np.array(test.confidence_interval()) / reference)
    assert found.told
    r = effect(even, (STUDIED, REFERENCE), "unseen", "r")
    row, base = (
        even.rows[STUDIED].summary(imbalance("unseen", "r")),
        even.rows[REFERENCE].summary(imbalance("unseen", "r")),
    )
    assert r
    assert row
    assert base
    assert r.value == pytest.approx(row.mean - base.mean)
    assert effect(even, (STUDIED, "lds"), "unseen", "mean") is None


def test_a_tally_says_where_the_claim_holds_and_where_not(groups: list[Group]) -> None:
    found = tally(groups, (STUDIED, REFERENCE), "unseen", "std")
    assert found
    assert (found.groups, found.lower, found.higher) == (2, ("even",), ("odd",))
    assert (found.told_lower, found.told_higher) == (("even",), ("odd",))
    assert found.median == pytest.approx(0, abs=3)
    assert tally([], CONTRASTS[0], "unseen", "std") is None


def test_details_are_of_the_methods_at_both_ends_and_prefer_defaults() -> None:
    tuned = [
        run("even", label, s, errors_of("odd", label, s) ** 1.1, tuned=5)
        for label in (REFERENCE, STUDIED)
        for s in (0, 1)
    ]
    more = [
        run("even", label, s, errors_of("even", REFERENCE, s), hparams={"lr": 9.0}, hparam_overrides={"lr": 9.0})
        for label in LOSSES
        for s in (0, 1)
    ]
    groups = groups_of([*all_runs(("even", "odd", "middle!")), *tuned, *more])
    assert {"even tuned", "even:lr=9.0"} < {group.label for group in groups}
    most, least = most_and_least(groups)
    assert most.label == "even"
    assert least.label in ("odd", "middle!")
    assert [group.label for group in most_and_least([g for g in groups if g.label == "even tuned"])] == ["even tuned"]


def test_rows_that_differ_in_defaults_alone_leave_the_one_with_most_runs() -> None:
    old = [run("even", REFERENCE, 0, errors_of("even", REFERENCE, 0), hparams={"lr": 7.0})]
    (group,) = groups_of([*all_runs(("even",)), *old])
    assert group.older == 1
    assert len(group.rows[REFERENCE].runs) == 3


def test_errors_and_accuracies_are_averaged_over_runs(groups: list[Group]) -> None:
    (even,) = (group for group in groups if group.label == "even")
    row = even.rows[REFERENCE]
    expected = sum(errors_of("even", REFERENCE, s) for s in range(3)) / 3
    assert np.allclose(mean_errors(row), expected, rtol=2e-3)
    assert [c.T1 for c in classes(row)] == [None] * N_SEEN + [51.0 + c for c in range(N_SEEN, N_CLASSES)]


#: What begins a path of somebody's machine, and not the rest of a relative path or of an address.
MACHINES_PATH = re.compile(
    rb"(?<![\w.~/-])/(?:home|root|work|tmp|Users|mnt|media|opt|srv|var|scratch|data)/\w|\b[A-Z]:\\\\?\w"
)


# Pictures and the page ------------------------------------------------------------------------------------------------


def test_losses_differ_in_colour_marker_and_line() -> None:
    from benchmark.report.canvas import styles

    look = styles(["none", *COMPARED, "focal", "lds", "mae", "rmse"])
    assert len(look) == 9
    for part in zip(*look.values(), strict=True):
        assert len({str(value) for value in part}) == 9
    assert list(styles([*look, "one too many"])) == ["none", *COMPARED], "those of the claims, where not all differ"


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    write_folder(tmp_path / "data" / "TOY", SPLIT, {"res101": SPLIT.features})
    return tmp_path / "data"


def test_a_report_shows_each_picture_as_png_and_svg(tmp_path: Path, data_root: Path) -> None:
    revision = DATASETS.resolve("toy", {}, data_root).revision
    store = Store(tmp_path / "results")
    for result in all_runs(revision=revision):
        store.save(result)
    files = render(store.folder, "toy", ["even"], data_root)
    page = files["README.md"].decode()
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\.png\)", page)
    kinds = {path.split("/")[1] for path in shown}
    assert kinds == {
        *("claims-unseen-default", "claims-seen-default", "curves-default", "training-default"),
        *(f"{kind}-even" for kind in ("values", "matrices", "classes", "terms")),
    }
    assert set(files) == {"README.md", *(f"{path}.{kind}" for path in shown for kind in ("png", "svg"))}
    assert all(files[f"{path}.png"].startswith(b"\x89PNG") and b"<svg" in files[f"{path}.svg"] for path in shown)
    assert all("res101 features" in files[f"{path}.svg"].decode() for path in shown)
    assert "- `remse` \N{MINUS SIGN} `mse`: lower mean in 1 of 1 (1)" in page


def test_semantics_in_which_all_classes_agree_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.report.canvas.render", lambda draw: draw() and (b"png", b"svg"))
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    constant = replace(SPLIT, attributes=np.where(np.arange(A) == 1, np.float32(0), SPLIT.attributes))
    write_folder(tmp_path / "data" / "TOY", constant, {"res101": SPLIT.features})
    revision = DATASETS.resolve("toy", {}, tmp_path / "data").revision
    store = Store(tmp_path / "results")
    for label in LOSSES:
        errors = errors_of("even", label, 0).index_fill(1, torch.tensor([1]), torch.nan)
        store.save(run("even", label, 0, errors, revision=revision))
    for root in (None, tmp_path / "data"):
        page = render(store.folder, "toy", ["even"], root)["README.md"].decode()
        assert "Error of the worst tenth of semantics on unseen classes: `mse` " in page
        assert not re.search(r"\bnan\b", page)


def test_a_picture_has_the_same_bytes_each_time_whatever_the_user_has_set(groups: list[Group]) -> None:
    import matplotlib as mpl

    from benchmark.report.canvas import render as drawn
    from benchmark.report.plots import claims

    first = drawn(lambda: claims("title", groups, "unseen"))
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": "theirs", "axes.grid": False}):
        assert drawn(lambda: claims("title", groups, "unseen")) == first
        assert mpl.rcParams["font.size"] == 20


def test_without_the_data_or_with_another_revision_label_values_are_left_out(
    out: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.report.canvas.render", lambda draw: (b"png", b"svg"))  # the page alone is looked at
    both = render(out / "results", "toy", [], None)["README.md"].decode()
    assert "- `remse` \N{MINUS SIGN} `mse`: lower mean in 1 of 2 (1)" in both
    assert "Higher: mean: odd; std: odd" in both
    for root, reason in ((None, "by --data-root or $ZSL_DATA"), (data_root, "the runs of 1")):
        files = render(out / "results", "toy", ["even"], root)
        page = files["README.md"].decode()
        assert f"{reason}." in page
        assert not any("values-" in name for name in files)
        assert any("matrices-even.png" in name for name in files)
        assert "odd" not in page


def test_no_page_names_the_folder_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.report.canvas.render", lambda draw: (b"png", b"svg"))
    write_folder(tmp_path / "data" / "TOY", SPLIT, {"vit": SPLIT.features})
    store = Store(tmp_path / "results")
    for result in all_runs(("even",), dataset_options={"features": "res101"}):
        store.save(result)
    page = render(store.folder, "toy", ["even"], tmp_path / "data")["README.md"].decode()
    assert "No errors over label values: TOY: no features 'res101'; known: vit." in page
    assert str(tmp_path) not in page


def test_no_generated_file_names_a_path_of_a_machine() -> None:
    kinds = {".md", ".html", ".json", ".jsonl", ".svg", ".yaml"}
    files = [path for path in sorted((ROOT / "leaderboards").rglob("*")) if path.suffix in kinds]
    assert len(files) > 100
    assert [str(path.relative_to(ROOT)) for path in files if MACHINES_PATH.search(path.read_bytes())] == []


@pytest.mark.parametrize(
    "path", ["/home/me/x", "(/root/x)", "at /work/x", "`/tmp/x`", r"C:\\data", "D:\\data", "/Users/x"]
)
def test_a_path_of_a_machine_is_known(path: str) -> None:
    assert MACHINES_PATH.search(path.encode())
    assert not MACHINES_PATH.search(b"see results/home/x, https://a.org/home/x and C: d")


def test_what_a_user_can_get_wrong(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no runs of 'toi'.*did you mean.*toy"):
        render(out / "results", "toi", [], None)
    with pytest.raises(InputError, match=r"--method evem: no runs of it on toy.*even"):
        render(out / "results", "toy", ["evem"], None)
    for name in ("canvas", "plots"):
        monkeypatch.delitem(sys.modules, f"benchmark.report.{name}", raising=False)
        monkeypatch.delattr(f"benchmark.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=re.escape("pip install -e '.[report]'")):
        render(out / "results", "toy", [], None)


# The manifest ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(out: Path) -> Path:
    """A finished report."""
    folder = out / "report" / "toy"
    manifest.write(
        folder, {"README.md": b"page", "a/b.png": b"picture"}, manifest.inputs(out / "results" / "toy"), ["toy"]
    )
    return folder


def edit_picture(out: Path) -> None:
    (out / "report/toy/a/b.png").write_bytes(b"nicer")


def remove_page(out: Path) -> None:
    (out / "report/toy/README.md").unlink()


def add_file(out: Path) -> None:
    (out / "report/toy/a/notes.md").write_text("mine")


def change_result(out: Path) -> None:
    path = next((out / "results/toy/even+mse").glob("*.json"))
    path.write_text(path.read_text() + " ")


def add_result(out: Path) -> None:
    Store(out / "results").save(run("even", REFERENCE, 7, errors_of("even", REFERENCE, 7)))


def remove_manifest(out: Path) -> None:
    (out / "report/toy/report.json").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit_picture, r"b\.png: was edited"),
        (remove_page, r"README\.md: is missing"),
        (add_file, r"notes\.md: is not of this report"),
        (change_result, r"toy: is stale: results of even\+mse changed since; python -m benchmark.report toy makes"),
        (add_result, r"toy: is stale: results of even\+mse changed since"),
        (remove_manifest, r"toy: has no report\.json"),
    ],
)
def test_check_finds_what_is_not_as_it_was_made(
    out: Path, folder: Path, change: Callable[[Path], None], said: str
) -> None:
    assert manifest.check(out) == []
    change(out)
    (line,) = manifest.check(out)
    assert re.search(said, line)


def test_a_new_report_replaces_the_old_one_and_nothing_else(out: Path, folder: Path) -> None:
    manifest.write(folder, {"README.md": b"new"}, manifest.inputs(out / "results" / "toy"), ["toy"])
    assert manifest.check(out) == []
    assert not (folder / "a").exists()
    (folder / "mine.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"mine\.png: is of no report and would be overwritten"):
        manifest.write(folder, {"README.md": b"newer", "mine.png": b"x"}, {}, ["toy"])
    assert (folder / "README.md").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../../results/toy/x.json", "/etc/passwd"])
def test_a_manifest_that_reaches_out_of_its_folder_is_refused(out: Path, folder: Path, name: str) -> None:
    content = json.loads((folder / "report.json").read_text())
    content["files"][name] = "0"
    (folder / "report.json").write_text(json.dumps(content))
    for action in (lambda: manifest.check(out), lambda: manifest.write(folder, {}, {}, ["toy"])):
        with pytest.raises(InputError, match="must be the manifest of a report"):
            action()
