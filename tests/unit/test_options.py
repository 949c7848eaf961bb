"""Options of a command in other forms: a YAML file, and the arguments of a call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark import run, search
from benchmark.cli.options import parse, words
from benchmark.errors import InputError

OPTIONS = st.fixed_dictionaries(
    {"method": st.lists(st.sampled_from(["ale", "eszsl", "vaegan"]), min_size=1, max_size=3)},
    optional={
        "loss": st.lists(st.sampled_from(["mse", "remse:alpha=0.1,scale=mean_one"]), min_size=1, max_size=2),
        "dataset": st.lists(st.sampled_from(["cub-sim", "cub:features=res101"]), min_size=1, max_size=2),
        "seeds": st.one_of(st.just("0-4"), st.lists(st.integers(0, 9), min_size=1, max_size=3)),
        "set": st.dictionaries(
            st.sampled_from(["lr", "epochs", "preprocess"]), st.sampled_from([0.1, 3, "auto"]), min_size=1
        ),
        "profile": st.sampled_from(["published", "small", "medium"]),
        "splits": st.just("random:5"),
        "protocol": st.just("literature"),
        "data_root": st.just("data"),
        "tuned": st.sampled_from([True, "found"]),
        "plugin": st.just(["mine.py"]),
        "launcher": st.just("local"),
        "jobs": st.integers(1, 8),
        "timeout": st.just("30m"),
    },
)


def write(folder: Path, values: dict[str, Any]) -> str:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


@given(values=OPTIONS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_saved_is_read_back(tmp_path: Path, values: dict[str, Any]):
    parser, saved = run._parser(), tmp_path / "saved.yaml"
    given = parse(parser, [*words(parser, values, "values"), "--save-config", str(saved)])
    again = parse(parser, ["--config", str(saved)])
    for name, value in vars(given).items():
        if name not in ("config", "save_config"):
            assert getattr(again, name) == value or (name == "set" and sorted(again.set) == sorted(value))


def test_the_command_line_wins(tmp_path: Path):
    file = write(tmp_path, {"method": ["ale", "eszsl"], "seeds": "0-4", "set": {"lr": 0.1, "epochs": 3}})
    found = parse(run._parser(), ["--config", file, "--seeds", "7", "--set", "lr=0.5"])
    assert (found.method, found.seeds) == (["ale", "eszsl"], ["7"])
    assert sorted(found.set) == ["epochs=3", "lr=0.5"]


def test_words_in_a_file_may_be_those_of_the_command_line(tmp_path: Path):
    file = write(tmp_path, {"method": "ale", "data-root": "data", "seeds": 3})
    found = parse(search._parser(), ["--config", file])
    assert (found.method, found.data_root, found.seeds) == (["ale"], Path("data"), ["3"])


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"methods": "ale"}, "unknown key 'methods'; did you mean 'method'?"),
        ({"method": "ale", "config": "other.yaml"}, "unknown key 'config'"),
        ({"method": "ale", "profile": "tiny"}, "argument --profile: invalid choice: 'tiny'"),
        ({"method": "ale", "jobs": "many"}, "argument --jobs: invalid int value: 'many'"),
        ({"method": []}, "argument --method: expected at least one argument"),
        ({"method": "ale", "set": ["lr=0.1"]}, "set must be a mapping as {lr: 0.01}, got ['lr=0.1'] instead"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_it(tmp_path: Path, values: dict[str, Any], problem: str):
    file = write(tmp_path, values)
    with pytest.raises(InputError) as error:
        parse(run._parser(), ["--config", file])
    assert str(error.value).startswith(f"{file}: {problem}")
    assert "\n" not in str(error.value)


def test_an_unknown_option_of_the_command_line_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert run.main(["--method", "ale", "--sets", "lr=1"]) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --sets lr=1\n"
