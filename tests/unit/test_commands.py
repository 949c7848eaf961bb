"""``zsl``, and the commands that it gathers."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

from benchmark import __version__
from benchmark.cli import zsl
from benchmark.files import ROOT
from datasets import __main__ as data

PARTS = {**zsl.COMMANDS, **{f"data {word}": part for word, part in data.COMMANDS.items()}}


@pytest.mark.parametrize("word", PARTS)
def test_every_command_is_there_and_explains_itself(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(signature(import_module(PARTS[word].module).main).parameters) == ["argv"]
    if word == "data":  # commands too, which argparse does not end
        assert zsl.main([word, "--help"]) == 0
    else:
        with pytest.raises(SystemExit) as end:
            zsl.main([*word.split(), "--help"])
        assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("word", PARTS)
def test_a_mistyped_option_is_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert zsl.main([*word.split(), "--no-such-option"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"]):
        assert zsl.main(words) == 0
        out = capsys.readouterr().out
        assert [word for word in zsl.COMMANDS if f"\n  {word} " not in out] == []


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words, hint in ((["rum"], "did you mean 'run'?"), (["data", "chek"], "did you mean 'check'?")):
        assert zsl.main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert hint in err


def test_words_and_exit_code_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert zsl.main(["run", "--method", "alee"]) == 2
    assert "did you mean 'ale'?" in capsys.readouterr().err


def test_every_command_of_the_suite_is_gathered() -> None:
    """Whatever runs as a module and takes words has a word of ``zsl``."""
    own = {"benchmark.cli.zsl", "datasets.__main__"}
    runs = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for package in ("benchmark", "datasets")
        for file in (ROOT / package).rglob("*.py")
        if "def main(argv" in file.read_text(encoding="utf-8")
    }
    assert runs - own == {part.module for part in PARTS.values()} - own


def test_the_version_stands_in_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert zsl.main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert "version = attr: benchmark.__version__" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert f"version: {__version__}" in Path(ROOT, "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in Path(ROOT, "CHANGELOG.md").read_text(encoding="utf-8")
