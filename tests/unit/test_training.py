"""Batches and optimisers of the gradient methods."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.api import TrainData
from benchmark.engine.runs import RefitRun
from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig, Precision, build_optimizer, draw_batches, minimise
from losses import build
from tests.reference.toy import CPU, make_train, seeded, slot_for, tiny_config

quick = settings(deadline=None, max_examples=60)


def toy_data(counts: list[int]) -> TrainData:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=seeded(0))]
    return TrainData(torch.zeros(len(labels), 1), labels, torch.zeros(len(counts) + 1, 2), len(counts))


COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


class TestDrawBatches:
    @quick
    @given(COUNTS, st.integers(1, 20), st.integers(0, 99))
    def test_without_shots_an_epoch_holds_each_image_once(self, counts: list[int], size: int, seed: int):
        batches = draw_batches(toy_data(counts), size, 0, seeded(seed))
        assert sorted(torch.cat(list(batches)).tolist()) == list(range(sum(counts)))
        assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        assert 1 <= len(batches[-1]) <= size

    @quick
    @given(COUNTS, st.integers(1, 20), st.integers(1, 6), st.integers(0, 99))
    def test_with_shots_a_batch_holds_that_many_of_each_of_its_classes(
        self, counts: list[int], size: int, shots: int, seed: int
    ):
        data = toy_data(counts)
        batches = draw_batches(data, size, shots, seeded(seed))
        ways = max(1, min(size // shots, len(counts)))
        n = sum(counts)
        assert len(batches) == n // (ways * shots) + (n % (ways * shots) > 0)
        for batch in batches:
            images = Counter(batch.tolist())
            per_class = Counter(data.labels[batch].tolist())
            assert list(per_class.values()) == [shots] * ways  # so no class twice
            for image, times in images.items():
                count = counts[int(data.labels[image])]
                if count >= shots:
                    assert times == 1
                else:  # as even as it can be
                    assert times in (shots // count, shots // count + 1)

    def test_classes_and_images_are_equally_likely(self):
        counts = [2, 5, 20, 40]
        data, rng = toy_data(counts), seeded(3)
        classes: Counter[int] = Counter()
        images: Counter[int] = Counter()
        for _ in range(600):
            for batch in draw_batches(data, 6, 3, rng):
                classes.update(data.labels[batch].tolist())
                images.update(batch.tolist())
        total = sum(classes.values())
        for c, n in enumerate(counts):
            assert classes[c] / total == pytest.approx(1 / 4, rel=0.05)
            of_class = [images[i] for i in range(len(data.labels)) if data.labels[i] == c]
            assert min(of_class) > 0.7 * total / 4 / n
            assert max(of_class) < 1.3 * total / 4 / n

    @pytest.mark.parametrize("shots", [0, 2])
    def test_draws_come_from_the_generator_alone(self, shots: int):
        data = toy_data([5, 9, 4])
        before = torch.get_rng_state()
        first, again, other = ([b.tolist() for b in draw_batches(data, 4, shots, seeded(s))] for s in (1, 1, 2))
        assert first == again
        assert first != other
        assert torch.equal(torch.get_rng_state(), before)

    def test_neighbours_in_a_batch_vary(self):
        """Two images of one class come together in some batches and not in others."""
        data, rng = toy_data([10, 10]), seeded(0)
        pairs = {frozenset(batch.tolist()) for _ in range(30) for batch in draw_batches(data, 2, 2, rng)}
        assert len(pairs) > 60  # of 90

    def test_no_number_is_in_float64_which_some_devices_do_not_know(self):
        class NoFloat64(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                made = function(*args, **(kwargs or {}))
                assert getattr(made, "dtype", None) != torch.float64, function
                return made

        data = toy_data([5, 9, 4])
        with NoFloat64():
            draw_batches(data, 4, 2, seeded(1))


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_optimiser_is_the_one_that_is_named(name: str, kind: type):
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))]}]
    groups.append({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 7.0, "weight_decay": 0.0})  # type: ignore[dict-item]
    optimizer = build_optimizer(GradientConfig(optimizer=name, lr=0.25, weight_decay=0.5), groups)
    assert type(optimizer) is kind
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.25, 0.5), (7.0, 0.0)]
    assert optimizer.param_groups[0].get("momentum", 0.9) == 0.9


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_mixed_precision_is_of_the_objective_alone(precision: Precision, dtype: torch.dtype):
    """Products are narrow there; weights, their gradients and their steps are not."""
    data, _ = make_train()
    method: Any = METHODS["linear"].obj(data.meta, tiny_config(METHODS["linear"], precision=precision), seeded(0))
    before, products, gradients = method.projection.weight.clone(), set(), set()
    method.projection.weight.register_hook(lambda gradient: gradients.add(gradient.dtype))

    def objective(x: Tensor, y: Tensor) -> Tensor:
        predicted = method.projection(x)
        products.add(predicted.dtype)
        return slot(predicted, y)

    slot = slot_for(method, data, build("mse", n_classes=len(data.attributes), n_attributes=data.meta.n_attributes))
    minimise(method, objective, data, slot, RefitRun(CPU, 0, "toy", 1))
    assert products == {dtype}
    assert gradients == {method.projection.weight.dtype} == {torch.float32}
    assert not torch.equal(before, method.projection.weight)
    assert not torch.is_autocast_enabled("cpu")
