"""Keys, layers of a cell's settings, the plan of what is still to run, and the small languages of the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.jobs import Cell, make_spec, parse_seeds, parse_splits, plan
from benchmark.provenance import digests
from benchmark.registry import InputError
from benchmark.results import Result, Spec, Store
from losses import LOSSES
from methods import METHODS
from tests.unit.toy import ToyDataset, ToyLoss, ToyMethod, make_result, register
from tests.unit.toy import make_spec as toy_spec

TOY = ToyDataset("toy", ToyDataset.Config(), None)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Registers ``toy-method`` and ``toy-loss``, whose source and YAML files lie in the returned folder."""
    for registry, name, obj in [(METHODS, "toy-method", ToyMethod), (LOSSES, "toy-loss", ToyLoss)]:
        file = tmp_path / f"{name}.py"
        file.write_text("source")
        register(monkeypatch, registry, name, obj, file)  # type: ignore[arg-type]
    return tmp_path


def spec_of(overrides: Any = None, loss: Any = None, protocol: Any = "strict", split: str = "proposed") -> Spec:
    return make_spec("toy-method", overrides or {}, ("toy-loss", loss or {}), TOY, {}, split, protocol)


def cell_of(spec: Spec, seeds: tuple[int, ...] = (0, 1, 2)) -> Cell:
    return Cell(spec, seeds, None, "cpu")


class TestKey:
    @pytest.mark.parametrize(
        "changes",
        [
            {"protocol": "literature"},
            {"split": "random-0"},
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
        told = {"protocol", "split", "dataset", "simulated", "features", "revision", "method", "loss"}
        told |= {"hparams", "loss_parameters", "tuned"}
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
        assert cell_of(loaded.spec).method_config() == cell_of(spec).method_config()

    @pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
    def test_every_setting_of_every_method_enters_it(self, entry: Any):
        spec = make_spec(entry.name, {}, ("none", {}), TOY, {}, "proposed", "strict")
        assert set(spec.hparams) == set(entry.obj.Config.model_fields)
        keys = {replaced(spec, name).key for name in spec.hparams}
        assert len(keys | {spec.key}) == len(spec.hparams) + 1


def replaced(spec: Spec, name: str) -> Spec:
    return spec.model_copy(update={"hparams": {**spec.hparams, name: "something else"}})


class TestLayers:
    def test_each_layer_wins_over_those_before(self, toys: Path):
        """Class default < hparams < datasets < its features < losses < --set, one after another on one key."""

        def lr(text: str, overrides: dict[str, Any]) -> Any:
            (toys / "toy-method.yaml").write_text(text)
            return spec_of(overrides).hparams["lr"]

        hparams, dataset = "hparams: {lr: 1}\n", "datasets: {toy: {lr: 2}, other: {lr: 99}}\n"
        loss = "losses: {toy-loss: {hparams: {lr: 3}}, other: {hparams: {lr: 99}}}\n"
        assert lr("", {}) == 0.1
        assert lr(hparams, {}) == 1
        assert lr(hparams + dataset, {}) == 2
        assert (
            lr(f"datasets: {{toy: {{lr: 2}}, 'toy:{TOY.features}': {{lr: 2.5}}, 'toy:other': {{lr: 99}}}}", {}) == 2.5
        )
        assert lr(loss + dataset + hparams, {}) == 3  # the order in the file does not matter
        assert lr(hparams + dataset + loss, {"lr": 4}) == 4
        assert lr(hparams + dataset + loss, {"epochs": 7}) == 3

    def test_those_of_the_loss(self, toys: Path):
        """Class default < the loss's hparams < its datasets < the method's parameters for it < --loss x:k=v."""

        def alpha(of_loss: str, of_method: str, overrides: dict[str, Any]) -> Any:
            (toys / "toy-loss.yaml").write_text(of_loss)
            (toys / "toy-method.yaml").write_text(of_method)
            return spec_of({}, overrides).loss_parameters["alpha"]

        hparams, dataset = "hparams: {alpha: 2}\n", "datasets: {toy: {alpha: 3}, other: {alpha: 99}}\n"
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
        assert (spec.split, spec.protocol, spec.dataset, spec.revision) == ("random-1", "literature", "toy", "toy 0")
        assert (spec.method_label, spec.loss_label) == ("toy-method:epochs=3", "toy-loss:beta=2")
        assert cell_of(spec).title == "toy-method:epochs=3+toy-loss:beta=2 toy random-1"
        assert cell_of(spec).method_config() == ToyMethod.Config(lr=5, epochs=3)
        loss = cell_of(spec).build_loss(4, 3)
        assert isinstance(loss, ToyLoss)
        assert (loss.n_classes, loss.n_attributes, loss.config.beta) == (4, 3, 2)

    def test_no_loss_is_no_object(self):
        spec = make_spec("ale", {}, ("none", {}), TOY, {}, "proposed", "strict")
        assert cell_of(spec).build_loss(4, 3) is None

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
            ("datasets.toy", "datasets: {toy: {lrr: 1}}"),
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


class TestPlan:
    @pytest.fixture
    def store(self, tmp_path: Path, toys: Path) -> Store:
        return Store(tmp_path / "results")

    def save(self, store: Store, seed: int, status: Any = "ok", sources: Any = None) -> Result:
        cell = cell_of(spec_of())
        provenance = {"sources": digests(cell.sources()) if sources is None else sources}
        result = make_result(cell.spec, seed, status, provenance=provenance)
        store.save(result)
        return result

    def test_what_is_stored_is_skipped_and_failures_are_retried(self, store: Store):
        kept = self.save(store, 1)
        self.save(store, 2, "failed")
        self.save(store, 9)  # a seed that is not asked for
        found = plan([cell_of(spec_of(), (0, 1, 2, 3))], store, force=False)
        assert [cell.seeds for cell in found.todo] == [(0, 2, 3)]
        assert found.todo[0].spec == spec_of()
        assert found.stored == [kept]
        assert found.warnings == []
        assert found.n_runs == 3

    def test_of_a_complete_cell_nothing_is_left(self, store: Store):
        kept = [self.save(store, seed) for seed in (0, 1)]
        found = plan([cell_of(spec_of(), (0, 1))], store, force=False)
        assert (found.todo, found.stored, found.n_runs) == ([], kept, 0)

    def test_force_runs_all_even_beside_a_broken_file(self, store: Store):
        self.save(store, 0)
        store.path(spec_of(), 1).write_text("broken")
        found = plan([cell_of(spec_of(), (0, 1))], store, force=True)
        assert [cell.seeds for cell in found.todo] == [(0, 1)]
        assert (found.stored, found.warnings) == ([], [])
        with pytest.raises(InputError, match=r"-s1\.json: not a result file"):
            plan([cell_of(spec_of(), (0, 1))], store, force=False)

    def test_other_settings_do_not_count(self, store: Store):
        self.save(store, 0)
        cells = [cell_of(spec_of({"lr": 0.7}), (0,)), cell_of(spec_of(protocol="literature"), (0,))]
        cells.append(cell_of(spec_of(split="random-0"), (0,)))
        found = plan(cells, store, force=False)
        assert found.n_runs == 3
        assert found.stored == []

    def test_two_spellings_of_one_configuration_run_once(self, store: Store):
        cells = [cell_of(spec_of(overrides), (0,)) for overrides in ({}, {"lr": 0.1}, {"lr": 0.2})]
        found = plan(cells, store, force=False)
        assert [cell.spec.hparams["lr"] for cell in found.todo] == [0.1, 0.2]

    @pytest.mark.parametrize("role", ["method", "loss"])
    def test_results_of_other_code_are_kept_with_a_warning(self, store: Store, toys: Path, role: str):
        self.save(store, 0)
        self.save(store, 1)
        (toys / f"toy-{role}.py").write_text("other source")
        self.save(store, 2)
        found = plan([cell_of(spec_of(), (0, 1, 2, 3))], store, force=False)
        assert [result.seed for result in found.stored] == [0, 1, 2]
        assert [cell.seeds for cell in found.todo] == [(3,)]
        assert len(found.warnings) == 1
        assert found.warnings[0].startswith("toy-method+toy-loss toy: 2 stored runs were made by other code")
        assert "--force" in found.warnings[0]

    def test_failures_of_other_code_need_no_warning(self, store: Store):
        self.save(store, 0, "failed", {"method": "another digest", "loss": "another digest"})
        assert plan([cell_of(spec_of(), (0,))], store, force=False).warnings == []

    def test_neither_device_nor_data_root_matters(self, store: Store, tmp_path: Path):
        self.save(store, 0)
        cell = replace(cell_of(spec_of(), (0,)), device="cuda", data_root=tmp_path, plugins=(tmp_path / "x.py",))
        assert plan([cell], store, force=False).n_runs == 0


class TestSeeds:
    @pytest.mark.parametrize(
        ("items", "expected"),
        [
            (["0"], (0,)),
            (["0-2", "7"], (0, 1, 2, 7)),
            (["7", "0-2"], (0, 1, 2, 7)),
            (["3-3"], (3,)),
            (["1", "0-2", "1"], (0, 1, 2)),
        ],
    )
    def test_numbers_and_ranges(self, items: list[str], expected: tuple[int, ...]):
        assert parse_seeds(items) == expected

    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), min_size=1, max_size=4))
    def test_are_a_sorted_set(self, ranges: list[tuple[int, int]]):
        wanted = {seed for first, n in ranges for seed in range(first, first + n + 1)}
        assert parse_seeds([f"{first}-{first + n}" for first, n in ranges]) == tuple(sorted(wanted))

    @pytest.mark.parametrize("item", ["", "a", "-1", "1-", "2-1", "1-2-3", "1.5", "0..3", "1,2", "+1", " ", "²"])
    def test_what_is_neither_is_refused(self, item: str):
        with pytest.raises(InputError) as error:
            parse_seeds(["0", item])
        assert str(error.value) == f"--seeds must be numbers or ranges as 0-4, got {item!r} instead"


class TestSplits:
    def test_the_published_one_and_partitions(self):
        assert parse_splits("proposed") == ["proposed"]
        assert parse_splits("random:3") == ["random-0", "random-1", "random-2"]
        for name in parse_splits("random:11"):
            assert toy_spec(split=name).split == name

    @pytest.mark.parametrize(
        "text", ["", "random", "random:", "random:0", "random:-1", "random:x", "random-1", "rand:2"]
    )
    def test_anything_else_is_refused(self, text: str):
        with pytest.raises(InputError) as error:
            parse_splits(text)
        assert str(error.value) == f"--splits must be proposed or random:K with K of at least 1, got {text!r} instead"
