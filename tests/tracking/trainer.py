"""A minimal trainer: it writes a journal as a real one does, and may be killed at any time.

    python trainer.py '{"key": "k", "updates": 100, "pause": 0.05}'

Update u writes two metrics and one episode, at step 10 u. With the option `hold`, a path, the trainer waits for this
file before the second half of its updates, so that a test decides when it ends. At its end, the trainer prints the
seconds that the slowest `record` took, and what is pending.
"""

import json
import sys
import time
from pathlib import Path

from pgzoo import tracking


def main() -> None:
    options = {
        "updates": 50,
        "begin": 0,
        "pause": 0.0,
        "seed": 0,
        "wait": 500.0,
        "uri": None,
        "hold": "",
        **json.loads(sys.argv[1]),
    }
    home = tracking.Home.find()
    uri = tracking.resolve_uri(options["uri"], home)
    tracking.check_store(uri, home)
    session = tracking.Session(home, "group", uri)
    journal = session.journal(
        options["key"],
        name=f"little s{options['seed']}",
        experiment="pgzoo/Corridor-v0",
        params={"learning_rate": "0.02"},
        tags={"mlflow.source.name": "pgzoo run little"},
        seed=options["seed"],
        algorithm="little",
        env="Corridor-v0",
    )
    journal.artifact("config.yaml", b"algorithm: little\n")
    print("started", flush=True)
    slowest = 0.0
    for update in range(options["begin"] + 1, options["begin"] + options["updates"] + 1):
        while options["hold"] and update > options["updates"] / 2 and not Path(options["hold"]).exists():
            time.sleep(0.05)
        before = time.perf_counter()
        journal.record([10 * update], {"a": update / 8, "b": -update}, ([10 * update], [float(update)], [10]))
        slowest = max(slowest, time.perf_counter() - before)
        time.sleep(options["pause"])
    journal.evaluation(10 * update, "sampled", True, [1.0, 3.0], [5, 7])
    journal.end("FINISHED")
    pending = session.close(options["wait"])
    heavy = [name for name in ("mlflow", "pandas", "numpy", "torch") if name in sys.modules]
    print(json.dumps({"slowest": slowest, "pending": pending.records, "runs": pending.runs, "heavy": heavy}))


if __name__ == "__main__":
    main()
