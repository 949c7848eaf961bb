"""Profiles, and the settings that are derived from the data."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.api import AUTO, Facts, MethodConfig
from benchmark.config import ConfigFile, load_file
from benchmark.engine.experiment import run_cell
from benchmark.engine.plan import Cell
from benchmark.engine.protocol import facts
from benchmark.engine.settings import make_spec
from benchmark.errors import InputError
from benchmark.models.preprocessing import fit_preprocessing
from benchmark.registries import DATASETS, METHODS
from benchmark.registry import Entry
from benchmark.results.store import Store
from tests.reference.cells import TOY, register_toys, spec_of
from tests.reference.toy import make_spec as toy_spec

GENERATORS = [entry.name for entry in METHODS if "n_generated" in entry.obj.Config.rules]
#: Generators that take one form of features, or of semantics, for all data: features of deviation 1 or of unit norm.
OWN_FEATURES, OWN_SEMANTICS = {"genzsl", "gsmflow"}, {"genzsl"}
SIZES = st.builds(
    Facts,
    n_images=st.integers(10, 100_000),
    n_features=st.integers(4, 4096),
    n_attributes=st.integers(1, 1000),
    n_seen=st.integers(2, 800),
    n_unseen=st.integers(2, 200),
    n_regions=st.sampled_from([1, 49, 196]),
    signed=st.booleans(),
    alike=st.booleans(),
)


@cache
def small(method: str) -> dict[str, Any]:
    """The settings of a method on a data set that no YAML names, of which some are ``auto``."""
    return make_spec(method, {}, ("mse", {}), TOY, {}, "proposed", "strict").hparams


def derived(method: str, found: Facts) -> MethodConfig:
    config: type[MethodConfig] = METHODS[method].obj.Config
    return config.derive(small(method), found)


class TestWhichProfile:
    FILE = ConfigFile.model_validate({"profiles": {"published": {"datasets": {"cub:res101": {}, "sun": {}}}}})

    @pytest.mark.parametrize(
        ("dataset", "features", "profile"),
        [
            ("cub", "res101", "published"),
            ("cub", "vit", "small"),
            ("cub2010", "res101", "small"),
            ("sun", "any", "published"),
            ("awa2", "res101", "small"),
        ],
    )
    def test_published_where_the_yaml_names_data_and_features(self, dataset: str, features: str, profile: str):
        assert self.FILE.profile_of(dataset, features) == profile
        assert ConfigFile().profile_of(dataset, features) == "small"

    def test_the_user_has_the_last_word(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        register_toys(monkeypatch, tmp_path)
        (tmp_path / "toy-method.yaml").write_text(
            "profiles: {published: {hparams: {lr: 7}, datasets: {toy: {epochs: 3}}}, small: {hparams: {lr: 8}}}"
        )
        asked = make_spec("toy-method", {}, ("toy-loss", {}), TOY, {}, "proposed", "strict", profile="small")
        assert (asked.profile, asked.hparams["lr"]) == ("small", 8)
        assert (spec_of().profile, spec_of().hparams["lr"], spec_of().hparams["epochs"]) == ("published", 7, 3)
        assert asked.key != spec_of().key

    def test_semantics_play_no_role(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        register_toys(monkeypatch, tmp_path)
        (tmp_path / "toy-method.yaml").write_text("profiles: {published: {datasets: {'toy:toy': {lr: 7}}}}")
        monkeypatch.setattr(type(TOY), "feature_set", TOY.features)
        monkeypatch.setattr(type(TOY), "features", "toy+original_att")
        assert (spec_of().profile, spec_of().hparams["lr"]) == ("published", 7)

    def test_published_ones_that_nobody_published_are_refused(self):
        with pytest.raises(InputError, match=r"^--profile published: ale has no settings of its authors; .*small"):
            make_spec("ale", {}, ("mse", {}), TOY, {}, "proposed", "strict", profile="published")

    def test_medium_ones_lie_over_small_ones(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        register_toys(monkeypatch, tmp_path)
        (tmp_path / "toy-method.yaml").write_text(
            "profiles: {small: {hparams: {lr: 8, epochs: 3}}, medium: {hparams: {lr: 9}, datasets: {toy: {epochs: 4}}}}"
        )
        asked = make_spec("toy-method", {}, ("toy-loss", {}), TOY, {}, "proposed", "strict", profile="medium")
        assert (asked.profile, asked.hparams["lr"], asked.hparams["epochs"]) == ("medium", 9, 4)
        (tmp_path / "toy-method.yaml").write_text("profiles: {small: {hparams: {epochs: 3}}, medium: {}}")
        asked = make_spec("toy-method", {}, ("toy-loss", {}), TOY, {}, "proposed", "strict", profile="medium")
        assert asked.hparams["epochs"] == 3
        assert asked.method_label == "toy-method medium"

    def test_medium_ones_of_a_method_without_larger_networks_are_refused(self):
        with pytest.raises(InputError, match=r"^--profile medium: ale has no larger networks; --profile small"):
            make_spec("ale", {}, ("mse", {}), TOY, {}, "proposed", "strict", profile="medium")

    def test_results_from_before_keep_their_keys(self):
        assert toy_spec(profile=None).key == toy_spec().key == "b79bfe94bd69"
        assert toy_spec(profile="small").key != toy_spec().key

    @pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
    def test_small_names_no_data_set(self, entry: Entry[Any]):
        """But for a fine-tuning recipe, which needs pictures and a backbone beside a name."""
        file = load_file(entry.config_file)
        if "small" in file.profiles:
            assert all(":images" in name for name in file.profiles["small"].datasets)


class TestAuto:
    def test_a_setting_without_a_rule_takes_none(self):
        with pytest.raises(InputError, match=r"--set of ale: lr must be a valid number.*, got 'auto' instead$"):
            make_spec("ale", {"lr": AUTO}, ("mse", {}), TOY, {}, "proposed", "strict")

    def test_a_setting_that_a_method_lacks_is_unknown_whatever_its_value(self):
        with pytest.raises(InputError, match=r"^--set of cadavae: unknown key 'critic_steps'"):
            make_spec("cadavae", {"critic_steps": 3}, ("mse", {}), TOY, {}, "proposed", "strict")
        with pytest.raises(InputError, match=r"^--set of cadavae: unknown key 'output'"):
            make_spec("cadavae", {"output": AUTO}, ("mse", {}), TOY, {}, "proposed", "strict")

    def test_the_user_may_ask_for_it_and_may_overrule_it(self):
        asked = make_spec(
            "vaegan", {"n_generated": AUTO}, ("mse", {}), TOY, {}, "proposed", "strict", profile="published"
        )
        assert asked.hparams["n_generated"] == AUTO
        overruled = make_spec("vaegan", {"n_generated": 7}, ("mse", {}), TOY, {}, "proposed", "strict")
        assert overruled.hparams["n_generated"] == 7
        assert small("vaegan")["n_generated"] == AUTO

    def test_a_rule_is_told_what_was_set(self):
        found = Facts(n_images=3000, n_features=100, n_attributes=10, n_seen=30, n_unseen=10)
        config = METHODS["vaegan"].obj.Config
        few, many = (config.derive({**small("vaegan"), "epochs": n}, found).evaluate_every for n in (4, 400))
        assert (few, many) == (1, 100)


class TestRules:
    @pytest.mark.parametrize("name", METHODS.names())
    @given(found=SIZES)
    def test_make_valid_settings_of_data_of_any_size(self, name: str, found: Facts):
        settings = derived(name, found).model_dump(mode="json")
        assert AUTO not in settings.values()
        for key, value in small(name).items():
            assert value == AUTO or settings[key] == value

    @pytest.mark.parametrize("name", [name for name in GENERATORS if name not in OWN_FEATURES])
    @given(found=SIZES)
    def test_features_of_either_sign_are_neither_squeezed_nor_cut(self, name: str, found: Facts):
        settings = derived(name, replace(found, signed=True)).model_dump()
        assert settings["preprocess"] == "scale"
        assert settings.get("output", "linear") == "linear"
        assert derived(name, replace(found, signed=False)).preprocess == "minmax"

    @pytest.mark.parametrize(
        "name",
        [n for n in GENERATORS if "condition" in METHODS[n].obj.Config.model_fields and n not in OWN_SEMANTICS],
    )
    @given(found=SIZES)
    def test_semantics_that_are_alike_enter_networks_less_their_mean(self, name: str, found: Facts):
        assert derived(name, replace(found, alike=True)).model_dump()["condition"] == "standard"

    @pytest.mark.parametrize("name", METHODS.names())
    @given(found=SIZES, more=st.integers(2, 10))
    def test_more_images_mean_no_more_epochs_and_no_smaller_batches(self, name: str, found: Facts, more: int):
        few = derived(name, found).model_dump()
        many = derived(name, replace(found, n_images=more * found.n_images)).model_dump()
        assert many.get("epochs", 0) <= few.get("epochs", 0)
        assert many.get("batch_size", 0) >= few.get("batch_size", 0)
        assert many.get("n_generated", 0) >= few.get("n_generated", 0)

    @pytest.mark.parametrize("name", ["linear", "vaegan"])
    def test_few_images_are_shown_often_enough_to_learn_from(self, name: str):
        few = Facts(n_images=200, n_features=512, n_attributes=300, n_seen=80, n_unseen=20)
        assert derived(name, few).model_dump()["epochs"] == 500
        assert derived(name, replace(few, n_images=2)).model_dump()["epochs"] == 500
        assert derived("linear", replace(few, n_images=500)).model_dump()["patience"] == 20

    def test_a_classifier_of_small_codes_can_afford_more_epochs_than_one_of_features(self):
        many = Facts(n_images=10_000, n_features=4096, n_attributes=1000, n_seen=500, n_unseen=150)
        assert [derived(name, many).model_dump()["classifier_epochs"] for name in ("vaegan", "sdgzsl")] == [3, 17]

    @pytest.mark.parametrize("name", METHODS.names())
    @given(found=SIZES)
    def test_batches_are_powers_of_two(self, name: str, found: Facts):
        settings = derived(name, found).model_dump()
        for key in ("batch_size", "classifier_batch_size"):
            if small(name).get(key) == AUTO:
                assert settings[key] & (settings[key] - 1) == 0


class TestFacts:
    def test_are_of_the_images_to_train_on(self):
        split = DATASETS.resolve("awa2-sim", {}, None).load()
        found = facts(split)
        assert (found.n_images, found.n_seen, found.n_unseen) == (len(split.trainval), 40, 10)
        assert (found.n_features, found.n_attributes, found.n_regions) == (split.features.shape[1], 85, 1)
        assert found.images_a_class == len(split.trainval) / 40

    def test_do_not_depend_on_held_out_images(self):
        split = DATASETS.resolve("awa2-sim", {}, None).load()
        features = np.array(split.features)
        features[np.concatenate([split.test_seen, split.test_unseen])] = -1
        assert facts(replace(split, features=features)) == facts(split)
        assert not facts(split).signed
        features[split.trainval] -= 1
        assert facts(replace(split, features=features)).signed

    def test_semantics_are_alike_where_their_mean_is_most_of_them(self):
        split = DATASETS.resolve("awa2-sim", {}, None).load()
        unseen = np.zeros((50, 1), np.float32)
        unseen[split.unseen] = 10
        noise = np.random.default_rng(0).normal(size=(50, 400)).astype(np.float32)
        for mean, alike in ((1.5, False), (2.0, True)):  # shares of 0.69 and 0.8
            found = facts(replace(split, attributes=noise + mean + unseen * noise))
            assert found.alike == alike
            assert facts(replace(split, attributes=7 * (noise + mean))).alike == alike


class TestScale:
    def test_divides_all_by_one_number(self):
        x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e3, 1, 1, 1, 1, 1, 1e-3])
        scaled = fit_preprocessing("scale", x)(x)
        assert scaled.square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-5)
        ratio = scaled / x
        assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-5)

    def test_of_nothing_is_nothing(self):
        assert not fit_preprocessing("scale", torch.zeros(3, 2))(torch.zeros(3, 2)).any()


class TestInARun:
    def test_the_result_tells_what_was_derived_and_is_the_same_again(self, tmp_path: Path):
        source = DATASETS.resolve("awa2-sim", {}, None)
        spec = make_spec("vaegan", {"epochs": 2, "n_generated": 20}, ("mse", {}), source, {}, "proposed", "strict")
        first, again = (next(run_cell(Cell(spec, (0,), None, "cpu"))) for _ in range(2))
        automatic = {name for name, value in spec.hparams.items() if value == AUTO}
        assert set(first.derived) == automatic >= {"preprocess", "batch_size"}
        assert first.evaluation == again.evaluation
        assert AUTO not in first.settings.values()
        store = Store(tmp_path)
        store.save(first)
        assert store.load(spec, 0) == first
