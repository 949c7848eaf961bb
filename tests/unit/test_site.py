"""The web page as text: what it holds, and that no text in the results can become HTML."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import random
import re
from collections.abc import Sequence
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest

from benchmark.boards import markdown, site, view
from benchmark.boards.files import check, write_boards
from benchmark.boards.rows import boards as grouped
from benchmark.boards.view import ordered_boards
from benchmark.boards.wording import NONE
from benchmark.errors import InputError
from benchmark.results.record import Result
from benchmark.results.store import Store
from tests.reference.leaderboards import HOSTILE, METHODS, RESULTS, page_results, result, seeds


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "METHODS", METHODS)


def page(results: Sequence[Result]) -> str:
    return site.render(ordered_boards(results))[site.PAGE]


def content(text: str) -> dict[str, Any]:
    """The data in the page, as a browser reads them."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def scripts(text: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", text, re.DOTALL)


def test_the_order_of_results_plays_no_role_and_the_page_says_that_it_is_generated() -> None:
    shuffled = page_results()
    random.Random(0).shuffle(shuffled)
    assert page(shuffled) == page(page_results())
    assert page(shuffled).startswith(site.HEADER)


def test_measures_are_those_of_the_runs() -> None:
    board = next(b for b in content(page(page_results()))["boards"] if b["features"] == "res101")
    row = next(r for r in board["rows"] if (r["name"], r["loss"]) == ("ale", "remse"))
    runs = [run for run in RESULTS if run.spec.key == row["key"]]
    index = [column.id for column in site.COLUMNS].index("T1")
    values = [run.evaluation.metrics.T1 for run in runs if run.evaluation]
    assert row["measures"][index] == [round(np.mean(values), 1), round(np.std(values, ddof=1), 1), values, ANY]
    low, high = row["measures"][index][3]
    assert low < np.mean(values) < high
    assert board["classes"] == ["False -2", "False 0", "False 2"]
    assert row["classes"] == pytest.approx([np.mean(values) + d for d in (-2, 0, 2)], abs=0.051)
    assert row["files"][3] == f"../results/awa1/ale+remse/{row['key']}-s3.json"
    assert row["command"] == "python -m benchmark.run --method ale --loss remse --dataset awa1 --seeds 0-4"


def test_boards_are_those_of_the_statistics_real_ones_first_and_labelled() -> None:
    found = content(page(RESULTS))["boards"]
    expected = grouped(RESULTS)
    assert {b["id"]: len(b["rows"]) for b in found} == {
        f"{b.dataset}/{b.features}/{b.protocol}/{b.partition}/{b.revision}": len(rows) for b, rows in expected.items()
    }
    assert [b["simulated"] for b in found] == sorted(b.simulated for b in expected)
    assert (found[0]["protocol"], found[0]["split"]) == ("strict", "proposed")
    dirty = {row["name"]: row["marks"] for b in found for row in b["rows"] if row["marks"]}
    assert dirty == {"clswgan": "†", "my|method": "†"}


def test_differences_ranks_and_published_figures_are_those_of_the_boards() -> None:
    found = content(page(page_results()))
    board = found["boards"][0]
    row = next(r for r in board["rows"] if (r["name"], r["loss"]) == ("eszsl", "remse"))
    assert row["differences"][0] == [0.5, "+0.50 [0.5, 0.5] (deterministic)"]
    assert {title: len(every) for title, every in board["published"].items()} == {"ALE (2016)": 1, "ESZSL (2015)": 1}
    assert board["published"]["ALE (2016)"][0]["T1"] == 59.9
    assert [(r["id"], r["simulated"], r["datasets"]) for r in found["ranks"]] == [
        (loss, False, ["abc", "awa1", "xyz"]) for loss in ("mse", "remse")
    ]
    assert found["ranks"][0]["ranks"] == [["eszsl", 1.33], ["ale", 1.67], ["guest", 3.0]]
    assert not any(b["published"] for b in found["boards"] if b["simulated"] or b["split"] == "random")


def test_failed_runs_are_told() -> None:
    (row,) = (r for b in content(page(RESULTS))["boards"] for r in b["rows"] if r["problems"])
    assert row["problems"][0] == (
        "proposed seed 3 failed: FloatingPointError: loss is `nan` | at epoch 3 (train.py:9 in step)"
    )
    only_failed = content(page([result(status="failed", error="no")]))["boards"][0]["rows"][0]
    assert only_failed["n"] == NONE
    assert set(map(str, only_failed["measures"])) == {"None"}


def test_a_column_is_bold_where_the_markdown_board_is() -> None:
    board = markdown.render(ordered_boards(RESULTS))["awa1.md"]
    accuracies = board.partition("### Accuracy")[2].partition("###")[0]
    bold = sum(len(re.findall(r"\*\*[\d.]+\*\*", line)) for line in accuracies.splitlines())
    first = next(b for b in content(page(RESULTS))["boards"] if f"Features {b['features']}" in board)
    ours = [name for row in first["rows"] for name in row["best"] if not name.startswith(("U_", "S_"))]
    assert len(ours) == bold > 0


def test_no_text_of_a_result_becomes_html() -> None:
    hostile, plain = page(page_results()), page(RESULTS)
    assert len(scripts(hostile)) == len(scripts(plain)) == len(site.LIBRARIES) + 2
    assert hostile.lower().count("</script") == plain.lower().count("</script")
    assert "window.hacked" not in re.sub(r"\\u003c|\\u003e", "", hostile.split('id="data">')[0])
    row = next(r for b in content(hostile)["boards"] for r in b["rows"] if r["loss"] == HOSTILE)
    assert row["name"] == f"ale:note={HOSTILE}"


def test_the_policy_lets_these_scripts_run_and_nothing_be_fetched() -> None:
    text = page(RESULTS)
    policy = html.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)[0])
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts(text)]
    assert re.findall(r"'sha256-(.*?)'", policy) == hashes
    assert policy.startswith("default-src 'none'; ")
    markup = re.sub(r"<(script|pre|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"https?://|\bsrc=|@import", markup)


def test_libraries_bring_their_licences_and_the_version_that_is_written_down() -> None:
    text = page(RESULTS)
    for name in site.LIBRARIES:
        licence = (site.FOLDER / "vendor" / f"{name.partition('.')[0]}.LICENSE").read_text()
        assert html.escape(licence) in text
        assert "Permission" in licence
    table = (site.FOLDER / "vendor" / "README.md").read_text()
    for name, version in (("d3.min.js", r"d3js\.org v([\d.]+)"), ("plot.umd.min.js", r"plot v([\d.]+)")):
        (found,) = re.findall(version, (site.FOLDER / "vendor" / name).read_text()[:200])
        assert re.search(rf"`{re.escape(name)}` \| `.*` {re.escape(found)} ", table)


def test_the_page_is_written_and_checked_with_the_boards(tmp_path) -> None:
    for run in seeds(2):
        Store(tmp_path / "results").save(run)
    assert tmp_path / "site" / "index.html" in write_boards(tmp_path)
    assert check(tmp_path) == []
    path = tmp_path / "site" / "index.html"
    path.write_text(path.read_text().replace("50.", "99."))
    assert [line.partition(": ")[0] for line in check(tmp_path)] == [str(path)]
    path.write_text("my own page")
    with pytest.raises(InputError, match="is no generated board"):
        write_boards(tmp_path)


def test_a_page_without_results() -> None:
    assert content(page([]))["boards"] == []
