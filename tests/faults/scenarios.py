"""Faults that may occur while a run is tracked, tested with the real program; for the tests and for `make faults`.

Each scenario trains `steady.py` in a separate folder, injects the fault, ends it if possible, uploads the rest with
`pgzoo sync`, and compares the store with the points that training recorded.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from program import PATIENCE, Folder, Server, eventually

from pgzoo.tracking import Home
from pgzoo.tracking.home import sqlite_path
from pgzoo.tracking.journal import records
from pgzoo.tracking.ledger import Ledger, read_json
from pgzoo.tracking.run_upload import metric_rows

HERE = Path(__file__).resolve().parent
EVERY = 200
"""Environment steps between two points of a curve: about one update."""
LOCKED = 30.0
AWHILE = 5.0
"""Seconds that a fault lasts, in which the uploader retries several times."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run despite a fault."""

    status: str
    """Status in MLflow at the end."""
    lost: int
    """Number of points that training recorded and the store doesn't have."""
    twice: int
    """Number of duplicate points in the store."""
    delay: float | None
    """Seconds that the training loop spent on tracking, including checkpoints; None if they are unknown."""
    said: str
    """The messages that the user saw."""


@dataclass(frozen=True)
class Scenario:
    """A fault, despite which the run must finish, with each of its points in the store exactly once."""

    fault: str
    happens: str
    play: Callable[[Folder], Outcome]
    says: str = ""
    """Pattern of the message that the user must see; empty if none is necessary."""
    slow: bool = False
    missing: Callable[[], str] = str
    """Returns why the scenario can't run here and what to install; empty if it can."""

    @property
    def name(self) -> str:
        return self.play.__name__

    def message(self, outcome: Outcome) -> str:
        """Return the message that the user must see; empty if it is missing or none is necessary."""
        lines = outcome.said.splitlines() if self.says else []
        return next((line for line in lines if re.search(self.says, line)), "")


HOLD_STORE = """
import os, sys, time

def wait(event, arguments):
    if event == "os.rename" and str(arguments[0]).endswith(".mlflow.db.new") and os.path.exists({hold!r}):
        open({held!r}, "w").close()
        time.sleep(600)

sys.addaudithook(wait)
"""
"""Imported by each process at its start: holds the uploader before it renames a new database to its final name."""


class Trainer:
    """A process of `pgzoo run steady`, which is held before some of its 150 updates."""

    def __init__(self, folder: Folder, *arguments: str, holds: Sequence[int] = (), **env: Any) -> None:
        self.folder = folder
        for update in holds:
            self._hold(update).touch()
        fixed = ("--import", str(HERE / "steady.py"), "--env", "CartPole-v1", "--log-every", str(EVERY))
        self.child = folder.start("run", "steady", *fixed, "--eval-episodes", "4", "--json", *arguments, **env)

    def reach(self, update: int) -> None:
        """Wait until the trainer is held before this update."""
        held = self.folder.path / f"held-{update}"
        eventually(lambda: held.exists() or self.child.poll() is not None)
        assert held.exists(), self.child.communicate()

    def release(self, update: int) -> None:
        self._hold(update).unlink()

    def end(self) -> tuple[dict[str, Any], str]:
        """Wait until the trainer ends; return its JSON output and its messages."""
        out, err = self.child.communicate(timeout=PATIENCE)
        assert self.child.returncode == 0, err
        assert "Traceback" not in err, err
        return self.folder.parse(out), err

    def kill(self) -> None:
        self.child.kill()
        self.child.communicate()

    def _hold(self, update: int) -> Path:
        return self.folder.path / f"hold-{update}"


class Postgres:
    """A separate PostgreSQL cluster on loopback; as it refuses to run as root, `postgres` runs it for root."""

    def __init__(self) -> None:
        self.user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        self.path = Path(tempfile.mkdtemp(prefix="pgzoo-pg-"))
        if self.user:
            shutil.chown(self.path, "postgres", "postgres")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.uri = f"postgresql+psycopg2://pgzoo@127.0.0.1:{self.port}/postgres"
        self._call("initdb", "--pgdata", "data", "--auth", "trust", "--username", "pgzoo", "--no-sync")

    @staticmethod
    def programs() -> Path | None:
        """Return the folder of its programs; Debian has a folder for each version, which isn't on the path."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        there = shutil.which("initdb")
        return found[-1].parent if found else Path(there).parent if there else None

    @classmethod
    def missing(cls) -> str:
        if cls.programs() is None:
            return "PostgreSQL isn't installed: apt-get install postgresql"
        if importlib.util.find_spec("psycopg2") is None:
            return "its driver isn't installed: pip install psycopg2-binary"
        return ""

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.path} -F"
        self._call("pg_ctl", "--pgdata", "data", "--log", "log", "--wait", "--options", options, "start")

    def stop(self) -> None:
        """Stop it immediately, as a power cut would."""
        self._call("pg_ctl", "--pgdata", "data", "--mode", "immediate", "stop")

    def close(self) -> None:
        with contextlib.suppress(AssertionError):
            self.stop()
        shutil.rmtree(self.path, ignore_errors=True)

    def _call(self, program: str, *arguments: str) -> None:
        folder = self.programs()
        assert folder is not None
        with tempfile.TemporaryFile() as said:  # a pipe would be kept open by the server
            command = [str(folder / program), *arguments]
            done = subprocess.run(command, cwd=self.path, stdout=said, stderr=said, check=False, **self.user)  # type: ignore[call-overload]
            said.seek(0)
            assert done.returncode == 0, said.read().decode()


def ask(uri: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
    """Query a store's database without mlflow; `?` stands for a value."""
    file = sqlite_path(uri)
    if file is not None:
        with contextlib.closing(sqlite3.connect(file, timeout=PATIENCE)) as database:
            return database.execute(query, values).fetchall()
    import psycopg2

    with contextlib.closing(psycopg2.connect(uri.replace("+psycopg2", ""))) as database, database.cursor() as cursor:
        cursor.execute(query.replace("?", "%s"), values)
        return list(cursor.fetchall())


def journal_of(folder: Folder) -> Path:
    """Return the folder of the only run, as soon as it exists."""
    found = eventually(lambda: list(folder.path.glob(".pgzoo/runs/*/journal.jsonl")))
    assert len(found) == 1
    return Path(found[0]).parent


def until_shipped(folder: Folder) -> None:
    """Wait until the records so far are in the store, so that the fault occurs in the middle of the run."""
    run = journal_of(folder)
    eventually(lambda: Ledger.read(run).offset >= (run / "journal.jsonl").stat().st_size)


def until_met(folder: Folder) -> str:
    """Wait until the uploader has encountered the fault; return what `pgzoo doctor` reports about it."""
    status = folder.path / ".pgzoo" / "status.json"
    eventually(lambda: any(store["error"] for store in read_json(status).get("stores", {}).values()))
    found = json.loads(folder.pgzoo("doctor", "--json")[0])["findings"]
    return next(str(one["detail"]) for one in found if one["name"] == "not uploaded yet")


def judge(
    run: Path, said: str, store: str = "", answer: dict[str, Any] | None = None, *, reach: int | None = None
) -> Outcome:
    """Compare a run in the store with its journal, and with the points that it must have reached."""
    store = store or Home.find({}, run.parents[2]).default_uri
    [(run_id, status)] = ask(
        store,
        "SELECT r.run_uuid, r.status FROM runs r JOIN tags t ON r.run_uuid = t.run_uuid "
        "WHERE t.key = 'pgzoo.run_key' AND t.value = ?",
        run.name,
    )
    shipped = ask(store, "SELECT key, value, timestamp, step FROM metrics WHERE run_uuid = ?", run_id)
    told = {row for record, _ in records(run) if record and "m" in record for row in metric_rows(record)}
    last = reach or (answer["env_steps"] if answer else max(row[3] for row in told if row[0] == "loss/policy"))
    due = set(range(EVERY, last + 1, EVERY))
    assert len(due) > 10
    lost = len(told - set(shipped))
    lost += sum(len(due - {row[3] for row in shipped if row[0] == n}) for n in ("loss/policy", "time/steps_per_second"))
    twice = len(shipped) - len({(name, step) for name, _, _, step in shipped})
    return Outcome(status, lost, twice, answer["timing"]["track"] if answer else None, said)


def sync(folder: Folder) -> None:
    folder.pgzoo("sync")


def server_restarted(folder: Folder) -> Outcome:
    with serving(folder) as server:
        server.start()
        trainer = Trainer(folder, "--tracking-uri", server.uri, holds=(50, 100))
        trainer.reach(50)
        until_shipped(folder)
        server.kill()
        trainer.release(50)
        trainer.reach(100)
        said = until_met(folder)
        server.start()
        trainer.release(100)
        answer, _ = trainer.end()
        sync(folder)
        return judge(journal_of(folder), said, server.store, answer)


def server_never_there(folder: Folder) -> Outcome:
    with serving(folder) as server:
        answer, said = Trainer(folder, "--tracking-uri", server.uri).end()
        server.start()
        sync(folder)
        return judge(journal_of(folder), said, server.store, answer)


def server_hanging(folder: Folder) -> Outcome:
    folder.env["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "2"
    with serving(folder) as server:
        with socket.create_server(("127.0.0.1", server.port)):  # it accepts, and says nothing
            trainer = Trainer(folder, "--tracking-uri", server.uri, holds=(100,))
            trainer.reach(100)
            until_met(folder)
            trainer.release(100)
            answer, said = trainer.end()
        server.start()
        sync(folder)
        return judge(journal_of(folder), said, server.store, answer)


def postgres_restarted(folder: Folder) -> Outcome:
    postgres = Postgres()
    try:
        postgres.start()
        with serving(folder, postgres.uri) as server:
            server.start()
            trainer = Trainer(folder, "--tracking-uri", server.uri, holds=(50, 100))
            trainer.reach(50)
            until_shipped(folder)
            postgres.stop()
            trainer.release(50)
            trainer.reach(100)
            said = until_met(folder)
            postgres.start()
            trainer.release(100)
            answer, _ = trainer.end()
            sync(folder)
            return judge(journal_of(folder), said, postgres.uri, answer)
    finally:
        postgres.close()


def trainer_killed(folder: Folder, kills: int = 20) -> Outcome:
    """The same run twice: undisturbed, and killed again and again at random times."""
    steps = ("--total-steps", "100000", "--checkpoint-every", "1000")
    _, _ = Trainer(folder, *steps).end()
    alone = journal_of(folder)
    trainer = Trainer(folder, *steps)
    victim = eventually(lambda: set((folder.path / ".pgzoo/runs").iterdir()) - {alone}).pop()
    eventually(lambda: list(victim.glob("checkpoints/step-*")))
    chance = random.Random(7)
    child, resume = trainer.child, ("resume", victim.name, "--import", str(HERE / "steady.py"), "--json")
    for kill in range(kills):
        if kill % 4:  # in training
            _until_grown(victim / "journal.jsonl", 2000)
            time.sleep(chance.uniform(0, 0.7))
        else:  # at any time, including startup
            time.sleep(chance.uniform(0, 4))
        assert child.poll() is None, child.communicate()
        child.kill()
        child.communicate()
        child = folder.start(*resume)
    out, said = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, said
    sync(folder)
    assert curves(victim) == curves(alone)
    outcome = judge(victim, said, answer=folder.parse(out))
    return replace(outcome, delay=None)  # each of its processes knows only its own delay


def _until_grown(file: Path, size: int) -> None:
    before = file.stat().st_size
    eventually(lambda: file.stat().st_size > before + size)


def curves(run: Path) -> set[tuple[str, int, float]]:
    """Return all points of a run, except those of its speed."""
    rows = (row for record, _ in records(run) if record and "m" in record for row in metric_rows(record))
    return {(name, step, value) for name, value, _, step in rows if not name.startswith("time/")}


def disk_full(folder: Folder) -> Outcome:
    """Journal, checkpoints, artifacts and store are on one small disk, which is full for a while."""
    with mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder.path)):
        trainer = Trainer(folder, "--checkpoint-every", "5000", holds=(50, 100))
        trainer.reach(50)
        until_shipped(folder)
        ballast = fill(folder.path)
        trainer.release(50)
        trainer.reach(100)
        time.sleep(AWHILE)
        ballast.unlink()
        trainer.release(100)
        answer, said = trainer.end()
        sync(folder)
        outcome = judge(journal_of(folder), said, answer=answer)
        folder.close()  # ends the uploader before its files are gone
        return outcome


def store_disk_full(folder: Folder) -> Outcome:
    """Only the store is on a small disk, full for so long that records might be mistaken for invalid ones."""
    with small_disk(folder) as small:
        store = f"sqlite:///{small}/mlflow.db"
        return _filled(folder, small, store, store)


def server_disk_full(folder: Folder) -> Outcome:
    """The server's database is on a full disk; the server reports only that it failed."""
    with serving(folder) as server, small_disk(folder) as small:
        server.store = f"sqlite:///{small}/server.db"
        server.start()
        return _filled(folder, small, server.uri, server.store)


@contextmanager
def small_disk(folder: Folder) -> Iterator[Path]:
    small = folder.path / "small"
    small.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)):
        yield small
        folder.close()  # ends the uploader before its files are gone


def _filled(folder: Folder, small: Path, uri: str, store: str) -> Outcome:
    trainer = Trainer(folder, "--tracking-uri", uri, holds=(50, 100))
    trainer.reach(50)
    until_shipped(folder)
    ballast = fill(small)
    trainer.release(50)
    trainer.reach(100)
    said = until_met(folder)
    time.sleep(2 * AWHILE)
    ballast.unlink()
    trainer.release(100)
    answer, _ = trainer.end()
    sync(folder)
    return judge(journal_of(folder), said, store, answer)


def fill(folder: Path) -> Path:
    """Write a file that fills its disk to the last byte."""
    ballast = folder / "ballast"
    for size in (2**16, 1):
        with contextlib.suppress(OSError), ballast.open("ab", 0) as file:
            while True:
                file.write(bytes(size))
    return ballast


def file_size_limited(folder: Folder) -> Outcome:
    """No file of the trainer or the uploader can grow for a while, as on a full disk, but without a mount."""
    trainer = Trainer(folder, "--checkpoint-every", "5000", holds=(50, 100))
    trainer.reach(50)
    until_shipped(folder)
    pids = [trainer.child.pid, *folder.uploaders()]
    before = [resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY)) for pid in pids]
    trainer.release(50)
    trainer.reach(100)
    time.sleep(AWHILE)
    for pid, limits in zip(pids, before, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    trainer.release(100)
    answer, said = trainer.end()
    sync(folder)
    return judge(journal_of(folder), said, answer=answer)


def store_locked(folder: Folder) -> Outcome:
    trainer = Trainer(folder, holds=(50,))
    trainer.reach(50)
    until_shipped(folder)
    database = sqlite3.connect(folder.path / "mlflow.db", isolation_level=None)
    with contextlib.closing(database):
        database.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        trainer.release(50)
        answer, said = trainer.end()
        time.sleep(max(0.0, begun + LOCKED - time.monotonic()))
        database.execute("ROLLBACK")
    sync(folder)
    return judge(journal_of(folder), said, answer=answer)


def eight_at_once(folder: Folder) -> Outcome:
    trainers = [Trainer(folder, "--seed", str(seed)) for seed in range(8)]
    ends = [trainer.end() for trainer in trainers]
    sync(folder)
    runs = folder.path / ".pgzoo" / "runs"
    outcomes = [judge(runs / answer["seeds"][0]["run_key"], said, answer=answer) for answer, said in ends]
    delays = [outcome.delay for outcome in outcomes if outcome.delay is not None]
    statuses = {outcome.status for outcome in outcomes}
    assert len(statuses) == 1
    names = ask(f"sqlite:///{folder.path}/mlflow.db", "SELECT name FROM experiments WHERE name <> 'Default'")
    assert names == [("pgzoo/CartPole-v1",)]
    lost, twice = sum(outcome.lost for outcome in outcomes), sum(outcome.twice for outcome in outcomes)
    return Outcome(statuses.pop(), lost, twice, max(delays), ends[0][1])


def clock_back(folder: Folder) -> Outcome:
    """The wall clock of trainer and uploader steps back by an hour."""
    clock = folder.path / "clock"
    search = [str(HERE / "clock"), *filter(None, [os.environ.get("PYTHONPATH")])]
    folder.env |= {"PYTHONPATH": os.pathsep.join(search), "CLOCK": str(clock)}
    trainer = Trainer(folder, holds=(50,))
    trainer.reach(50)
    before = time.time()
    clock.write_text("-3600")
    trainer.release(50)
    answer, said = trainer.end()
    sync(folder)
    run = journal_of(folder)
    stamps = [record["ts"] for record, _ in records(run) if record]
    assert stamps == sorted(stamps)
    assert stamps[0] / 1000 < before
    return judge(run, said, answer=answer)


def torn_line(folder: Folder) -> Outcome:
    """The journal ends with an incomplete line, as after a power cut; the run is resumed."""
    trainer = Trainer(folder, "--checkpoint-every", "5000", holds=(50,))
    trainer.reach(50)
    trainer.kill()
    trainer.release(50)
    run = journal_of(folder)
    whole = (run / "journal.jsonl").read_bytes()
    torn = whole[: whole.rindex(b'"loss/policy"')]
    (run / "journal.jsonl").write_bytes(torn)
    arguments = (run.name, "--import", str(HERE / "steady.py"), "--json")
    out, said = folder.pgzoo("resume", *arguments)
    sync(folder)
    return judge(run, said, answer=folder.parse(out))


def finished_resumed(folder: Folder) -> Outcome:
    """A run that has ended is resumed twice."""
    answer, said = Trainer(folder, "--profile").end()
    run = journal_of(folder)
    for _ in range(2):
        said += folder.pgzoo("resume", run.name, "--import", str(HERE / "steady.py"))[1]
    sync(folder)
    return judge(run, said, answer=answer)


def killed_making_store(folder: Folder) -> Outcome:
    """The uploader is killed while it creates the database of a first run."""
    folder.database = None
    hold, held = folder.path / "hold-store", folder.path / "held-store"
    hold.touch()
    (folder.path / "holding").mkdir()
    (folder.path / "holding" / "sitecustomize.py").write_text(HOLD_STORE.format(hold=str(hold), held=str(held)))
    search = [str(folder.path / "holding"), *filter(None, [os.environ.get("PYTHONPATH")])]
    trainer = Trainer(folder, holds=(1,), PYTHONPATH=os.pathsep.join(search))
    eventually(held.exists, 120)
    [pid] = re.findall(r"as process (\d+)", (folder.path / ".pgzoo" / "uploader.log").read_text())
    os.kill(int(pid), signal.SIGKILL)
    hold.unlink()
    assert (folder.path / ".mlflow.db.new").exists() and not (folder.path / "mlflow.db").exists()
    trainer.reach(1)
    trainer.release(1)
    answer, said = trainer.end()
    sync(folder)
    return judge(journal_of(folder), said, answer=answer)


def state_removed(folder: Folder) -> Outcome:
    """Somebody deletes pgzoo's folder while a run is training."""
    return _removed(folder, folder.path / ".pgzoo")


def working_directory_removed(folder: Folder) -> Outcome:
    return _removed(folder, folder.path)


def _removed(folder: Folder, what: Path) -> Outcome:
    trainer = Trainer(folder, "--pause", "0.03", "--checkpoint-every", "5000", holds=(50,))
    trainer.reach(50)
    until_shipped(folder)
    run = journal_of(folder)
    shutil.rmtree(what, ignore_errors=True)
    if what != folder.path:
        trainer.release(50)
    answer, said = trainer.end()
    sync(folder)
    return judge(run, said, answer=answer)


def no_numbers(folder: Folder) -> Outcome:
    answer, said = Trainer(folder).end()
    sync(folder)
    run = journal_of(folder)
    told = [record["m"] for record, _ in records(run) if record and "m" in record]
    assert {metrics["odd/sometimes"] for metrics in told if "odd/sometimes" in metrics} == {1.0}
    return judge(run, said, answer=answer)


def artifacts_read_only(folder: Folder) -> Outcome:
    trainer = Trainer(folder, holds=(50,))
    trainer.reach(50)
    until_shipped(folder)
    artifacts = folder.path / "mlartifacts"
    artifacts.mkdir(exist_ok=True)
    with read_only(artifacts):
        trainer.release(50)
        answer, said = trainer.end()
        eventually(lambda: Ledger.read(journal_of(folder)).closed)
    assert not list(artifacts.rglob("*.png"))
    sync(folder)
    assert list(artifacts.rglob("learning_curve.png"))
    return judge(journal_of(folder), said, answer=answer)


@contextmanager
def serving(folder: Folder, store: str = "") -> Iterator[Server]:
    """Make a server that keeps its files in the folder; the caller starts it."""
    (folder.path / "server").mkdir()
    server = Server(folder.path / "server", store)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True, capture_output=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only. Permissions don't restrict root; for root, it is mounted over itself."""
    if os.geteuid() == 0:
        with mounted("--bind", str(folder), str(folder)):
            subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True, capture_output=True)
            yield
        return
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def no_mount() -> str:
    """Return why nothing can be mounted here; empty if something can."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", folder):
                return ""
        except (OSError, subprocess.CalledProcessError):
            return "mounting isn't allowed here: run it as root, in a container with CAP_SYS_ADMIN"


def binds_root() -> str:
    return no_mount() if os.geteuid() == 0 else ""


def linux() -> str:
    return "" if hasattr(resource, "prlimit") else "limits of other processes can only be set on Linux"


SCENARIOS = (
    Scenario(
        "MLflow server killed and restarted",
        "the uploader retries until the server is back, and continues after the last confirmed record",
        server_restarted,
        says="connection refused",
        slow=True,
    ),
    Scenario(
        "no MLflow server",
        "the run ends after ten more seconds and prints what is pending; `pgzoo sync` uploads it later",
        server_never_there,
        says="Last error: no server listens there",
        slow=True,
    ),
    Scenario(
        "MLflow server accepts connections and never responds",
        "as without a server",
        server_hanging,
        says="Last error: it doesn't answer",
        slow=True,
    ),
    Scenario(
        "PostgreSQL database of the server stopped and restarted",
        "as if the server had been killed",
        postgres_restarted,
        says="it answers with error 503",
        missing=Postgres.missing,
    ),
    Scenario(
        "trainer killed 20 times and resumed each time",
        "it continues from its last checkpoint in the same MLflow run; all curves equal those of an uninterrupted run",
        trainer_killed,
        slow=True,
    ),
    Scenario(
        "disk full for a while: journal, checkpoints, store",
        "records are kept in memory until there is space, checkpoints are skipped, the uploader retries",
        disk_full,
        says=r"No space left on device\. Training continues\.",
        slow=True,
        missing=no_mount,
    ),
    Scenario(
        "disk of the store full for a while",
        "the uploader retries, and doesn't mistake the failure for a rejected record",
        store_disk_full,
        says="the store's disk is full",
        slow=True,
        missing=no_mount,
    ),
    Scenario(
        "disk of the MLflow server full for a while",
        "the same, although the server doesn't report why it fails",
        server_disk_full,
        says="it answers with error 50[03]",
        slow=True,
        missing=no_mount,
    ),
    Scenario(
        "file size limit reached for a while: journal, checkpoints, store",
        "as with a full disk",
        file_size_limited,
        says=r"File too large\. Training continues\.",
        slow=True,
        missing=linux,
    ),
    Scenario(
        "SQLite store locked by another program for 30 s",
        "the uploader retries",
        store_locked,
        says="Not yet uploaded to MLflow",
        slow=True,
    ),
    Scenario(
        "eight runs at once on a fresh store",
        "one uploader creates the store and uploads all of them",
        eight_at_once,
        slow=True,
    ),
    Scenario(
        "clock steps back by an hour",
        "timestamps keep their last value until the clock has caught up",
        clock_back,
        slow=True,
    ),
    Scenario(
        "journal with an incomplete last line, resumed",
        "the incomplete line is removed, and written again when its update is repeated",
        torn_line,
        slow=True,
    ),
    Scenario(
        "uploader killed while it creates the SQLite store",
        "the incomplete database has a temporary name; the next uploader deletes it and creates the store",
        killed_making_store,
        slow=True,
    ),
    Scenario(
        "pgzoo's folder deleted during a run",
        "its journal is written again within a second, from the file that is still open",
        state_removed,
        says="had been removed and were written again",
        slow=True,
    ),
    Scenario(
        "the working directory deleted during a run",
        "the same, in a new folder with the same name; the store is created again, too",
        working_directory_removed,
        says="had been removed and were written again",
        slow=True,
    ),
    Scenario(
        "finished run resumed twice",
        "there is nothing to train, and nothing is written again",
        finished_resumed,
        slow=True,
    ),
    Scenario(
        "metrics that are NaN or infinite",
        "they are left out and counted",
        no_numbers,
        says="NaN or infinite",
        slow=True,
    ),
    Scenario(
        "artifact folder of the store read-only",
        "metrics and status are uploaded; the files follow when the folder is writable",
        artifacts_read_only,
        says="Last error: the store can't be written to",
        slow=True,
        missing=binds_root,
    ),
)
