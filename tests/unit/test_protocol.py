"""The divisions of a data set, preprocessing, and the seal: during ``fit`` no test image can be reached."""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.api import Meta, Run, SealedError, Slot, Split, TrainData
from benchmark.engine.experiment import run_cell
from benchmark.engine.plan import Cell
from benchmark.engine.protocol import held_out, train_data
from benchmark.engine.settings import make_spec
from benchmark.errors import InputError
from benchmark.models.preprocessing import chunks, fit_preprocessing
from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.toolkit.stages import Stage, evaluation_stage, random_partition, validation_stage
from tests.reference.toy import CPU, ToyDataset, ToyLoss, ToyMethod, make_split, register

evaluation_stage.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it by its name
quick = settings(deadline=None, max_examples=40)


@st.composite
def splits(draw: st.DrawFn) -> Split:
    """Splits of any small size, with unequal classes, some of a single image."""
    split = make_split(
        draw(st.integers(0, 1000)),
        n_seen=draw(st.integers(3, 9)),
        n_unseen=draw(st.integers(1, 5)),
        n_attributes=3,
        n_features=4,
        per_class=draw(st.integers(2, 9)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    keep = rng.random(len(split.trainval)) < draw(st.sampled_from([0.2, 0.8, 1.0]))
    _, first = np.unique(split.labels[split.trainval], return_index=True)
    keep[first] = True  # each class keeps an image
    split = replace(split, trainval=split.trainval[keep])
    if draw(st.booleans()):
        n = draw(st.integers(1, len(split.seen) - 1))
        split = replace(split, validation_classes=rng.permutation(split.seen)[:n])
    return split


def shares(split: Split, images: Any) -> dict[int, int]:
    return Counter(int(c) for c in split.labels[images])


def drawn_stage(split: Split, name: str) -> Stage:
    """The validation stage of a drawn split; draws without a class of two training images are refused, and rejected."""
    try:
        return validation_stage(split, name)
    except InputError:
        reject()


class TestValidationStage:
    @quick
    @given(splits())
    def test_is_a_division_of_trainval_alone(self, split: Split):
        stage = drawn_stage(split, "x")
        parts = [stage.train, stage.held_out_seen, stage.held_out_unseen]
        assert sorted(np.concatenate(parts)) == sorted(split.trainval)  # disjoint, complete, and nothing else
        assert set(split.labels[stage.held_out_unseen]) == set(stage.unseen)
        assert set(split.labels[stage.train]) == set(stage.seen)  # each class keeps images to train on
        assert set(split.labels[stage.held_out_seen]) <= set(stage.seen)
        assert sorted([*stage.seen, *stage.unseen]) == sorted(split.seen)
        assert (np.diff(stage.seen) > 0).all()
        assert (np.diff(stage.unseen) > 0).all()

    @quick
    @given(splits())
    def test_a_fifth_of_each_class_is_held_out(self, split: Split):
        stage = drawn_stage(split, "x")
        before, held = shares(split, split.trainval), shares(split, stage.held_out_seen)
        for c in stage.seen:
            n = before[int(c)]
            assert held.get(int(c), 0) == (0 if n == 1 else max(1, round(n / 5)))

    @quick
    @given(splits(), st.integers(0, 99))
    def test_neither_test_images_nor_their_classes_matter(self, split: Split, seed: int):
        """Other test images, of other classes, in other numbers of images: the same division."""
        rng = np.random.default_rng(seed)
        labels = split.labels.copy()
        labels[split.test_seen] = rng.choice(split.seen, len(split.test_seen))
        other = replace(
            split,
            features=np.full_like(split.features, np.nan),
            labels=labels,
            test_seen=split.test_seen[: rng.integers(1, len(split.test_seen) + 1)],
        )
        for a, b in zip(vars(drawn_stage(split, "x")).values(), vars(drawn_stage(other, "x")).values(), strict=True):
            assert np.array_equal(a, b)

    def test_validation_classes_are_those_of_the_data_where_it_names_them(self):
        split = make_split()
        split = replace(split, validation_classes=split.seen[[4, 1]])
        assert validation_stage(split, "x").unseen.tolist() == sorted(split.seen[[4, 1]])

    @pytest.mark.parametrize(("n_seen", "n_unseen", "expected"), [(9, 2, 2), (9, 5, 3), (3, 5, 1), (5, 1, 1)])
    def test_else_as_many_as_the_unseen_ones_but_no_more_than_a_third(self, n_seen: int, n_unseen: int, expected: int):
        stage = validation_stage(make_split(n_seen=n_seen, n_unseen=n_unseen), "x")
        assert len(stage.unseen) == expected

    def test_the_draw_depends_on_the_name_alone(self):
        split = make_split(n_seen=9)
        first, again = (validation_stage(split, "x") for _ in range(2))
        assert all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
        others = {tuple(validation_stage(split, f"{i}").unseen) for i in range(10)}
        assert len(others) > 1

    def test_too_few_classes_are_said_so(self):
        with pytest.raises(InputError, match=r"^x: validation needs at least 3 seen classes, got 2 instead$"):
            validation_stage(make_split(n_seen=2), "x")

    def test_two_images_a_class_are_enough_and_one_is_not(self):
        stage = validation_stage(make_split(per_class=3), "x")
        assert (len(stage.train), len(stage.held_out_seen), len(stage.held_out_unseen)) == (4, 4, 4)
        needed = "a class with at least 2 training images, one of which is held out, got none among 4 classes instead"
        with pytest.raises(InputError, match=f"^x: validation needs {needed}$"):
            validation_stage(make_split(per_class=2), "x")


class TestRandomPartition:
    @quick
    @given(splits(), st.integers(0, 5))
    def test_is_legal_and_of_the_same_size(self, split: Split, index: int):
        other = random_partition(split, "x", index)
        other.check()
        assert len(other.seen) == len(split.seen)
        assert len(other.unseen) == len(split.unseen)
        used = [split.trainval, split.test_seen, split.test_unseen]
        assert sorted(np.concatenate([other.trainval, other.test_seen, other.test_unseen])) == sorted(
            np.concatenate(used)
        )
        for c, n in shares(split, np.concatenate(used)).items():
            if c in other.seen:
                assert shares(other, other.test_seen).get(c, 0) == (0 if n == 1 else max(1, round(n / 5)))
                assert shares(other, other.trainval)[c] >= 1
            else:
                assert shares(other, other.test_unseen)[c] == n
        assert other.features is split.features
        assert other.validation_classes is None  # those of the published split may be unseen now

    def test_is_the_same_each_time_and_another_for_each_index_and_name(self):
        split = make_split(n_seen=8, n_unseen=4)
        parts = [random_partition(split, name, index) for name, index in [("x", 0), ("x", 0), ("x", 1), ("y", 0)]]
        assert all(
            np.array_equal(getattr(parts[0], key), getattr(parts[1], key))
            for key in ("trainval", "test_seen", "test_unseen")
        )
        assert len({tuple(part.unseen) for part in parts}) == 3


class TestTrainData:
    @quick
    @given(splits(), st.booleans())
    def test_classes_are_numbered_with_the_seen_ones_first(self, split: Split, validating: bool):
        stage = drawn_stage(split, "x") if validating else evaluation_stage(split)
        data, transform = train_data(split, stage, "none", CPU)
        test = held_out(split, stage, transform, CPU)
        order = [*stage.seen, *stage.unseen]
        assert data.n_seen == test.n_seen == len(stage.seen)
        assert torch.equal(data.attributes, torch.from_numpy(split.attributes[order]))
        assert torch.equal(test.attributes, data.attributes)
        assert test.class_names == tuple(split.class_names[c] for c in order)
        for labels, images in [
            (data.labels, stage.train),
            (test.seen_labels, stage.held_out_seen),
            (test.unseen_labels, stage.held_out_unseen),
        ]:
            assert [order[c] for c in labels.tolist()] == split.labels[images].tolist()
        assert torch.equal(data.features, torch.from_numpy(split.features[stage.train]))
        assert torch.equal(test.seen_features, torch.from_numpy(split.features[stage.held_out_seen]))
        assert torch.equal(test.unseen_features, torch.from_numpy(split.features[stage.held_out_unseen]))
        assert data.seen.tolist() + data.unseen.tolist() == test.all_classes.tolist() == list(range(len(order)))
        assert data.class_counts.tolist() == [int((split.labels[stage.train] == c).sum()) for c in stage.seen]
        assert torch.equal(data.targets, torch.from_numpy(split.attributes[split.labels[stage.train]]))
        meta = data.meta
        assert (meta.n_features, meta.n_attributes) == (split.features.shape[1], split.attributes.shape[1])
        assert (meta.n_seen, meta.n_unseen) == (len(stage.seen), len(stage.unseen))

    def test_test_stage_is_the_published_one(self):
        split = make_split()
        stage = evaluation_stage(split)
        assert [x.tolist() for x in vars(stage).values()] == [
            x.tolist() for x in (split.trainval, split.test_seen, split.test_unseen, split.seen, split.unseen)
        ]

    @pytest.mark.parametrize("kind", ["none", "l2", "minmax", "standard"])
    def test_preprocessing_sees_training_rows_alone(self, kind: str):
        split = make_split()
        stage = drawn_stage(split, "x")
        changed = split.features.copy()
        others = np.setdiff1d(np.arange(len(changed)), stage.train)
        changed[others] = 1e6
        x = torch.randn(5, split.features.shape[1], generator=torch.Generator().manual_seed(0))
        (data, transform), (same, again) = (
            train_data(s, stage, kind, CPU) for s in (split, replace(split, features=changed))
        )
        assert torch.equal(data.features, same.features)
        assert torch.equal(transform(x), again(x))
        test = held_out(split, stage, transform, CPU)
        assert torch.equal(test.seen_features, transform(torch.from_numpy(split.features[stage.held_out_seen])))
        assert torch.equal(test.unseen_features, transform(torch.from_numpy(split.features[stage.held_out_unseen])))

    @pytest.mark.parametrize("kind", ["none", "l2", "minmax", "standard"])
    def test_the_split_is_not_changed(self, kind: str):
        split = make_split()
        before = split.features.copy()
        data, _ = train_data(split, evaluation_stage(split), kind, CPU)
        data.features.zero_()
        data.attributes.zero_()
        assert np.array_equal(split.features, before)
        assert split.attributes.any()


class TestPreprocessing:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 10, 0.01, 3, 3, 3]) + 5

    def test_minmax_spans_0_to_1(self):
        y = fit_preprocessing("minmax", self.x)(self.x)
        assert torch.equal(y.amin(0), torch.zeros(6))
        assert torch.equal(y.amax(0), torch.ones(6))
        slow = [
            [(v - min(column)) / (max(column) - min(column)) for v in column] for column in self.x.double().T.tolist()
        ]
        assert torch.allclose(y.double(), torch.tensor(slow).T.double(), atol=1e-4)

    def test_standard_has_mean_0_and_deviation_1(self):
        y = fit_preprocessing("standard", self.x)(self.x).double()
        assert torch.allclose(y.mean(0), torch.zeros(6, dtype=torch.float64), atol=1e-4)
        assert torch.allclose(y.std(0, correction=0), torch.ones(6, dtype=torch.float64), atol=1e-4)

    def test_l2_gives_unit_rows_and_leaves_zeros(self):
        x = torch.cat([self.x, torch.zeros(1, 6)])
        y = fit_preprocessing("l2", self.x)(x)
        assert torch.allclose(y[:-1].square().sum(1), torch.ones(50))
        assert torch.allclose(y[:-1] * self.x.norm(dim=1, keepdim=True), self.x, rtol=1e-5)
        assert torch.equal(y[-1], torch.zeros(6))

    def test_none_is_nothing(self):
        assert fit_preprocessing("none", self.x)(self.x) is self.x

    @pytest.mark.parametrize("kind", ["minmax", "standard"])
    @pytest.mark.parametrize("value", [0.0, 0.1, 123.456])
    def test_a_constant_feature_is_only_shifted(self, kind: str, value: float):
        x = self.x.repeat(40, 1)
        x[:, 2] = value
        transform = fit_preprocessing(kind, x)
        assert transform(x)[:, 2].abs().max() < 1e-4
        other = torch.full((1, 6), value + 2)
        assert transform(other)[0, 2] == pytest.approx(2, abs=1e-4)

    def test_another_kind_is_refused(self):
        with pytest.raises(ValueError, match="unknown preprocessing 'log'"):
            fit_preprocessing("log", self.x)


def of_kind(kind: str) -> Split:
    """The toy split with other features, of attributes whose names have vectors."""
    split, rng = make_split(), np.random.default_rng(0)
    features: Any = {
        "local": 300 * rng.standard_normal((len(split.labels), 2, 3, 5)).astype(np.float16),
        "images": rng.integers(0, 256, (len(split.labels), 4, 6, 3), dtype=np.uint8),
    }[kind]
    vectors = rng.standard_normal((split.attributes.shape[1], 7)).astype(np.float32)
    return replace(split, features=features, attribute_vectors=vectors)


class TestLocalFeaturesAndImages:
    @pytest.mark.parametrize(("kind", "sizes"), [("local", (5, (2, 3))), ("images", (3, (4, 6)))])
    def test_they_keep_their_type_and_say_their_sizes(self, kind: str, sizes: tuple[int, tuple[int, int]]):
        split = of_kind(kind)
        split.check()
        stage = evaluation_stage(split)
        data, transform = train_data(split, stage, "none", CPU)
        assert split.kind == data.meta.kind == kind
        assert (data.meta.n_features, data.meta.grid, data.meta.n_vector) == (*sizes, 7)
        assert np.array_equal(data.features.numpy(), split.features[stage.train])
        assert data.features.numpy().dtype == split.features.dtype
        assert data.attribute_vectors is not None
        assert split.attribute_vectors is not None
        assert np.array_equal(data.attribute_vectors.numpy(), split.attribute_vectors)
        assert held_out(split, stage, transform, CPU).seen_features.dtype == data.features.dtype

    def test_class_vectors_come_in_the_order_of_the_stage(self):
        vectors = np.random.default_rng(0).standard_normal((len(make_split().class_names), 4)).astype(np.float32)
        split = replace(make_split(), class_vectors=vectors)
        split.check()
        for stage in (evaluation_stage(split), validation_stage(split, "toy")):
            data, _ = train_data(split, stage, "none", CPU)
            assert data.class_vectors is not None
            assert data.meta.n_class_vector == 4
            assert data.class_vectors.tolist() == [vectors[c].tolist() for c in (*stage.seen, *stage.unseen)]
        assert train_data(make_split(), evaluation_stage(split), "none", CPU)[0].meta.n_class_vector == 0
        with pytest.raises(
            InputError, match=r"^file: class vectors must be one for each of the \d+ classes, got shape"
        ):
            replace(split, class_vectors=vectors[1:]).check("file")

    def test_global_features_have_no_grid(self):
        meta = train_data(make_split(), evaluation_stage(make_split()), "none", CPU)[0].meta
        assert (meta.kind, meta.grid, meta.n_vector) == ("global", None, 0)

    @pytest.mark.parametrize("kind", ["l2", "minmax", "standard"])
    def test_regions_are_scaled_as_if_each_were_an_image(self, kind: str, monkeypatch: pytest.MonkeyPatch):
        x = torch.from_numpy(of_kind("local").features)
        x[0, 0, 0] = 0
        x[..., 4] = 200  # 200^2 is near the end of float16's range, and a constant is only shifted
        monkeypatch.setattr("benchmark.models.preprocessing.CHUNK_BYTES", 7 * 2 * 3 * 5 * 2)
        scaled = fit_preprocessing(kind, x)(x)
        rows = x.float().flatten(0, 2)
        expected = fit_preprocessing(kind, rows)(rows).view(x.shape)
        assert scaled.dtype == torch.float16
        assert torch.allclose(scaled.float(), expected, rtol=4e-3, atol=2e-3)

    def test_pixels_are_not_scaled(self):
        with pytest.raises(InputError, match=r"^preprocess must be none for images, got 'l2' instead$"):
            train_data(of_kind("images"), evaluation_stage(of_kind("images")), "l2", CPU)

    @given(n=st.integers(0, 30), at_most=st.integers(1, 40), limit=st.integers(1, 1000))
    def test_chunks_hold_all_and_are_bounded_by_bytes(self, n: int, at_most: int, limit: int):
        for x in (torch.rand(n, 2, 2, 5).half(), torch.randint(0, 256, (n, 3, 4, 3)).byte(), torch.rand(n, 9)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("benchmark.models.preprocessing.CHUNK_BYTES", limit)
                parts = chunks(x, at_most)
            assert torch.equal(torch.cat(parts), x)
            assert max(map(len, parts)) <= at_most
            for part in parts[:-1] if x.ndim == 4 else ():
                assert len(part) == 1 or part.numel() * part.element_size() <= limit
        assert list(map(len, parts)) == list(map(len, x.split(at_most)))  # vectors are bounded by their number alone

    @pytest.mark.parametrize(
        ("vectors", "problem"),
        [
            (np.zeros((3, 7)), r"must be one for each of the 8 attributes, got shape \(3, 7\) instead"),
            (np.full((8, 7), np.nan), "must be finite, got NaN or infinity instead"),
        ],
    )
    def test_wrong_vectors_are_refused(self, vectors: Any, problem: str):
        with pytest.raises(InputError, match=f"^file: attribute vectors {problem}$"):
            replace(make_split(), attribute_vectors=vectors.astype(np.float32)).check("file")


# The seal -------------------------------------------------------------------------------------------------------------

#: What refers to nothing.
ATOMS = {int, float, bool, str, bytes, type(None)}
#: Marks every test image, and no other; no computation comes to it by chance.
MAGIC = 777.25


class MarkedDataset(ToyDataset):
    """Its test images carry the mark. With ``mapped`` they lie in a file that is mapped into memory."""

    class Config(ToyDataset.Config):
        mapped: str = ""

    config: Config

    def read(self) -> Split:
        split = super().read()
        features = split.features
        features[np.concatenate([split.test_seen, split.test_unseen]), 3] = MAGIC
        if self.config.mapped:
            np.save(self.config.mapped, features)
            split = replace(split, features=np.load(self.config.mapped, mmap_mode="r"))
        return split


class Spy(ToyMethod):
    """Calls ``look`` during fit, in ``fit`` itself and while it is scored on validation, and keeps what it returns."""

    look: ClassVar[Callable[..., Any]]
    found: ClassVar[list[Any]]

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        super().fit(data, slot, run)
        run.rng("any")  # a method that draws is fitted for every seed
        Spy.found.append(Spy.look(data, slot, run, self))


def marked(thing: object) -> bool:
    """A tensor or array whose memory, all of it and not only what it shows, holds a test image."""
    kind = type(thing)  # isinstance would wake lazy objects
    if issubclass(kind, Tensor) and thing.dtype.is_floating_point and thing.device.type == "cpu":  # type: ignore[attr-defined]
        whole = torch.empty(0, dtype=thing.dtype).set_(thing.untyped_storage())  # type: ignore[attr-defined]
        return bool((whole == MAGIC).any())
    if issubclass(kind, np.ndarray) and thing.dtype.kind == "f":  # type: ignore[attr-defined]
        return bool(np.any(thing == MAGIC))
    return False


def hunt(*roots: object) -> list[str]:
    """What holds test images, as far as Python code can look.

    That is in ``roots``, in the locals of every frame of the call stack, in every object that the garbage collector
    knows, and in what only those know of, such as arrays.
    """
    things: list[Any] = [*roots, *gc.get_objects()]
    frame = sys._getframe(1)
    while frame:
        things += [frame.f_locals, *frame.f_locals.values()]
        frame = frame.f_back  # type: ignore[assignment]
    found, done, first = [], set[int](), True
    while things:
        # Dictionaries and tuples of arrays alone are not tracked, so their owners have to be followed down to them.
        new = {
            key: thing
            for key, thing in zip(map(id, things), things, strict=True)
            if type(thing) not in ATOMS and key not in done and (first or not gc.is_tracked(thing))
        }
        done |= new.keys()
        found += [f"{type(x).__name__} {tuple(x.shape)}" for x in new.values() if marked(x)]
        things = gc.get_referents(*new.values())
        things += [x.base for x in new.values() if issubclass(type(x), np.ndarray) and x.base is not None]
        first = False
    return found


@pytest.fixture
def run_spy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Runs two seeds with a spy that looks around during each fit; returns what it found, once all has ended well."""
    register(monkeypatch, DATASETS, "marked", MarkedDataset)
    register(monkeypatch, METHODS, "spy", Spy)
    register(monkeypatch, LOSSES, "toy", ToyLoss)

    def run(look: Callable[..., Any], protocol: Any = "strict", options: Any = None, method: str = "spy") -> list[Any]:
        Spy.look, Spy.found = staticmethod(look), []
        dataset = DATASETS.resolve("marked", options or {}, None)
        spec = make_spec(method, {"epochs": 1}, ("toy", {}), dataset, options or {}, "proposed", protocol)
        for result in run_cell(Cell(spec, (0, 1), None, "cpu")):
            assert result.status == "ok", result.error
            assert result.evaluation is not None  # so the seal was opened again
            assert len(result.evaluation.per_class) == 9
        return Spy.found

    return run


class TestSeal:
    @pytest.mark.parametrize("mapped", [False, True], ids=["in memory", "memory-mapped"])
    def test_no_test_image_is_in_memory(self, run_spy: Callable[..., Any], tmp_path: Path, mapped: bool):
        options = {"mapped": str(tmp_path / "features.npy")} if mapped else {}
        assert run_spy(hunt, options=options) == [[], [], [], []]  # two seeds: selection and refit

    def test_the_hunt_finds_one_that_is_there(self, run_spy: Callable[..., Any]):
        found = run_spy(hunt, protocol="literature")  # there, and only there, selection is on test images
        assert len(found) == 2
        assert all(found)

    def test_the_hunt_finds_what_is_hidden(self):
        def features(per_class: int) -> Any:
            return MarkedDataset("marked", MarkedDataset.Config(per_class=per_class), None).read().features

        def hide() -> list[str]:
            kept = [
                (features(5),),
                {"x": features(6)},
                (lambda x: lambda: x)(features(7)),
                (x for x in [features(8)]),
                features(9)[:1, :1].T,
                torch.from_numpy(features(10))[:0],
            ]
            gc.collect()  # after which neither tuple nor dictionary is tracked
            return hunt() if kept else []

        arrays = {f"ndarray ({9 * n}, 10)" for n in (5, 6, 7, 8, 9)}
        assert set(hide()) == arrays | {"Tensor (0, 10)", "Tensor (90, 10)"}  # a view and its base
        gc.collect()
        assert hunt() == []

    @staticmethod
    def attempts(data: TrainData, slot: Slot, run: Run, method: Spy) -> dict[str, Callable[[], Any]]:
        """Ways to the data that the frames of the call stack offer to a method."""
        frame = sys._getframe()
        local: dict[str, Any] = {}
        while frame:
            local = {**frame.f_locals, **local}
            frame = frame.f_back  # type: ignore[assignment]
        return {
            "by name": lambda: DATASETS.resolve("marked", {}, None).load(),
            "the engine's source": lambda: local["experiment"]._source.load(),
            "the cell's data set": lambda: local["cell"].dataset().load(),
            "the engine's own way": lambda: local["experiment"]._open_test(),
        }

    @pytest.mark.parametrize("way", ["by name", "the engine's source", "the cell's data set", "the engine's own way"])
    def test_no_data_set_can_be_loaded(self, run_spy: Callable[..., Any], way: str):
        def look(*arguments: Any) -> str:
            with pytest.raises(SealedError, match="marked cannot be loaded while a method is being fitted") as error:
                self.attempts(*arguments)[way]()
            return str(error.type.__name__)

        assert run_spy(look) == ["SealedError"] * 4

    def test_nor_in_a_thread(self, run_spy: Callable[..., Any]):

        def look(*arguments: Any) -> list[str]:
            caught: list[str] = []

            def load() -> None:
                try:
                    DATASETS.resolve("marked", {}, None).load()
                except SealedError:
                    caught.append("SealedError")

            thread = threading.Thread(target=load)
            thread.start()
            thread.join()
            return caught

        assert run_spy(look) == [["SealedError"]] * 4

    def test_nor_while_the_method_is_built(self, run_spy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):

        caught = []

        class Early(Spy):
            def __init__(self, meta: Meta, config: Any, rng: torch.Generator) -> None:
                super().__init__(meta, config, rng)
                try:
                    DATASETS.resolve("marked", {}, None).load()
                except SealedError:
                    caught.append("SealedError")

        register(monkeypatch, METHODS, "early", Early)
        run_spy(lambda *_: None, method="early")
        assert caught == ["SealedError"] * 4

    def test_a_method_that_is_stopped_by_the_seal_is_a_failed_run_and_the_next_one_goes_on(
        self, run_spy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ):
        class Cheat(ToyMethod):
            def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
                DATASETS.resolve("marked", {}, None).load()

        register(monkeypatch, METHODS, "cheat", Cheat)
        spec = make_spec("cheat", {}, ("toy", {}), DATASETS.resolve("marked", {}, None), {}, "proposed", "strict")
        results = list(run_cell(Cell(spec, (0, 1), None, "cpu")))
        assert [result.status for result in results] == ["failed", "failed"]
        assert all("SealedError: marked cannot be loaded" in str(result.error) for result in results)
        DATASETS.resolve("marked", {}, None).load()  # and afterwards it can be

    def test_validation_images_are_preprocessed_trainval_images(self, run_spy: Callable[..., Any]):
        """What a method can reach in the run that selects is no test image, but there is something."""

        def look(data: TrainData, slot: Slot, run: Run, method: Spy) -> int:
            held = getattr(run, "_held_out", None)
            return 0 if held is None else len(held.seen_labels) + len(held.unseen_labels)

        found = run_spy(look)
        assert found[0] > 0
        assert found[1::2] == [0, 0]  # a refit has none
