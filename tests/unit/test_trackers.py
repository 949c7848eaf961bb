"""Trackers: what they are told of fits, and what TensorBoard makes of it; none is there unless it is asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmark import run
from benchmark.api import Run, Slot, TrainData
from benchmark.engine.jobs import RunJob
from benchmark.engine.plan import Cell
from benchmark.engine.settings import make_spec
from benchmark.registries import DATASETS, LOSSES, METHODS, TRACKERS
from benchmark.results.record import Result
from benchmark.trackers.tensorboard import TensorBoard
from tests.reference.toy import Recorder, ToyDataset, ToyLoss, ToyMethod, register


class Logs(ToyMethod):
    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        run.log(loss=0.5)
        super().fit(data, slot, run)


class Fails(ToyMethod):
    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        super().fit(data, slot, run)
        raise ArithmeticError("it failed")


def run_job(
    monkeypatch: pytest.MonkeyPatch, out: Path, *trackers: str, method: type[ToyMethod] = Logs
) -> tuple[Result, str]:
    """The result, and what its selecting fit is called but for the last part."""
    register(monkeypatch, DATASETS, "toy", ToyDataset)
    register(monkeypatch, METHODS, "toy", method)
    register(monkeypatch, LOSSES, "toy", ToyLoss)
    register(monkeypatch, TRACKERS, "recorder", Recorder)
    spec = make_spec("toy", {}, ("toy", {}), DATASETS.resolve("toy", {}, None), {}, "proposed", "strict")
    (result,) = RunJob(Cell(spec, (3,), None, "cpu"), out / "results", False, trackers).run()
    return result, f"toy/toy+toy/{spec.key}-s3"


def test_each_fit_is_followed_row_by_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Recorder.made.clear()
    result, name = run_job(monkeypatch, tmp_path, "recorder")
    select, refit = Recorder.made
    assert result.selection is not None
    assert select.rows == result.selection.history
    assert {"epoch", "loss", "held-out AUSUC"} == set(select.rows[0])
    assert refit.rows == result.refit_history
    assert [tracker.name for tracker in (select, refit)] == [f"{name}/select", f"{name}/refit"]
    assert select.folder == tmp_path / "logs" / "recorder" / name / "select"
    assert select.settings["hparams"]["lr"] == 0.1
    assert select.settings["seed"] == 3
    assert select.closed == refit.closed == 1


def test_a_fit_that_fails_closes_its_tracker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Recorder.made.clear()
    result, _ = run_job(monkeypatch, tmp_path, "recorder", method=Fails)
    assert result.status == "failed"
    assert [tracker.closed for tracker in Recorder.made] == [1]


def test_nothing_is_logged_unless_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Recorder.made.clear()
    run_job(monkeypatch, tmp_path)
    assert Recorder.made == []
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_has_the_history_and_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, name = run_job(monkeypatch, tmp_path, "tensorboard")
    assert result.selection is not None
    histories = {"select": result.selection.history, "refit": result.refit_history}
    for fit, history in histories.items():
        events = read(tmp_path / "logs" / "tensorboard" / name / fit)
        assert set(events.Tags()["scalars"]) == {key for row in history for key in row} - {"epoch"}
        for tag in events.Tags()["scalars"]:
            told = {event.step: event.value for event in events.Scalars(tag)}
            assert told == pytest.approx({row["epoch"]: row[tag] for row in history if tag in row})
        (settings,) = events.Tensors("settings/text_summary")
        assert b'"lr": 0.1' in settings.tensor_proto.string_val[0]


def test_tensorboard_forgets_what_an_earlier_fit_wrote(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        tracker = TensorBoard("name", {}, tmp_path / "it")
        tracker.log(1, {"loss": value})
        tracker.close()
    assert [event.value for event in read(tmp_path / "it").Scalars("loss")] == [2.0]


def test_a_tracker_that_is_unknown_or_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--method", "eszsl", "--dataset", "awa2-sim", "--out", str(tmp_path / "out"), "--dry-run"]
    assert run.main([*grid, "--log", "tensorbord"]) == 2
    assert capsys.readouterr().err == "error: unknown tracker 'tensorbord'; did you mean 'tensorboard'?\n"
    monkeypatch.delitem(sys.modules, "benchmark.trackers.tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(TRACKERS["tensorboard"], "_obj", None)
    assert run.main([*grid, "--log", "tensorboard"]) == 2
    assert capsys.readouterr().err == "error: --log tensorboard needs its package: pip install -e '.[tensorboard]'\n"
    assert not (tmp_path / "out").exists()
