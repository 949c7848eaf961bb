"""Boards and their statistics, as Markdown, as text and for other programs; and the folder that they lie in."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import stdtr
from scipy.stats import ttest_rel

from benchmark import leaderboard, registries, run
from benchmark.boards import HEADER, export, files, markdown, view
from benchmark.boards.comparison import compare, comparisons, holm
from benchmark.boards.export import as_csv, as_json, as_latex
from benchmark.boards.files import check, write_boards
from benchmark.boards.pictures import effect
from benchmark.boards.rows import boards as grouped
from benchmark.boards.rows import cost, metric
from benchmark.boards.text import terminal_table
from benchmark.boards.view import ordered_boards
from benchmark.boards.wording import NONE
from benchmark.cli.grid import parse_partitions, parse_seeds
from benchmark.config import parse_assignments, parse_spec
from benchmark.errors import InputError
from benchmark.leaderboard import main
from benchmark.registries import MethodEntry
from benchmark.results.record import Result
from benchmark.results.store import Store, read_result
from tests.reference.leaderboards import COMMIT, ENTRIES, GOLDEN, METHODS, RESULTS, registry, result, seeds
from tests.reference.toy import ToyMethod

ROOT = Path(__file__).resolve().parents[2]
#: What is generated besides the boards, whatever the results are.
ALWAYS = ("result.schema.json", "site/index.html")


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "METHODS", METHODS)


def render(results: Iterable[Result]) -> dict[str, str]:
    return markdown.render(ordered_boards(results))


def lines_with(text: str, *parts: str) -> list[str]:
    return [line for line in text.splitlines() if all(part in line for part in parts)]


def cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def tables(text: str) -> Iterator[tuple[str, str, list[str], list[list[str]]]]:
    """(the ## heading, the ### heading, the head, the lines) of each Markdown table."""
    section = part = ""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("## "):
            section, part = line, ""
        elif line.startswith(("### ", "<details><summary>")):
            part = "### " + line.partition("<summary>")[2].partition("</summary>")[0] if line[0] == "<" else line
        elif re.fullmatch(r"\|( -+:? \|)+", line):
            end = next((j for j in range(i, len(lines)) if not lines[j].startswith("|")), len(lines))
            yield section, part, cells(lines[i - 1]), [cells(row) for row in lines[i + 1 : end]]


# Rendering


def test_golden_rendering() -> None:
    rendered = render(RESULTS)
    assert sorted(rendered) == sorted(path.name for path in GOLDEN.glob("*.md"))
    for name, text in rendered.items():
        assert text == (GOLDEN / name).read_text(encoding="utf-8"), f"{name} differs; see the docstring of this file"


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(RESULTS))
def test_order_plays_no_role(results: list[Result]) -> None:
    assert render(results) == render(RESULTS)


def test_dates_and_retried_failures_leave_no_trace(tmp_path: Path) -> None:
    uninterrupted = seeds(3)
    store = Store(tmp_path / "results")
    store.save(result(seed=1, status="failed", error="killed"))
    for one in uninterrupted:
        later = {"started": "2031-01-01T00:00:00+00:00", "argv": ["run"]} | one.provenance
        store.save(one.model_copy(update={"provenance": later}))
    assert render(store) == render(uninterrupted)


BOARD = st.fixed_dictionaries(
    {
        "dataset": st.sampled_from(["awa1", "cub"]),
        "simulated": st.booleans(),
        "protocol": st.sampled_from(["strict", "literature"]),
        "features": st.sampled_from(["res101", "vit"]),
        "revision": st.sampled_from(["111111111111", "222222222222"]),
        "split": st.sampled_from(["proposed", "random"]),
    }
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(BOARD, min_size=2, max_size=6, unique_by=lambda board: str(sorted(board.items()))))
def test_boards_are_never_mixed(specs: list[dict[str, Any]]) -> None:
    """Each board has a T1 of its own, by which the lines of all tables are traced back to it."""
    results = [
        result(loss=loss, seed=s, T1=20.0 + i, **spec | ({"split": "random-0"} if spec["split"] == "random" else {}))
        for i, spec in enumerate(specs)
        for loss in ("mse", "remse")
        for s in range(2)
    ]
    found: dict[str, list[int]] = {"Accuracy": [], "Imbalance": []}
    for name, text in render(results).items():
        for section, part, head, body in tables(text):
            if name == "README.md":
                assert ("SIMULATED" in section) == ("(SIMULATED)" in str([head, body]))
                continue
            kind = part.split()[1].strip(",")
            rows = [row for row in body if row[1]]
            if kind in ("Published", "Time"):
                continue
            if kind == "Differences":  # of equal T1 on one board, and of others across boards
                proposed = "proposed split" in section
                expected = "+0.00 [0.0, 0.0] (deterministic)" if proposed else "+0.00 (no test)"
                assert [row[head.index("Δ T1")] for row in rows] == [expected]
                continue
            column, scale = {"Accuracy": ("T1", 1), "Imbalance": ("unseen mean", 10)}[kind]
            values = [scale * float(row[head.index(column)].split()[0].strip("*")) for row in rows]
            assert len(values) == 2
            assert values[0] == values[1]
            found[kind].append(round(values[0]) - 20)
            spec = specs[found[kind][-1]]
            literature = spec["protocol"] == "literature"
            assert name == spec["dataset"] + ("-literature" if literature else "") + ".md"
            assert f"Features {spec['features']}, {spec['split']}" in section
            assert f"revision {spec['revision']}" in section
            for place in (section, part, head[0]):
                assert spec["simulated"] == ("SIMULATED" in place)
            for place in (section, part, *(row[0] for row in rows)):
                assert literature == ("selected on test" in place)
    assert sorted(found["Accuracy"]) == sorted(found["Imbalance"]) == list(range(len(specs)))


def test_published_figures_stand_beside_comparable_rows_only() -> None:
    rendered = render(RESULTS)
    shown = [
        (name, section, body)
        for name, t in sorted(rendered.items())
        for section, part, _, body in tables(t)
        if "Published" in part
    ]
    assert [(name, section.partition(",")[0]) for name, section, _ in shown] == [
        ("awa1-literature.md", "## Features res101"),
        ("awa1.md", "## Features res101"),
    ]
    assert [row[:5] for row in shown[1][2]] == [
        ["ESZSL", "58.2", NONE, "75.6", "12.1"],
        ["ALE", "59.9", "16.8", "76.1", "27.5"],
    ]
    everything = "".join(rendered.values())
    assert not any(unwanted in everything for unwanted in ("77.7", "88.8", "99.9"))
    simulated = seeds(2, dataset="awa1-sim", simulated=True)  # same features and name as a published entry
    partitions = seeds(2, split="random-0")
    assert "Published" not in "".join([*render(simulated).values(), *render(partitions).values()])


def test_a_plugin_goes_by_its_name_whether_it_is_loaded_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = render(RESULTS)
    monkeypatch.setattr(view, "METHODS", registry(*(entry for entry in ENTRIES if entry.name != "guest")))
    assert render(RESULTS) == loaded
    assert lines_with(loaded["awa1.md"], "| guest |")
    assert "A guest" not in loaded["awa1.md"]


def test_pipes_backticks_and_markup_in_names_and_errors_stay_text() -> None:
    override = {"k": "a|b`c"}
    text = render([result("a|b_<i>", hparam_overrides=override), result("x", "y", status="failed", error="`|`\n<b>")])[
        "awa1.md"
    ]
    for _, _, head, body in tables(text):
        assert {len(row) for row in body} == {len(head)}
    assert lines_with(text, r"| a\|b\_\<i\> ``k=a\|b`c`` | `mse` |")
    assert lines_with(text, "- 1 failed run of x + `y`: seed 0: `` `|` <b> ``")


def test_best_values_are_bold_among_rows_with_all_runs_only() -> None:
    results = [*seeds(3, "ale", "mse", 50.0), *seeds(3, "ale", "mae", 51.0), *seeds(2, "ale", "lds", 70.0)]
    text = render(results)["awa1.md"]
    accuracy = next(body for _, part, _, body in tables(text) if "Accuracy" in part)
    assert {row[1]: [row[2].partition("](")[0].strip("["), row[3]] for row in accuracy if row[1]} == {
        "`mse`": ["3", "50.1 ± 0.6"],
        "`mae`": ["3", "**51.1** ± 0.6"],
        "`lds`": ["2", "70.3 ± 0.5"],
    }


def test_marks_of_runs_that_cannot_be_traced() -> None:
    def row(provenances: Iterable[dict[str, Any]]) -> str:
        return render(result(seed=s, provenance=p) for s, p in enumerate(provenances))["awa1.md"]

    clean: dict[str, Any] = {"commit": COMMIT, "dirty": False, "sources": {"method": "f00"}}
    for dirty in (clean | {"dirty": True}, clean | {"commit": None}, {"sources": {"method": "f00"}}):
        text = row([clean, dirty])
        assert lines_with(text, "| ALE (2016)† |")
        assert "† some of its runs" in text
    assert "†" not in row([clean, clean])
    assert "‡" not in row([clean, clean])
    assert lines_with(row([clean, clean | {"sources": {"method": "f01"}}]), "| ALE (2016)‡ |")


def test_rows_trained_on_semantics_of_unseen_classes_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "METHODS", registries.METHODS)

    def text(method: str, **hparams: Any) -> str:
        return render([result(method, hparams=hparams)])["awa1.md"]

    for trained in (text("dazle"), text("cycle-clswgan", unseen=True)):
        assert lines_with(trained, "§ |")
        assert "§ semantics of unseen classes" in trained
    for not_trained in (text("ale"), text("cycle-clswgan", unseen=False), text("cycle-clswgan"), text("guest")):
        assert "§" not in not_trained
    exported = export.records([result("msdn"), result("ale")])
    told = {row["method"]: row["trained_on_unseen_semantics"] for row in exported}
    assert told == {"msdn": True, "ale": False}


def test_failed_and_skipped_runs_are_counted_and_listed() -> None:
    results = [
        result(seed=0),
        *(result(seed=s, status="failed", error="ValueError: boom") for s in (1, 2)),
        result("eszsl", "focal", status="skipped", error="needs weights"),
    ]
    text = render(results)["awa1.md"]
    assert "- 2 failed runs of ALE (2016) + `mse`: seed 1, seed 2: `ValueError: boom`" in text
    assert "- 1 skipped run of ESZSL (2015) + `focal`: seed 0: `needs weights`" in text
    (count,) = [row[2] for _, part, _, body in tables(text) if "Accuracy" in part for row in body if row[1]]
    assert count.startswith("[1](")
    only_failed = render([result(status="failed", error="boom")])
    assert "1 failed run" in only_failed["awa1.md"]
    assert not list(tables(only_failed["awa1.md"]))


def test_links_lead_to_the_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    for one in RESULTS:
        store.save(one)
    write_boards(tmp_path)
    text = (tmp_path / "awa1.md").read_text(encoding="utf-8")
    accuracies = [row for _, part, _, body in tables(text) if "Accuracy" in part for row in body if row[1]]
    assert len(accuracies) == 2 + 11 + 2  # rows of the three boards in that file
    for row in accuracies:
        ((folder,),) = (re.findall(r"\]\((.+)\)", row[2]),)
        ((key, file),) = re.findall(r"`(.+)`\]\((.+?)\)", row[-1])
        assert (tmp_path / folder.replace("%7C", "|")).is_dir()
        stored = read_result(tmp_path / file.replace("%7C", "|"))
        assert (stored.spec.key, f"`{stored.spec.loss_label}`") == (key, row[1])
    overview = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert all((tmp_path / name).is_file() for name in re.findall(r"\]\(([^)]+)\)", overview))


SCALARS = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("abnN019.-_ #'~", min_size=1, max_size=9),
)
OPTIONS = st.dictionaries(st.sampled_from(["lr", "scale", "window"]), SCALARS | st.lists(SCALARS, max_size=3))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPTIONS, OPTIONS, OPTIONS, st.sets(st.integers(0, 12), min_size=1), st.integers(0, 4), st.booleans())
def test_commands_reproduce_the_settings(
    hparams: dict[str, Any], loss: dict[str, Any], data: dict[str, Any], numbers: set[int], split: int, random: bool
) -> None:
    given_: dict[str, Any] = {"hparam_overrides": hparams, "loss_overrides": loss, "dataset_options": data}
    name = f"random-{split}" if random else "proposed"
    results = [result(seed=s, protocol="literature", split=name, **given_) for s in numbers]
    (command,) = lines_with(render(results)["awa1-literature.md"], "python -m benchmark.run")
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "benchmark.run"]
    arguments = run._parser().parse_args(words[3:])
    assert arguments.method == ["ale"]
    assert [parse_spec(text, "--loss") for text in arguments.loss] == [("mse", loss)]
    assert [parse_spec(text, "--dataset") for text in arguments.dataset] == [("awa1", data)]
    assert parse_assignments(arguments.set, "--set") == hparams
    assert set(parse_seeds(arguments.seeds)) == numbers
    assert parse_partitions(arguments.splits)[-1] == name
    assert arguments.protocol == "literature"


def test_settings_given_in_two_ways_are_one_row() -> None:
    plain = result(seed=0, hparams={"lr": 0.01})
    explicit = result(seed=1, hparams={"lr": 0.01}, hparam_overrides={"lr": 0.01})
    ((row,),) = grouped([explicit, plain]).values()
    assert (row.spec.hparam_overrides, len(row.runs)) == ({}, 2)
    changed_default = result(seed=1, hparams={"lr": 0.02})
    assert [len(rows) for rows in grouped([plain, changed_default]).values()] == [2]


# Statistics


def row_of(results: Iterable[Result]) -> Any:
    ((row,),) = grouped(results).values()
    return row


OURS, THEIRS = [51.0, 52.5, 50.5, 53.0, 9.0], [50.0, 50.5, 50.25, 51.0]


def test_difference_and_p_agree_with_scipy_and_with_the_formula() -> None:
    ours = row_of(result(loss="remse", seed=s, T1=v) for s, v in enumerate(OURS))
    theirs = row_of(result(seed=s, T1=v) for s, v in enumerate(THEIRS))
    found = compare(ours, theirs, metric("T1"))
    assert found
    assert found.p is not None
    assert found.pairs == tuple(("proposed", s) for s in range(4))  # seed 4 has no partner
    differences = [a - b for a, b in zip(OURS, THEIRS, strict=False)]
    mean = sum(differences) / 4
    t = mean / math.sqrt(sum((d - mean) ** 2 for d in differences) / 3 / 4)
    assert found.mean == pytest.approx(mean, abs=1e-12)
    assert found.p == pytest.approx(2 * stdtr(3, -abs(t)), rel=1e-9)
    assert found.p == pytest.approx(ttest_rel(OURS[:4], THEIRS).pvalue, rel=1e-12)


def test_random_partitions_are_tested_over_partition_means() -> None:
    table = {(0, 0): (51, 50), (0, 1): (53, 50), (1, 0): (60, 58), (1, 1): (60, 59), (2, 0): (44, 44), (2, 1): (47, 41)}
    ours = row_of(result(loss="remse", seed=s, T1=a, split=f"random-{p}") for (p, s), (a, _) in table.items())
    theirs = row_of(result(seed=s, T1=b, split=f"random-{p}") for (p, s), (_, b) in table.items())
    found = compare(ours, theirs, metric("T1"))
    assert found
    a, b = ([(table[p, 0][i] + table[p, 1][i]) / 2 for p in range(3)] for i in (0, 1))
    assert found.p == pytest.approx(ttest_rel(a, b).pvalue, rel=1e-12)
    assert found.mean == pytest.approx(sum(a) / 3 - sum(b) / 3)
    assert len(found.pairs) == 6
    std = math.sqrt(sum((v - sum(a) / 3) ** 2 for v in a) / 2)
    assert ours.summary(metric("T1")) == pytest.approx((sum(a) / 3, std))


@given(st.lists(st.integers(0, 64), min_size=1, max_size=8), st.integers(0, 64))
def test_holm_rejects_what_its_step_down_procedure_rejects(numerators: list[int], level: int) -> None:
    p, alpha = [n / 64 for n in numerators], Fraction(level, 64)
    rejected = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if Fraction(p[i]) > alpha / (len(p) - step):
            break
        rejected.add(i)
    adjusted = holm(p)
    if alpha < 1:  # adjusted values are capped at 1, where everything is rejected
        assert {i for i, value in enumerate(adjusted) if value <= alpha} == rejected
    assert all(original <= value <= 1 for original, value in zip(p, adjusted, strict=True))


def test_p_values_are_adjusted_within_the_board() -> None:
    results = [*seeds(5, loss="mse"), *seeds(5, loss="remse", level=50.3), *seeds(5, loss="focal", level=50.5)]
    (rows,) = grouped(results).values()
    figures = {name: metric(name) for name in ("T1", "H")}
    mse = next(row for row in rows if row.spec.loss == "mse")
    found = [(c.row, name, d.p) for c in comparisons(rows, figures, rows) for name, d in c.differences.items()]
    raw = [compare(row, mse, figures[name]) for row, name, _ in found]
    # T1 differs by a constant, which leaves the two tests of H.
    tested = [(adjusted, d.p) for (*_, adjusted), d in zip(found, raw, strict=True) if d and d.p is not None]
    assert len(tested) == 2
    low, high = sorted(p for _, p in tested)
    assert [adjusted for adjusted, _ in sorted(tested, key=lambda t: t[1])] == pytest.approx(
        [min(1, 2 * low), min(1, max(2 * low, high))]
    )


def delta(results: Iterable[Result], loss: str = "`remse`", other: str = "mse") -> list[str]:
    """The cells of a difference, without intervals."""
    text = render(results)["awa1.md"]
    rows = [row for _, part, _, body in tables(text) if "Differences" in part for row in body]
    (row,) = [row for row in rows if row[1] == f"{loss} - `{other}`"]
    return [re.sub(r" \[.*\]", "", cell) for cell in row[2:]]


def test_deterministic_methods_show_a_difference_without_p() -> None:
    results = [result(loss=loss, seed=s, T1=t1) for loss, t1 in (("mse", 50.1), ("remse", 50.4)) for s in range(3)]
    assert delta(results) == ["3", "+0.30 (deterministic)", *["+0.00 (deterministic)"] * 5]


def test_a_single_seed_has_neither_deviation_nor_test() -> None:
    results = [result(), result(loss="remse", T1=49.0)]
    assert delta(results) == ["1", "-1.00 (no test)", *["+0.00 (no test)"] * 5]
    assert "| **50.0** | **30.0** |" in render(results)["awa1.md"]


def test_a_missing_reference_shows_dashes() -> None:
    assert delta([*seeds(3, loss="remse"), *seeds(3, "eszsl")]) == [NONE] * 7
    apart = [*seeds(2, loss="remse"), *(r.model_copy(update={"seed": r.seed + 7}) for r in seeds(2))]
    assert delta(apart) == [NONE] * 7
    other_settings = [*seeds(2, loss="remse"), *seeds(2, hparam_overrides={"lr": 0.1})]
    assert delta(other_settings) == [NONE] * 7


def test_the_reference_has_the_settings_that_the_user_gave() -> None:
    """A default may depend on the loss: here the method's YAML gives remse another lr than mse."""
    mse, tuned = seeds(3, level=50.0), seeds(3, level=60.0, hparam_overrides={"lr": 0.5})
    remse = seeds(3, loss="remse", level=51.0, hparams={"lr": 0.3})
    assert delta([*mse, *tuned, *remse])[1] == "+1.00 (deterministic)"
    old_default = seeds(3, level=70.0, hparams={"lr": 0.9})
    assert delta([*mse, *old_default, *remse])[1] == NONE  # two candidates, and nothing to tell which
    same_lr = seeds(3, level=48.0, hparams={"lr": 0.3})
    assert delta([*mse, *same_lr, *remse])[1] == "+3.00 (deterministic)"


# The terminal


def test_terminal_table_finds_the_reference_among_stored_runs() -> None:
    sim: dict[str, Any] = {"dataset": "awa1-sim", "simulated": True}
    ran, stored = seeds(5, loss="remse", level=51.0, **sim), seeds(5, loss="mse", **sim)
    text = terminal_table(ran, [*stored, *ran])
    assert text.startswith("awa1-sim SIMULATED (features res101, ")
    assert lines_with(text, "ale", "remse", "51.1±0.8", "3.5")
    assert lines_with(text, "ale", "remse", "+1.00 (deterministic)", "(p ")
    assert not lines_with(text, "ale", " mse ")
    assert max(map(len, text.splitlines())) <= 150
    assert lines_with(terminal_table(ran, ran), "ale", "remse", "no mse runs", "add --loss mse")


def test_terminal_table_keeps_boards_apart_and_leaves_failures_out() -> None:
    text = terminal_table([r for r in RESULTS if r.status == "ok"], RESULTS)
    assert [line.partition(" ")[0] for line in text.splitlines() if "(features" in line] == [
        *["awa1"] * 4,
        "awa1-sim",
    ]
    assert text == terminal_table(RESULTS, [])
    assert lines_with(text, "awa1 SELECTED ON TEST (")
    assert terminal_table([], []) == ""


# Files


def whole(one: Result) -> bool:
    """Whether a run is one of a clean checkout, which ``--check`` asks for."""
    return one.provenance.get("dirty") is False


@pytest.fixture
def out(tmp_path: Path) -> Path:
    store = Store(tmp_path / "results")
    for one in filter(whole, RESULTS):
        store.save(one)
    write_boards(tmp_path)
    return tmp_path


def test_check_finds_stale_edited_missing_and_superfluous_boards(out: Path) -> None:
    assert check(out) == []
    (out / "notes.md").write_text("my own\n")  # no board: nobody's business
    (out / "awa1.md").write_text((out / "awa1.md").read_text(encoding="utf-8") + "!", encoding="utf-8")
    (out / "awa1-sim.md").unlink()
    (out / "gone.md").write_text(HEADER)
    problems = check(out)
    assert [line.partition(";")[0] for line in problems] == [
        f"{out / 'awa1-sim.md'}: is missing",
        f"{out / 'awa1.md'}: is stale or was edited",
        f"{out / 'gone.md'}: has no results any more",
    ]
    assert (out / "gone.md").exists()
    write_boards(out)
    assert check(out) == []
    assert (out / "notes.md").read_text() == "my own\n"
    assert not (out / "gone.md").exists()
    Store(out / "results").save(result(seed=9))
    assert [line.partition(";")[0] for line in check(out)] == [
        f"{out / 'README.md'}: is stale or was edited",
        f"{out / 'awa1.md'}: is stale or was edited",
        f"{out / 'site/index.html'}: is stale or was edited",
    ]


def test_no_foreign_file_is_overwritten(out: Path) -> None:
    (out / "README.md").write_text("# My project\n")
    before = (out / "awa1.md").read_bytes()
    with pytest.raises(InputError, match=r"README\.md: is no generated board"):
        write_boards(out)
    assert (out / "README.md").read_text() == "# My project\n"
    assert (out / "awa1.md").read_bytes() == before


def test_every_artefact_is_written_checked_and_cleared(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, str | bytes] = {"pictures/a.png": b"\x89PNG\xff", "pictures/b.svg": "<svg>é</svg>"}
    artefact = files.Artefact("pictures/*", (b"\x89PNG", b"<svg"), lambda results, datasets: made if results else {})
    monkeypatch.setattr(files, "ARTEFACTS", (*files.ARTEFACTS, artefact))
    assert [line.partition(";")[0] for line in check(out)] == [f"{out / name}: is missing" for name in made]
    assert {out / name for name in made} < set(write_boards(out))
    assert check(out) == []
    assert (out / "pictures" / "a.png").read_bytes() == b"\x89PNG\xff"
    (out / "pictures" / "mine.txt").write_text("notes")
    (out / "pictures" / "b.svg").write_text("<svg>edited</svg>")
    assert [line.partition(";")[0] for line in check(out)] == [f"{out / 'pictures/b.svg'}: is stale or was edited"]
    del made["pictures/b.svg"]
    assert "has no results any more" in check(out)[0]
    write_boards(out)
    assert sorted(path.name for path in (out / "pictures").iterdir()) == ["a.png", "mine.txt"]


def test_only_boards_of_the_data_sets_that_were_asked_for_are_written(out: Path) -> None:
    others = {path: path.read_bytes() for path in out.glob("*.md") if path.name.startswith("awa1")}
    Store(out / "results").save(result(seed=9))
    Store(out / "results").save(result(dataset="cub"))
    results = list(Store(out / "results"))
    written = write_boards(out, results, {"cub"})
    assert written == [out / name for name in ("README.md", "cub.md", effect.NAME, *ALWAYS)]
    assert {path: path.read_bytes() for path in others} == others
    assert [line.partition(":")[0] for line in check(out)] == [str(out / "awa1.md")], "the overview and page have all"
    write_boards(out, results)
    assert check(out) == []


def test_memory_that_the_system_does_not_tell_is_a_dash() -> None:
    runs = [result(seed=s, cost={"fit_s": 1.5, "evaluate_s": 0.1, "peak_memory_mib": None}) for s in range(2)]
    ((cells_,),) = (
        [row[2:] for row in body if row[1]] for _, part, _, body in tables(render(runs)["awa1.md"]) if "Time" in part
    )
    assert cells_ == ["2", "1.5 ± 0.0", "0.10 ± 0.00", NONE]
    (record,) = json.loads(as_json(runs))
    assert record["peak_MiB_mean"] is None


def test_no_results_make_an_empty_overview(tmp_path: Path) -> None:
    assert write_boards(tmp_path) == [tmp_path / name for name in ("README.md", *ALWAYS)]
    assert "No results are stored yet." in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [[], ["--check"]])
def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "absent")]) == 2
    broken = tmp_path / "results" / "awa1" / "ale+mse" / "0123456789ab-s0.json"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"schema_version": 1')
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    absent, invalid = capsys.readouterr().err.splitlines()
    assert absent == f"error: --out {tmp_path / 'absent'}: must be a folder of results and boards, and there is none"
    assert invalid.startswith(f"error: {broken}: not a result file")


def test_bad_yaml_of_a_method_is_bad_input(
    out: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path_factory.mktemp("methods") / "ale.py"
    file.with_suffix(".yaml").write_text(yaml.safe_dump({"publisht": []}))
    broken = MethodEntry("ale", "ALE", "embedding", 2016, "", "methods.embedding.ale", file, ToyMethod)
    monkeypatch.setattr(view, "METHODS", registry(broken))
    assert main(["--out", str(out)]) == 2
    assert "unknown key 'publisht'; did you mean 'published'?" in capsys.readouterr().err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Store(tmp_path / "results").save(result("no-such-method"))
    command = [sys.executable, "-m", "benchmark.leaderboard", "--check", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    boards_ = [tmp_path / name for name in ("README.md", "awa1.md", *ALWAYS)]
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [str(path) for path in boards_]
    assert main(["--out", str(tmp_path)]) == 0
    assert main(["--check", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "".join(f"{path}\n" for path in boards_) + f"{tmp_path}: fresh\n"


# Other formats


def test_csv_and_json_hold_what_the_rows_are(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(out.rglob("*"))
    printed = {}
    assert tuple(export.FORMATS) == leaderboard.FORMATS
    for name in leaderboard.FORMATS:
        assert main(["--out", str(out), "--format", name]) == 0
        printed[name] = capsys.readouterr().out
    assert sorted(out.rglob("*")) == before
    records = json.loads(printed["json"])
    found = [(board, row) for board, rows in grouped(Store(out / "results")).items() for row in rows if row.runs]
    assert len(records) == len(found)
    by_key = {(r["dataset"], r["key"]): r for r in records}
    for board, row in found:
        record = by_key[board.dataset, row.key]
        assert {name: record[name] for name in board.record()} == board.record()
        summary = row.summary(metric("H_calibrated"))
        assert (record["H_calibrated_mean"], record["H_calibrated_std"]) == (summary or (None, None))
        assert (record["fit_s_mean"], record["fit_s_std"]) == (row.summary(cost("fit_s")) or (None, None))
        assert (record["runs"], record["loss"]) == (len(row.runs), row.spec.loss_label)
    lines = list(csv.DictReader(printed["csv"].splitlines()))
    assert [list(line) for line in lines] == [list(record) for record in records]
    for line, record in zip(lines, records, strict=True):
        assert {name: "" if value is None else str(value) for name, value in record.items()} == line
    assert [as_csv([]), as_json([]), as_latex([])] == ["", "[]\n", ""]


def test_latex_is_escaped_and_labelled() -> None:
    text = as_latex([*RESULTS, result("a_b%", "l&m", hparam_overrides={"x": "~^\\{$#"})])
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == len(grouped(RESULTS))
    assert r"a\_b\%, x=\textasciitilde{}\textasciicircum{}\textbackslash{}\{\$\# & l\&m & 1 & " in text
    captions = [line for line in text.splitlines() if line.startswith(r"\caption")]
    assert sum("SIMULATED" in caption for caption in captions) == 1
    assert sum("selected on test" in caption for caption in captions) == 1
    bold = [line for line in text.splitlines() if line.startswith("ESZSL") and "textbf{53.5}" in line]
    assert len(bold) == 1
    for line in text.splitlines():
        if " & " in line:
            assert len(re.findall(r"(?<!\\)&", line)) == 8


def test_formats_do_not_go_with_check(capsys: pytest.CaptureFixture[str]) -> None:
    for other in (["--check"], ["--import", "x"]):
        assert main(["--format", "csv", *other]) == 2
        assert "prints the stored rows" in capsys.readouterr().err
