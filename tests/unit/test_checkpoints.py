"""Checkpoints: what makes a fit go on, what is not taken up, and what they may cost."""

from __future__ import annotations

import itertools
import pickle
import random
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout

from benchmark.api import Meta, Method, Run, Slot, Tracker, TrainData
from benchmark.engine.runs import RefitRun, SelectionRun
from benchmark.results import checkpoints
from benchmark.results.checkpoints import Checkpoint
from benchmark.toolkit import GradientConfig, minimise
from losses import build
from tests.reference.faults import Killed
from tests.reference.toy import CPU, Recorder, make_train, seeded

N_EPOCHS = 5


class Learner(Method):
    """A linear map, trained by whatever ``train`` does, with all that a fit may use: schedule, dropout, loss."""

    def __init__(self, meta: Meta) -> None:
        config = GradientConfig(epochs=N_EPOCHS, batch_size=8, patience=N_EPOCHS, optimizer="sgd", lr=0.05)
        super().__init__(meta, config, torch.Generator())
        self.weight = torch.nn.Parameter(torch.zeros(meta.n_features, meta.n_attributes))
        self.dies_at = -1
        self.steps = 0

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        self.attributes = data.attributes
        run.log(before=1.0)
        minimise(
            self,
            lambda x, y: self.step(x, y, slot),
            data,
            slot,
            run,
            schedule=lambda optimiser: torch.optim.lr_scheduler.StepLR(optimiser, 2, 0.5),
        )

    def step(self, x: Tensor, y: Tensor, slot: Slot) -> Tensor:
        if self.steps == self.dies_at:
            raise Killed
        self.steps += 1
        return slot(dropout(x, 0.2) @ self.weight, y)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return x @ self.weight @ self.attributes[classes].T

    def semantics(self, x: Tensor) -> Tensor:
        return x @ self.weight


class OwnLoop(Learner):
    """Descends by an optimiser of its own; subclasses say which, and what the run is told of their state."""

    state: tuple[()] | None = ()

    def optimiser(self, first: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return first

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        self.attributes = data.attributes
        first = torch.optim.Adam(self.parameters())
        for _ in run.epochs(self, N_EPOCHS, N_EPOCHS, state=self.state):
            optimiser = self.optimiser(first)
            optimiser.zero_grad()
            (data.features @ self.weight - data.targets).square().mean().backward()
            optimiser.step()


class NeverTold(OwnLoop):
    state = None


class NewEachEpoch(OwnLoop):
    def optimiser(self, first: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Strange(OwnLoop):
    def optimiser(self, first: torch.optim.Optimizer) -> torch.optim.Optimizer:
        return torch.optim.Adam([self.weight, torch.nn.Parameter(torch.zeros(2))])


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A checkpoint after every epoch; and torch's global random numbers as they were."""
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))
    with torch.random.fork_rng():
        yield


def fit(
    path: Path | None,
    *,
    dies_at: int = -1,
    refit: bool = False,
    kind: type[Learner] = Learner,
    trackers: Sequence[Tracker] = (),
) -> Any:
    """The weights, the history, what was selected, and the number of steps of a fit that dies at one."""
    data, held = make_train()
    method, loss = kind(data.meta), build("balanced-mse", n_classes=data.n_seen, n_attributes=8, noise_lr=0.1)
    method.dies_at = dies_at
    run = RefitRun(CPU, 0, "toy", 4) if refit else SelectionRun(CPU, 0, "toy", held)
    run.trackers = trackers
    torch.manual_seed(7)
    if path:
        run.resume_from(Checkpoint(path, "this fit"), loss, seeded(0))
    method.fit(data, Slot(data.attributes, loss), run)
    selected = [getattr(run, name, None) for name in ("choice", "value", "criterion")]
    return [*method.state_dict().values(), *loss.state_dict().values()], run.history, selected, method.steps


def assert_same(one: Any, other: Any) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert one[1:3] == other[1:3]


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("dies_in_epoch", [1, 2, 3, 4])
def test_a_fit_goes_on_where_it_was_killed(tmp_path: Path, refit: bool, dies_in_epoch: int) -> None:
    unbroken = fit(None, refit=refit)
    steps = unbroken[-1] // len(unbroken[1])
    with pytest.raises(Killed):
        fit(tmp_path / "it.pt", refit=refit, dies_at=dies_in_epoch * steps - 1)
    again = fit(tmp_path / "it.pt", refit=refit)
    assert_same(again, unbroken)
    assert again[-1] == unbroken[-1] - (dies_in_epoch - 1) * steps, "what was done is not done again"


def test_a_fit_that_ended_is_not_done_again(tmp_path: Path) -> None:
    first, again = fit(tmp_path / "it.pt"), fit(tmp_path / "it.pt")
    assert_same(first, again)
    assert again[-1] == 0


def test_trackers_are_told_of_earlier_epochs_too(tmp_path: Path) -> None:
    unbroken, first, second = fit(None), Recorder("", {}, tmp_path), Recorder("", {}, tmp_path)
    with pytest.raises(Killed):
        fit(tmp_path / "it.pt", dies_at=unbroken[-1] - 1, trackers=[first])
    _, history, *_ = fit(tmp_path / "it.pt", trackers=[second])
    assert second.rows == history == unbroken[1]
    assert first.rows == history[:-1]


def test_a_loop_of_ones_own_that_tells_its_state_goes_on(tmp_path: Path) -> None:
    fit(tmp_path / "it.pt", kind=OwnLoop)
    assert (tmp_path / "it.pt").is_file()


@pytest.mark.parametrize("kind", [NeverTold, Strange])
def test_what_cannot_go_on_leaves_no_checkpoint(tmp_path: Path, kind: type[Learner]) -> None:
    fit(tmp_path / "it.pt", kind=kind)
    assert list(tmp_path.iterdir()) == []


def test_optimisers_that_cannot_be_told_apart_end_the_checkpoints(tmp_path: Path) -> None:
    fit(tmp_path / "it.pt", kind=NewEachEpoch)
    state = Checkpoint(tmp_path / "it.pt", "this fit").read()
    assert state is not None
    assert len(state["progress"]["history"]) == 1, "none after the second came"


class Pickled:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, (f"open({str(self.path)!r}, 'w')",)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def with_a_flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as parts:
        largest = max(parts.infolist(), key=lambda part: part.file_size)
    content[largest.header_offset + 30 + len(largest.filename) + 100] ^= 1
    path.write_bytes(content)


def of_another_fit(path: Path) -> None:
    torch.save(torch.load(path, weights_only=True) | {"fit": "another fit"}, path)


def foreign(path: Path) -> None:
    torch.save([torch.zeros(3)], path)


def no_archive(path: Path) -> None:
    path.write_text("not a checkpoint")


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Pickled(path.with_name("executed"))))


def a_hostile_archive(path: Path) -> None:
    torch.save({"fit": "this fit", "seconds": 1.0, "state": Pickled(path.with_name("executed"))}, path)


@pytest.mark.parametrize(
    "change", [truncated, with_a_flipped_bit, of_another_fit, foreign, no_archive, a_pickle, a_hostile_archive]
)
def test_what_is_no_checkpoint_of_the_fit_is_ignored_with_a_line(
    tmp_path: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it.pt"
    fit(path)
    change(path)
    assert_same(fit(path), fit(None))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: {path}: the checkpoint is not used, and the fit begins anew: ")
    assert [file.name for file in tmp_path.iterdir()] == ["it.pt"], "nothing was executed"
    assert_same(fit(path), fit(None))
    assert capsys.readouterr().err == "", "it was replaced by one that is right"


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    rng, path, flipped = random.Random(0), tmp_path / "it.pt", tmp_path / "flipped.pt"
    fit(path)
    content, whole = path.read_bytes(), Checkpoint(path, "this fit").read()
    for _ in range(200):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        flipped.write_bytes(changed)
        found = Checkpoint(flipped, "this fit").read()
        assert found is None or repr(found) == repr(whole)


def test_where_none_can_be_written_the_fit_goes_on_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert_same(fit(tmp_path / "file" / "it.pt"), fit(None))
    (line,) = capsys.readouterr().err.splitlines()
    assert "no checkpoint can be written: " in line


def test_a_write_that_fails_in_the_middle_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.pt"
    fit(path)
    before = path.read_bytes()

    def full(content: object, file: Any) -> None:
        file.write(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    Checkpoint(path, "this fit").write({})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["it.pt"]


def test_checkpoints_take_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []
    monkeypatch.setattr(checkpoints, "EVERY", 60.0)
    monkeypatch.setattr(checkpoints, "SHARE", 0.02)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "it.pt", "this fit")

    def save(content: dict[str, Any], file: object) -> None:
        written.append((now[0], content["seconds"]))
        now[0] += cost

    monkeypatch.setattr(torch, "save", save)
    cost = 0.1
    while now[0] < 1000:
        now[0] += 7.0
        if checkpoint.is_due:
            checkpoint.write({})
        if len(written) == 3:
            cost = 5.0
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(written)]
    assert written[0] == (63.0, 63.0)
    assert gaps[:2] == pytest.approx([63.1, 63.1]), "no more than one a minute"
    assert all(250 <= gap <= 263 for gap in gaps[3:]), "5 s are written no more often than every 250 s"


def test_the_time_of_earlier_processes_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for earlier in (0.0, 10.0, 20.0):
        checkpoint = Checkpoint(tmp_path / "it.pt", "this fit")
        checkpoint.read()
        assert checkpoint.earlier_s == earlier
        now[0] += 10
        checkpoint.write({})
