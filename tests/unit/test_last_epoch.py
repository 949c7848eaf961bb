"""What ``benchmark.run`` says at its end of runs that chose the last epoch they were allowed."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark import run
from benchmark.results.record import Result, Selection
from tests.reference.toy import make_result, make_spec


def chose(choice: int, seed: int = 0, kind: str = "epoch", epochs: int = 4, **changes: Any) -> Result:
    spec = make_spec(hparams={"epochs": epochs}, **changes)
    history = [{kind: float(number)} for number in range(1, choice + 1)]
    selection = Selection(on="validation", criterion="AUSUC", value=1.0, choice=choice, gamma=0.0, history=history)
    return make_result(spec, seed, selection=selection)


def test_the_line_counts_runs_cell_by_cell() -> None:
    ale: dict[str, Any] = {"method": "ale", "loss": "mse", "dataset": "awa1"}
    results = [
        *(chose(choice, seed, **ale) for seed, choice in enumerate((4, 2, 4))),
        chose(4, method="mlp", hparam_overrides={"lr": 0.1}),
        chose(3, method="dem"),
        chose(4, method="eszsl", kind="candidate"),  # the fourth pair of ridges is no end of anything
        make_result(make_spec(method="ale"), 7, "failed"),
        make_result(make_spec(method="ale"), 8),  # of a history that is not stored
    ]
    assert run._at_the_last_epoch(results) == (
        "3 of 5 runs chose the last epoch that they were allowed (ale+mse awa1: 2, mlp:lr=0.1+toy toy: 1): "
        "more epochs may help, --set epochs=N"
    )


def test_nothing_is_said_where_none_did() -> None:
    assert run._at_the_last_epoch([]) == ""
    assert run._at_the_last_epoch([chose(3), chose(4, epochs=5), chose(4, kind="candidate")]) == ""


def test_one_line_for_a_grid_of_any_size() -> None:
    line = run._at_the_last_epoch([chose(4, seed, method=f"m{n:02}") for n in range(20) for seed in range(1 + n // 19)])
    assert line.startswith("21 of 21 runs chose the last epoch that they were allowed (m19+toy toy: 2, m00+toy toy: 1,")
    assert line.endswith("m04+toy toy: 1, and 14 more): more epochs may help, --set epochs=N")
    assert "\n" not in line


@pytest.mark.parametrize(("epochs", "said"), [("1", True), ("3", False)])
def test_it_is_among_the_last_lines(
    epochs: str, said: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of a single epoch ends at its last; patience of one and a learning rate of nothing stop at the first."""
    monkeypatch.delenv("ZSL_DATA", raising=False)
    arguments = ["--method", "linear", "--loss", "mse", "--dataset", "awa2-sim", "--seeds", "0", "--out", str(tmp_path)]
    assert run.main([*arguments, "--set", f"epochs={epochs}", "lr=1e-30", "patience=1"]) == 0
    *_, line, summary = capsys.readouterr().out.splitlines()
    assert summary.startswith("1 runs: 1 ok")
    assert line.startswith("1 of 1 runs chose the last epoch that they were allowed (linear:") is said
