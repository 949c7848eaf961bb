"""What a reader sees first: the best methods, the stand-ins side by side, and the picture of what a loss changes."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from benchmark.boards import HEADER, overview, view
from benchmark.boards.pictures import effect, ranks, svg
from benchmark.boards.view import by_interest, ordered_boards
from benchmark.boards.wording import NONE
from benchmark.results.record import Result
from tests.reference.leaderboards import METHODS, RESULTS, repeated, result, seeds

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "METHODS", METHODS)


def page(results: list[Result]) -> str:
    return overview.overview(ordered_boards(results))


def part(text: str, heading: str) -> str:
    return text.partition(heading)[2].partition("\n## ")[0]


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def picture(results: list[Result]) -> ElementTree.Element:
    return ElementTree.fromstring(effect.render(ordered_boards(results))[effect.NAME])


def test_the_best_methods_are_ranked_by_each_measure_with_tuned_settings_apart() -> None:
    results = [
        *(r for loss, h in (("none", 30.0), ("mse", 33.0), ("remse", 31.0)) for r in one("ale", loss, H=h)),
        *one("eszsl", "mse", H=40.0),
        result("clswgan", "mse", H=45.0),
        *one("ale", "mse", H=60.0, tuned=10),
        *one("eszsl", "mse", H=20.0, hparam_overrides={"lr": 1.0}),
    ]
    rows = cells(part(page(results), "### [awa1](awa1.md)"))[2:]
    assert [row[1] for row in rows] == [
        "*default settings*",
        "f-CLSWGAN (2018) + `mse`",  # its single run is shown for what it is
        "ESZSL (2015) + `mse`",
        "ALE (2016) + `mse`",
        "*settings given by hand*",
        "ESZSL (2015) + `mse`",
        "*tuned by 10 trials*",
        "ALE (2016) + `mse`",
    ]
    assert [row[2:4] for row in rows[1:4]] == [["1", "27.0"], ["2", "24.0 ± 0.0"], ["2", "19.8 ± 0.0"]]
    means = {row[1]: float(row[3].split()[0]) for row in rows[1:4]}
    assert list(means.values()) == sorted(means.values(), reverse=True)
    for row in rows[1:4]:
        low, high = map(float, re.findall(r"[\d.]+(?=[,\]])", row[6]))
        assert low < float(row[6].split()[0]) < high
    assert page(results).count("Comparable with the literature:") == 1


def one(method: str, loss: str, **changes: object) -> list[Result]:
    return [result(method, loss, seed, **changes) for seed in range(2)]


def test_what_is_comparable_with_the_literature_is_named() -> None:
    assert "**Comparable with the literature: ALE, ESZSL on [awa1](awa1.md).**" in page(RESULTS)
    assert "**Comparable with the literature: nothing.**" in page(seeds(2, features="vit"))


def test_the_data_set_of_most_unseen_classes_comes_first_and_simulated_ones_last() -> None:
    fewer = [
        run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"per_class": []})})
        for run in seeds(2, dataset="abc")
        if run.evaluation
    ]
    boards = by_interest(ordered_boards([*RESULTS, *fewer]))
    order = [board.dataset for board in boards]
    assert (order[0], order[-1]) == ("awa1", "awa1-sim")
    assert order.index("abc") > 0
    text = page([*RESULTS, *fewer])
    assert text.index("### [awa1](awa1.md)") < text.index("### [abc](abc.md)")
    assert "SIMULATED" not in text.partition("## Stand-ins")[0]


def test_stand_ins_stand_side_by_side_a_line_a_method() -> None:
    sim = {"simulated": True, "features": "sim-small"}
    results = [
        *(
            r
            for name in ("cub-sim", "sun-sim")
            for loss in ("none", "mse")
            for r in one("ale", loss, dataset=name, **sim)
        ),
        *one("ale", "remse", dataset="sun-sim", H=50.0, **sim),
        *one("ale", "mse", dataset="sun-sim", H=90.0, tuned=10, **sim),
        *one("eszsl", "mse", dataset="cub-sim", H=20.0, **sim),
    ]
    head, _, *rows = cells(part(page(results), "## Stand-ins side by side (SIMULATED)").partition("<details>")[0])
    names = ("sun-sim", "cub-sim")  # as many classes, more rows
    columns = [f"[{name}]({name}.md) (SIMULATED)<br>{m}" for name in names for m in ("AUSUC", "H calibrated")]
    assert head == ["method (SIMULATED)", *columns]
    none = f"{NONE} / {NONE} / {NONE}"
    assert rows == [
        ["ESZSL (2015)", none, none, f"{NONE} / 12.0 / {NONE}", f"{NONE} / 25.0 / {NONE}"],
        ["ALE (2016)", "18.0 / 18.0 / 30.0", "35.0 / 35.0 / 55.0", f"18.0 / 18.0 / {NONE}", f"35.0 / 35.0 / {NONE}"],
    ]


def test_the_picture_shows_each_method_once_with_the_differences_of_the_board() -> None:
    results = [
        *(r for loss, h in (("mse", 30.0), ("remse", 33.0)) for r in one("ale", loss, H=h)),
        *(r for loss, h in (("mse", 30.0), ("remse", 28.0)) for r in one("ale", loss, H=h, tuned=10)),
        *(r for loss, h in (("mse", 30.0), ("remse", 20.0)) for r in repeated(2, "eszsl", loss, H=h)),
        *one("clswgan", "remse"),  # without a reference
        *(r for loss in ("mse", "remse") for r in one("ale", loss, protocol="literature")),
        *(r for loss in ("mse", "remse") for r in one("ale", loss, dataset="awa1-sim", simulated=True)),
    ]
    drawn = picture(results)
    assert [title.text for title in drawn.iterfind(f"{SVG}g/{SVG}title")] == [
        "ESZSL (2015), default settings: -10.00 [-10.0, -10.0]",
        "ALE (2016), default settings: +3.00 [3.0, 3.0]",
        "ALE (2016), tuned: -2.00 [-2.0, -2.0]",
    ]
    words = [text.text for text in drawn.iterfind(f"{SVG}text")]
    assert [words.count(name) for name in ("ALE (2016)", "ESZSL (2015)", "f-CLSWGAN (2018)", "awa1")] == [1, 1, 0, 1]
    assert {"higher in 1 of 3", "lower in 2", "clear of 0: 1 and 2"} <= {*words}
    assert "higher in 1 of 3, lower in 2, clear of 0: 1 and 2" in page(results)
    circles = {c.get("cx"): c.get("class") for c in drawn.iterfind(f"{SVG}g/{SVG}circle")}
    zero = next(float(line.get("x1", "")) for line in drawn.iterfind(f"{SVG}line[@class='zero']"))
    assert sorted(float(x or "") > zero for x in circles) == [False, True]
    assert set(circles.values()) == {"default told"}
    assert len(drawn.findall(f"{SVG}g/{SVG}path")) == 1


def test_what_is_drawn_lies_within_the_picture_for_any_difference() -> None:
    for change in (0.0, 0.01, 4.0, 60.0):
        drawn = picture([*one("ale", "mse", H=10.0), *one("ale", "remse", H=10.0 + change)])
        width, height = (float(drawn.get(name, "")) for name in ("width", "height"))
        for text in drawn.iter(f"{SVG}text"):
            assert 0 <= float(text.get("x", "")) <= width
            assert 0 < float(text.get("y", "")) < height
        for line in drawn.iter(f"{SVG}line"):
            assert svg.NAMES < float(line.get("x1", "")) <= float(line.get("x2", "")) <= width
        assert sum(text.text == "0" for text in drawn.iter(f"{SVG}text")) == 1


def test_the_picture_is_text_that_says_it_is_generated_and_names_stay_text() -> None:
    boards = ordered_boards([*one("<b>&", "mse"), *one("<b>&", "remse")])
    (text,) = effect.render(boards).values()
    assert text.startswith(HEADER)
    assert effect.render(boards) == {effect.NAME: text}
    assert "&lt;b&gt;&amp;" in text
    assert "<b>" not in text
    assert effect.render(ordered_boards(one("ale", "mse"))) == {}
    assert effect.NAME not in page(one("ale", "mse"))


def over_datasets(names: list[str]) -> list[Result]:
    """Three methods under ``none`` on each data set, whose AUSUC is 0.6 H: of the last one they tie."""
    of_method = {"ale": 30.0, "eszsl": 20.0, "clswgan": 10.0}
    return [
        run
        for name in names
        for method, h in of_method.items()
        for run in one(method, "none", dataset=name, revision=f"revision{name}", H=50.0 if name == names[-1] else h)
    ]


def test_ranks_are_drawn_for_each_data_set_and_in_the_mean_within_the_picture() -> None:
    boards = ordered_boards(over_datasets(["awa1", "abc", "xyz"]))
    (text,) = ranks.render(boards).values()
    assert text.startswith(HEADER)
    drawn = ElementTree.fromstring(text)
    said = [title.text for title in drawn.iterfind(f"{SVG}g/{SVG}title")]
    assert said == [
        "ALE (2016): mean 1.3; abc 1, awa1 1, xyz 2",
        "ESZSL (2015): mean 2.0; abc 2, awa1 2, xyz 2",
        "f-CLSWGAN (2018): mean 2.7; abc 3, awa1 3, xyz 2",
    ]
    places = [
        float(re.findall(r"translate\(([\d.]+)", path.get("transform", ""))[0]) for path in drawn.iter(f"{SVG}path")
    ]
    legend, marks = places[:3], places[3:]
    assert len(set(marks[:2])) == 2  # at the same rank, side by side
    assert marks[5] == pytest.approx(marks[8] + 10)  # ESZSL's ties are three there, f-CLSWGAN's is alone
    assert all(svg.NAMES < place < svg.WIDTH for place in marks)
    assert all(0 < place < svg.WIDTH for place in legend)


def test_ranks_over_few_data_sets_or_over_the_same_classes_are_called_descriptive() -> None:
    few = page(over_datasets(["awa1", "abc", "xyz"]))
    assert "Ranks describe here, and prove nothing: 3 data sets, " in few
    assert "Friedman" not in few
    assert ranks.render(ordered_boards(over_datasets(["awa1", "abc"]))) == {}
    assert ranks.NAME not in page(over_datasets(["awa1", "abc"]))


def test_ranks_over_many_data_sets_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    many = over_datasets([f"set{i}" for i in range(ranks.FEW_DATASETS)])
    assert "Friedman" not in page(many)  # all of the same classes
    monkeypatch.setattr(ranks, "nested", lambda boards: [])
    rows = cells(page(many).partition("Mean rank in AUSUC")[2].partition("</details>")[0])
    assert rows[-2:] == [["*p (Friedman)*", "< 0.001"], ["*critical difference*", "1.0"]]
    assert "prove nothing" not in page(many)
