"""Importing runs from another machine, listing and deleting runs; no store is contacted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pgzoo.cli import main
from pgzoo.errors import UsageError
from pgzoo.tracking import Home, Journal, Session, transfer
from pgzoo.tracking.ledger import start_of
from pgzoo.tracking.transfer import import_runs


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("pgzoo.tracking.session.ensure_uploader", lambda home: None)
    monkeypatch.setenv("PGZOO_HOME", str(tmp_path / "here"))
    return Home.find()


def start(home: Home, group: str, seed: int, algorithm: str = "ppo", **tags: str) -> Journal:
    """Start a run in a home, without a store."""
    session = Session(home, group, "none")
    name = f"{algorithm} s{seed}"
    identity: dict[str, Any] = {"name": name, "experiment": "e", "seed": seed, "algorithm": algorithm, "env": "E-v1"}
    journal = session.journal(f"{group}-s{seed}", tags=tags, **identity)
    journal.artifact("config.yaml", b"x: 1\n")
    journal.record([1000], {"train/return_mean": 1.0})
    return journal


def end(journal: Journal, status: str = "finished") -> None:
    if status != "failed":
        journal.evaluation(2000, "sampled", True, [10.0 + len(status)] * 2, [1, 1])
    journal.summary(2000, {"summary/return_final": 10.0 + len(status)})
    journal.tags({"pgzoo.status": status, "pgzoo.env_steps": "2048"})
    journal.end("FAILED" if status == "failed" else "FINISHED")


def pgzoo(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(main.program, [*words, "--json", "--no-progress"], prog_name="pgzoo")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if code == 0 else result.stderr


def test_a_run_is_imported_once_and_can_be_extended_and_moved(home: Home, tmp_path: Path) -> None:
    there = Home.find({"PGZOO_HOME": str(tmp_path / "there")})
    journal, copy, uri = start(there, "g", 0), home.runs / "g-s0" / "journal.jsonl", "http://server"
    assert "is writing it" in import_runs(there.root, home, uri, False).refused["g-s0"]
    journal.release()
    assert import_runs(there.root, home, uri, False).new == 1
    first = copy.read_bytes()
    assert start_of(copy.parent)["uri"] == uri  # type: ignore[index]
    assert (copy.parent / "artifacts" / "config.yaml").read_bytes() == b"x: 1\n"
    assert import_runs(there.runs, home, "http://other", False).unchanged == 1
    assert copy.read_bytes() == first
    with (there.runs / "g-s0" / "journal.jsonl").open("a") as file:
        file.write('{"t":"end","ts":9,"status":"FINISHED","reason":""}\n{"t":"upd')
    assert import_runs(there.root, home, uri, False).grown == 1
    assert copy.read_bytes() == first + b'{"t":"end","ts":9,"status":"FINISHED","reason":""}\n'
    (copy.parent / "ack.json").write_text("{}")
    assert import_runs(there.root, home, "http://other", True).moved == 1
    assert start_of(copy.parent)["uri"] == "http://other"  # type: ignore[index]
    assert not (copy.parent / "ack.json").exists()
    (there.runs / "g-s0" / "journal.jsonl").write_bytes(first.replace(b'"ppo"', b'"vpg"'))
    assert "another run with the same key" in import_runs(there.root, home, uri, True).refused["g-s0"]


@pytest.fixture
def there(tmp_path: Path) -> Home:
    """The home of another machine, with a run without checkpoints."""
    there = Home.find({"PGZOO_HOME": str(tmp_path / "there")})
    start(there, "g", 0).release()
    return there


def save(there: Home, *steps: int) -> None:
    """Make these the checkpoints of the run."""
    checkpoints = there.runs / "g-s0" / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    for step in steps:
        (checkpoints / f"step-{step:012d}").mkdir(parents=True)
        (checkpoints / f"step-{step:012d}" / "state.json").write_text(str(step))


def add_end(place: Home) -> None:
    """Add a record to the journal of the run."""
    with (place.runs / "g-s0" / "journal.jsonl").open("a") as file:
        file.write('{"t":"end","ts":9,"status":"FINISHED","reason":""}\n')


def copied(home: Home) -> list[str]:
    """Return the checkpoints of the run in this home."""
    return sorted(file.read_text() for file in home.runs.glob("g-s0/checkpoints/step-*/state.json"))


def test_checkpoints_are_imported_with_a_run_and_replaced_unless_this_machine_has_more_records(
    home: Home, there: Home
) -> None:
    import_runs(there.root, home, "http://server", False)
    save(there, 1, 2)
    assert import_runs(there.root, home, "http://server", False).unchanged == 1
    assert copied(home) == ["1", "2"]  # a run of which no checkpoint was copied before
    save(there, 2, 3)
    add_end(there)
    assert import_runs(there.root, home, "http://server", False).grown == 1
    assert copied(home) == ["2", "3"]
    add_end(home)  # as after it was resumed here
    save(there, 4)
    assert import_runs(there.root, home, "http://server", False).unchanged == 1
    assert copied(home) == ["2", "3"]


@pytest.mark.parametrize("grown", [False, True], ids=["new", "grown"])
@pytest.mark.parametrize("complete", [0, 1])
def test_an_interrupted_copy_of_checkpoints_is_completed_by_the_next_one(
    home: Home, there: Home, monkeypatch: pytest.MonkeyPatch, complete: int, grown: bool
) -> None:
    if grown:
        save(there, 1)
        import_runs(there.root, home, "http://server", False)
        add_end(there)
    save(there, 2, 3)
    write, written = transfer.write_folder, []

    def interrupted(target: Path, files: dict[str, bytes]) -> None:
        if len(written) == complete:
            raise KeyboardInterrupt
        written.append(target)
        write(target, files)

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "write_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_runs(there.root, home, "http://server", False)
    assert copied(home) == ["1"] * grown + ["2"] * complete
    assert import_runs(there.root, home, "http://server", False).unchanged == 1
    assert copied(home) == ["2", "3"]


def test_importing_a_folder_without_runs_or_the_home_itself_is_refused(home: Home, tmp_path: Path) -> None:
    end(start(home, "g", 0))
    with pytest.raises(UsageError, match="this home's own folder"):
        import_runs(home.root, home, "http://server", False)
    with pytest.raises(UsageError, match="contains no runs"):
        import_runs(tmp_path / "nothing", home, "http://server", False)
    assert "needs a FOLDER" in pgzoo("sync", "--tracking-uri", "http://server", code=2)


def test_a_run_that_is_started_again_is_listed_as_before_until_it_has_newer_values(home: Home) -> None:
    def listed() -> dict[str, Any]:
        (row,) = pgzoo("runs", "--seeds")
        return {name: row[name] for name in ("status", "steps", "return_final")}

    before = {"status": "stopped", "steps": 2048, "return_final": 17.0}
    end(start(home, "g", 0), "stopped")
    assert listed() == before
    again = start(home, "g", 0)  # as for a run that is complete; its point at step 1000 is not written again
    end(again, "stopped")
    again.release()
    assert listed() == before
    again = start(home, "g", 0)
    for path in range(200):
        again.artifact(f"{path:0100}", b"")  # the first part doesn't fit into what is read first
    again.end("FINISHED")  # as after a verification: with a start and an end, and without tags of its own
    again.release()
    assert listed() == before
    again = start(home, "g", 0)
    assert listed() == before | {"status": "running"}
    again.record([3000], {"train/return_mean": 1.0})
    assert listed() == {"status": "running", "steps": 3000, "return_final": None}
    again.evaluation(4000, "sampled", True, [5.0], [1])
    again.summary(4000, {"summary/return_final": 5.0})
    again.tags({"pgzoo.status": "finished", "pgzoo.env_steps": "4096"})
    again.end("FINISHED")
    again.release()
    assert listed() == {"status": "finished", "steps": 4096, "return_final": 5.0}


def test_runs_are_listed_filtered_and_deleted(home: Home) -> None:
    end(start(home, "g1", 0, project="a"))
    end(start(home, "g2", 0, algorithm="vpg"))
    end(start(home, "g2", 1, algorithm="vpg"), "failed")
    training = start(home, "g3", 0)
    rows = {row["group"]: row for row in pgzoo("runs")}
    assert set(rows) == {"g1", "g2", "g3"}
    assert rows["g2"]["seeds"] == [0, 1] and rows["g2"]["statuses"] == {"finished": 1, "failed": 1}
    assert (rows["g1"]["steps"], rows["g1"]["return_final"]) == (2048, 18.0)
    assert rows["g2"]["return_final"] == 18.0  # that of the failed run is of training episodes
    assert (rows["g3"]["steps"], rows["g3"]["statuses"]) == (1000, {"running": 1})
    for filters, keys in {
        ("--algorithm", "vpg"): {"g2-s0", "g2-s1"},
        ("--status", "failed"): {"g2-s1"},
        ("--name", "ppo"): {"g1-s0", "g3-s0"},
        ("--tag", "project=a"): {"g1-s0"},
        ("--env", "other"): set(),
        ("--since", "1h"): {"g1-s0", "g2-s0", "g2-s1", "g3-s0"},
    }.items():
        assert {row["run_key"] for row in pgzoo("runs", "--seeds", *filters)} == keys, filters
    assert len(pgzoo("runs", "--limit", "2")) == 2
    assert "such as 30m" in pgzoo("runs", "--since", "soon", code=2)
    assert "being written by a process: g3-s0" in pgzoo("runs", "delete", "g1", "g3", "--yes", code=2)
    assert "--yes" in pgzoo("runs", "delete", "g1", code=2) and (home.runs / "g1-s0").exists()
    assert pgzoo("runs", "delete", "g1", "g2", "--yes")["deleted_folders"] == 3
    training.release()
    assert [path.name for path in home.runs.iterdir()] == ["g3-s0"]
    assert pgzoo("runs")[0]["statuses"] == {"killed": 1}
