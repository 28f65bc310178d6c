"""Runs every scenario of tests/faults with the real program; writes docs/reliability.md.

make faults                     (or: python benchmarks/reliability.py --only server)
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from faults.scenarios import SCENARIOS, Scenario  # noqa: E402
from program import Folder  # noqa: E402

FAILED = "**failed**"
COLUMNS = "| fault | what happens | seconds on tracking | points lost | duplicate points | status | message |"


def play(scenario: Scenario) -> str:
    """Run a scenario; return its row of the table."""
    if reason := scenario.missing():
        return f"| {scenario.fault} | {scenario.happens} | | | | not run: {reason} | |"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        folder = Folder(Path(path))
        try:
            outcome = scenario.play(folder)
        except AssertionError as error:
            return f"| {scenario.fault} | {scenario.happens} | | | | {FAILED}: {str(error)[:80]!r} | |"
        finally:
            folder.close()
    message = scenario.message(outcome).replace(path, "...").replace("|", "\\|")
    delay = "" if outcome.delay is None else f"{outcome.delay:.2f}"
    shown = f"`{message}`" if message else "nothing"
    counts = f"{outcome.lost} | {outcome.twice} | {outcome.status}"
    return f"| {scenario.fault} | {scenario.happens} | {delay} | {counts} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--only", metavar="WORD", default="", help="update only the rows whose scenario name contains this word"
    )
    only, path = parser.parse_args().only, ROOT / "docs" / "reliability.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    first = text.partition("## Hostile inputs")[0]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in first.splitlines() if line.startswith("| ")}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or what a scenario mounts would stay mounted
    for scenario in SCENARIOS:
        if only in scenario.name or scenario.fault not in rows:
            print(scenario.fault, file=sys.stderr, flush=True)
            rows[scenario.fault] = play(scenario)
            print(rows[scenario.fault], file=sys.stderr, flush=True)
    page = PAGE.format(
        date=time.strftime("%Y-%m-%d"),
        python=platform.python_version(),
        versions=", ".join(f"{name} {version(name)}" for name in ("pgzoo", "mlflow", "torch")),
        table="\n".join([COLUMNS, "|---" * 7 + "|", *(rows[scenario.fault] for scenario in SCENARIOS)]),
        hostile="\n".join(f"| {' | '.join(row)} |" for row in HOSTILE),
    )
    page += text[text.index("\n## Simulation") :] if "\n## Simulation" in text else ""  # by simulate.py and soak.py
    path.write_text(page, encoding="utf-8")
    sys.exit(any(FAILED in row for row in rows.values()))


HOSTILE = (
    (
        "too few file descriptors for the number of seeds",
        "the soft limit is raised; if the hard limit is too low, the run doesn't start (exit code 2, "
        "with the number needed)",
        "`tests/faults/test_descriptors.py`",
    ),
    (
        "a folder name with `?`, `%2F`, a newline or a byte that isn't UTF-8; a path of more than 3,000 bytes",
        "refused before the run, with nothing created; other unusual names work",
        "`tests/faults/test_folders.py`",
    ),
    (
        "a run name, experiment or tag that isn't UTF-8",
        "refused on the command line; such a run in an older journal is set aside and reported, and "
        "blocks no other run",
        "`tests/faults/test_names.py`",
    ),
    (
        "a password in the tracking URI",
        "it is stored in one file with mode 600, and nothing else contains or prints it",
        "`tests/faults/test_secrets.py`",
    ),
    (
        "a `pgzoo_plugin.py` that other users can write, or own",
        "it isn't executed; one line states why",
        "`tests/registry/test_discovery.py`",
    ),
    (
        "a server with endless responses, endless pages, invalid ids or 401, 403, 404",
        "commands end with one message; runs stay pending and are retried",
        "`tests/faults/test_hostile_server.py`",
    ),
    (
        "generated answers: odd types, ids, names and paths, HTML, half JSON, other status codes, millions of values",
        "each command succeeds or ends with one message, after a bounded number of requests; it writes nothing "
        "elsewhere",
        "`tests/faults/test_hostile_answers.py`",
    ),
    (
        "a web page answers in place of the server, as behind a sign-in page",
        "the request failed, and is tried again: no file counts as uploaded",
        "`tests/simulation/test_simulation.py`",
    ),
    (
        "a server that obeys a request after the client has given up, or twice",
        "empty duplicates of a run are deleted when it ends; it ends a minute after such a request at the earliest",
        "`tests/simulation/test_simulation.py`",
    ),
    (
        "the disk is full while tables and plots are written",
        "they are written when there is space",
        "`tests/simulation/test_simulation.py`",
    ),
    (
        "the journal can't be written when a checkpoint is due, and the process is killed later",
        "the checkpoint is left out, so that a resumed run repeats the records",
        "`tests/runs/test_checkpoint_writer.py`",
    ),
    (
        "a folder can't be flushed to disk",
        "it is tried again; until then there is no checkpoint",
        "`tests/tracking/test_journal.py`",
    ),
    (
        "a worker is killed in the middle of a line that it writes",
        "its seeds fail, the others go on",
        "`tests/launchers/test_coordinator.py`",
    ),
    (
        "damaged journals, ledgers, checkpoints, policies, config files and search spaces, from a fuzzer",
        "read, left out or refused in one message",
        "`tests/fuzz/test_corpus.py`",
    ),
    (
        "outputs that are closed, full or no longer read",
        "training and its record are unharmed",
        "`tests/cli/test_output.py`",
    ),
    (
        "a journal removed during a run, with a file in place of its folder",
        "the run ends as failed (exit code 1) and says that the journal can't be written again",
        "`tests/runs/test_host_process.py`",
    ),
    (
        "the listener that keeps the record raises during a run",
        "the run ends as failed (exit code 1), and the message names the listener; any other listener is detached "
        "with a warning",
        "`tests/runs/test_host_process.py`",
    ),
    (
        "SIGHUP, or a second Ctrl-C",
        "the run ends as interrupted; SIGHUP saves a checkpoint",
        "`tests/runs/test_signals.py`",
    ),
    (
        "YAML with aliases to itself, thousands of brackets, an alias bomb or a million values; deeply nested JSON in "
        "a checkpoint; numbers of seeds, layers or units that can't fit into memory",
        "refused in one short message",
        "`tests/config/test_inputs.py`",
    ),
)
"""Faults that cost no points: what happens, and the test that plays each."""

PAGE = """# Reliability

What happens to a run when something around it fails. Each row is a test with the real program: real processes, real
servers, a real PostgreSQL, real signals.
Made by `make faults`, last on {date}: Python {python}, {versions}.

Every run trains for 150 updates of 200 steps and logs a point of every curve per update (500 updates if the trainer is
killed). The fault is injected during the run, where possible after the store has received some records. Afterwards, the
store is compared with the recorded points one by one.

- *seconds on tracking*: total time that the training loop spent on tracking and checkpoints. The NaN row, in which
  nothing fails, shows the normal value. For eight runs: the slowest one.
- *points lost*: points in the journal, or expected on the step grid, that are missing from the store after
  `pgzoo sync`.
- *duplicate points*: points that the store contains more than once.
- *status*: final status of the MLflow run.
- *message*: what pgzoo prints at the end of the run, or `pgzoo doctor` prints before that.

{table}

At the end of a run, pgzoo waits up to ten seconds for the upload; then the uploader continues in the background. It
doesn't wait for the plots of more than ten runs. If a disk stays full until a run ends, records that are still in
memory are lost, and the run prints their number.

## Hostile inputs

Faults that cost no points, because the run is refused or goes on without them. Each row is a test of `make test-all`.

| fault | what happens | test |
|---|---|---|
{hostile}

The scenarios are in `tests/faults/scenarios.py`. `make test` runs the short ones, `make test-all` all of them.
The PostgreSQL scenario needs `apt-get install postgresql`; scenarios that mount a file system need root.
"""

if __name__ == "__main__":
    main()
