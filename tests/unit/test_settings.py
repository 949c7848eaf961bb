"""Keys, and the layers of a cell's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.engine.settings import make_spec
from benchmark.errors import InputError
from benchmark.registries import METHODS
from benchmark.results.record import Spec
from benchmark.results.store import Store
from tests.reference.cells import FACTS, TOY, cell_of, register_toys, spec_of
from tests.reference.toy import ToyMethod, make_result
from tests.reference.toy import make_spec as toy_spec


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return register_toys(monkeypatch, tmp_path)


class TestKey:
    @pytest.mark.parametrize(
        "changes",
        [
            {"protocol": "literature"},
            {"partition": "random-0"},
            {"dataset": "other"},
            {"simulated": False},
            {"features": "other"},
            {"revision": "2"},
            {"method": "other"},
            {"loss": "other"},
            {"hparams": {"lr": 0.2, "epochs": 2}},
            {"hparams": {"lr": 0.1, "epochs": 3}},
            {"hparams": {"lr": 0.1}},
            {"hparams": {"lr": 0.1, "epochs": 2, "more": None}},
            {"loss_parameters": {"normalize": False}},
            {"loss_parameters": {}},
        ],
        ids=str,
    )
    def test_depends_on_every_setting(self, changes: dict[str, Any]):
        assert toy_spec(**changes).key != toy_spec().key

    def test_no_setting_is_forgotten(self):
        """A field that is added to Spec has to be thought of here."""
        told = {"protocol", "partition", "dataset", "simulated", "features", "revision", "method", "loss"}
        told |= {"hparams", "loss_parameters", "tuned", "profile"}
        assert set(Spec.model_fields) == told | {"dataset_options", "hparam_overrides", "loss_overrides"}

    def test_does_not_depend_on_how_a_setting_came_about(self):
        changes = {"dataset_options": {"seed": 0}, "hparam_overrides": {"lr": "1e-1"}, "loss_overrides": {"a": 1}}
        assert toy_spec(**changes).key == toy_spec().key
        assert toy_spec(hparams={"epochs": 2, "lr": 0.1}).key == toy_spec().key

    @pytest.mark.usefixtures("toys")
    def test_different_spellings_are_one_configuration(self):
        keys = {spec_of(o).key for o in ({}, {"lr": 0.1}, {"lr": "1e-1"}, {"lr": 1e-1, "epochs": 2}, {"epochs": 2.0})}
        assert len(keys) == 1
        assert spec_of({"epochs": 1}).key not in keys
        assert spec_of(None, {"alpha": 1}).key == spec_of(None, {"alpha": 1.0, "normalize": True}).key == spec_of().key

    @pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
    def test_is_the_same_after_a_round_trip_through_a_file(self, entry: Any, tmp_path: Path):
        spec = make_spec(entry.name, {}, ("none", {}), TOY, {}, "proposed", "strict")
        store = Store(tmp_path)
        store.save(make_result(spec))
        loaded = store.load(spec, 0)
        assert loaded is not None
        assert loaded.spec.key == spec.key
        assert cell_of(loaded.spec).method_config(FACTS) == cell_of(spec).method_config(FACTS)

    @pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
    def test_every_setting_of_every_method_enters_it(self, entry: Any):
        spec = make_spec(entry.name, {}, ("none", {}), TOY, {}, "proposed", "strict")
        fields = entry.obj.Config.model_fields
        later = {name for name, field in fields.items() if field.exclude_if and field.exclude_if(field.default)}
        assert set(spec.hparams) == fields.keys() - later
        keys = {replaced(spec, name).key for name in fields}
        assert len(keys | {spec.key}) == len(fields) + 1

    def test_a_setting_from_after_results_were_stored_leaves_old_keys_alone(self):
        plain, told, mixed = (
            make_spec("ale", overrides, ("none", {}), TOY, {}, "proposed", "strict")
            for overrides in ({}, {"precision": "float32"}, {"precision": "bfloat16"})
        )
        assert "precision" not in plain.hparams
        assert plain.key == told.key != mixed.key
        assert mixed.hparams == {**plain.hparams, "precision": "bfloat16"}
        assert [cell_of(spec).method_config(FACTS).precision for spec in (plain, told, mixed)] == [
            "float32",
            "float32",
            "bfloat16",
        ]


def replaced(spec: Spec, name: str) -> Spec:
    return spec.model_copy(update={"hparams": {**spec.hparams, name: "something else"}})


class TestLayers:
    def test_each_layer_wins_over_those_before(self, toys: Path):
        """Class default < hparams < profile < its data sets < their features < losses < --set, all on one key."""

        def lr(text: str, overrides: dict[str, Any]) -> Any:
            (toys / "toy-method.yaml").write_text(text)
            return spec_of(overrides).hparams["lr"]

        hparams, small = "hparams: {lr: 1}\n", "profiles: {small: {hparams: {lr: 1.5}}}\n"
        dataset = "profiles: {small: {hparams: {lr: 1.5}, datasets: {toy: {lr: 2}, other: {lr: 99}}}}\n"
        features = f"{{toy: {{lr: 2}}, 'toy:{TOY.features}': {{lr: 2.5}}, 'toy:other': {{lr: 99}}}}"
        loss = "losses: {toy-loss: {hparams: {lr: 3}}, other: {hparams: {lr: 99}}}\n"
        assert lr("", {}) == 0.1
        assert lr(hparams, {}) == 1
        assert lr(hparams + small, {}) == 1.5
        assert lr(hparams + dataset, {}) == 2
        assert lr(f"profiles: {{small: {{datasets: {features}}}}}", {}) == 2.5
        assert lr(loss + dataset + hparams, {}) == 3  # the order in the file does not matter
        assert lr(hparams + dataset + loss, {"lr": 4}) == 4
        assert lr(hparams + dataset + loss, {"epochs": 7}) == 3

    def test_those_of_the_loss(self, toys: Path):
        """Class default < the loss's hparams < its profile < the method's parameters for it < --loss x:k=v."""

        def alpha(of_loss: str, of_method: str, overrides: dict[str, Any]) -> Any:
            (toys / "toy-loss.yaml").write_text(of_loss)
            (toys / "toy-method.yaml").write_text(of_method)
            return spec_of({}, overrides).loss_parameters["alpha"]

        hparams, dataset = "hparams: {alpha: 2}\n", "profiles: {small: {datasets: {toy: {alpha: 3}}}}\n"
        method = "losses: {toy-loss: {parameters: {alpha: 4}}, other: {parameters: {alpha: 99}}}\n"
        assert alpha("", "", {}) == 1
        assert alpha(hparams, "", {}) == 2
        assert alpha(hparams + dataset, "", {}) == 3
        assert alpha(hparams + dataset, method, {}) == 4
        assert alpha(hparams + dataset, method, {"alpha": 5}) == 5

    def test_what_the_user_set_is_kept_apart(self, toys: Path):
        (toys / "toy-method.yaml").write_text("hparams: {lr: 5}")
        spec = make_spec(
            "toy-method", {"epochs": 3}, ("toy-loss", {"beta": 2}), TOY, {"seed": 0}, "random-1", "literature"
        )
        assert spec.hparams == {"preprocess": "none", "regression_weight": 1.0, "lr": 5.0, "epochs": 3}
        assert spec.loss_parameters == {"normalize": True, "alpha": 1.0, "beta": 2.0}
        assert (spec.hparam_overrides, spec.loss_overrides, spec.dataset_options) == (
            {"epochs": 3},
            {"beta": 2},
            {"seed": 0},
        )
        assert (spec.partition, spec.protocol, spec.dataset, spec.revision) == (
            "random-1",
            "literature",
            "toy",
            "toy 0",
        )
        assert (spec.method_label, spec.loss_label) == ("toy-method:epochs=3", "toy-loss:beta=2")
        assert cell_of(spec).title == "toy-method:epochs=3+toy-loss:beta=2 toy random-1"
        assert cell_of(spec).method_config(FACTS) == ToyMethod.Config(lr=5, epochs=3)

    def test_a_key_of_the_loss_in_set_gets_a_hint(self, toys: Path):
        with pytest.raises(InputError) as error:
            spec_of({"alpha": 0.5})
        hint = "it is a parameter of the loss: --loss toy-loss:alpha=VALUE"
        assert str(error.value) == f"--set of toy-method: unknown key 'alpha'; {hint}"

    @pytest.mark.parametrize(
        ("method", "loss", "overrides", "parameters", "message"),
        [
            ("alee", "mse", {}, {}, "unknown method 'alee'; did you mean 'ale'?"),
            ("ale", "msee", {}, {}, "unknown loss 'msee'; did you mean 'mse'?"),
            ("ale", "mse", {"lrr": 1}, {}, "--set of ale: unknown key 'lrr'; did you mean 'lr'?"),
            ("ale", "mse", {"lr": -1}, {}, "--set of ale: lr must be greater than 0, got -1 instead"),
            ("ale", "mse", {}, {"alpha": 1}, "--loss mse: unknown key 'alpha'; known: normalize"),
            ("ale", "none", {}, {"alpha": 1}, "--loss none: unknown key 'alpha'; known: normalize"),
            (
                "ale",
                "remse",
                {},
                {"alpha": -1},
                "--loss remse: alpha must be greater than or equal to 0, got -1 instead",
            ),
        ],
    )
    def test_what_is_wrong_is_one_line(self, method: str, loss: str, overrides: Any, parameters: Any, message: str):
        with pytest.raises(InputError) as error:
            make_spec(method, overrides, (loss, parameters), TOY, {}, "proposed", "strict")
        assert str(error.value) == message

    def test_a_wrong_yaml_names_file_and_section(self, toys: Path):
        file = toys / "toy-method.yaml"
        for section, text in [
            ("hparams", "hparams: {lrr: 1}"),
            ("profiles.small.datasets.toy", "profiles: {small: {datasets: {toy: {lrr: 1}}}}"),
            ("profiles.small.hparams", "profiles: {small: {hparams: {lrr: 1}}}"),
            ("losses.toy-loss.hparams", "losses: {toy-loss: {hparams: {lrr: 1}}}"),
        ]:
            file.write_text(text)
            with pytest.raises(InputError) as error:
                spec_of()
            assert str(error.value) == f"{file}: {section}: unknown key 'lrr'; did you mean 'lr'?"
        file.write_text("losses: {toy-loss: {parameters: {alfa: 1}}}")
        with pytest.raises(InputError) as error:
            spec_of()
        assert str(error.value) == f"{file}: losses.toy-loss.parameters: unknown key 'alfa'; did you mean 'alpha'?"
