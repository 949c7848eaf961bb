"""The pages that are made of registries, and the links of the site."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from benchmark.registries import LOSSES, METHODS
from benchmark.registry import Entry
from docs.build import _with_pictures_of_boards, broken_links, lay_out
from docs.pages import page, table

ENTRIES = [*METHODS, *LOSSES]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_page_has_all_that_is_known(entry: Entry) -> None:
    text = page(entry)
    assert text.startswith(f"# {entry.title}\n")
    assert entry.source in text
    for name in entry.obj.Config.model_fields:
        assert f"| `{name}` |" in text
        assert not any(line.startswith(f"| `{name}` |") and line.endswith("|  |") for line in text.splitlines()), name
    assert "=====" not in text, "tables of docstrings become Markdown's"
    lines = [line.replace(r"\|", "") for line in text.splitlines()]
    for above, line in pairwise(lines):
        if above.startswith("| ") and line.startswith("| "):
            assert above.count("|") == line.count("|"), line


def test_figures_of_a_page_are_those_of_its_yaml() -> None:
    assert "| cub | 54.9 | 23.7 | 62.8 | 34.4 |" in page(METHODS["ale"])
    assert "| `lr` | 0.0001 to 0.01, logarithmic |" in page(METHODS["ale"])


def test_a_bar_in_a_cell_is_no_border() -> None:
    assert table(["a"], [["x|y"]]).endswith(r"| x\|y |")


def test_all_are_laid_out_and_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, place in {"PAGES": "docs", "SITE": "site", "CONFIG": "mkdocs.yml"}.items():
        monkeypatch.setattr(f"docs.build.{name}", tmp_path / place)
    lay_out()
    settings = (tmp_path / "mkdocs.yml").read_text(encoding="utf-8")
    for folder, registry in (("methods", METHODS), ("losses", LOSSES)):
        overview = (tmp_path / "docs" / f"{folder}.md").read_text(encoding="utf-8")
        for entry in registry:
            assert (tmp_path / "docs" / folder / f"{entry.name}.md").is_file()
            assert f"{folder}/{entry.name}.md" in settings
            if entry.name not in ("none", "mse"):  # what the others are compared with
                assert f"[`{entry.name}`]({folder}/{entry.name}.md)" in overview


def test_boards_are_shown_but_not_linked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("docs.build.PAGES", tmp_path)
    text = "[CUB](../leaderboards/cub2010.md) ![effect](../leaderboards/effect.svg) [data](data.md)"
    assert _with_pictures_of_boards(text) == "CUB ![effect](leaderboards/effect.svg) [data](data.md)"
    assert (tmp_path / "leaderboards" / "effect.svg").is_file()


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text('<h1 id="top">x</h1><img src="../gone.png">', encoding="utf-8")
    sound = '<a href="other/#top"></a><a href="https://example.org/x"></a><a href="#here" id="here"></a>'
    (tmp_path / "index.html").write_text(f'{sound}<a href="other/#no"><a href="missing/">', encoding="utf-8")
    found = sorted(broken_links(tmp_path))
    assert found == ["index.html: missing/", "index.html: other/#no", "other/index.html: ../gone.png"]
