"""The search of settings: what it draws, that it resumes, what it stores, and that it never opens test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmark import run, search
from benchmark.api import AUTO, Incompatible
from benchmark.config import Range, validate
from benchmark.engine import experiment, tuned
from benchmark.engine import search as engine_search
from benchmark.errors import InputError
from benchmark.registries import METHODS
from benchmark.results.store import Store
from tests.reference.toy import make_spec

#: One ridge instead of 49 pairs: a trial takes a blink.
FAST = ["--method", "eszsl", "--dataset", "awa2-sim", "--set", "feature_ridge=[10.0]", "attribute_ridge=[1.0]"]


def go(folder: Path, trials: int, *arguments: str) -> int:
    return search.main([*FAST, "--loss", "mse", *arguments, "--trials", str(trials), "--tuned", str(folder)])


def found(folder: Path, loss: str = "mse") -> tuned.Tuned:
    record = tuned.load(folder / "awa2-sim" / f"eszsl+{loss}.yaml")
    assert record is not None
    return record


def essence(record: tuned.Tuned) -> list[dict[str, Any]]:
    return [trial.model_dump(exclude={"seconds"}) for trial in record.trials]


def test_the_first_trial_takes_the_defaults_and_the_best_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert go(tmp_path, 8) == 0
    record = found(tmp_path)
    assert record.trials[0].hparams == {}
    ranges = METHODS["eszsl"].obj.Config.model_fields
    for trial in record.trials[1:]:
        assert set(trial.hparams) == {"regression_weight", "preprocess", "negative_label"} <= set(ranges)
        assert 1e-2 <= trial.hparams["regression_weight"] <= 1e3
    values = [trial.value for trial in record.trials if trial.value is not None]
    assert record.value == max(values) > min(values)
    assert record.trials[values.index(record.value)].hparams == record.hparams
    assert len({str(trial.hparams) for trial in record.trials}) == 8
    assert f"{record.value:.1f}" in capsys.readouterr().out


def test_parameters_of_the_loss_are_searched_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert go(tmp_path / "tuned", 6, "--loss", "remse", "remse:alpha=0.5", "mse") == 0
    record = found(tmp_path / "tuned", "remse")
    assert record.trials[0].loss_parameters == {}
    for trial in record.trials[1:]:
        assert set(trial.loss_parameters) == {"alpha", "beta"}
        assert all(0 <= value <= 1 for value in trial.loss_parameters.values())
    assert len({str(trial.loss_parameters) for trial in record.trials}) == 6
    best = max(record.trials, key=lambda trial: trial.value or 0)
    assert (record.hparams, record.loss_parameters) == (best.hparams, best.loss_parameters)
    # What the user set is not searched, nor what another loss has.
    assert set(found(tmp_path / "tuned", "remse,alpha=0.5").trials[1].loss_parameters) == {"beta"}
    assert found(tmp_path / "tuned").trials[1].loss_parameters == {}
    assert f"loss:alpha={record.loss_parameters['alpha']:.3g}" in capsys.readouterr().out

    arguments = [*FAST, "--seeds", "0", "--tuned", str(tmp_path / "tuned"), "--out", str(tmp_path / "out")]
    assert run.main([*arguments, "--loss", "remse", "remse:alpha=0.5"]) == 0
    results = {result.spec.loss_label: result for result in Store(tmp_path / "out" / "results")}
    spec = results["remse"].spec
    assert {key: spec.loss_parameters[key] for key in record.loss_parameters} == record.loss_parameters
    assert results["remse:alpha=0.5"].spec.loss_parameters["alpha"] == 0.5
    for label, file in (("remse", record), ("remse:alpha=0.5", found(tmp_path / "tuned", "remse,alpha=0.5"))):
        selection = results[label].selection
        assert selection is not None
        assert selection.value == pytest.approx(file.value, rel=1e-12)


def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert go(tmp_path / "whole", 7) == 0
    real, calls = experiment.validate_cell, []

    def interrupted(cell: Any) -> float:
        calls.append(cell)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(cell)

    with monkeypatch.context() as patch:
        patch.setattr(engine_search, "validate_cell", interrupted)
        assert go(tmp_path / "parts", 7) == 130
    assert len(found(tmp_path / "parts").trials) == 3
    assert go(tmp_path / "parts", 7) == 0
    assert essence(found(tmp_path / "parts")) == essence(found(tmp_path / "whole"))
    before = found(tmp_path / "parts")
    monkeypatch.setattr(engine_search, "validate_cell", None)  # nothing is left to try
    assert go(tmp_path / "parts", 7) == 0
    assert found(tmp_path / "parts") == before


def test_the_value_is_the_one_that_a_run_selects_on(tmp_path: Path):
    assert go(tmp_path / "tuned", 4) == 0
    record = found(tmp_path / "tuned")
    arguments = [*FAST, "--loss", "mse", "--seeds", "0", "--out", str(tmp_path / "out")]
    assert run.main([*arguments, "--tuned", str(tmp_path / "tuned")]) == 0
    (result,) = Store(tmp_path / "out" / "results")
    assert result.selection is not None
    assert result.selection.value == pytest.approx(record.value, rel=1e-12)
    assert {key: result.spec.hparams[key] for key in record.hparams} == record.hparams
    assert result.spec.tuned == 4
    assert result.spec.hparams["feature_ridge"] == [10.0]  # --set still counts
    board = (tmp_path / "out" / "awa2-sim.md").read_text()
    assert "tuned by 4 trials" in board
    assert "--tuned" in board


def test_test_images_are_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def forbidden(*_: object) -> None:
        raise AssertionError("a search must not come near what a run refits on")

    monkeypatch.setattr(experiment, "trainval", forbidden)
    assert go(tmp_path, 2) == 0
    # While a run does, and fails.
    assert run.main([*FAST, "--seeds", "0", "--out", str(tmp_path / "out")]) == 1
    assert "must not come near" in capsys.readouterr().err


def test_the_weight_of_an_absent_loss_is_not_searched_nor_what_the_user_set(tmp_path: Path):
    assert go(tmp_path, 2, "--loss", "none") == 0
    assert set(found(tmp_path, "none").trials[1].hparams) == {"preprocess", "negative_label"}
    assert go(tmp_path, 2, "--set", "preprocess=l2") == 0
    assert set(found(tmp_path).trials[1].hparams) == {"regression_weight", "negative_label"}
    assert found(tmp_path).overrides["preprocess"] == "l2"


def test_losses_begin_with_the_same_random_trials(tmp_path: Path):
    assert go(tmp_path, 3, "--loss", "mse", "remse:scale=mean_one") == 0
    a, b = found(tmp_path), found(tmp_path, "remse,scale=mean_one")
    assert b.loss == "remse:scale=mean_one"
    assert [t.hparams for t in a.trials] == [t.hparams for t in b.trials]


def test_a_failed_trial_is_noted_and_the_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, calls = experiment.validate_cell, []

    def fails_second(cell: Any) -> float:
        calls.append(cell)
        if len(calls) == 2:
            raise FloatingPointError("loss became nan in /a/secret/place.py at epoch 3")
        return real(cell)

    monkeypatch.setattr(engine_search, "validate_cell", fails_second)
    assert go(tmp_path, 3) == 0
    record = found(tmp_path)
    assert [trial.value is None for trial in record.trials] == [False, True, False]
    error = record.trials[1].error
    assert error is not None
    assert "loss became nan" in error
    assert "secret" not in error


def test_when_every_trial_fails_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fails(cell: Any) -> float:
        raise FloatingPointError("loss became nan")

    monkeypatch.setattr(engine_search, "validate_cell", fails)
    assert go(tmp_path, 2) == 1
    assert "failed: " in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_pair_that_cannot_be_trained_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert go(tmp_path, 2, "--loss", "balanced-mse", "mse") == 0
    assert "skipped: " in capsys.readouterr().out
    assert [path.name for path in tmp_path.rglob("*.yaml")] == ["eszsl+mse.yaml"]


def test_choices_that_were_drawn_before_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, calls = experiment.validate_cell, []

    def counted(cell: Any) -> float:
        calls.append(cell)
        return real(cell)

    monkeypatch.setattr(engine_search, "validate_cell", counted)
    assert go(tmp_path, 12, "--loss", "none", "--set", "preprocess=l2") == 0
    assert len(calls) == 3  # the defaults, and the two labels
    assert len(found(tmp_path, "none").trials) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"revision": "0"}, "revision 0 instead of"),
        ({"features": "vit"}, "features vit instead of"),
        ({"loss": "mae"}, "loss mae instead of mse"),
        ({"seeds": [0, 1]}, r"seeds [0, 1] instead of [0]"),
        ({"overrides": {"lr": 1}}, "--set {'lr': 1} instead of"),
        ({"trials": []}, "trials must be"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_another_search_is_not_mixed_up_with_this_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
):
    assert go(tmp_path, 1) == 0
    file = tmp_path / "awa2-sim" / "eszsl+mse.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **change}))
    content = file.read_bytes()
    assert go(tmp_path, 2) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(file) in error
    assert error.count("\n") == 1
    assert file.read_bytes() == content


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert go(tmp_path, 0) == 2
    assert "--trials must be at least 1, got 0 instead" in capsys.readouterr().err
    assert run.main([*FAST, "--loss", "mse", "--tuned", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert (
        "python -m benchmark.search --method eszsl --loss mse --dataset awa2-sim --set 'attribute_ridge=[1.0]'" in error
    )
    assert error.count("\n") == 1


def test_tuned_settings_are_a_row_of_their_own_even_where_they_are_the_defaults():
    spec = make_spec()
    same = spec.model_copy(update={"tuned": 5})
    assert same.key != spec.key
    assert same.method_label == "toy tuned"


@pytest.mark.parametrize(
    "values",
    [
        {"low": 2, "high": 1},
        {"low": 1},
        {},
        {"choices": []},
        {"low": 0, "high": 1, "log": True},
        {"choices": [1], "low": 0},
    ],
)
def test_a_range_is_an_interval_or_choices(values: dict[str, Any]):
    with pytest.raises(InputError):
        validate(Range, values, "file.yaml")


@pytest.mark.parametrize("values", [{"low": 0.1, "high": 100.0}, {"choices": [1, 10]}], ids=str)
def test_a_default_that_the_data_are_to_tell_lies_in_no_range(values: dict[str, Any]):
    assert not engine_search._within(AUTO, validate(Range, values, "here"))


def test_incompatible_is_no_failure_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuses(cell: Any) -> float:
        raise Incompatible("no")

    monkeypatch.setattr(engine_search, "validate_cell", refuses)
    assert go(tmp_path, 2) == 0
    assert not list(tmp_path.rglob("*.yaml"))
