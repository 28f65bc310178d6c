"""Measure the commands that read or delete runs with a store of many runs; writes a table into docs/tracking.md.

    nice -n 15 python benchmarks/store.py [--runs 10000] [--points 1000] [--journals 10000] [--folder DIR] [--keep]

Writes the runs of ten algorithms directly into an SQLite store, because through MLflow it would take hours, then runs
the commands and prints seconds and the maximum memory of each. A store of 10,000 runs x 1,000 points takes 3 GB. The
page is only written for this size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from page import ROOT, put, table

ALGORITHMS = 10
SEEDS = 10
"""Runs of a group."""
SETTINGS = 40
"""Parameters of a run, beside algorithm, environment and seed."""
POINT = ("run_uuid", "key", "value", "timestamp", "step", "is_nan")
COLUMNS = {
    "runs": ("run_uuid", "name", "status", "lifecycle_stage", "experiment_id", "start_time", "end_time", "user_id"),
    "metrics": POINT,
    "latest_metrics": POINT,
    "params": ("run_uuid", "key", "value"),
    "tags": ("run_uuid", "key", "value"),
}
Row = tuple[Any, ...]
PAGE, CHARTED = 100, 10
"""Runs that MLflow's page of an experiment requests first, and runs that it charts."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure pgzoo on a large store.")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=1_000, help="points of the learning curve of each run")
    parser.add_argument("--journals", type=int, default=10_000, help="number of local journals")
    parser.add_argument("--folder", type=Path, help="where to make the store; default: a temporary folder")
    parser.add_argument("--keep", action="store_true", help="keep the store, and use it if it is already there")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="pgzoo-store-"))).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        measure(folder, options.runs, options.points, options.journals)
    finally:
        if not options.keep:
            shutil.rmtree(folder)


def measure(folder: Path, runs: int, points: int, journals: int) -> None:
    """Make what is missing in `folder`, run the commands and print a table."""
    database, local = folder / "mlflow.db", folder / "local"
    load = f"load {os.getloadavg()[0]:.1f}"
    if not database.exists():
        begin = time.perf_counter()
        make_store(database, runs, points)
        print(f"store: {database.stat().st_size / 1e9:.1f} GB in {time.perf_counter() - begin:.0f} s", flush=True)
    if not local.exists():
        make_journals(local, journals)
    uri = f"sqlite:///{database}"
    half = f"algo{ALGORITHMS // 2}"
    store = ["--tracking-uri", uri]
    many = [f"group-{number:05d}" for number in range(min(journals, 1000) // SEEDS)]
    last, compared = f"group-{runs // SEEDS - 1:05d}", runs // ALGORITHMS
    commands = {
        "pgzoo runs (journals)": ["runs"],
        "pgzoo runs --status failed (journals)": ["runs", "--status", "failed"],
        "pgzoo runs --tracking-uri URI": ["runs", *store],
        "pgzoo runs --tracking-uri URI --algorithm NAME": ["runs", *store, "--algorithm", half],
        "pgzoo runs --tracking-uri URI --limit 0": ["runs", *store, "--limit", "0"],
        f"pgzoo compare, {compared:,} runs": ["compare", "tag:batch=0-a", "tag:batch=0-b", *store],
        f"pgzoo compare, {2 * compared:,} runs": ["compare", "algo0", "algo1", *store],
        f"pgzoo runs delete, {SEEDS} runs of the store": ["runs", "delete", last, "--yes", *store],
        f"pgzoo runs delete, {len(many) * SEEDS:,} runs of this machine": ["runs", "delete", *many, "--yes"],
    }
    rows: list[tuple[str, ...]] = []
    for label, words in commands.items():
        home = local if "journals" in label or "machine" in label else folder / "empty"
        seconds, cpu, megabytes, output = timed(words, home)
        rows.append((f"`{label}`", f"{seconds:.1f}", f"{cpu:.1f}", f"{megabytes:,.0f}"))
        print(rows[-1], output, flush=True)
    rows += ui(folder / "empty", uri)
    print(*rows[-2:], sep="\n")
    if (runs, points, journals) == (10_000, 1_000, 10_000):
        made = f"*Made by `python benchmarks/store.py` on {time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {load}.*"
        put(
            ROOT / "docs" / "tracking.md",
            "large-store",
            f"{table(('command', 'seconds', 'CPU seconds', 'memory, MB'), rows)}\n\n{made}",
        )


def ui(home: Path, uri: str) -> list[tuple[str, ...]]:
    """Measure `pgzoo ui` until it prints its link, and the requests of the page that the link opens."""
    command = [sys.executable, "-m", "pgzoo", "ui", "--no-browser", "--tracking-uri", uri]
    begin = time.perf_counter()
    with subprocess.Popen(
        command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            assert child.stdout is not None
            link = child.stdout.readline()
            started, processes = time.perf_counter() - begin, descendants(child.pid)
            start_cpu = sum(map(cpu_seconds, processes))
            base = link.partition("/#")[0]
            begin = time.perf_counter()
            query = {"experiment_ids": ["7"], "max_results": PAGE, "order_by": ["attributes.start_time DESC"]}
            found = request(f"{base}/ajax-api/2.0/mlflow/runs/search", query)["runs"]
            for run in found[:CHARTED]:
                request(
                    f"{base}/ajax-api/2.0/mlflow/metrics/get-history?run_id={run['info']['run_id']}&metric_key=train/return_mean&max_results=1000"
                )
            page = time.perf_counter() - begin
            memory, page_cpu = sum(map(resident, processes)), sum(map(cpu_seconds, processes)) - start_cpu
        finally:
            child.send_signal(signal.SIGTERM)  # SIGINT is ignored in a background job
    return [
        ("`pgzoo ui`, until the link is printed", f"{started:.1f}", f"{start_cpu:.1f}", ""),
        (f"its first {PAGE} runs, and {CHARTED} curves", f"{page:.1f}", f"{page_cpu:.1f}", f"{memory:,.0f}"),
    ]


def request(url: str, query: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the answer of the MLflow server."""
    body = None if query is None else json.dumps(query).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def descendants(pid: int) -> list[int]:
    """Return a process and all processes below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in descendants(int(child)))]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Return the maximum resident memory of a process in MB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a command whose home is `home`."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {"PGZOO_HOME": str(home)}


def timed(words: list[str], home: Path) -> tuple[float, float, float, str]:
    """Run a command of pgzoo; return its seconds, CPU seconds, maximum memory in MB and number of lines of output."""
    begin = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "pgzoo", *words, "--no-progress"],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"pgzoo {' '.join(words)} failed:\n{output}")
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - begin, cpu, usage.ru_maxrss / 1024, f"{len(output.splitlines())} lines"


def make_store(database: Path, runs: int, points: int) -> None:
    """Create a database with MLflow's tables and fill it."""
    scratch = database.with_suffix(".part")
    code = "import sys; from pgzoo.tracking.store import Store; Store(sys.argv[1]).client.search_experiments()"
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{scratch}"], check=True, capture_output=True)
    with closing(sqlite3.connect(scratch)) as store:
        store.execute("PRAGMA journal_mode = OFF")
        store.execute("PRAGMA synchronous = OFF")
        store.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
            "SELECT 7, 'many', artifact_location, 'active', workspace FROM experiments LIMIT 1"
        )
        for number in range(runs):
            rows = run_rows(number, runs, points)
            for table, names in COLUMNS.items():
                marks = ", ".join("?" for _ in names)
                store.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows[table])
        store.commit()
        store.execute("PRAGMA journal_mode = WAL")
    scratch.rename(database)


def run_rows(number: int, runs: int, points: int) -> dict[str, list[Row]]:
    """Return the rows of one run, by table."""
    per_algorithm = runs // ALGORITHMS
    algorithm, seed = f"algo{number // per_algorithm}", number % per_algorithm
    run, name = hashlib.sha256(str(number).encode()).hexdigest()[:32], f"{algorithm} s{seed}"
    draw = random.Random(number)
    begin, level = 1_790_000_000_000 + 60_000 * number, 100.0 + draw.random()
    curve = [
        ("train/return_mean", level * step / points, begin + step, 1000 * step, False) for step in range(1, points + 1)
    ]
    last = [curve[-1], ("summary/return_final", level, begin + points, 1000 * points, False)]
    settings = {f"setting_{place}": str(place) for place in range(SETTINGS)}
    params = {"algorithm": algorithm, "env": "Many-v1", "seed": str(seed), **settings}
    tags = {
        "pgzoo.run_key": f"key-{number:06d}",
        "pgzoo.group": f"group-{number // SEEDS:05d}",
        "pgzoo.setting": algorithm,
        "pgzoo.status": "finished",
        "pgzoo.env_steps": str(1000 * points),
        "mlflow.runName": name,
        "batch": f"{number // per_algorithm}-{'ab'[2 * seed // per_algorithm]}",
    }
    return {
        "runs": [(run, name, "FINISHED", "active", 7, begin, begin + points, "me")],
        "metrics": [(run, *point) for point in [*curve, last[1]]],
        "latest_metrics": [(run, *point) for point in last],
        "params": [(run, *item) for item in params.items()],
        "tags": [(run, *item) for item in tags.items()],
    }


def make_journals(home: Path, count: int) -> None:
    """Write the journals of `count` runs that have ended, one in a hundred of them as failed."""
    for number in range(count):
        folder = home / "runs" / f"key-{number:06d}"
        folder.mkdir(parents=True)
        (folder / "journal.jsonl").write_text("".join(json.dumps(r) + "\n" for r in journal_records(number)))


def journal_records(number: int) -> Iterator[dict[str, Any]]:
    """Yield the records of one run: 100 points of 20 metrics."""
    ts, seed, failed = 1_790_000_000_000 + 60_000 * number, number % SEEDS, number % 100 == 0
    key, group = f"key-{number:06d}", f"group-{number // SEEDS:05d}"
    params = {"algorithm": "ppo", "env": "Many-v1", "seed": str(seed)}
    params |= {f"setting_{place}": str(place) for place in range(SETTINGS)}
    start = {"t": "start", "ts": ts, "key": key, "name": f"ppo s{seed}", "group": group, "experiment": "many"}
    start |= {"uri": "none", "seed": seed, "algorithm": "ppo", "env": "Many-v1", "params": params}
    yield {**start, "tags": {"pgzoo.run_key": key, "pgzoo.group": group, "mlflow.note.content": "x" * 300}}
    metrics = {f"train/metric_{place}": place / 7 for place in range(20)}
    for step in range(1, 101):
        yield {"t": "update", "ts": ts + step, "steps": [1000 * step], "m": metrics}
    yield {"t": "update", "ts": ts + 101, "steps": [100_000], "m": {"summary/return_final": float(number % 7)}}
    status = "failed" if failed else "finished"
    yield {"t": "tags", "ts": ts + 101, "tags": {"pgzoo.status": status, "pgzoo.env_steps": "100000"}}
    yield {"t": "end", "ts": ts + 101, "status": status.upper(), "reason": ""}


if __name__ == "__main__":
    main()
