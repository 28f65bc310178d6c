"""`pgzoo ui` and the report of `pgzoo compare`, as a user sees them in a real browser.

This file also takes the screenshots in the docs, after longer runs:

    PGZOO_PICTURES=docs/images PGZOO_PICTURE_STEPS=50000 python -m pytest tests/e2e/test_page.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from browser import CHROMIUM, MISSING, Browser
from program import PATIENCE

if TYPE_CHECKING:
    from program import Folder

    Zoo = tuple[Folder, dict[str, str], dict[str, str]]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
ALGORITHMS = ["a2c", "ppo", "reinforce"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        # On the first visit, MLflow opens its assistant, which covers a third of the page.
        seen = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
        browser.at_start(f"if (location.protocol === 'http:') {seen}")
        yield browser


@dataclass
class Page:
    """`pgzoo ui` on the runs of the `zoo` fixture, and the browser that displays it."""

    link: str
    browser: Browser
    commands: dict[str, str]
    ids: dict[str, str]
    screens: Path

    @property
    def server(self) -> str:
        return self.link.partition("/#")[0]

    @property
    def experiment(self) -> str:
        return self.link.partition("/experiments/")[2].partition("/")[0]

    def open_run(self, name: str, what: str = "") -> None:
        self.browser.open(f"{self.server}/#/experiments/{self.experiment}/runs/{self.ids[name]}{what}")

    def keep(self, name: str) -> None:
        """Save a screenshot, which helps to debug a failed test; two of them are used in the docs."""
        picture = self.browser.screenshot(self.screens / f"{name}.png")
        if (target := os.environ.get("PGZOO_PICTURES")) and name in ("experiment", "list"):
            shutil.copy(picture, Path(target) / f"{name}.png")


@pytest.fixture(scope="module")
def page(zoo: Zoo, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder, commands, ids = zoo
    server = folder.start("ui", "--no-browser", "--json")
    try:
        assert server.stdout is not None
        link = json.loads(server.stdout.readline())["url"]
        yield Page(link, browser, commands, ids, tmp_path_factory.mktemp("screens"))
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=PATIENCE)


def test_the_link_opens_learning_curves_with_a_mean_for_each_algorithm(page: Page) -> None:
    browser = page.browser
    browser.resize(1500, 860)
    browser.open(page.link)
    names = "(plot => plot.data.map(trace => trace.name).join())"
    browser.wait(f"[...document.querySelectorAll('.js-plotly-plot')].map({names}).length >= 2")
    said = browser.wait_for("train/return_mean", "summary/return_final", *(f"Group: {name}" for name in ALGORITHMS))
    assert said.index("train/return_mean") < said.index("summary/return_final") < said.index("eval")
    for name in ALGORITHMS:
        assert f"{name} (train/return_mean)" in said
    assert set(page.ids) <= set(said.split("\n"))
    curves = browser.wait(
        "[...document.querySelectorAll('.js-plotly-plot')][0].data"
        ".filter(trace => trace.mode && trace.mode.includes('lines') && trace.y.length > 1 && !trace.fill)"
        ".map(trace => [trace.x.length, trace.y.at(-1)])"
    )
    assert len(curves) >= 3 and all(points >= 3 and last > 8 for points, last in curves)
    page.keep("experiment")


def test_the_table_of_runs_shows_the_full_names_of_the_score_columns(page: Page) -> None:
    page.browser.open(page.link.replace("compareRunsMode=CHART", "compareRunsMode=TABLE"))
    page.browser.wait_for("ppo s0", "summary/return_final", "summary/return_best", "total_steps")
    cells = "[...document.querySelectorAll('.ag-header-cell *')].filter(e => e.innerText?.startsWith('summary/'))"
    names = page.browser.wait(
        f"(cells => cells.every(e => e.scrollWidth <= e.clientWidth + 1) && cells.map(e => e.innerText))({cells})"
    )
    assert set(names) == {"summary/return_final", "summary/return_best"}
    page.keep("list")


def test_the_page_of_a_run_shows_its_description_command_and_parameters(page: Page) -> None:
    page.open_run("ppo s0")
    said = page.browser.wait_for("Description", page.commands["ppo"], "Finished", "train/return_mean")
    assert "ppo on CartPole-v1, seed 0." in said
    parameters = said.partition("Parameters (")[2]
    assert [parameters.index(name) for name in ("algorithm", "env", "seed", "total_steps")] == sorted(
        parameters.index(name) for name in ("algorithm", "env", "seed", "total_steps")
    )
    page.keep("run")


@pytest.mark.parametrize("name", ["learning_curve", pytest.param("evaluation_histogram", marks=pytest.mark.slow)])
def test_the_plots_of_a_run_are_displayed(page: Page, name: str) -> None:
    page.open_run("reinforce s1", f"/artifacts/plots/{name}.png")
    page.browser.wait_for(f"plots/{name}.png")
    sizes = page.browser.wait(
        "(found => found.length && found)([...document.images].map(i => [i.naturalWidth, i.naturalHeight])"
        ".filter(([width]) => width > 800))"
    )
    assert {width for width, _ in sizes} == {1056}
    page.keep(name)


def test_the_video_of_a_run_plays(page: Page) -> None:
    page.open_run("ppo s0", "/artifacts/videos/evaluation.mp4")
    page.browser.wait("document.querySelector('video')?.readyState >= 2")
    video = "document.querySelector('video')"
    assert page.browser.js(f"{video}.duration") > 0.15  # the shortest possible episode: eight frames at 50 per second
    assert page.browser.js(f"[{video}.videoWidth, {video}.videoHeight]") == [600, 400]
    page.browser.js(f"{video}.play()")
    page.browser.wait(f"{video}.ended || {video}.currentTime > 1")
    assert page.browser.js(f"{video}.error") is None
    page.keep("video")


def test_the_model_of_a_run_is_shown_with_its_scores_and_signature(page: Page, zoo: Zoo) -> None:
    query = "SELECT model_id FROM logged_models WHERE source_run_id = ? AND status = 2"
    with closing(sqlite3.connect(zoo[0].path / "mlflow.db")) as store:
        [(model,)] = store.execute(query, [page.ids["ppo s0"]]).fetchall()
    address = f"{page.server}/#/experiments/{page.experiment}/models/{model}"
    page.browser.open(address)
    said = page.browser.wait_for("ppo-s0", "Metrics (4)", "eval/greedy_return_mean", "Parameters (3)", "CartPole-v1")
    assert "Ready" in said and page.ids["ppo s0"] in said
    page.browser.open(f"{address}/artifacts")
    page.browser.wait_for("serving_input_example.json")
    page.browser.click("MLmodel")
    said = page.browser.wait_for("signature:", "mlflow.pyfunc")
    assert '"shape": [-1, 4]' in said
    page.keep("model")


def test_runs_are_compared_side_by_side(page: Page) -> None:
    runs = quote(json.dumps(list(page.ids.values())))
    page.browser.open(f"{page.server}/#/compare-runs?runs={runs}&experiments=%5B%22{page.experiment}%22%5D")
    said = page.browser.wait_for(f"Comparing {len(page.ids)} Runs from 1 Experiment", "Parameters", "train/return_mean")
    for name in (*page.ids, *ALGORITHMS):
        assert name in said
    page.keep("compare")


def test_the_browser_reported_no_errors_on_any_page(page: Page) -> None:
    assert page.browser.errors == []


def test_the_comparison_report_is_self_contained_and_fits_narrow_screens(
    zoo: Zoo, browser: Browser, tmp_path: Path
) -> None:
    folder, _, ids = zoo
    report = tmp_path / "report.html"
    folder.pgzoo("compare", "reinforce", "a2c", "ppo", "--env", "CartPole-v1", "--out", str(report), "--no-progress")
    browser.resize(1160, 1000)
    browser.open(report.as_uri())
    said = browser.wait_for("reinforce vs a2c vs ppo on CartPole-v1", "SCORES", "How to read this")
    assert f"{len(ids)} runs" in said
    picture = browser.wait("document.images[0]?.complete && [document.images[0].naturalWidth, document.images.length]")
    assert picture[0] > 500 and picture[1] == 1
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    loaded = (
        "performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:'))"
    )
    assert browser.js(loaded) == []
    browser.resize(400, 800)
    assert browser.js("document.documentElement.scrollWidth <= innerWidth"), "on a telephone it must not be cut off"
    cards = (
        "[...document.querySelectorAll('article')].every(card => card.getBoundingClientRect().right <= innerWidth - 20)"
    )
    assert browser.js(cards)
    browser.screenshot(tmp_path / "report.png")
