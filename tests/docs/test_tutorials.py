"""The blocks of the documentation, run as a reader would: files written, commands and programs one after another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmark.files import ROOT

DOCS = ROOT / "docs"
TUTORIALS = sorted(DOCS.glob("tutorials/*.md"))
#: Pages of which all blocks run; those that take long are left to ``-m docs``.
PAGES = {
    page.relative_to(DOCS).as_posix(): page
    for page in [DOCS / "first-steps.md", *TUTORIALS, DOCS / "data.md", *sorted(DOCS.glob("concepts/*.md"))]
}
QUICK = ("tutorials/own-method.md", "tutorials/own-loss.md", "concepts/remse.md")
NOT_RUN = re.compile(r"<!-- not run: (.+) -->\n$")
BLOCK = re.compile(
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A fenced block of a page, and why it is not run, if it is not."""

    language: str
    title: str | None
    code: str
    not_run: str | None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        reason = before[1] if (before := NOT_RUN.search(text[: found.start()])) else None
        yield Block(found["language"], found["title"], found["code"], reason)


#: The pages that run something.
CASES = {
    name: page
    for name, page in PAGES.items()
    if any(block.language in ("sh", "python") and not block.not_run for block in blocks(page))
}


@pytest.fixture
def reader(tmp_path: Path) -> dict[str, str]:
    """The environment of a reader who has installed the suite, without real data."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, words in {"zsl": "-m benchmark.cli.zsl", "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n', encoding="utf-8")
        (tools / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key != "ZSL_DATA"}
    return kept | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=name, marks=() if name in QUICK else pytest.mark.docs) for name, page in CASES.items()],
)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, reader: dict[str, str]) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    for block in blocks(page):
        if block.not_run:
            continue
        if block.title:
            (folder / block.title).write_text(block.code, encoding="utf-8")
        elif block.language in ("sh", "python"):
            words = ["bash", "-eu", "-c", block.code] if block.language == "sh" else [sys.executable, "-c", block.code]
            done = subprocess.run(words, cwd=folder, env=reader, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
            assert "failed:" not in done.stderr, f"{block.code}\n{done.stderr}"


def test_every_tutorial_runs() -> None:
    assert {DOCS / "first-steps.md", *TUTORIALS} <= set(CASES.values())


def test_first_steps_and_the_readme_have_the_same_method() -> None:
    (here,) = [block.code for block in blocks(DOCS / "first-steps.md") if block.title == "my_method.py"]
    assert here in (ROOT / "README.md").read_text(encoding="utf-8")
