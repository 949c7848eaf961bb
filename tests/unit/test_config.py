"""Layered settings: what wins, what is refused and how it is said; and every YAML file of ours against its class."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from benchmark.config import Config, ConfigFile, load_file, parse_assignments, parse_spec, resolve, validate
from benchmark.errors import InputError
from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.registry import Entry


class Toy(Config):
    lr: float = Field(0.1, gt=0)
    epochs: int = Field(5, ge=1)
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = Field((1, 2), min_length=1)
    on: bool = True


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "lr": st.floats(1e-6, 1e6),
        "epochs": st.integers(1, 99),
        "kind": st.sampled_from("ab"),
        "sizes": st.lists(st.integers(), min_size=1, max_size=3).map(tuple),
        "on": st.booleans(),
    },
)


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


class TestLayers:
    @settings(deadline=None)
    @given(st.lists(VALUES, max_size=4))
    def test_the_last_one_wins(self, layers: list[dict[str, Any]]):
        found = resolve(Toy, {str(i): layer for i, layer in enumerate(layers)})
        for key, default in [("lr", 0.1), ("epochs", 5), ("kind", "a"), ("sizes", (1, 2)), ("on", True)]:
            given_values = [layer[key] for layer in layers if key in layer]
            assert getattr(found, key) == (given_values[-1] if given_values else default)

    def test_the_layer_and_key_that_are_wrong_are_named(self):
        layers = {"toy.yaml: hparams": {"lr": 1.0}, "toy.yaml: datasets.cub": {"lr": -1.0}, "--set": {"lr": 2.0}}
        with pytest.raises(InputError) as error:
            resolve(Toy, layers)  # a later layer does not hide it
        assert one_line(error) == "toy.yaml: datasets.cub: lr must be greater than 0, got -1.0 instead"

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"epoch": 3}, r"unknown key 'epoch'; did you mean 'epochs'\?$"),
            ({"zzz": 3}, "unknown key 'zzz'; known: epochs, kind, lr, on, sizes"),
            ({"lr": "fast"}, "lr must be a valid number.*, got 'fast' instead"),
            ({"lr": None}, "lr must be a valid number, got None instead"),
            ({"lr": [0.1]}, r"lr must be a valid number, got \[0.1\] instead"),
            ({"lr": 0}, "lr must be greater than 0, got 0 instead"),
            ({"lr": math.inf}, "lr must be a finite number, got inf instead"),
            ({"lr": -math.inf}, "lr must be .*, got -inf instead"),
            ({"lr": math.nan}, "lr must be .*, got nan instead"),
            ({"epochs": 1.5}, "epochs must be .*integer.*, got 1.5 instead"),
            ({"epochs": 0}, "epochs must be greater than or equal to 1, got 0 instead"),
            ({"kind": "c"}, "kind must be 'a' or 'b', got 'c' instead"),
            ({"sizes": [1, "x\ny"]}, r"sizes.1 must be .*, got 'x\\ny' instead"),
            ({"sizes": 3}, "sizes must be a valid tuple, got 3 instead"),
            ({"on": "perhaps"}, "on must be a valid boolean.*, got 'perhaps' instead"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, values: dict[str, Any], message: str):
        with pytest.raises(InputError, match=f"^here: {message}") as error:
            resolve(Toy, {"here": values})
        one_line(error)

    def test_an_unknown_key_may_be_right_elsewhere(self):
        with pytest.raises(InputError, match=r"^--set: unknown key 'alpha'; try --loss remse:alpha=VALUE$"):
            resolve(Toy, {"--set": {"alpha": 1}}, hint={"alpha": "try --loss remse:alpha=VALUE"})

    def test_yaml_numbers_without_a_point_are_numbers(self):
        assert resolve(Toy, {"--set": parse_assignments(["lr=1e-3"], "--set")}).lr == 0.001

    def test_a_number_is_no_flag_and_a_flag_no_number(self):

        for key in ("lr", "epochs"):
            with pytest.raises(InputError, match=f"{key} must be"):
                resolve(Toy, {"--set": {key: True}})


class TestFile:
    def test_an_absent_one_is_empty(self, tmp_path: Path):
        assert load_file(tmp_path / "none.yaml") == ConfigFile()

    @pytest.mark.parametrize("content", ["", "# nothing\n", "{}"])
    def test_an_empty_one_is_empty(self, tmp_path: Path, content: str):
        (tmp_path / "a.yaml").write_text(content)
        assert load_file(tmp_path / "a.yaml") == ConfigFile()

    def test_all_sections(self, tmp_path: Path):
        (tmp_path / "a.yaml").write_text(
            "hparams: {lr: 1.0e-3, sizes: [1, 2]}\n"
            "profiles: {published: {hparams: {lr: 5}, datasets: {cub: {lr: 2}}}}\n"
            "losses: {remse: {hparams: {lr: 3}, parameters: {window: running}}}\n"
            "search: {lr: {low: 1, high: 2, log: true}, kind: {choices: [a, b]}}\n"
            "published: [{source: S, features: res101, results: {cub: {T1: 1.5, H: null}}}]\n"
        )
        file = load_file(tmp_path / "a.yaml")
        assert file.hparams == {"lr": 0.001, "sizes": [1, 2]}
        assert file.profiles["published"].hparams == {"lr": 5}
        assert file.profiles["published"].datasets == {"cub": {"lr": 2}}
        assert file.losses["remse"].hparams == {"lr": 3}
        assert file.losses["remse"].parameters == {"window": "running"}
        assert (file.search["lr"].low, file.search["lr"].high, file.search["lr"].log) == (1, 2, True)
        assert file.search["kind"].choices == ["a", "b"]
        assert file.published[0].results == {"cub": {"T1": 1.5, "H": None}}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("- 1\n- 2", "must be a mapping, got list instead"),
            ("just text", "must be a mapping, got str instead"),
            ("hparams: [1", "cannot be read: .*line 1"),
            ("hparams: {a: 1}\n\tb: 2", "cannot be read: .*line 2"),
            ("datasets: {}", "unknown key 'datasets'; it belongs into a profile: "),
            ("profiles: {tiny: {}}", "profiles.tiny.*must be 'published', 'small' or 'medium'"),
            ("hparam: {}", "unknown key 'hparam'; did you mean 'hparams'?"),
            ("hparams: [1, 2]", r"hparams must be a valid dictionary, got \[1, 2\] instead"),
            ("hparams: {1: 2}", "hparams.1.*must be a valid string, got 1 instead"),
            ("losses: {remse: {hparam: {}}}", "unknown key 'losses.remse.hparam'"),
            ("search: {lr: {low: cheap}}", "search.lr.low must be a valid number.*, got 'cheap' instead"),
            ("search: {lr: {low: .inf}}", "search.lr.low must be a finite number, got inf instead"),
            ("published: [{source: S, features: f, results: {cub: {H: high}}}]", "published.0.results.cub.H must be"),
            ("published: [{features: f, results: {}}]", "published.0.source"),
            ("hparams: {lr: 1, hidden: 2, lr: 3}", "cannot be read: key 'lr' is there twice .*line 1, column 29"),
            ("hparams: {lr: 2020-13-45}", "cannot be read: .*month"),
        ],
    )
    def test_what_is_wrong_is_one_line_with_the_file(self, tmp_path: Path, content: str, message: str):
        file = tmp_path / "a.yaml"
        file.write_text(content)
        with pytest.raises(InputError, match=f"^{file}: {message}") as error:
            load_file(file)
        one_line(error)

    def test_an_unknown_nested_key_is_not_said_to_have_no_alternatives(self, tmp_path: Path):
        (tmp_path / "a.yaml").write_text("losses: {remse: {hparam: {}}}")
        with pytest.raises(InputError) as error:
            load_file(tmp_path / "a.yaml")
        assert "(none)" not in one_line(error)

    def test_one_that_is_not_text(self, tmp_path: Path):
        (tmp_path / "a.yaml").write_bytes(b"hparams: \xff\xfe")
        with pytest.raises(InputError, match="cannot be read: ") as error:
            load_file(tmp_path / "a.yaml")
        one_line(error)

    def test_one_that_cannot_be_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        file = tmp_path / "a.yaml"
        file.write_text("")

        def refuse(*_args: object, **_options: object) -> bytes:
            raise PermissionError(13, "Permission denied", str(file))

        monkeypatch.setattr(Path, "read_bytes", refuse)  # the tests may run as root, whom no mode keeps out
        with pytest.raises(InputError, match=f"^{file}: cannot be read: .*Permission denied"):
            load_file(file)


class TestCommandLine:
    def test_values_of_all_kinds(self):
        items = [
            "a=1",
            "b=0.5",
            "c=text",
            "d=true",
            "e=null",
            "f=[1, 2.5, x]",
            "g={h: 1}",
            "i=x=y",
            " j = 2 ",
            "k=",
            "l='1'",
        ]
        assert parse_assignments(items, "--set") == {
            "a": 1,
            "b": 0.5,
            "c": "text",
            "d": True,
            "e": None,
            "f": [1, 2.5, "x"],
            "g": {"h": 1},
            "i": "x=y",
            "j": 2,
            "k": None,
            "l": "1",
        }
        assert parse_assignments([], "--set") == {}

    @pytest.mark.parametrize(
        ("items", "message"),
        [
            (["lr"], "'lr' must be key=value"),
            (["=1"], "'=1' must be key=value"),
            ([" =1"], "' =1' must be key=value"),
            ([""], "'' must be key=value"),
            (["a=1", "a=1"], "'a' is given twice"),
            (["a=1", "a =2"], "'a' is given twice"),
            (["a=[1"], r"'a=\[1' has a value that is not YAML"),
            (["a='b"], '"a=\'b" has a value that is not YAML'),
            (["a=2020-99-99"], "'a=2020-99-99' has a value that is not YAML"),
            (["a=0x_"], "'a=0x_' has a value that is not YAML"),
        ],
    )
    def test_bad_assignments(self, items: list[str], message: str):
        with pytest.raises(InputError, match=f"^--set: {message}$"):
            parse_assignments(items, "--set")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("mse", ("mse", {})),
            ("remse:alpha=0.1,scale=mean_one", ("remse", {"alpha": 0.1, "scale": "mean_one"})),
            ("remse:alpha=.5", ("remse", {"alpha": 0.5})),
            ("lds:bins=20", ("lds", {"bins": 20})),
            ("cub:features=a:b", ("cub", {"features": "a:b"})),
            ("x:on=false", ("x", {"on": False})),
            ("x:a=[1,2],b=3", ("x", {"a": [1, 2], "b": 3})),
            ("x:a={b: [1,2], c: 'd,e'},f=\"g,h\"", ("x", {"a": {"b": [1, 2], "c": "d,e"}, "f": "g,h"})),
        ],
    )
    def test_specs(self, text: str, expected: tuple[str, dict[str, Any]]):
        assert parse_spec(text, "--loss") == expected

    @pytest.mark.parametrize("text", ["remse:", "remse:alpha", "remse:alpha=1,", "remse:a=1,a=2", "x:a=[1,2,b=3"])
    def test_bad_specs(self, text: str):
        with pytest.raises(InputError, match=r"^--loss: .+") as error:
            parse_spec(text, "--loss")
        one_line(error)


# Every YAML of ours against the classes that it sets ------------------------------------------------------------------


def method_layers(entry: Entry[Any], file: ConfigFile) -> Iterator[tuple[dict[str, Any], ...]]:
    """All stacks of layers that the command line can ask for."""
    for profile in profiles_of(file):
        for loss in [None, *file.losses]:
            yield (file.hparams, *profile, file.losses[loss].hparams if loss else {})


def profiles_of(file: ConfigFile) -> Iterator[tuple[dict[str, Any], ...]]:
    """The layers of each profile, without and with those of each data set that it names; none at first."""
    yield ()
    for profile in file.profiles.values():
        yield (profile.hparams,)
        yield from ((profile.hparams, layer) for layer in profile.datasets.values())


@pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.name)
class TestMethodFiles:
    def test_there_is_one(self, entry: Entry[Any]):
        assert entry.config_file.is_file()
        assert load_file(entry.config_file).hparams

    def test_all_layers_are_valid(self, entry: Entry[Any]):
        file = load_file(entry.config_file)
        for layers in method_layers(entry, file):
            config = entry.obj.Config
            resolve(config, {f"{entry.config_file} {i}": config.fixed(layer) for i, layer in enumerate(layers)})

    def test_data_sets_and_losses_exist(self, entry: Entry[Any]):
        file = load_file(entry.config_file)
        check_datasets(file)
        for loss, layer in file.losses.items():
            loss_file = load_file(LOSSES[loss].config_file)
            for profile in profiles_of(loss_file):
                stack = [loss_file.hparams, *profile, layer.parameters]
                resolve(LOSSES[loss].obj.Config, {f"{entry.config_file}: {loss} {i}": x for i, x in enumerate(stack)})

    def test_search_ranges_are_valid(self, entry: Entry[Any]):
        check_search(entry, load_file(entry.config_file))

    def test_a_regression_weight_is_searched(self, entry: Entry[Any]):
        # DAP and names have no other term to weigh it against, SAE selects the weight of its other term within a run.
        assert ("regression_weight" in load_file(entry.config_file).search) != (entry.name in {"dap", "names", "sae"})

    def test_published_figures(self, entry: Entry[Any]):
        for published in load_file(entry.config_file).published:
            assert published.source.strip()
            assert published.status.startswith("sourced")
            assert set(published.results) <= {name for name in DATASETS.names() if name == name.lower()}
            for name, figures in published.results.items():
                assert set(figures) <= {"T1", "U", "S", "H"}, name
                assert all(0 <= value <= 100 for value in figures.values() if value is not None), name
                u, s, h = (figures.get(key) for key in "USH")
                if u is not None and s is not None and h is not None:
                    assert abs(h - 2 * u * s / (u + s)) <= 0.2 or published.note, name


@pytest.mark.parametrize("entry", LOSSES, ids=lambda entry: entry.name)
def test_loss_files(entry: Entry[Any]):
    file = load_file(entry.config_file)
    check_datasets(file)
    for profile in profiles_of(file):
        layers = (file.hparams, *profile)
        resolve(entry.obj.Config, {f"{entry.config_file} {i}": layer for i, layer in enumerate(layers)})
    assert not file.losses
    check_search(entry, file)


@pytest.mark.parametrize("folder", ["methods", "losses"])
def test_no_yaml_is_forgotten(folder: str):
    registry: Any = METHODS if folder == "methods" else LOSSES
    root = Path(__file__).resolve().parents[2]
    assert {entry.config_file for entry in registry} >= set((root / folder).rglob("*.yaml"))
    assert not list((root / folder).rglob("*.yml"))


def check_datasets(file: ConfigFile) -> None:
    """Each is registered; or else a number follows a registered one, as CUB50 is a folder with a part of CUB."""
    names = {name.partition(":")[0] for profile in file.profiles.values() for name in profile.datasets}
    assert {name.rstrip("0123456789") for name in names if name not in DATASETS} <= set(DATASETS.names())


def check_search(entry: Entry[Any], file: ConfigFile) -> None:
    for key, range_ in file.search.items():
        assert key in entry.obj.Config.model_fields, key
        if range_.choices is not None:
            assert range_.low is None
            assert range_.high is None
            assert len(range_.choices) > 1, key
            values = range_.choices
        else:
            assert range_.low is not None
            assert range_.high is not None
            assert range_.low < range_.high, key
            assert range_.low > 0 or not range_.log, key
            values = [range_.low, range_.high]
        for value in values:
            validate(entry.obj.Config, {**file.hparams, key: value}, f"{entry.config_file}: search.{key}")
