"""Answers of a hostile tracking server: each command succeeds or ends with an error, and writes only to the home."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from requests.adapters import BaseAdapter

from pgzoo.analysis.listing import RunFilter, list_store
from pgzoo.analysis.selection import RunIndex, load
from pgzoo.cli.main import main as program
from pgzoo.errors import PgzooError, StoreError
from pgzoo.tracking import Home, Journal, find

ADDRESS = "http://hostile.simulated"
RUN = "0" * 32
FEW = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
REQUESTS = 60
"""Maximum number of requests of one command in these tests, where a list may have 20 pages."""

INFO = {"run_id": RUN, "run_uuid": RUN, "experiment_id": "1", "run_name": "r s0", "status": "FINISHED"}
INFO |= {"start_time": 1, "lifecycle_stage": "active", "artifact_uri": f"mlflow-artifacts:/1/{RUN}/artifacts"}
TAGS = [{"key": f"pgzoo.{key}", "value": value} for key, value in (("run_key", "g-s0"), ("group", "g"))]
PARAMS = [{"key": key, "value": value} for key, value in (("seed", "0"), ("algorithm", "a"), ("env", "E-v0"))]
POINT = {"key": "train/return_mean", "value": 1.5, "timestamp": 1, "step": 10}
FOUND = {"info": INFO, "data": {"tags": TAGS, "params": PARAMS, "metrics": [POINT]}}
EXPERIMENT = {"experiment_id": "1", "name": "e", "lifecycle_stage": "active", "tags": []}
ANSWERS: dict[str, Any] = {
    "experiments/search": {"experiments": [EXPERIMENT]},
    "experiments/get-by-name": {"experiment": EXPERIMENT},
    "experiments/create": {"experiment_id": "1"},
    "experiments/set-experiment-tag": {},
    "runs/search": {"runs": [FOUND]},
    "runs/get": {"run": FOUND},
    "runs/create": {"run": FOUND},
    "runs/update": {"run_info": INFO},
    "runs/delete": {},
    "runs/log-batch": {},
    "runs/set-tag": {},
    "metrics/get-history": {"metrics": [POINT]},
    "artifacts?": {"files": [{"path": "config.yaml", "is_dir": False, "file_size": 9}]},
    "artifacts/": {},
}
"""The answers of an honest server, by a part of the URL."""
ODD = [
    None,
    True,
    -1,
    2**63 - 1,
    2**64,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "9" * 5000,
    "²",
    "\ud800",
    [],
    {},
]
ODD += ["../../evil", "/etc/passwd", "..\\..\\evil", "C:/evil", "%2e%2e/evil", "a\0b", "\x1b[2J", "file:///etc/passwd"]
ODD += [f"file://{Path.home()}", "mlflow-artifacts:/../../..", [[[]]], {"a": 1}, "x" * 100_000]


class Hostile(BaseAdapter):
    """Gives the (status, body) in `answers`, which are by a part of the URL."""

    answers: dict[str, tuple[int, bytes]]
    asked = 0

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self.asked += 1
        if self.asked > REQUESTS:
            pytest.fail("there is no end to the requests")
        status, body = next((a for part, a in self.answers.items() if part in str(request.url)), (404, b""))
        response = requests.Response()
        response.status_code, response.url, response.request = status, str(request.url), request
        response.iter_content = lambda *sizes, **how: iter([body])  # type: ignore[method-assign,assignment]
        return response

    def close(self) -> None:
        pass


@functools.cache
def server() -> Hostile:
    """Return the only server at ADDRESS: MLflow's client keeps its connections until the process ends."""
    from pgzoo.tracking import http_limits

    http_limits.transports[ADDRESS] = hostile = Hostile()
    return hostile


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """Replace a few parts of a value with odd ones, omit them or repeat them."""
    for _ in range(draw(st.integers(1, 3))):
        value = draw(_damaged_once(value))
    return value


@st.composite
def _damaged_once(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(ODD))
    if isinstance(value, list):
        place = draw(st.integers(0, len(value) - 1))
        kept = [draw(_damaged_once(value[place]))] * draw(st.sampled_from([0, 1, 2]))
        return [*value[:place], *kept, *value[place + 1 :]]
    key = draw(st.sampled_from(sorted(value)))
    return {**value, key: draw(_damaged_once(value[key]))}


RAW = [
    b"",
    b"\0",
    b"nul",
    b"<!doctype html><p>Sign in",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff\xfe",
    b"1e999",
    b"[]",
]
RAW += [b'{"runs": [', b'{"next_page_token": "again"}', b'{"next\\u005fpage_token": "again"}', b'"text"']


@st.composite
def hostile_answers(draw: st.DrawFn) -> dict[str, tuple[int, bytes]]:
    """Draw the answers of an honest server, with a few of them replaced."""
    answers = {part: (200, json.dumps(value).encode()) for part, value in ANSWERS.items()}
    for part in draw(st.lists(st.sampled_from(sorted(ANSWERS)), min_size=1, max_size=3, unique=True)):
        status = draw(st.sampled_from([200, 200, 200, 204, 302, 400, 404, 429, 500, 503]))
        if draw(st.booleans()):
            body = draw(st.sampled_from(RAW))
        else:
            value = draw(damaged(ANSWERS[part]))
            if isinstance(value, dict) and draw(st.integers(0, 3)) == 0:
                value = {**value, "next_page_token": "again"}
            body = json.dumps(value).encode()
        answers[part] = status, body
    return answers


def page(name: str) -> dict[str, tuple[int, bytes]]:
    """Return the answers of a server whose list of runs never ends, with this spelling of the token's name."""
    honest = {part: (200, json.dumps(value).encode()) for part, value in ANSWERS.items()}
    return honest | {"runs/search": (200, json.dumps({"runs": [FOUND]}).encode()[:-1] + f', "{name}": "a"}}'.encode())}


def files(name: str) -> dict[str, tuple[int, bytes]]:
    honest = {part: (200, json.dumps(value).encode()) for part, value in ANSWERS.items()}
    listed = {"files": [{"path": name, "is_dir": False}, {"path": "config.yaml", "is_dir": False}]}
    return honest | {"artifacts?": (200, json.dumps(listed).encode()), "artifacts/": (200, b"content")}


@contextlib.contextmanager
def hostile(answers: dict[str, tuple[int, bytes]], home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the server give these answers, and check that nothing is written outside of the home."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()  # type: ignore[attr-defined]
    monkeypatch.setattr("pgzoo.tracking.http_limits.MAX_PAGES", 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
    one = server()
    one.answers, one.asked = answers, 0
    outside = home.root.parent
    before = sorted(path for path in outside.rglob("*") if not path.is_relative_to(home.root))
    yield
    assert sorted(path for path in outside.rglob("*") if not path.is_relative_to(home.root)) == before
    assert all(path.resolve().is_relative_to(home.root.resolve()) for path in home.root.rglob("*"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A separate home for each test, within a folder that is otherwise empty."""
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path / "outside" / "home"))
    home = Home.find()
    home.root.mkdir(parents=True)
    monkeypatch.chdir(home.root)
    return home


def read_in_every_way(home: Home) -> list[str]:
    """Read the store as `pgzoo compare`, `pgzoo evaluate` and `pgzoo runs` do; return their errors, "" for none."""

    def silent(*_: object) -> None:
        pass

    def compare() -> None:
        load(RunIndex(home, ADDRESS, silent).select("r")[1], "train/return_mean", silent)

    def evaluate() -> None:
        for found in find("r", home, ADDRESS):
            found.artifact("config.yaml")

    errors = []
    for action in (compare, evaluate, lambda: list_store(ADDRESS, RunFilter(), 3, True, silent)):
        server().asked = 0
        try:
            action()
        except PgzooError as error:
            errors.append(str(error))
        else:
            errors.append("")
    return errors


ENDLESS = "the server's list is too long: stopped reading after 21 pages"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (page("next_page_token"), (ENDLESS, "", ENDLESS)),  # `evaluate` finds the run without a list
        (page("next\\u005fpage_token"), (ENDLESS, "", ENDLESS)),
        (files("../../../evil"), ("", "Couldn't get artifact config.yaml", "")),
        (files("/tmp/evil"), ("", "Couldn't get artifact config.yaml", "")),
    ],
    ids=["pages", "escaped-pages", "parent", "absolute"],
)
def test_endless_pages_and_file_names_that_lead_out_of_the_home_are_refused(
    place: Home, monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[int, bytes]], expected: tuple[str, ...]
) -> None:
    with hostile(answers, place, monkeypatch):
        errors = read_in_every_way(place)
    for error, part in zip(errors, expected, strict=True):
        assert part in error and bool(part) == bool(error)


@pytest.mark.slow
@FEW
@given(answers=hostile_answers())
def test_reading_a_hostile_store_succeeds_or_raises_an_error_of_pgzoo(
    place: Home, monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[int, bytes]]
) -> None:
    with hostile(answers, place, monkeypatch):
        read_in_every_way(place)


@pytest.mark.slow
@FEW
@given(answers=hostile_answers())
@example(answers=page("next_page_token"))
def test_the_runs_command_succeeds_or_prints_one_error(
    place: Home,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    answers: dict[str, tuple[int, bytes]],
) -> None:
    with hostile(answers, place, monkeypatch):
        monkeypatch.setattr("sys.argv", ["pgzoo", "runs", "--tracking-uri", ADDRESS, "--json"])
        with pytest.raises(SystemExit) as ended:
            program()
        out, err = capfd.readouterr()
        assert ended.value.code in (None, 0, 2) and "Traceback" not in err and "\x1b[2J" not in out + err
        assert errors_in(err) == (ended.value.code == 2)


def errors_in(err: str) -> int:
    """Return the number of error messages on stderr."""
    return sum(line.startswith("Error: ") for line in err.splitlines())


def ui(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[list[str], str, str, Any]:
    """Run `pgzoo ui` for the server; return the pages that it opens, its outputs and its exit code."""
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("sys.argv", ["pgzoo", "ui", "--tracking-uri", ADDRESS])
    with pytest.raises(SystemExit) as ended:
        program()
    return opened, *capfd.readouterr(), ended.value.code


def experiment(name: Any) -> dict[str, tuple[int, bytes]]:
    """Return the answers of a server whose only experiment has this id."""
    honest = {part: (200, json.dumps(value).encode()) for part, value in ANSWERS.items()}
    run = {**FOUND, "info": {**INFO, "experiment_id": name}}
    listed = {"experiments": [{**EXPERIMENT, "experiment_id": name}]}
    changed = {"experiments/search": listed, "runs/search": {"runs": [run]}}
    return honest | {part: (200, json.dumps(value).encode()) for part, value in changed.items()}


LINK = f"{ADDRESS}/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=pgzoo"


def test_ui_opens_the_charts_of_an_honest_server(
    place: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with hostile(experiment("1"), place, monkeypatch):
        assert ui(monkeypatch, capfd) == ([LINK], f"{LINK}\n", "", 0)


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "../../evil",
        "1?next=//evil",
        "javascript:alert(1)",
        "\x1b[2J",
        "1\n2",
        "9" * 5000,
        "",
        7,
        None,
        ["1"],
    ],
    ids=repr,
)
def test_ui_refuses_an_invalid_experiment_id_and_opens_no_page(
    place: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: Any
) -> None:
    with hostile(experiment(name), place, monkeypatch):
        opened, out, err, code = ui(monkeypatch, capfd)
    assert (opened, out, code) == ([], "", 2)
    assert err.startswith("Error: Couldn't get the newest experiment from http://hostile.simulated: ")
    assert errors_in(err) == 1 and err.count("\n") <= 2 and len(err) < 500 and "\x1b" not in err


@pytest.mark.slow
@FEW
@given(answers=hostile_answers())
@example(answers=page("next_page_token"))
def test_ui_opens_a_valid_link_or_prints_one_error(
    place: Home,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    answers: dict[str, tuple[int, bytes]],
) -> None:
    with hostile(answers, place, monkeypatch):
        opened, out, err, code = ui(monkeypatch, capfd)
    assert code in (None, 0, 2) and "Traceback" not in err and "\x1b[2J" not in out + err
    assert errors_in(err) == (code == 2) == (not opened)
    assert all(
        re.fullmatch(re.escape(ADDRESS) + r"/(#/experiments/[\w-]{1,64}/runs\?[\w=&]*)?", link) for link in opened
    )


@pytest.mark.slow
@FEW
@given(answers=hostile_answers())
def test_the_uploader_survives_hostile_answers(
    place: Home, monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[int, bytes]]
) -> None:
    from pgzoo.tracking.uploader import Uploader

    folder = place.runs / "g-s0"
    if not folder.exists():
        start = {"t": "start", "ts": 1, "key": "g-s0", "name": "r s0", "group": "g", "experiment": "e", "uri": ADDRESS}
        start |= {"seed": 0, "algorithm": "a", "env": "E-v0", "params": {}, "tags": {}}
        journal = Journal(folder, start, pytest.fail)
        journal.record([10], {"train/return_mean": 1.5})
        journal.artifact("config.yaml", b"a: 1\n")
        journal.end("FINISHED")
    for name in ("ack.json", "run.json", "rejected.jsonl"):
        (folder / name).unlink(missing_ok=True)
    with hostile(answers, place, monkeypatch):
        uploader = Uploader(place)
        for _ in range(3):
            uploader.round()


def test_an_answer_with_more_than_two_million_values_is_refused() -> None:
    from pgzoo.tracking import http_limits

    body = b'{"experiments": [' + b"{}," * 1_000_001 + b"{}]}"
    response = SimpleNamespace(iter_content=lambda *_: iter([body]), ok=True, close=lambda: None)
    with pytest.raises(StoreError, match="more than 2,000,000 values"):
        http_limits.read_bounded(response)
