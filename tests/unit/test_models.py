"""Kept models: the rule of what is kept, bad input, new classes, and files that are damaged or hostile."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import torch as safetensors
from torch import Tensor, nn

from benchmark import models
from benchmark.api import Meta
from benchmark.errors import InputError
from benchmark.models.file import read, write
from benchmark.models.model import Model, describe
from benchmark.models.preprocessing import fit_preprocessing
from benchmark.models.state import StateError, dump, restore
from benchmark.registries import METHODS
from benchmark.toolkit.backbones import digest as digest_of
from methods.generative._synthesis import GenerativeConfig, GenerativeMethod
from tests.reference.mutations import Damage, damages
from tests.reference.toy import CPU, ToyMethod, make_spec, make_train, register, seeded, tiny_config


class Odd(nn.Module):
    """What methods of any author hold."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.part = nn.Linear(n, 2)
        self.register_buffer("late", None)
        self.settings = Meta(n, 1, 1, 1)
        self.function: Callable[[int], int] | None = abs

    def fit(self) -> Odd:
        torch.nn.init.normal_(self.part.weight, generator=seeded(0))
        self.part.bias.requires_grad_(False)
        self.late = torch.rand(3, 4, generator=seeded(1)).T
        self.tensor = torch.rand(2, 3, 4, 5, generator=seeded(2)).to(memory_format=torch.channels_last)
        self.narrow = torch.rand(3, generator=seeded(3)).half()
        self.same = self.narrow
        self.array, self.number = np.arange(6.0).reshape(2, 3).T, np.float32(0.1)
        self.scalars = {"a": 0.1 + 0.2, "b": [1, True, None], "c": ("x", torch.ones(1)), "d": -float("inf")}
        self.source = seeded(4)
        return self


def equal(a: Any, b: Any) -> bool:
    """Equal to the last bit, in type, and in order in memory."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


class TestState:
    def test_whatever_is_data_comes_back_and_the_rest_is_made_again(self):
        odd, again = Odd(3).fit(), Odd(3)
        values, tensors = dump(odd, Odd(3))
        restore(again, json.loads(json.dumps(values)), safetensors.load(safetensors.save(tensors)), CPU)
        for name in ("late", "tensor", "narrow", "same", "array", "number", "scalars", "settings", "function"):
            assert equal(getattr(odd, name), getattr(again, name)), name
        assert equal(odd.part.weight.data, again.part.weight.data)
        assert not hasattr(again, "source")
        assert all(tensor.data_ptr() % 64 == 0 for tensor in (again.late, again.part.weight))

    @pytest.mark.parametrize("value", [object(), {1: 2}, {1, 2}, np.array(["x"]), [lambda: 0], torch.Size([1])])
    def test_what_only_fit_made_and_is_no_data_is_refused_by_name(self, value: object):
        odd = Odd(3).fit()
        odd.part.__dict__["mine"] = value
        with pytest.raises(StateError, match=r"^'part\.mine(\.0)?' must be a tensor, .* or be made by __init__, got "):
            dump(odd, Odd(3))

    def test_a_part_that_only_fit_made_is_refused_by_name(self):
        odd = Odd(3).fit()
        odd.head = nn.Linear(1, 1)
        with pytest.raises(StateError, match=r"^'head' must be a part from __init__ on"):
            dump(odd, Odd(3))

    def test_a_state_of_another_shape_or_with_less_or_more_is_refused(self):
        values, tensors = dump(Odd(3).fit(), Odd(3))
        without = {where: value for where, value in values.items() if where != "part.weight"}
        for twin, changed, problem in (
            (Odd(4), values, r"'part\.weight' must be of shape \(2, 4\)"),
            (Odd(3), without, r"'part\.weight' is missing"),
            (Odd(3), {**values, "other.x": 1}, r"'other\.x' is no part"),
            (Odd(3), {**values, "_modules": {"dict": {}}}, r"'_modules' is no part"),
            (Odd(3), {**values, "late": 3}, r"'late' must be a tensor"),
            (Odd(3), {**values, "number": {"tensor": [0, 1]}}, r"'number' is garbled"),
        ):
            with pytest.raises(StateError, match=problem):
                restore(twin, changed, tensors, CPU)


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, METHODS, "toy", ToyMethod)


def fitted() -> Model:
    """A toy of six seen and three unseen classes of which only the seen ones were seen."""
    data, held = make_train()
    method = ToyMethod(data.meta, ToyMethod.Config(preprocess="standard"), seeded(0))
    transform = fit_preprocessing("standard", data.features)
    method.means = torch.rand(len(data.attributes), data.meta.n_features, generator=seeded(1))
    about = {"class_names": list(held.class_names), "origin": {}, "provenance": {}}
    return describe(method, transform, data.attributes, 0.25, spec=make_spec(), seed=0, **about)


@pytest.mark.usefixtures("_toy")
class TestPredict:
    def test_gamma_is_taken_from_seen_classes_where_unseen_ones_compete(self):
        model, x = fitted(), np.random.default_rng(0).standard_normal((5, 10))
        scores = {among: model.predict(x, among).scores for among in ("unseen", "seen", "all")}
        raw = model.predict(x, calibrated=False).scores
        gamma = 0.25 * (np.arange(raw.shape[1]) < model.n_seen)
        assert np.array_equal(scores["all"], raw - gamma)
        assert np.array_equal(scores["seen"], raw[:, : model.n_seen])
        assert np.allclose(scores["unseen"], raw[:, model.n_seen :], atol=1e-5)
        some = [model.class_names[-1], model.class_names[0]]
        found = model.predict(x, some)
        assert found.classes == (some[1], some[0])
        assert np.array_equal(found.scores, scores["all"][:, [0, -1]])
        both = model.predict(x, ["unseen", some[1]])
        assert both.classes == (some[1], *model.class_names[model.n_seen :])
        assert found.semantics is None
        best = found.top(2)[0]
        assert best[0][1] >= best[1][1]
        assert model.predict(x[:0]).top() == []

    @pytest.mark.parametrize(
        ("features", "problem"),
        [
            (np.zeros((2, 9)), r"features must be global ones of shape \(N, 10\), got shape \(2, 9\) float64 instead"),
            (np.zeros((2, 3, 3, 10), np.float16), r"got shape \(2, 3, 3, 10\) float16 instead"),
            (np.full((1, 10), np.nan), "features must be finite"),
        ],
    )
    def test_other_features_are_refused(self, features: Any, problem: str):
        with pytest.raises(InputError, match=problem):
            fitted().predict(features)

    def test_an_unknown_class_is_refused_with_the_nearest_known_one(self):
        with pytest.raises(InputError, match=r"^no class 'unsen'; did you mean 'unseen'\?$"):
            fitted().predict(np.zeros((1, 10)), "unsen")

    @pytest.mark.parametrize(
        ("names", "attributes", "problem"),
        [
            ([make_train()[1].class_names[0]], np.ones((1, 8)), r"class 'class .' is known already"),
            (["a", "a"], np.ones((2, 8)), r"class 'a' is known already"),
            (["a"], np.ones((1, 7)), r"must have the 8 attributes of the model's classes, got 7 instead"),
            (["a"], np.zeros((1, 8)), r"must be finite, and not all zero"),
            (["a"], np.full((1, 8), np.inf), r"must be finite, and not all zero"),
            (["a"], np.ones((1, 8)), r"takes no new classes: .* it must define take_classes"),
        ],
    )
    def test_classes_that_cannot_be_added_are_refused(self, names: list[str], attributes: Any, problem: str):
        model = fitted()
        before = model.method.meta, model.class_names
        with pytest.raises(InputError, match=problem):
            model.add_classes(names, attributes.astype(np.float32))
        assert (model.method.meta, model.class_names) == before

    def test_a_model_that_was_fitted_with_other_semantics_too_takes_no_classes(self):
        model = fitted()
        model.method.meta = replace(model.method.meta, n_class_vector=3)
        with pytest.raises(
            InputError, match=r"^toy\+toy toy s0: takes no new classes: .* fit it without class_vectors$"
        ):
            model.add_classes(["a"], np.ones((1, 8), np.float32))

    @pytest.mark.parametrize(
        ("origin", "images", "problem"),
        [
            ({}, ["a.png"], "images need a model whose features came from a backbone"),
            ({"features": {"backbone": 3, "preprocessing": {"input_size": 0}}}, ["a.png"], "images need a model whose"),
            ({}, "a.png", "images must be a list of files or PIL images, got str instead"),
            ({}, [], "images must be at least one file or PIL image, got none"),
        ],
    )
    def test_images_that_cannot_become_features_are_refused(self, origin: Any, images: Any, problem: str):
        model = fitted()
        model = Model(
            model.card.model_copy(update={"origin": origin}), model.method, model.preprocessing, model.attributes
        )
        with pytest.raises(InputError, match=problem):
            model.predict(images)


class Perfect(GenerativeMethod):
    """Features are attributes through a fixed map, and it knows that map."""

    def __init__(self, meta: Meta, config: GenerativeConfig, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.mapping = torch.randn(meta.n_attributes, meta.n_features, generator=rng)

    def prepare(self, data: Any, slot: Any, run: Any) -> Any:
        raise AssertionError("nothing is trained but classifiers")

    def generate(self, attributes: Tensor, rng: torch.Generator) -> Tensor:
        return attributes @ self.mapping + 0.1 * torch.randn(len(attributes), self.meta.n_features, generator=rng)


def test_classifiers_of_generated_features_know_new_classes():
    config = GenerativeConfig(n_generated=60, classifier_epochs=30, classifier_lr=0.05, classifier_batch_size=60)
    method = Perfect(Meta(12, 6, 4, 5), config, seeded(0))
    attributes = torch.randn(9, 6, generator=seeded(1))
    method.class_counts = torch.tensor([50, 1, 30, 20])
    method.take_classes(attributes, seeded(2))
    labels = torch.arange(9).repeat_interleave(20)
    x = method.generate(attributes[labels], seeded(3))
    of_unseen = method.scores(x[80:], torch.arange(4, 9)).argmax(1) + 4
    assert (of_unseen == labels[80:]).float().mean() > 0.95
    assert (method.scores(x, torch.arange(9)).argmax(1) == labels)[labels != 1].float().mean() > 0.9


def problem_with(path: Path, use: Callable[[Path], object]) -> str | None:
    """The one line that refuses a file; None where it is used."""
    try:
        use(path)
    except InputError as error:
        return str(error)
    return None


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@cache
def content() -> bytes:
    """A sound file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "m.safetensors", fitted())
        return (Path(folder) / "m.safetensors").read_bytes()


@pytest.mark.usefixtures("_toy")
class TestFile:
    def test_it_comes_back_whole_and_the_same_bytes_each_time(self, tmp_path: Path):
        path, model = tmp_path / "m.safetensors", fitted()
        digest = write(path, model)
        assert path.read_bytes() == content()
        assert read(path).sha256 == digest
        assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
        loaded, x = models.load(path), np.random.default_rng(0).standard_normal((9, 10))
        assert loaded.card == model.card
        assert np.array_equal(loaded.predict(x).scores, model.predict(x).scores)

    @given(damage=damages())
    def test_a_damaged_file_is_refused_in_one_line_or_is_the_same_model(
        self, damage: Damage, tmp_path_factory: pytest.TempPathFactory
    ):
        path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
        path.write_bytes(damage(content()))
        problem = problem_with(path, read)
        if problem is not None:
            assert problem.startswith(f"{path}: ")
            assert "\n" not in problem
        else:
            whole = path.with_name("whole.safetensors")
            whole.write_bytes(content())
            assert read(path).sha256 == read(whole).sha256

    def test_a_pickle_is_no_model_and_does_not_run(self, tmp_path: Path):
        path, mark = tmp_path / "m.safetensors", tmp_path / "ran"
        path.write_bytes(pickle.dumps(Trap(mark)))
        with pytest.raises(InputError, match="not a model file"):
            models.load(path)
        torch.save({"a": Trap(mark)}, path)
        with pytest.raises(InputError, match="not a model file"):
            models.load(path)
        assert not mark.exists()

    def test_any_other_safetensors_file_and_none_at_all_are_refused(self, tmp_path: Path):
        path = tmp_path / "m.safetensors"
        with pytest.raises(InputError, match="cannot be read: No such file"):
            models.load(path)
        safetensors.save_file({"weight": torch.ones(2)}, path)
        with pytest.raises(InputError, match="not a model file"):
            models.load(path)

    @given(key=st.integers(0, 10**6), what=st.sampled_from([None, 1, "x", [], {}, {"tensor": [5]}, {"tuple": 3}]))
    def test_a_hostile_file_whose_digest_is_right_is_refused_in_one_line_or_works(
        self, key: int, what: Any, tmp_path_factory: pytest.TempPathFactory
    ):
        """Whoever writes a file on purpose can make a digest too."""
        path = tmp_path_factory.getbasetemp() / "hostile.safetensors"
        path.write_bytes(content())
        found = read(path)
        card, values = json.loads(found.card.model_dump_json()), dict(found.values)
        places = [(card, name) for name in card] + [(values, name) for name in values]
        places += [(card["sizes"], name) for name in card["sizes"]] + [(card["settings"], n) for n in card["settings"]]
        group, name = places[key % len(places)]
        group[name] = what
        digest = hashlib.sha256(json.dumps([card, values, digest_of(found.tensors)]).encode()).hexdigest()
        header = json.dumps({"sha256": digest, "card": card, "values": values})
        path.write_bytes(safetensors.save(found.tensors, {"zsl_model": header}))
        problem = problem_with(path, models.load)
        assert problem is None or (problem.startswith(f"{path}: ") and "\n" not in problem and "damaged" not in problem)

    def test_a_method_that_is_not_here_asks_for_its_plug_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        path = tmp_path / "m.safetensors"
        path.write_bytes(content())
        monkeypatch.delitem(METHODS._entries, "toy")
        with pytest.raises(InputError, match=r"no method 'toy' here; where a plug-in defines it, .* --plugin FILE"):
            models.load(path)

    @pytest.mark.parametrize(
        ("role", "named"),
        [("method", "methods.embedding.linear"), ("methods._cosine", "methods._cosine"), ("engine", ""), ("", "")],
    )
    def test_a_method_whose_code_has_changed_since_is_said_in_one_line(
        self, role: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        data, held = make_train()
        entry = METHODS["linear"]
        method = entry.obj(data.meta, tiny_config(entry), seeded(0))
        method.attributes = data.attributes
        code = {
            "method": entry.code[entry.module],
            "engine": "1" * 12,
            "methods._cosine": entry.code["methods._cosine"],
        }
        about: dict[str, Any] = {"class_names": list(held.class_names), "origin": {}}
        about["provenance"] = {"sources": code | ({role: "0" * 12} if role else {})}
        model = describe(
            method,
            fit_preprocessing("none", data.features),
            data.attributes,
            0.0,
            spec=make_spec(method="linear"),
            seed=0,
            **about,
        )
        path = tmp_path / "m.safetensors"
        write(path, model)
        models.load(path)
        line = (
            f"warning: {path}: the code of linear has changed since it was fitted, and predictions may have: {named}\n"
        )
        assert capsys.readouterr().err == (line if named else "")

    def test_what_cannot_be_kept_leaves_no_file(self, tmp_path: Path):
        model = fitted()
        model.method.__dict__["mine"] = object()
        with pytest.raises(InputError, match=r"^toy\+toy toy s0: cannot be kept: 'method\.mine' must be"):
            write(tmp_path / "m.safetensors", model)
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_claims_more_than_it_holds_takes_no_memory(self, tmp_path: Path):
        path = tmp_path / "m.safetensors"
        path.write_bytes(content())
        card, found = json.loads(read(path).card.model_dump_json()), read(path)
        card["sizes"]["n_features"] = 10**8
        digest = hashlib.sha256(json.dumps([card, found.values, digest_of(found.tensors)]).encode()).hexdigest()
        header = json.dumps({"sha256": digest, "card": card, "values": found.values})
        path.write_bytes(safetensors.save(found.tensors, {"zsl_model": header}))
        with pytest.raises(InputError, match=r"does not fit the method 'toy' as it is here: it claims sizes of which"):
            models.load(path)
