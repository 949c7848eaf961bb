"""Data that nobody has seen: whatever a folder holds, a run ends well or one line says what is wrong with it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from benchmark import run as command
from benchmark.engine.experiment import run_cell
from benchmark.engine.plan import Cell
from benchmark.engine.settings import make_spec
from benchmark.errors import InputError
from benchmark.registries import DATASETS, METHODS
from benchmark.report.attention import distinctive
from benchmark.results.audit import audit
from benchmark.results.record import Result
from benchmark.results.store import Stored
from tests.reference.odd_data import ATTRIBUTES, TEST_SEEN, TRAINVAL, Odd, odd, odd_folders
from tests.reference.toy import TINY
from tests.reference.xlsa17 import cache_folder

__all__ = ["cache_folder"]  # a fixture

TRIED = ("eszsl", "linear", "vaegan")


def run(root: Path, method: str, loss: str, *, partition: str = "proposed", **options: str) -> Result:
    """The run of a method in tiny settings on the folder ``TOY`` of a data root."""
    tiny = {key: value for key, value in TINY.items() if key in METHODS[method].obj.Config.model_fields}
    dataset = DATASETS.resolve("toy", options, root)
    spec = make_spec(method, tiny, (loss, {}), dataset, options, partition, "strict")
    (result,) = run_cell(Cell(spec, (0,), root, "cpu"))
    return result


def check_well(result: Result) -> None:
    assert result.status == "ok", result.error
    assert result.evaluation is not None
    figures: dict[str, Any] = result.evaluation.metrics.model_dump()
    assert all(math.isfinite(value) for value in figures.values())
    assert all(-1e-6 <= figures[name] <= 100 + 1e-6 for name in figures if name != "gamma")  # but for rounding


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=odd_folders(),
    method=st.sampled_from(TRIED),
    loss=st.sampled_from(["none", "mse", "remse"]),
    attributes=st.sampled_from(["att", "att", "original_att"]),
    partition=st.sampled_from(["proposed", "proposed", "random-0"]),
)
def test_a_run_ends_well_or_one_line_says_why_not(
    data: Odd, method: str, loss: str, attributes: str, partition: str
) -> None:
    with tempfile.TemporaryDirectory() as root:
        data.put(Path(root) / "TOY")
        try:
            result = run(Path(root), method, loss, partition=partition, attributes=attributes)
        except InputError as refused:
            text = str(refused)
            event("refused")
            assert "\n" not in text
            assert text.startswith((f"{root}/TOY/", "toy "))  # which file or data set
            assert " must " in text or " needs " in text  # and what would be right
        else:
            event("ran")
            check_well(result)


def with_attributes(kind: str) -> Odd:
    data = odd(3)
    return replace(data, att=ATTRIBUTES[kind](data.att))


def columns_without_images(value: float) -> Odd:
    data = odd(4, without=13)
    att = data.att.copy()
    att[:, np.setdiff1d(np.arange(att.shape[1]), data.labels - 1)] = value
    return replace(data, att=att)


def with_gaps() -> Odd:
    """Labels from 1 to 182 of 195 columns, with more gaps between."""
    data = odd(5)
    numbers = np.sort(np.random.default_rng(5).choice(np.arange(2, 182), len(data.att.T) - 2, replace=False))
    numbers = np.array([1, *numbers, 182])
    att = np.zeros((len(data.att), 195))
    att[:, numbers - 1] = data.att
    return replace(data, labels=numbers[data.labels - 1], att=att)


def one_class_of_one_image() -> Odd:
    data = odd(6)
    first = data.labels[data.part == TRAINVAL][0]
    of_class = np.flatnonzero((data.labels == first) & (data.part == TRAINVAL))
    keep = np.setdiff1d(np.arange(len(data.labels)), of_class[1:])
    return replace(data, features=data.features[:, keep], labels=data.labels[keep], part=data.part[keep])


def one_class_not_tested() -> Odd:
    data = odd(7)
    untested = data.labels[data.part == TEST_SEEN][0]
    keep = np.flatnonzero(~((data.labels == untested) & (data.part == TEST_SEEN)))
    return replace(data, features=data.features[:, keep], labels=data.labels[keep], part=data.part[keep])


ODDITIES: dict[str, Callable[[], Odd]] = {
    "no names": lambda: odd(1),
    "names": lambda: replace(odd(1), names=list("abcdefghi")),
    "labels with gaps": with_gaps,
    "whole attributes": lambda: with_attributes("whole"),
    "negative attributes": lambda: with_attributes("signed"),
    "percentages": lambda: with_attributes("percent"),
    "missing annotations": lambda: with_attributes("missing"),
    "a class of one image": one_class_of_one_image,
    "2 images a class": lambda: odd(8, images=2),
    "3 unseen classes, 52 features": lambda: odd(9, unseen=3, d=52),
    "one unseen class of one image": lambda: odd(10, unseen=1, fewest=1),
    "more attributes than images": lambda: odd(11, a=300),
    "zeros for classes without images": lambda: columns_without_images(0.0),
    "NaN for classes without images": lambda: columns_without_images(math.nan),
    "labels in a row": lambda: replace(odd(12), row=True),
    "a seen class that is not tested": one_class_not_tested,
    "features that are all 0": lambda: replace(odd(13), features=np.zeros_like(odd(13).features)),
    "v7.3": lambda: replace(odd(14), v73=True),
}


@pytest.mark.parametrize("method", TRIED)
@pytest.mark.parametrize("oddity", ODDITIES)
def test_what_works(oddity: str, method: str, tmp_path: Path) -> None:
    if oddity == "v7.3":
        pytest.importorskip("h5py")
    data = ODDITIES[oddity]()
    data.put(tmp_path / "TOY")
    result = run(tmp_path, method, "mse")
    check_well(result)
    assert result.evaluation is not None
    assert len(result.evaluation.per_class) == len(np.unique(data.labels))


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_what_tells_a_class_from_others_leaves_out_classes_without_images(value: float, tmp_path: Path) -> None:
    columns_without_images(value).put(tmp_path / "TOY")
    odd(4, without=13).put(tmp_path / "WHOLE")
    split, whole = (DATASETS.resolve(name, {}, tmp_path).load() for name in ("toy", "whole"))
    label = int(split.unseen[0])
    mean = [whole.attributes[whole.classes, a].mean() for a in range(5)]
    expected = max(range(5), key=lambda a: float(whole.attributes[label, a] - mean[a]))
    assert distinctive(split, label, 1) == [expected]


@pytest.mark.parametrize("loss", ["none", "mse", "remse"])
def test_large_features_and_huge_attributes_at_once(loss: str, tmp_path: Path) -> None:
    """The squares of ESZSL's normal equations were beyond float32."""
    labels, part = np.array([3, 1, 2, 2, 4, 1, 3]), np.array([0, 1, 0, 1, 2, 0, 0])
    features = np.array([[1e6, -1.32078369, -0.688911962, -0.997047747, -0.842954669, -0.786552157, -0.718164509]])
    Odd(features=features, labels=labels, part=part, att=np.full((1, 4), 1e14)).put(tmp_path / "TOY")
    check_well(run(tmp_path, "eszsl", loss))


@pytest.mark.parametrize("loss", ["none", "mse"])
def test_variances_that_are_predicted_far_from_the_seen_classes(loss: str, tmp_path: Path) -> None:
    """Of percentages the kernel is large, and log-variances that it extrapolates were beyond float32."""
    data = odd(11, seen=4, unseen=1, d=2, a=2)
    data = replace(data, features=1e4 * data.features, att=100 * data.att)
    data.put(tmp_path / "TOY")
    check_well(run(tmp_path, "gfzsl", loss))


@pytest.mark.parametrize("method", TRIED)
def test_a_result_of_a_single_attribute_is_sound(method: str, tmp_path: Path) -> None:
    """Between unit vectors of one dimension there is no error but rounding, which its encoding does not keep."""
    odd(10, d=1, a=1).put(tmp_path / "TOY")
    result = run(tmp_path, method, "mse")
    assert not [line for line in audit([Stored(Path("x.json"), result)]) if "imbalance" in line]


def undescribed() -> Odd:
    data = odd(1)
    att = data.att.copy()
    att[:, 3] = 0
    return replace(data, att=att)


REFUSED: dict[str, tuple[Callable[[], Odd], str]] = {
    "two seen classes": (
        lambda: odd(1, seen=2),
        "toy proposed: validation needs at least 3 seen classes, got 2 instead",
    ),
    "one image a class": (
        lambda: odd(1, images=1),
        "toy proposed: validation needs a class with at least 2 training images, one of which is held out, got none "
        "among 4 classes instead",
    ),
    "no test of seen classes": (
        lambda: odd(1, test=0),
        "{folder}/att_splits.mat: test_seen_loc must not be empty",
    ),
    "an undescribed class": (
        undescribed,
        "{folder}/att_splits.mat: att must describe every class with images, got only zeros for class 4 instead",
    ),
    "all are validation classes": (
        lambda: replace(odd(1, seen=4, unseen=1), validation=tuple(np.unique(odd(1, seen=4, unseen=1).labels)[:5])),
        "{folder}/valclasses1.txt: validation classes must be seen classes, got 1 others instead",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_refused(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = REFUSED[fault]
    make().put(tmp_path / "TOY")
    with pytest.raises(InputError) as refused:
        run(tmp_path, "linear", "mse")
    assert str(refused.value) == message.format(folder=tmp_path / "TOY")
    arguments = [
        "--method",
        "linear",
        "--loss",
        "mse",
        "--dataset",
        "toy",
        "--data-root",
        str(tmp_path),
        "--seeds",
        "0",
    ]
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "toy" in line.lower()]
    assert line.endswith(message.format(folder=tmp_path / "TOY"))
