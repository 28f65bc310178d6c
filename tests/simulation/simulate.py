"""Runs that are trained and uploaded in a simulated world full of faults, and the laws that must hold afterwards.

A schedule is drawn from one seed. When all faults have ended, the server must have exactly the points of the journals,
each once, in one run per key with the right status; nothing may be refused or pending.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.tracking._tracking_service import utils as _client_utils
from simulation.server import ADDRESS, Network, Row, Server, StoredRun
from simulation.world import Process, World, simulated

from pgzoo.errors import StoreError
from pgzoo.files import make_folder, write_file
from pgzoo.tracking import Home, http_limits
from pgzoo.tracking.journal import Journal, Record, records
from pgzoo.tracking.ledger import Ledger, journal_folders, pending_of, read_json
from pgzoo.tracking.report import write_tables
from pgzoo.tracking.run_upload import metric_rows
from pgzoo.tracking.session import RETRY, ask_to_retry, ensure_uploader
from pgzoo.tracking.uploader import Uploader, locked

client_utils: Any = _client_utils
EVERY = 5
"""Updates between two checkpoints."""
QUIET = 3600.0
"""Simulated seconds within which everything must be uploaded once the faults have ended."""
NETWORK = Network()
http_limits.transports[ADDRESS] = NETWORK


@dataclass
class Run:
    """A run of the schedule: its key, its number of updates, and what became of it."""

    key: str
    updates: int
    mean_update: float
    """Mean simulated seconds of an update."""
    process: Process | None = None
    finished: bool = False
    """Whether its trainer has written the end."""
    abandoned: bool = False
    """Whether its trainer was killed and it won't be resumed."""
    reported_lost: int = 0
    """Records that the trainer reported as lost, because the disk was full until it ended."""


@dataclass
class Outcome:
    """The result of a seed. `broken` lists the laws that don't hold; it is empty if all of them hold."""

    seed: int
    hours: float = 0.0
    points: int = 0
    lost: int = 0
    """Points that are missing from the journal or from the server against a law."""
    faults: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)


def simulate(seed: int, root: Path, trace: bool = False) -> Outcome:
    """Play the schedule of a seed in the empty folder `root`."""
    logging.getLogger("pgzoo").setLevel(logging.CRITICAL + 1)  # this process does nothing else
    with simulated(seed, root / "machine") as world:
        world.trace = [] if trace else None
        NETWORK.world, NETWORK.server, NETWORK.down = world, Server(), False
        schedule = Schedule(world)
        outcome = Outcome(seed)
        try:
            schedule.play()
            schedule.quiet()
            outcome.broken = schedule.check(outcome)
        except Exception as error:  # of a process, or of a thread of this module
            outcome.broken.append(f"{type(error).__name__}: {error}")
            if trace:
                logging.exception("seed %d", seed)
        outcome.hours, outcome.faults = world.now / 3600, world.faults
        outcome.trace = world.trace or []
    return outcome


class Schedule:
    """Trainers, uploaders and faults of one world."""

    def __init__(self, world: World) -> None:
        self.world, draw = world, world.random
        self.home = Home.find({"PGZOO_HOME": str(world.root / "home")})
        world.programs = lambda command: ("uploader", lambda: self.upload(command))
        self.runs = [
            Run(f"run-{k}", draw.randrange(3, 60), draw.uniform(0.5, 20.0)) for k in range(draw.choice((1, 1, 2, 3)))
        ]
        self.incidents: Sequence[Callable[[], None]] = (
            self.cut_power,
            self.kill_one,
            self.fill_disk,
            self.limit_file_size,
            self.let_the_disk_lie,
            self.stop_server,
            self.set_clock,
            self.delete_lock_file,
        )
        self.trouble = draw.choice((20.0, 60.0, 200.0))
        """Mean simulated seconds between two incidents."""

    def upload(self, command: Sequence[str]) -> None:
        """Do what the uploader process does."""
        client_utils._artifact_repos_cache.clear()  # a new process has none
        with locked(self.home, self.world.system, "" if command[-1] == RETRY else None) as mine:
            if mine:
                Uploader(self.home, self.world.system, max_plotted=0).run()

    def train(self, run: Run) -> None:
        """Do what a trainer does, like `pgzoo run` and `pgzoo resume`: it starts at its last checkpoint."""
        system, folder = self.world.system, self.home.runs / run.key
        looked, synced = -3.0, system.monotonic()

        def look_after() -> None:
            """Do what the thread of a session does."""
            nonlocal looked, synced
            if system.monotonic() - synced >= 1.0:
                synced = system.monotonic()
                journal.sync()
            if system.monotonic() - looked >= 3.0:
                looked = system.monotonic()
                with suppress(OSError):
                    ensure_uploader(self.home, system)

        try:
            make_folder(self.home.runs, 0o700, disk=system.disk)
            journal = Journal(folder, start_record(run, system.now()), lambda text: None, system)
        except (OSError, StoreError):
            return  # it can be resumed later
        journal.artifact("config.yaml", f"key: {run.key}\n".encode())
        look_after()
        for update in range(int(read_json(folder / "checkpoint.json").get("update", 0)) + 1, run.updates + 1):
            system.sleep(self.world.random.expovariate(1 / run.mean_update))
            journal.record([10 * update], {"a": update / 8, "b": -update}, ([10 * update], [float(update)], [10]))
            look_after()
            if update % EVERY == 0 or update == run.updates:
                if not journal.sync() and update < run.updates:
                    continue
                with suppress(OSError):
                    saved = json.dumps({"update": update}).encode()
                    write_file(folder / "checkpoint.json", saved, disk=system.disk)
        journal.evaluation(10 * run.updates, "sampled", True, [1.0, 3.0], [5, 7])
        journal.summary(10 * run.updates, {"summary/return_final": 2.0})
        journal.end("FINISHED", "its steps are complete")
        run.finished, run.reported_lost = True, run.reported_lost + journal.lost

    def play(self) -> None:
        """Train the runs, with incidents, until each is finished or abandoned."""
        world, draw = self.world, self.world.random
        next_incident = draw.expovariate(1 / self.trouble)
        while not all(run.finished or run.abandoned for run in self.runs):
            for run in self.runs:
                if run.finished or run.abandoned or (run.process is not None and not run.process.ended):
                    continue
                if run.process is not None and draw.random() < 0.05:
                    run.abandoned = True
                elif run.process is None or draw.random() < 0.3:
                    run.process = world.start(run.key, lambda run=run: self.train(run))  # type: ignore[misc]
            if world.now >= next_incident:
                next_incident = world.now + draw.expovariate(1 / self.trouble)
                draw.choice(self.incidents)()
            world.run(world.now + 2.0)
        for _ in range(draw.randrange(3)):  # the trainers have ended, the faults haven't
            world.run(world.now + draw.uniform(0, 60))
            draw.choice(self.incidents)()

    def quiet(self) -> None:
        """End all faults, and upload the rest as `pgzoo sync --wait 0` does."""
        world = self.world
        world.calm = True
        world.disk.full = world.disk.lies = world.disk.small_files_only = NETWORK.down = False
        world.run(world.now + 60)  # late requests are carried out
        if not self.home.root.exists():  # a power cut has removed everything
            return
        ask_to_retry(self.home, "", world.system)
        deadline = world.now + QUIET
        while world.now < deadline:
            world.run(world.now + 5)
            if not pending_of(journal_folders(self.home)):
                break
        world.run(world.now + 30)  # the uploader exits

    def cut_power(self) -> None:
        self.world.power_cut()
        for run in self.runs:
            # if its end record was lost, a run that was reported as finished isn't
            run.finished = run.finished and ended(self.home.runs / run.key) is not None

    def kill_one(self) -> None:
        if self.world.processes:
            self.world.fault("process killed")
            process = self.world.random.choice(self.world.processes)
            self.world.note(f"kill {process.name}")
            self.world.kill(process)

    def fill_disk(self) -> None:
        self._for_a_while("disk full", lambda on: setattr(self.world.disk, "full", on))

    def limit_file_size(self) -> None:
        self._for_a_while("file size limit", lambda on: setattr(self.world.disk, "small_files_only", on))

    def let_the_disk_lie(self) -> None:
        self._for_a_while("disk that lies", lambda on: setattr(self.world.disk, "lies", on))

    def stop_server(self) -> None:
        self._for_a_while("server down", lambda on: setattr(NETWORK, "down", on))

    def _for_a_while(self, fault: str, switch: Callable[[bool], None]) -> None:
        self.world.fault(fault)
        switch(True)
        seconds = self.world.random.expovariate(1 / 20)

        def end() -> None:
            self.world.sleep(seconds)
            switch(False)

        self.world.start(fault, end)

    def set_clock(self) -> None:
        self.world.fault("clock set")
        self.world.clock_offset += self.world.random.choice((-86400.0, -3600.0, -1.0, 1.0, 3600.0))

    def delete_lock_file(self) -> None:
        """At its next check, a trainer starts a second uploader; the first exits when it notices."""
        self.world.fault("lock file deleted")
        self.home.uploader_lock.unlink(missing_ok=True)

    def check(self, outcome: Outcome) -> list[str]:
        """Return the laws that don't hold; count points and lost points in `outcome`."""
        broken = [f"the server doesn't know {path}" for path in sorted(NETWORK.server.unknown)]
        left = pending_of(journal_folders(self.home))
        if left or left.refused:
            broken.append(f"pending after {QUIET:.0f} s of quiet: {left}, refused: {left.refused}")
        for run in self.runs:
            broken += [f"{run.key}: {law}" for law in self._check_run(run, outcome)]
        return broken

    def _check_run(self, run: Run, outcome: Outcome) -> list[str]:
        folder, lied = self.home.runs / run.key, self.world.disk.lied
        lines = [record for record, _ in records(folder)]
        stored = [
            one
            for one in NETWORK.server.runs.values()
            if one.tags.get("pgzoo.run_key") == run.key and one.info["lifecycle_stage"] == "active"
        ]
        if not any(line and line["t"] == "start" for line in lines):
            return [] if lied or not (stored or run.finished) else ["the journal has no start"]
        broken = [] if None not in lines else ["the journal has a line that isn't a record"]
        rows = [row for line in lines if line and line["t"] in ("update", "evaluation") for row in metric_rows(line)]
        outcome.points += len(rows)
        if run.finished and not lied:
            expected = {(name, 10 * u) for u in range(1, run.updates + 1) for name in ("a", "b")}
            lost = expected - {(name, step) for name, _, _, step in rows}
            if len(lost) > 2 * run.reported_lost:
                outcome.lost += len(lost)
                broken.append(f"the journal lacks the points {sorted(lost)}")
        if len({(name, step) for name, _, _, step in rows}) != len(rows):
            broken.append("the journal has a point twice")
        if len(stored) != 1:
            return [*broken, f"the server has {len(stored)} runs"]
        return broken + self._compare(run, rows, stored[0], outcome)

    def _compare(self, run: Run, rows: Sequence[Row], stored: StoredRun, outcome: Outcome) -> list[str]:
        folder, lied, broken = self.home.runs / run.key, self.world.disk.lied, []
        lost, more = set(rows) - stored.rows, stored.rows - set(rows)
        outcome.lost += len(lost)
        if lost:
            broken.append(f"the server lacks the points {sorted(lost, key=str)}")
        if more and not lied:
            broken.append(f"the server has points that the journal hasn't: {sorted(more, key=str)}")
        status = (ended(folder) or {"status": "KILLED"})["status"]
        if stored.info["status"] != status:
            broken.append(f"the status is {stored.info['status']}, not {status}")
        if stored.params.get("learning_rate") != "0.02":
            broken.append("a param is missing")
        kept = [record for record, _ in records(folder) if record]
        files = {record["path"] for record in kept if record["t"] == "artifact"}
        files |= {"episodes.csv"} if any("e" in record for record in kept) else set()
        files |= {"evaluation.csv"} if any(record["t"] == "evaluation" for record in kept) else set()
        write_tables(folder)  # a power cut may remove the file of a table, whose rows are in the journal
        wrong = [name for name in files if stored.files.get(name) != read(folder / "artifacts" / name)]
        if wrong and not lied:
            broken.append(f"these files differ: {sorted(wrong)}")
        if (folder / "rejected.jsonl").exists() and not lied:
            broken.append(f"rejected: {(folder / 'rejected.jsonl').read_text()[:300]}")
        if Ledger.read(folder).refused:
            broken.append("the run is refused")
        return broken


def start_record(run: Run, now: int) -> Record:
    """Return what a session writes at the beginning of a journal."""
    start: Record = {"t": "start", "ts": now, "key": run.key, "name": f"{run.key} s0", "group": "g", "experiment": "e"}
    start |= {"uri": ADDRESS, "seed": 0, "algorithm": "a", "env": "E-v0", "params": {"learning_rate": "0.02"}}
    return start | {"tags": {"pgzoo.run_key": run.key, "pgzoo.group": "g"}}


def ended(folder: Path) -> Record | None:
    """Return the end record that follows the last start record of a journal, or None if there is none."""
    end = None
    for record, _ in records(folder):
        if record and record["t"] in ("start", "end"):
            end = record if record["t"] == "end" else None
    return end


def read(file: Path) -> bytes | None:
    """Return the content of a file, or None if there is no file."""
    return file.read_bytes() if file.is_file() else None


def play(seed: int, trace: bool = False) -> Outcome:
    """Play a seed in a temporary folder, in memory if the system has a folder for that."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        return simulate(seed, Path(folder), trace)
