"""The run that selects and the run that refits, and that a seed determines all there is and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.api import Meta, Method, MethodConfig, Run, Slot, TrainData
from benchmark.engine.protocol import HeldOut
from benchmark.engine.runs import CRITERION, RefitRun, SelectionRun
from benchmark.registries import METHODS
from benchmark.registry import Entry
from benchmark.toolkit import GradientConfig, draw_batches, minimise
from losses import build
from tests.reference.toy import CPU, make_split, make_train, seeded, slot_for, tiny_config

quick = settings(deadline=None, max_examples=60)
METHOD_ENTRIES = list(METHODS)


# Runs -----------------------------------------------------------------------------------------------------------------


class Scripted(Method):
    """Each option sets a step; the quality of its scores on held-out images is what ``script`` says of that step.

    Held-out features are (label, rank in 0..1): a quality q classifies those images right whose rank is below q.
    """

    def __init__(self, script: list[float]) -> None:
        super().__init__(Meta(2, 2, 2, 2), MethodConfig(), torch.Generator())
        self.script = script
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("prepared", torch.tensor(-1))
        self.calls: list[tuple[str, int]] = []

    def go(self, step: int) -> None:
        self.step = torch.tensor(step)
        self.calls.append(("go", step))

    def ready(self) -> None:
        self.prepared = self.step.clone()
        self.calls.append(("ready", int(self.step)))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        raise NotImplementedError

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        if not self.calls or self.calls[-1] != ("scores", int(self.step)):
            self.calls.append(("scores", int(self.step)))
        right = x[:, 1] < self.script[int(self.step) - 1]
        label = x[:, 0].long()
        # Those that are wrong take the other class of the same group, by the same margin.
        chosen = torch.where(right, label, label ^ 1)
        return torch.nn.functional.one_hot(chosen, 4).float()[:, classes]

    def semantics(self, x: Tensor) -> None:
        return None


def scripted_held_out() -> HeldOut:
    rank = (torch.arange(100) + 0.5) / 100
    labels = [torch.tensor(pair).repeat_interleave(100) for pair in ([0, 1], [2, 3])]
    seen, unseen = (torch.stack([y.float(), rank.repeat(2)], dim=1) for y in labels)
    return HeldOut(seen, labels[0], unseen, labels[1], torch.zeros(4, 2), n_seen=2, class_names=("a", "b", "c", "d"))


def expected_selection(script: list[float], every: int, patience: int) -> tuple[int, int]:
    """(how far it goes, what it chooses), written from the contract: every so many epochs and after the last."""
    best, choice, worse = -1.0, 0, 0
    for number in range(1, len(script) + 1):
        if number % every == 0 or number == len(script):
            if script[number - 1] > best:
                best, choice, worse = script[number - 1], number, 0
            else:
                worse += 1
            if worse == patience:
                return number, choice
    return len(script), choice


SCRIPTS = st.lists(st.integers(0, 10).map(lambda i: i / 10), min_size=1, max_size=12)


class TestSelectionRun:
    @quick
    @given(SCRIPTS, st.integers(1, 4), st.integers(1, 4), st.booleans())
    def test_keeps_the_best_epoch_and_stops_when_patience_ends(
        self, script: list[float], every: int, patience: int, prepares: bool
    ):
        run, method = SelectionRun(CPU, 0, "toy", scripted_held_out()), Scripted(script)
        seen = []
        ready = {"": method.ready} if prepares else None
        for epoch in run.epochs(method, len(script), patience, every=every, ready=ready):
            seen.append(epoch)
            method.go(epoch)
            run.log(quality=script[epoch - 1])
        last, choice = expected_selection(script, every, patience)
        assert seen == list(range(1, last + 1))
        assert run.choice == choice
        assert int(method.step) == choice  # the state is back
        assert int(method.prepared) == (choice if prepares else -1)
        assert run.value == pytest.approx(100 * script[choice - 1] ** 2)  # S = U = quality, so the curve is a square
        assert run.curve is not None
        assert run.curve.ausuc == run.value
        assert [row["epoch"] for row in run.history] == seen
        assert [row["quality"] for row in run.history] == [script[e - 1] for e in seen]
        scored = [row["epoch"] for row in run.history if f"held-out {CRITERION}" in row]
        assert scored == [e for e in seen if e % every == 0 or e == len(script)]
        # Each scoring comes right after its epoch, and after getting ready for it.
        calls = [
            call
            for e in seen
            for call in [("go", e)] + [("ready", e)] * (prepares and e in scored) + [("scores", e)] * (e in scored)
        ]
        assert method.calls == calls

    @pytest.mark.parametrize("best", [(1, "b"), (2, "a"), (3, "b")])
    def test_of_several_ways_to_get_ready_the_best_counts(self, best: tuple[int, str]):
        """Epochs and ways are chosen among together, and a refit repeats both."""
        method, refitted = Scripted([0.2] * 6), Scripted([])
        method.script[2 * best[0] - 2 + "ab".index(best[1])] = 0.9

        def ways(of: Scripted) -> dict[str, Callable[[], None]]:
            return {"a": lambda: of.go(2 * epoch - 1), "b": lambda: of.go(2 * epoch)}

        run = SelectionRun(CPU, 0, "toy", scripted_held_out())
        for epoch in run.epochs(method, 3, 3, ready=ways(method)):
            assert len(method.calls) == 4 * (epoch - 1)  # each way gets ready, and is scored
        assert (run.choice, "ab"[run.way]) == best
        assert int(method.step) == 2 * best[0] - 1 + run.way  # the state is back
        assert run.value == pytest.approx(81)
        for row in run.history:
            of_ways = [row[f"held-out {CRITERION}, {name}"] for name in "ab"]
            assert row[f"held-out {CRITERION}"] == max(of_ways)
            assert of_ways == pytest.approx([81 if best == (row["epoch"], name) else 4 for name in "ab"])

        refit = RefitRun(CPU, 0, "toy", run.choice, run.way)
        for epoch in refit.epochs(refitted, 3, 3, ready=ways(refitted)):
            assert epoch <= run.choice
        assert refitted.calls == [("go", int(method.step))]

    @quick
    @given(SCRIPTS)
    def test_candidates_are_all_tried(self, script: list[float]):
        run, method = SelectionRun(CPU, 0, "toy", scripted_held_out()), Scripted(script)
        options = [f"option {i}" for i in range(1, len(script) + 1)]
        seen = []
        for option in run.candidates(method, options):
            seen.append(option)
            method.go(len(seen))
        assert seen == options
        assert run.choice == script.index(max(script)) + 1  # the first of equals
        assert int(method.step) == run.choice
        assert [row["candidate"] for row in run.history] == list(range(1, len(script) + 1))

    def test_the_state_that_is_kept_is_a_copy(self):
        """A parameter that is changed in place after the best epoch comes back as it was."""
        run, method = SelectionRun(CPU, 0, "toy", scripted_held_out()), Scripted([0.9, 0.1])
        for epoch in run.epochs(method, 2, 5):
            method.step.fill_(epoch)
        assert int(method.step) == 1


class TestRefitRun:
    @quick
    @given(st.integers(1, 9), st.integers(0, 5), st.integers(1, 4), st.integers(1, 3))
    def test_repeats_the_epochs_up_to_the_choice(self, choice: int, more: int, every: int, patience: int):
        method = Scripted([0.0] * 20)
        run = RefitRun(CPU, 0, "toy", choice)
        for epoch in run.epochs(method, choice + more, patience, every=every, ready={"": method.ready}):
            method.go(epoch)
            run.log(loss=epoch)
        # It gets ready once, at the end, and never scores: it has nothing to score on.
        assert method.calls == [("go", e) for e in range(1, choice + 1)] + [("ready", choice)]
        assert run.history == [{"epoch": e, "loss": e} for e in range(1, choice + 1)]
        assert not any(isinstance(value, (HeldOut, Tensor)) for value in vars(run).values())

    @quick
    @given(st.integers(1, 9), st.integers(0, 5))
    def test_repeats_the_chosen_candidate_alone(self, choice: int, more: int):
        run = RefitRun(CPU, 0, "toy", choice)
        options = [10 * i for i in range(1, choice + more + 1)]
        seen = []
        for option in run.candidates(Scripted([]), options):
            seen.append(option)
            run.log(option=option)
        assert seen == [10 * choice]
        assert run.history == [{"candidate": choice, "option": 10 * choice}]

    def test_what_a_selection_chose_gives_the_same_weights_on_the_same_data(self):
        """Selection and refit draw the same random numbers: on equal data the refit ends in the selected state."""
        data, held = make_train()
        method, refitted = Tiny(data.meta), Tiny(data.meta)
        selecting = SelectionRun(CPU, 5, "toy", held)
        method.fit(data, Slot(data.attributes), selecting)
        refitted.fit(data, Slot(data.attributes), RefitRun(CPU, 5, "toy", selecting.choice))
        assert torch.equal(method.weight, refitted.weight)


class Tiny(Method):
    """A linear map from features to attributes."""

    Config = GradientConfig

    def __init__(self, meta: Meta, **changes: Any) -> None:
        config = GradientConfig(**{"epochs": 6, "batch_size": 8, "patience": 3, "lr": 0.05, **changes})
        super().__init__(meta, config, torch.Generator())
        self.weight = torch.nn.Parameter(torch.zeros(meta.n_features, meta.n_attributes))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        self.attributes = data.attributes
        minimise(self, lambda x, y: (x @ self.weight - data.attributes[y]).square().mean(), data, slot, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return x @ self.weight @ self.attributes[classes].T

    def semantics(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize("kind", ["epochs", "candidates"])
@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), torch.tensor(float("nan"))])
def test_a_value_that_is_not_finite_ends_the_run(kind: str, refit: bool, value: Any):
    run = RefitRun(CPU, 0, "toy", 3) if refit else SelectionRun(CPU, 0, "toy", scripted_held_out())
    method = Scripted([0.5] * 5)

    def loop() -> None:
        for step in run.epochs(method, 5, 5) if kind == "epochs" else run.candidates(method, [1, 2, 3]):
            method.go(step)
            run.log(fine=1.0, my_loss=value if step == 3 else 0.5)

    with pytest.raises(FloatingPointError, match=rf"^my_loss became -?(nan|inf) at {kind[:-1]} 3$"):
        loop()


def test_an_epoch_reports_its_mean_loss():
    data, held = make_train()
    run = SelectionRun(CPU, 0, "toy", held)
    method = Tiny(data.meta, lr=1e-12, epochs=1)  # weights stay 0, so the loss is the mean square of the attributes
    method.fit(data, Slot(data.attributes), run)
    batches = draw_batches(data, 8, 0, run.rng("batches"))
    means = [float(data.attributes[data.labels[b]].square().mean()) for b in batches]
    assert run.history[0]["loss"] == pytest.approx(sum(means) / len(means), rel=1e-5)


def test_learning_lowers_the_loss_and_the_loss_learns_too():
    data, held = make_train()
    run = SelectionRun(CPU, 0, "toy", held)
    loss = build("balanced-mse", n_classes=data.n_seen, n_attributes=data.meta.n_attributes, noise_lr=0.1)
    before = [p.clone() for p in loss.parameters()]
    method = Tiny(data.meta, epochs=5)
    method.attributes = data.attributes

    def objective(x: Tensor, y: Tensor) -> Tensor:
        return loss(x @ method.weight, data.attributes[y], y)

    minimise(method, objective, data, Slot(data.attributes, loss), run)
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert before
    assert all(not torch.equal(a, b) for a, b in zip(before, loss.parameters(), strict=True))


# Seeds ----------------------------------------------------------------------------------------------------------------


def states() -> tuple[Any, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), repr(np.random.get_state(legacy=False))  # noqa: NPY002


def train(
    entry: Entry[type[Method]], loss_name: str, seed: int, run_kind: Callable[[HeldOut], Any]
) -> dict[str, Tensor]:
    split = make_split(n_seen=9)
    if "global" not in entry.obj.accepts:
        regions = split.features.reshape(-1, 1, 2, 5).astype(np.float16)
        split = replace(split, features=regions, attribute_vectors=np.eye(8, dtype=np.float32))
    config = tiny_config(entry)
    data, held = make_train(split, config.preprocess)
    loss = build(loss_name, n_classes=data.n_seen, n_attributes=data.meta.n_attributes) if loss_name != "none" else None
    if loss is not None:
        loss.prepare(data.attributes[: data.n_seen], data.class_counts)
    method = entry.obj(data.meta, config, seeded(seed))
    method.fit(data, slot_for(method, data, loss), run_kind(held))
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


@pytest.mark.parametrize("loss", ["none", "mse", "remse"])
@pytest.mark.parametrize("entry", METHOD_ENTRIES, ids=lambda entry: entry.name)
class TestSeeds:
    def test_the_seed_determines_the_weights_to_the_bit(self, entry: Entry[type[Method]], loss: str):
        first, again, other = (train(entry, loss, seed, partial(SelectionRun, CPU, seed, "toy")) for seed in (1, 1, 2))
        assert first.keys() == again.keys() == other.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)
        if entry.name not in {"eszsl", "sae", "dap", "names", "gfzsl"}:  # in closed form: nothing is drawn
            assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_global_random_numbers_are_left_alone(self, entry: Entry[type[Method]], loss: str):
        before = states()
        first = train(entry, loss, 1, lambda held: RefitRun(CPU, 1, "toy", 1))
        assert states() == before
        # And they are not looked at either.
        torch.manual_seed(12345)
        np.random.seed(12345)  # noqa: NPY002
        random.seed(12345)
        again = train(entry, loss, 1, lambda held: RefitRun(CPU, 1, "toy", 1))
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_random_numbers_of_different_names_are_independent():
    run = RefitRun(CPU, 3, "toy", 1)

    def draw(name: str, seed: int = 3) -> list[float]:
        return torch.rand(5, generator=RefitRun(CPU, seed, "toy", 1).rng(name)).tolist()

    first = run.rng("noise")
    torch.rand(100, generator=run.rng("batches"))  # moves no other
    assert torch.rand(5, generator=first).tolist() == draw("noise")
    assert draw("noise") == draw("noise")
    assert len({tuple(draw(name, seed)) for name in ("noise", "batches", "", "1") for seed in (0, 1, 11)}) == 12
    selecting = SelectionRun(CPU, 3, "another title", scripted_held_out())
    assert torch.rand(5, generator=selecting.rng("noise")).tolist() == draw("noise")
