"""The web page in a real headless Chromium, as readers use it: mouse, keyboard, links, light and dark."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import axe_core_python
import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from benchmark.boards import site, view
from benchmark.boards.view import ordered_boards
from benchmark.boards.wording import NONE
from tests.reference.leaderboards import HOSTILE, METHODS, page_results

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no chromium and chromedriver: apt-get install chromium chromium-driver"
)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--window-size=1360,900",
]
AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
#: The board that a page without a link shows first: with all methods.
FULL = "board=awa1/res101/strict/proposed/aaaabbbbcccc"


class Page:
    """The page in a browser, and what a test asks of it."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, link: str = FULL) -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.url}#{link}")
        self.until(lambda: self.text("#status"))  # a busy machine may not have drawn the rows yet

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return str(self.one(css).get_property("textContent"))

    def choose(self, name: str, value: str) -> None:
        Select(self.one(f"#{name}")).select_by_value(value)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    @property
    def link(self) -> str:
        return str(self.js("return location.hash.slice(1)"))

    @property
    def rows(self) -> list[str]:
        """The keys of the rows that are shown, from top to bottom."""
        return list(self.js("return [...document.querySelectorAll('tr[data-key]')].map(row => row.dataset.key)"))

    def column(self, name: str) -> list[str]:
        """The means in a column, from top to bottom."""
        script = """
            const heads = [...document.querySelectorAll('#table thead th')];
            const at = heads.findIndex(head => head.dataset.column === arguments[0]);
            const rows = [...document.querySelectorAll('tr[data-key]')];
            return rows.map(row => row.children[at].textContent.split(/ [±[]/)[0]);
        """
        return list(self.js(script, name))

    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, css: str) -> None:
        """Go on by the tab key until the first element of ``css`` has the focus."""
        for _ in range(12):
            self.press(Keys.TAB)
            if self.js("return document.activeElement === document.querySelector(arguments[0])", css):
                return
        raise AssertionError(f"{css} is not reached by the tab key")

    def until(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.driver, 10).until(lambda _: condition())


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("leaderboards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view, "METHODS", METHODS)
        text = site.render(ordered_boards(page_results()))[site.PAGE]
    path = folder / site.PAGE
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(120)  # a busy machine is no failure
    try:
        yield Page(driver, path.as_uri())
    finally:
        driver.quit()


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """The page at its largest board; afterwards, nothing may have been said on the console or fetched."""
    browser.driver.get_log("browser"), browser.driver.get_log("performance")
    browser.open()
    yield browser
    assert browser.driver.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    fetched = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    own = ("data:", "about:", "chrome:", "chrome-untrusted:")  # what the browser asks itself
    assert {url for url in fetched if not url.startswith(own)} == {browser.url}


def test_a_head_sorts_down_then_up_then_by_ausuc_as_at_first(page: Page) -> None:
    at_first = page.rows
    best = [float(value) for value in page.column("AUSUC") if value != NONE]
    assert best == sorted(best, reverse=True)
    assert page.one("[aria-sort=descending]").get_attribute("data-column") == "AUSUC"
    head = page.one("th[data-column=T1]")
    for order in ("descending", "ascending"):
        head.find_element(By.TAG_NAME, "button").click()
        values = [float(value) for value in page.column("T1") if value != NONE]
        assert values == sorted(values, reverse=order == "descending")
        assert head.get_attribute("aria-sort") == order
        assert page.text("#status").endswith(f"sorted by T1, {order}.")
        assert len(page.all("[aria-sort]")) == 1
    head.find_element(By.TAG_NAME, "button").click()
    assert page.rows == at_first
    assert page.text("#status").endswith("sorted by AUSUC, descending.")
    assert page.link == FULL
    page.choose("columns", "unseen")
    assert not page.all("[aria-sort]")


def test_every_column_of_every_group_sorts_with_missing_values_last(page: Page) -> None:
    for group in site.GROUPS:
        page.choose("columns", group)
        for name in page.js("return [...document.querySelectorAll('th[data-column]')].map(th => th.dataset.column)"):
            page.js(f"document.querySelector('th[data-column={name}] button').click()")
            values = page.column(name)
            assert NONE not in values[: len([v for v in values if v != NONE])], name
            assert len(page.rows) == len(set(page.rows)) == int(page.text("#status").split()[0])


def test_filters_and_search(page: Page) -> None:
    total = len(page.rows)
    page.choose("loss", "remse")
    assert set(page.column("loss")) == {"remse"}
    page.choose("family", "generative")
    assert page.column("family") == ["generative"]
    assert page.text("#status").startswith(f"1 of {total} rows shown")
    page.one("#q").send_keys("nothing like it")
    assert page.rows == []
    assert "No row matches" in page.text("#table tbody")
    page.one("#reset").click()
    assert len(page.rows) == total
    page.one("#q").send_keys("MEAN_ONE ale")
    assert page.column("loss") == ["remse:scale=mean_one"]


def test_boards_are_filtered_and_never_mixed(page: Page) -> None:
    page.choose("kind", "simulated")
    assert page.text("#board-title") == "awa1-sim SIMULATED"
    for css in ("#caption", "th[data-column=method]"):
        assert "SIMULATED" in page.text(css)
    page.all(".disclose")[0].click()
    page.all(".pick input")[0].click()
    assert all("SIMULATED" in figure.text for figure in page.all("figcaption"))
    assert "SIMULATED" in page.text("#compare-title")
    page.choose("kind", "real")
    assert not page.all("tr.chosen")  # a pick stays on its board
    page.choose("protocol", "literature")
    assert all("selected on test" in row.text for row in page.all("tr[data-key]"))
    page.choose("kind", "simulated")
    assert page.text("#board-title") == "No board matches"
    assert page.text("#status") == "No board matches these filters."


def test_a_link_restores_what_was_shown(page: Page) -> None:
    page.choose("loss", "mse")
    page.choose("columns", "unseen")
    page.one("th[data-column=unseen_std] button").click()
    page.all(".disclose")[1].click()
    page.all(".pick input")[0].click()
    page.all(".pick input")[2].click()

    def view() -> list[object]:
        shown = [page.text(css) for css in ("#board-title", "#status", "#table", "#comparison")]
        return [page.rows, *shown, page.one("th[data-column=unseen_std]").get_attribute("aria-sort"), page.link]

    before = view()
    page.open(page.link)
    assert view() == before
    assert [
        Select(page.one(f"#{name}")).first_selected_option.get_attribute("value") for name in ("loss", "columns")
    ] == [
        "mse",
        "unseen",
    ]
    # An address that is changed while the page is open is followed too, and what it does not know is passed over.
    page.js("location.hash = 'board=none&loss=none+such&sort=constructor&pick=1,2&columns=x&q=ale'")
    page.until(lambda: page.one("#q").get_property("value") == "ale")
    assert page.rows
    assert not page.all("tr.chosen, [aria-sort]:not([data-column=AUSUC])")


def test_a_page_without_a_link_opens_on_the_first_board_and_remembers_the_theme_alone(page: Page) -> None:
    page.driver.get("about:blank")
    page.driver.get(page.url)
    page.until(lambda: page.text("#status"))
    assert page.text("#board-title") == "awa1"
    assert page.text("#board-about").startswith("Features res101, data revision aaaabbbbcccc, proposed split. ")
    page.choose("loss", "mse")
    page.one("#q").send_keys("ale")
    page.all(".pick input")[0].click()
    page.choose("theme", "dark")
    page.driver.get("about:blank")
    page.driver.get(page.url)
    page.until(lambda: page.text("#status"))
    assert (page.text("#board-title"), page.one("#q").get_property("value")) == ("awa1", "")
    assert not page.all("tr.chosen")
    assert page.one("#theme").get_property("value") == "dark"
    assert page.js("return [Object.keys(localStorage), sessionStorage.length, document.cookie]") == [
        ["zsl-leaderboards-theme"],
        0,
        "",
    ]
    page.js("localStorage.clear()")


def test_what_is_shown_is_downloaded(page: Page, tmp_path: Path) -> None:
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})

    def downloaded(name: str) -> list[dict[str, str]]:
        page.one("#download").click()
        page.until((tmp_path / name).is_file)
        with (tmp_path / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    page.choose("loss", "mse")
    page.one("th[data-column=T1] button").click()
    lines = downloaded("awa1-accuracy.csv")
    assert [line["key"] for line in lines] == page.rows
    assert [f"{float(line['T1']):.1f}" for line in lines] == page.column("T1")
    assert {(line["dataset"], line["simulated"], line["protocol"], line["loss"]) for line in lines} == {
        ("awa1", "false", "strict", "mse")
    }
    assert all(float(line["H_calibrated_low"]) < float(line["H_calibrated_high"]) for line in lines)
    page.choose("loss", "")
    page.choose("columns", "difference")
    differences = downloaded("awa1-difference.csv")
    assert "+1.00 [1.0, 1.0] (deterministic)" in {line["delta_T1_test"] for line in differences}
    assert [line["loss"] for line in differences if "script" in line["loss"]] == [HOSTILE]
    page.choose("kind", "simulated")
    page.choose("columns", "accuracy")
    assert len(downloaded("awa1-sim-SIMULATED-accuracy.csv")) == 2


def test_ranks_are_drawn_with_the_critical_difference(page: Page) -> None:
    assert page.text("#ranks-title") == "Mean ranks in AUSUC over data sets"
    label = page.one("#ranking svg").get_attribute("aria-label") or ""
    assert "Mean rank under mse. eszsl 1.33, ale 1.67, guest 3. Critical difference 1.91. Not told apart: " in label
    assert len(page.all("#ranking [aria-label=dot] circle")) == 3
    page.choose("ranked", "remse")
    assert "Mean rank under remse" in page.text("#ranking figcaption")
    assert "ranked=remse" in page.link
    page.choose("kind", "simulated")
    assert not page.one("#ranks").is_displayed()


def test_published_figures_stand_in_the_details(page: Page) -> None:
    row = next(r for r in page.all("tr[data-key]") if "ESZSL (2015)" in r.text)
    row.find_element(By.CSS_SELECTOR, ".disclose").click()
    table = page.one(".detail [aria-label^='Published figures of ESZSL'] tbody")
    assert [cell.text for cell in table.find_elements(By.TAG_NAME, "td")][:4] == ["58.2", NONE, "75.6", "12.1"]


def test_picked_rows_are_compared_side_by_side(page: Page) -> None:
    assert not page.one("#compare").is_displayed()
    wanted = {f"Compare ALE (2016) + {loss}" for loss in ("none", "mse", "remse")}
    for box in page.all(".pick input"):
        if box.get_attribute("aria-label") in wanted:
            box.click()
    assert page.text("#picked-count") == "3 rows picked"
    page.one("#go-compare").click()
    assert page.focused().get_attribute("id") == "compare-title"
    assert len(page.all("#comparison thead th")) == 1 + 3
    t1 = next(row for row in page.all("#comparison tr") if row.text.startswith("T1"))
    assert [cell.text.split() for cell in t1.find_elements(By.TAG_NAME, "td")] == [
        row.text.split()
        for row in page.js("return [...document.querySelectorAll('tr.chosen')].map(row => row.children[5])")
    ]
    charts = page.all("#comparison svg[role=img]")
    assert len(charts) == 5
    assert re.search(r"False 0: .*ALE \(2016\) \+ mse 50.1", charts[4].get_attribute("aria-label") or "")
    assert charts[0].find_elements(By.CSS_SELECTOR, "[aria-label=rule] line")  # error bars
    page.all(".remove")[0].click()
    assert page.text("#picked-count") == "2 rows picked"
    for box in page.all(".pick input:not(:checked)")[:5]:
        box.click()
    assert len(page.all(".pick input:checked")) == 6
    assert page.text("#status") == "At most 6 rows are compared; remove one first."
    page.one("#clear").click()
    assert not page.one("#compare").is_displayed()


def test_details_hold_runs_links_and_a_command_that_can_be_copied(page: Page) -> None:
    row = next(r for r in page.all("tr[data-key]") if "remse" in r.text and "ALE" in r.text)
    key = row.get_attribute("data-key")
    row.find_element(By.CSS_SELECTOR, ".disclose").click()
    links = [link.get_attribute("href") for link in page.all(".detail a")]
    results = page.url.replace("site/index.html", "results/awa1/ale+remse/")
    assert links == [*(f"{results}{key}-s{seed}.json" for seed in range(5)), results]
    command = "python -m benchmark.run --method ale --loss remse --dataset awa1 --seeds 0-4"
    assert page.text(".detail pre") == command
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    page.one(".detail .copy").click()
    page.until(lambda: "cop" in page.text("#status"))
    assert page.text("#status").endswith("was copied.")
    read = "const done = arguments[0]; navigator.clipboard.readText().then(done, error => done(String(error)))"
    assert page.driver.execute_async_script(read) == command


def test_the_keyboard_does_all(page: Page) -> None:
    page.press(Keys.TAB)
    assert page.focused().text == "Skip to the board"
    page.press(Keys.ENTER)
    assert page.focused().get_attribute("id") == "board-title"
    assert page.link == FULL
    for name in ("q", "family", "loss", "columns", "reset", "download"):
        page.press(Keys.TAB)
        assert page.focused().get_attribute("id") == name
    page.tab_to("th[data-column=T1] button")
    page.press(Keys.ENTER)
    assert page.one("th[data-column=T1]").get_attribute("aria-sort") == "descending"
    assert page.focused().text.startswith("T1")
    page.tab_to("tr[data-key] .pick input")
    page.press(Keys.SPACE)
    assert page.one("tr[data-key]").get_attribute("class") == "chosen"
    page.press(Keys.TAB)
    page.until(lambda: page.one("#peek").is_displayed())
    page.press(Keys.ESCAPE)
    assert not page.one("#peek").is_displayed()
    page.press(Keys.ENTER)
    assert page.focused().get_attribute("aria-expanded") == "true"
    assert page.one(f"#{page.focused().get_attribute('aria-controls')}").is_displayed()


def test_a_row_under_the_pointer_shows_its_runs(page: Page) -> None:
    name = page.all("tr[data-key] th")[1]  # what is in view: to scroll hides the charts
    ActionChains(page.driver).move_to_element(name).perform()
    page.until(lambda: page.one("#peek").is_displayed())
    assert len(page.all("#peek svg")) == 2
    box, view = page.one("#peek").rect, page.js("return [innerWidth, innerHeight]")
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= view[0]
    ActionChains(page.driver).move_to_element(page.one("h1")).perform()
    page.until(lambda: not page.one("#peek").is_displayed())


def test_dark_as_the_system_and_by_choice(page: Page) -> None:
    def background() -> int:
        colour = page.js("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))

    def system(scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    try:
        system("light")
        assert background() > 600
        system("dark")
        assert background() < 150
        page.choose("theme", "light")
        assert background() > 600
        page.open()
        assert background() > 600
        page.choose("theme", "")
        assert background() < 150
    finally:
        page.js("localStorage.clear()")
        system("light")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessibility_by_axe(page: Page, theme: str) -> None:
    page.choose("theme", theme)
    page.one("th[data-column=T1] button").click()
    page.all(".disclose")[1].click()
    for box in page.all(".pick input")[:6]:
        box.click()
    page.js(AXE)
    # What a chart says is its label; its thousands of shapes are left out, as axe takes a minute for them.
    run = "axe.run({exclude: [['svg']]}).then(arguments[0], error => arguments[0](String(error)))"
    report = page.driver.execute_async_script(run)
    page.choose("theme", "")
    assert [(v["id"], v["nodes"][0]["html"]) for v in report["violations"]] == []
    assert any(check["id"] == "color-contrast" for check in report["passes"])


def test_a_narrow_screen_scrolls_down_and_not_sideways(page: Page) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.open()
        page.all(".disclose")[0].click()
        for box in page.all(".pick input")[:3]:
            page.js("arguments[0].click()", box)
        assert page.js("return document.documentElement.scrollWidth") <= 360
        assert page.one("#scroll").get_attribute("tabindex") == "0"
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_names_are_shown_as_text(page: Page) -> None:
    page.one("#q").send_keys("window.hacked")
    assert len(page.rows) == 1
    page.one(".disclose").click()
    page.one(".pick input").click()
    assert HOSTILE in page.text("tr[data-key]")
    assert page.js("return window.hacked") is None
    assert not page.all("main img")
