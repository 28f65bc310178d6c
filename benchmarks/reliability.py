"""Play every fault of tests/faults with the real program; writes docs/reliability.md.

make faults                     (or: python benchmarks/reliability.py --only server)
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from faults.scenarios import SCENARIOS, Scenario  # noqa: E402
from program import Folder  # noqa: E402

FAILED = "didn't come through"
COLUMNS = "| fault | what happens | seconds of training | points lost | points twice | status | the user reads |"


def play(scenario: Scenario) -> str:
    """A row of the table."""
    if reason := scenario.missing():
        return f"| {scenario.fault} | {scenario.happens} | | | | not played: {reason} | |"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as path:
        folder = Folder(Path(path))
        try:
            outcome = scenario.play(folder)
        except AssertionError as error:
            return f"| {scenario.fault} | {scenario.happens} | | | | **{FAILED}**: {str(error)[:80]!r} | |"
        finally:
            folder.close()
    message = scenario.message(outcome).replace(path, "...").replace("|", "\\|")
    delay = "" if outcome.delay is None else f"{outcome.delay:.2f}"
    told = f"`{message}`" if message else "nothing: there is nothing to do"
    counts = f"{outcome.lost} | {outcome.twice} | {outcome.status}"
    return f"| {scenario.fault} | {scenario.happens} | {delay} | {counts} | {told} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="WORD", default="", help="make only the rows whose scenario has this word")
    only, path = parser.parse_args().only, ROOT / "docs" / "reliability.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
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
    )
    path.write_text(page, encoding="utf-8")
    sys.exit(any(FAILED in row for row in rows.values()))


PAGE = """# Reliability

What becomes of a run when something breaks around it. Each row is played with the real program: real processes, real
servers, a real PostgreSQL, real signals.
Made by `make faults`, last on {date}: Python {python}, {versions}.

Every run trains for 150 updates of 200 steps with a point of every curve per update (500 updates where the trainer is
killed). The fault comes in the midst of it, where that makes sense after the store has got a part. Then the store is
compared with what training had to say, point by point.

- *seconds of training*: what the training loop gave to tracking in all, checkpoints included; the row of NaN, where
  nothing breaks, shows what is usual. Of eight runs it is that of the slowest.
- *points lost*: written to the journal or due on the step grid, and not in the store after `pgzoo sync`.
- *points twice*: in the store more than once.
- *status*: that of the MLflow run, at the end.
- *the user reads*: at the end of the run, or meanwhile from `pgzoo doctor`.

{table}

The end of a run waits up to ten seconds for what is still to be shipped; then the uploader goes on alone. If a disk
stays full until a run ends, what still waits in memory is lost, and the run says how many records that are.

The scenarios are in `tests/faults/scenarios.py`. `make test` plays the short ones, `make test-all` all of them.
PostgreSQL's row needs `apt-get install postgresql`; those that mount something need root.
"""

if __name__ == "__main__":
    main()
