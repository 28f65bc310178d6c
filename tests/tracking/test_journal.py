"""The journal: which records are written, which values are omitted, and what survives faults."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from program import eventually

from pgzoo.errors import StoreError
from pgzoo.tracking import Home, Journal, Session
from pgzoo.tracking.journal import clean_key, count_lines, parse, records, records_of
from pgzoo.tracking.ledger import Ledger, pending, pending_of
from pgzoo.tracking.locks import is_locked

START = {"t": "start", "ts": 1, "key": "k", "name": "little s0", "uri": "sqlite:////x.db"}


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    journal = open_journal(tmp_path)
    yield journal
    journal.release()


def open_journal(folder: Path, warnings: list[str] | None = None) -> Journal:
    return Journal(folder, dict(START), (warnings if warnings is not None else []).append)


def lines(journal: Journal) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (journal.path / "journal.jsonl").read_text().splitlines()]


def test_a_record_is_written_as_one_line_with_a_timestamp(journal: Journal) -> None:
    before = time.time() * 1000 - 1
    journal.record([1000, 2000], {"train/return_mean": 20.5}, ([400, 2000], [19.0, 22.0], [19, 22]))
    _, line = lines(journal)
    assert before <= line.pop("ts") <= time.time() * 1000
    assert line == {
        "t": "update",
        "steps": [1000, 2000],
        "m": {"train/return_mean": 20.5},
        "e": [[400, 2000], [19.0, 22.0], [19, 22]],
    }


def test_values_that_are_not_finite_are_counted_and_left_out(journal: Journal) -> None:
    journal.record([10], {"a": math.nan, "b": math.inf, "c": 1.0})
    journal.record([20], {"a": math.nan})
    assert [line.get("m") for line in lines(journal)] == [None, {"c": 1.0}]
    assert journal.dropped == 3


def test_an_evaluation_record_contains_summary_statistics(journal: Journal) -> None:
    journal.evaluation(50, "sampled", True, [1.0, 3.0], [10, 20])
    journal.evaluation(50, "greedy", True, [4.0, 6.0], [10, 20])
    _, sampled, greedy = lines(journal)
    assert sampled["m"] == {"eval/return_mean": 2.0, "eval/return_std": 1.0, "eval/length_mean": 15.0}
    assert greedy["m"] == {"eval/greedy_return_mean": 5.0}


def test_an_evaluation_without_episodes_or_with_a_nan_has_no_statistics(journal: Journal) -> None:
    journal.evaluation(1, "sampled", False, [], [])
    journal.evaluation(2, "sampled", False, [math.nan, 1.0], [1, 2])
    assert [line.get("m") for line in lines(journal)[1:]] == [{}, {}]
    assert lines(journal)[2]["returns"] == [None, 1.0]


def test_a_resumed_journal_records_no_step_twice(tmp_path: Path) -> None:
    first = open_journal(tmp_path)
    first.record([10, 20], {"a": 1.0}, ([20], [5.0], [5]))
    first.evaluation(20, "sampled", True, [1.0], [1])
    first.release()
    again = open_journal(tmp_path)
    assert again.resumed
    assert not first.resumed
    assert again.tail.metrics == 20
    assert again.take_episodes().returns == [5.0]
    assert not again.tail.episodes.returns and again.tail.last_episode == 20
    again.record([20, 30], {"a": 2.0}, ([20, 30], [5.0, 6.0], [5, 6]))
    again.record([20], {"a": 2.0})
    again.evaluation(20, "sampled", True, [1.0], [1])
    again.evaluation(20, "greedy", True, [1.0], [1])
    again.release()
    later = lines(again)[3:]
    assert [line["t"] for line in later] == ["start", "update", "evaluation"]
    assert later[1]["steps"] == [30]
    assert later[1]["e"] == [[30], [6.0], [6]]


def test_an_incomplete_last_line_is_removed_when_the_run_is_resumed(tmp_path: Path) -> None:
    open_journal(tmp_path).release()
    file = tmp_path / "journal.jsonl"
    with file.open("ab") as handle:
        handle.write(b'{"t":"update","ts":2}\n{"t":"upd')
    assert len(list(records(tmp_path))) == 2
    again = open_journal(tmp_path)
    assert [line["t"] for line in lines(again)] == ["start", "update", "start"]
    again.release()


def test_lines_that_are_not_records_are_read_as_none(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b'{"t":"a"}\nnonsense\n[1]\n\xff\xfe\n{"t":"b"}\n')
    assert [r and r["t"] for r, _ in records(tmp_path)] == ["a", None, None, None, "b"]
    assert [r and r["t"] for r, _ in records(tmp_path, offset=10)] == [None, None, None, "b"]
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "journal.jsonl").write_text(f'{deep}\n{{"t":"b"}}\n')
    assert [r and r["t"] for r, _ in records(tmp_path)] == [None, "b"]


def test_two_trainers_cannot_write_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_journal(tmp_path)
    assert is_locked(tmp_path / "lock")
    monkeypatch.setattr("pgzoo.tracking.journal.LOCK_WAIT", 0.1)
    with pytest.raises(StoreError, match="written by another process"):
        open_journal(tmp_path)
    first.release()
    assert not is_locked(tmp_path / "lock")


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from pgzoo.tracking.locks import lock\n"
    code += "mine = lock(Path(sys.argv[1])); print('held', flush=True); time.sleep(3600)"
    path = tmp_path / "lock"
    child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert is_locked(path)
        child.kill()
    assert not is_locked(path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_does_not_hold_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    code = "import os, sys, time; from pathlib import Path; from pgzoo.tracking.locks import lock\n"
    code += "mine = lock(Path(sys.argv[1]))\n"
    code += "child = os.fork()\nif child == 0: time.sleep(3600); os._exit(0)\nprint(child, flush=True)\nos._exit(9)"
    path = tmp_path / "lock"
    out = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert out.stdout is not None
    worker = int(out.stdout.readline())
    out.wait()
    try:
        eventually(lambda: not is_locked(path))  # the worker closes the lock's file when it is first scheduled
    finally:
        os.kill(worker, 9)
        out.stdout.close()


def test_no_record_is_lost_if_a_full_disk_has_space_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    journal = open_journal(tmp_path, warnings)
    write = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    journal.record([1], {"a": 1.0})
    journal.record([2], {"a": 2.0})
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    journal.record([3], {"a": 3.0})
    monkeypatch.setattr(os, "write", write)
    journal.record([4], {"a": 4.0})
    journal.end("FINISHED")
    assert [line["steps"] for line in lines(journal)[1:-1]] == [[1], [2], [3], [4]]
    assert journal.lost == 0
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]


def test_records_beyond_the_backlog_limit_are_lost_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path)
    monkeypatch.setattr("pgzoo.tracking.journal.BACKLOG", 500)
    with monkeypatch.context() as patch:

        def full(fd: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "write", full)
        for step in range(1, 101):
            journal.record([step], {"a": 1.0})
    journal.end("FINISHED")
    steps = [line["steps"][0] for line in lines(journal)[1:-1]]
    assert steps[0] == 1
    assert steps[-1] == 100
    assert journal.lost == 100 - len(steps) > 80


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", ".", "a\\b", "c:x", "a\0b"])
def test_an_unsafe_artifact_path_is_refused(journal: Journal, path: str) -> None:
    with pytest.raises(ValueError, match="artifact path"):
        journal.artifact(path, b"")


def test_an_artifact_path_through_a_symlink_to_another_folder_is_refused(
    journal: Journal, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (journal.path / "artifacts" / "link").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(ValueError, match="leads out"):
        journal.artifact("link/x", b"")


def test_an_artifact_is_written_completely_and_recorded(journal: Journal, tmp_path: Path) -> None:
    kept = journal.artifact("policy/policy.safetensors", b"abc")
    copied = journal.artifact("video.mp4", kept)
    assert kept.read_bytes() == copied.read_bytes() == b"abc"
    assert [line["path"] for line in lines(journal)[1:]] == ["policy/policy.safetensors", "video.mp4"]
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("train/return_mean", "train/return_mean"),
        ("acc%[x]", "acc__x_"),
        ("/a//b/", "a/b"),
        ("../../a", "a"),
        ("..", "_"),
        ("", "_"),
        ("x" * 300, "x" * 250),
        ("é a.b-c", "é a.b-c"),
    ],
)
def test_names_are_changed_to_valid_mlflow_names(name: str, clean: str) -> None:
    assert clean_key(name) == clean


def test_an_invalid_run_key_is_refused(tmp_path: Path) -> None:
    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    session = Session(home, "g", home.default_uri)
    for key in ("../x", "", "a/b", ".hidden"):
        with pytest.raises(ValueError, match="run key"):
            session.journal(key, name="n", experiment="e", seed=0, algorithm="a", env="e")
    assert list(home.runs.iterdir()) == []
    assert not session.close(0)


def test_a_run_is_pending_until_its_records_and_files_are_uploaded(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.record([1], {"a": 1.0})
    journal.end("FINISHED")
    left = pending_of([tmp_path])
    assert (left.runs, left.records, str(left)) == (1, 3, "3 records and 1 file of 1 run")
    size = (tmp_path / "journal.jsonl").stat().st_size
    Ledger(offset=size, closed="FINISHED").write(tmp_path)
    assert str(pending_of([tmp_path])) == "1 file of 1 run"
    Ledger(offset=size, closed="FINISHED", reported=True, model="m-1").write(tmp_path)
    assert str(pending_of([tmp_path])) == "1 file of 1 run"
    Ledger(offset=size, closed="FINISHED", reported=True, model="m-1", plots="omitted").write(tmp_path)
    assert not pending_of([tmp_path])


@pytest.mark.parametrize(("runs", "awaited"), [(10, True), (11, False), (50, False), (51, True)])
def test_closing_a_session_does_not_wait_for_the_plots_of_11_to_50_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int, awaited: bool
) -> None:
    """The plots of more than 50 runs are omitted, which takes no time, so these runs are waited for."""
    monkeypatch.setattr("pgzoo.tracking.session.ensure_uploader", lambda home: None)
    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    session = Session(home, "group", home.default_uri)
    for run in range(runs):
        journal = session.journal(f"r{run}", name="n", experiment="e", seed=run, algorithm="a", env="e")
        journal.end("FINISHED")
        size = (journal.path / "journal.jsonl").stat().st_size
        ledger = Ledger(offset=size, closed="FINISHED", reported=True, model="m-1")
        if run == 0:  # drawn, and not uploaded yet
            ledger.plots, ledger.files = "drawn", ["plots/learning_curve.png"]
        ledger.write(journal.path)
    left = session.close(0)
    assert (left.runs, left.files, left.plots) == ((runs, runs, 0) if awaited else (0, 0, runs))
    assert bool(left) == awaited
    assert pending(home).runs == runs
    ledger.files = ["episodes.csv"]
    ledger.write(journal.path)
    assert session.pending().files == (runs + 1 if awaited else 2)


def test_records_are_found_by_kind_without_parsing_others_and_lines_are_counted(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.record([1], {"a": 1.0})
    journal.tags({"a": "b"})
    journal.end("FINISHED")
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"ts": 1, "t": "end", "status": "KILLED", "reason": ""}\n')  # written by another program
        file.write(b'{"t":"end"}\n{"t":"end\n[1]\n\n{"t":"end","ts":1,"status":"KILLED","reason":""}')
    everything, parsed = list(records(tmp_path)), list[bytes]()

    def parse_and_note(line: bytes) -> dict[str, Any] | None:
        parsed.append(line)
        return parse(line)

    monkeypatch.setattr("pgzoo.tracking.journal.parse", parse_and_note)
    for kinds in (("start",), ("end", "tags"), ("update",), ()):
        parsed.clear()
        assert list(records_of(tmp_path, *kinds)) == [r for r, _ in everything if r and r["t"] in kinds]
        others = tuple(f'{{"t":"{kind}"'.encode() for kind in {"start", "update", "tags", "end"}.difference(kinds))
        assert not [line for line in parsed if line.startswith(others)]
    assert [r["status"] for r in records_of(tmp_path, "end")] == ["FINISHED", "KILLED"]
    offsets = [0, *(offset for _, offset in everything)]
    assert [count_lines(tmp_path, offset) for offset in offsets] == [len(everything) - k for k in range(len(offsets))]
    assert (list(records_of(tmp_path / "none", "end")), count_lines(tmp_path / "none", 0)) == ([], 0)


def test_a_damaged_ledger_is_read_as_empty(tmp_path: Path) -> None:
    for damaged in ("{", "[" * 100_000):
        (tmp_path / "ack.json").write_text(damaged)
        assert Ledger.read(tmp_path) == Ledger()


def test_importing_and_writing_a_journal_loads_no_heavy_packages(tmp_path: Path) -> None:
    code = (
        "import sys, pgzoo.tracking, pathlib\nfrom pgzoo.tracking import journal\n"
        "j = journal.Journal(pathlib.Path(sys.argv[1]), {'t': 'start', 'key': 'k', 'name': 'n'}, print)\n"
        "j.record([1], {'a': 1.0}); j.end('FINISHED')\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names))"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", code, str(tmp_path)],
        env=path_env(),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(eval_list(run.stdout))
    assert run.stderr == ""
    assert loaded <= {"filelock", "pgzoo", "__main__", "typing_extensions"}


def path_env() -> dict[str, str]:
    import filelock

    import pgzoo

    places = [str(Path(str(module.__file__)).parents[1]) for module in (filelock, pgzoo)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def eval_list(text: str) -> list[str]:
    names: list[str] = json.loads(text.replace("'", '"'))
    return names


def test_writing_a_record_of_ten_metrics_takes_under_a_millisecond(journal: Journal) -> None:
    metrics = {f"group/metric_{i}": i / 7 for i in range(10)}
    begin = time.process_time()
    for step in range(2000):
        journal.record([step], metrics, ([step], [1.0], [1]))
    assert (time.process_time() - begin) / 2000 < 1e-3


def test_the_example_in_the_documentation_runs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace("with tracking", "import pgzoo.tracking.session as s; s.ensure_uploader = print\nwith tracking")
    code = code.replace("# leaving", "    session.close(0)\n# leaving")
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {"PGZOO_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, stdout=subprocess.DEVNULL, timeout=600)
    kinds = [r and r["t"] for r, _ in records(tmp_path / "runs" / "my-study-s0")]
    assert kinds == ["start", "update", "artifact", "end"]


def test_an_exception_in_a_session_ends_its_runs_as_failed_or_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgzoo.tracking.session.ensure_uploader", lambda home: None)
    home = Home.find({"PGZOO_HOME": str(tmp_path)})
    monkeypatch.setattr(Session.close, "__defaults__", (0.0,))

    def fail(error: type[BaseException]) -> None:
        with Session(home, "g", home.default_uri) as session:
            session.journal(error.__name__, name="n", experiment="e", seed=0, algorithm="a", env="e")
            raise error("why")

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            fail(error)
    ends = [list(records(home.runs / key))[-1][0] for key in ("RuntimeError", "KeyboardInterrupt")]
    assert [(end["status"], end["reason"]) for end in ends if end] == [
        ("FAILED", "RuntimeError: why"),
        ("KILLED", "KeyboardInterrupt: why"),
    ]


def test_sync_retries_records_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path, [])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: 0)
        journal.record([1], {"a": 1.0})
        assert not journal.sync()
    assert journal.sync()
    assert [line["steps"] for line in lines(journal)[1:]] == [[1]]


def test_sync_fails_until_the_folder_can_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, flush = open_journal(tmp_path, []), os.fdatasync if hasattr(os, "fdatasync") else os.fsync
    failing = [True]

    def sync(descriptor: int) -> None:
        if failing[0] and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    monkeypatch.setattr(os, flush.__name__, sync)
    assert not journal.sync()
    failing[0] = False
    assert journal.sync()


def test_sync_flushes_the_folders_of_an_artifact_that_could_not_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, flush = open_journal(tmp_path, []), os.fdatasync if hasattr(os, "fdatasync") else os.fsync
    assert journal.sync()
    failing, flushed = [True], set[int]()

    def sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if failing[0] and stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)
        flushed.add(status.st_ino)

    monkeypatch.setattr(os, flush.__name__, sync)
    file = journal.artifact("plots/curve.txt", b"1")
    assert file.read_bytes() == b"1" and not journal.sync()
    failing[0] = False
    assert journal.sync()
    assert {folder.stat().st_ino for folder in (file.parent, file.parent.parent, journal.path)} <= flushed


def test_a_journal_whose_first_line_is_incomplete_is_neither_pending_nor_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"t":"start","ts":1,"ke')
    assert not pending_of([tmp_path]) and not pending_of([tmp_path]).refused
    (tmp_path / "journal.jsonl").write_text("nonsense\n")
    assert pending_of([tmp_path]).runs == 1
