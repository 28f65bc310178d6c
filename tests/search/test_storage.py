"""Studies in a database or a journal file: killed processes, surplus trials, missing drivers, and passwords."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
import time
import warnings
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faults.scenarios import Postgres
from program import Folder, eventually

from pgzoo.config import Layer
from pgzoo.errors import StoreError
from pgzoo.quiet import without_warnings
from pgzoo.registry import discover
from pgzoo.runs.resolve import compose
from pgzoo.search import storage as storages
from pgzoo.search.options import SearchOptions
from pgzoo.search.space import checked_space, parse_search
from pgzoo.search.storage import GRACE, open_storage, storage_errors
from pgzoo.search.study import Study, worker_lock
from pgzoo.search.trial import Outcome
from pgzoo.tracking.locks import is_locked

optuna = pytest.importorskip("optuna", reason="the extra sweep is not installed")

PASSWORD = "pa55word-that-is-marked"


def open_study(folder: Path, storage: str | None, trials: int = 3) -> Study:
    catalog = discover()
    base = compose(Layer({"algorithm": "ppo", "env": "CartPole-v1", "seeds": 2}, ".".join), catalog, preset="none")
    options = SearchOptions(["gamma=0.9..0.99"], trials=trials, storage=storage, study="s")
    return Study("s", folder, options, checked_space(parse_search(options.space), base, catalog), base)


def ask(study: Study, worker: str) -> Any:
    trial = study.ask(worker)
    if trial is not None:
        trial.suggest_float("gamma", 0.9, 0.99)
        trial.set_user_attr("settings", dict(trial.params))
    return trial


def states(study: Study) -> list[tuple[int, str, int | None]]:
    return [(trial.number, trial.state.name, trial.user_attrs.get("repeats")) for trial in study.trials()]


def finished(number: int) -> Outcome:
    return Outcome(number, "finished", (1.0, 2.0))


def test_a_trial_on_another_machine_is_requeued_when_its_heartbeats_stop(tmp_path: Path) -> None:
    database = tmp_path / "optuna.db"
    here, there = (open_study(tmp_path / name, f"sqlite:///{database}") for name in ("here", "there"))
    assert here.group == there.group
    with worker_lock(there.folder) as worker:
        lost, kept = ask(there, worker), ask(there, worker)
        here.put_back_abandoned()
        assert states(here) == [(0, "RUNNING", None), (1, "RUNNING", None)]
        with closing(sqlite3.connect(database)) as store, store:
            late = f"datetime(heartbeat, '-{GRACE + 5} seconds')"
            trial_id = lost._trial_id
            store.execute(f"UPDATE trial_heartbeats SET heartbeat = {late} WHERE trial_id = ?", (trial_id,))
        for study in (here, there, here):
            study.put_back_abandoned()
        assert states(here) == [(0, "FAIL", None), (1, "RUNNING", None), (2, "WAITING", 0)]
        again = ask(here, "me")
        assert again.number == 2 and again.params == lost.params
        # the process of the lost trial is still alive: it is told to stop, and its result isn't used
        assert there.report(lost, 1, 5.0) and not there.tell(lost, finished(0))
        assert there.tell(kept, finished(1)) and here.tell(again, finished(2))
    assert [row.number for row in here.rows()] == [1, 2]


def ask_at_once(*studies: Study) -> list[int | None]:
    """Let each study create a trial before any checks whether it is surplus. The answer of a surplus one is None."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        for study, created in [(study, study.optuna.ask()) for study in studies]:
            patch.setattr(study.optuna, "ask", lambda created=created: created)
        answers = [ask(study, "me") for study in studies]
    return [trial and trial.number for trial in answers]


def test_processes_that_ask_at_the_same_time_get_no_surplus_trials(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/optuna.db"
    one, other = (open_study(tmp_path / name, database) for name in ("one", "other"))
    assert ask_at_once(one, other) == [0, 1] and ask_at_once(one, other) == [2, None]
    assert states(one)[3] == (3, "FAIL", None)
    one.put_back(0)
    queued = one.trials("WAITING")[0]
    other.optuna.enqueue_trial(queued.params, user_attrs=queued.user_attrs)  # as if both had requeued it
    one, other = (open_study(tmp_path / name, database, trials=4) for name in ("one", "other"))
    assert ask_at_once(one, other) == [4, None]  # though there may be one more trial
    assert not one.trials("WAITING")


def test_a_trial_that_is_put_back_before_its_values_were_drawn_keeps_the_queued_ones(tmp_path: Path) -> None:
    catalog = discover()
    base = compose(Layer({"algorithm": "ppo", "env": "CartPole-v1", "seeds": 2}, ".".join), catalog, preset="none")
    options = SearchOptions(["epochs=1,2", "minibatches=3,4"], sampler="grid", study="s")
    study = Study("s", tmp_path, options, checked_space(parse_search(options.space), base, catalog), base)
    study.ask("me")
    drawn = study.ask("me")
    drawn.suggest_categorical("epochs", [1, 2])
    for number in (0, 1):
        study.put_back(number)
    queued = [(one.user_attrs["repeats"], one.system_attrs["fixed_params"]) for one in study.trials()[-2:]]
    assert queued == [(0, {"epochs": 1, "minibatches": 3}), (1, {"epochs": 1, "minibatches": 4})]


def test_a_study_in_a_journal_file_detects_killed_processes_by_their_locks(tmp_path: Path) -> None:
    study = open_study(tmp_path, None)
    with suppress(ZeroDivisionError), worker_lock(tmp_path) as worker:
        ask(study, worker)
        study.put_back_abandoned()
        assert states(study) == [(0, "RUNNING", None)]
        raise ZeroDivisionError  # releases the lock, as the kernel does when a process is killed
    assert not is_locked(tmp_path / "workers" / f"{worker}.lock")
    study.put_back_abandoned()
    assert states(study) == [(0, "FAIL", None), (1, "WAITING", 0)]


@pytest.mark.parametrize(("module", "package"), [("psycopg2", "psycopg2-binary"), ("psycopg", '"psycopg[binary]"')])
def test_a_missing_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    url = f"postgresql+{module}://user:{PASSWORD}@127.0.0.1:1/optuna"
    with pytest.raises(StoreError) as raised, storage_errors(url, tmp_path):
        open_storage(url, tmp_path)
    assert str(raised.value) == (
        f"The Optuna storage postgresql+{module}://user:***@127.0.0.1:1/optuna can't be used: its driver {module} "
        f"isn't installed: pip install {package}"
    )


@pytest.mark.slow
@pytest.mark.skipif(bool(Postgres.missing()), reason=Postgres.missing() or "-")
def test_a_killed_worker_on_another_machine_loses_only_its_running_trial(tmp_path: Path) -> None:
    postgres = Postgres()
    places = [tmp_path / name for name in ("main", "worker")]
    for place in places:
        place.mkdir()
    main, worker = map(Folder, places)
    try:
        postgres.start()
        url = postgres.uri.replace("pgzoo@", f"pgzoo:{PASSWORD}@")  # this server asks for no password
        words = (
            "sweep ppo --env CartPole-v1 --preset none --search learning_rate=log:1e-4..1e-2 --trials 5 --batch 1 "
            "--seeds 2 --top 1 --fresh-seeds 2 --total-steps 20000 --eval-episodes 2 --tracking-uri none --study pg "
            "--json"
        ).split()
        started = main.start(*words, PGZOO_STORAGE=url)
        eventually(lambda: list(places[0].glob(".pgzoo/runs/*-s1")))
        joined = worker.start("sweep", "--join", "pg", "--tracking-uri", "none", PGZOO_STORAGE=url)
        eventually(lambda: list(places[1].glob(".pgzoo/runs/*-s1")))
        os.kill(joined.pid, signal.SIGKILL)
        trained_there = {int(path.name.rpartition("-")[2]) for path in places[1].glob(".pgzoo/runs/*-trial-*")}
        assert PASSWORD not in Path(f"/proc/{started.pid}/cmdline").read_text()
        postgres.stop()  # a restart of the database doesn't end the search
        time.sleep(2)
        postgres.start()
        out, err = started.communicate()
        assert started.returncode == 0, err
        result = main.parse(out)
        trials = optuna.load_study(study_name="pg", storage=url).trials
        done, code = main.pgzoo("runs", "delete", "pg", "--yes", PGZOO_STORAGE=url)
        gone = main.start("sweep", "--join", "pg", PGZOO_STORAGE=url)
        said = gone.communicate()[1]
        texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        studies = optuna.get_all_study_names(url)
    finally:
        main.close()
        worker.close()
        postgres.close()
    rows = result["trials"]
    assert len(rows) == 5 and {row["status"] for row in rows} == {"finished"} and result["winner"]
    assert len({row["settings"]["learning_rate"] for row in rows}) == 5
    [failed] = [trial for trial in trials if trial.state.name == "FAIL"]
    [again] = [trial for trial in trials if "repeats" in trial.user_attrs]
    assert failed.number in trained_there and again.params == failed.params
    assert studies == [] and not list(places[0].glob(".pgzoo/runs/*")) and not list(places[0].glob(".pgzoo/studies/*"))
    assert gone.returncode == 2 and "No study pg in postgresql" in said and "was deleted" in said
    assert PASSWORD not in err + said + out + done + code
    assert not any(PASSWORD.encode() in text for text in texts)


def test_a_storage_that_is_opened_while_a_thread_hides_warnings_restores_the_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow_storage(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        assert leave.wait(10)
        return SimpleNamespace(engine=None)

    monkeypatch.setattr(optuna.storages, "RDBStorage", slow_storage)
    monkeypatch.setattr(storages, "_reconnect_patiently", lambda engine: None)
    before = list(warnings.filters)
    thread = threading.Thread(target=open_storage, args=("sqlite://", tmp_path))
    with without_warnings():  # as in a thread that compiles
        thread.start()
        assert entered.wait(10)
    leave.set()
    thread.join()
    assert list(warnings.filters) == before
