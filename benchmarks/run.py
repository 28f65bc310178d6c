"""Measures the speed of REINFORCE and of a notebook's training loop; writes a section of docs/performance.md.

    make bench                      (or: python benchmarks/run.py --rounds 3)

Every row is the median of some rounds; in each round the loop and every pgzoo command run once, one after the other,
each as a separate process, so that a machine whose speed drifts slows both. Quote ratios, not absolute numbers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from page import PAGE, put, ratios, spread, stamp, table
from processes import Outcome, run, shortened

LOOP = "python benchmarks/notebook.py --episodes 1000"
MAIN = "pgzoo run reinforce --env CartPole-v1 --eval-episodes 1 --json"
NOTEBOOK = "pgzoo run reinforce --env CartPole-v1 --preset notebook --eval-episodes 1 --json"
BOTH = "--backend compiled --compile on"
ROWS = {
    "the notebook's loop": LOOP,
    "notebook preset, 1 seed": NOTEBOOK,
    "notebook preset, 5 seeds": f"{NOTEBOOK} --seeds 5",
    "default settings, 1 seed": MAIN,
    "default settings, 8 seeds": f"{MAIN} --seeds 8",
    "default settings, 32 seeds": f"{MAIN} --seeds 32",
    "notebook preset, `--backend compiled`, 5 seeds": f"{NOTEBOOK} --seeds 5 --backend compiled",
    "default settings, `--backend compiled`, 1 seed": f"{MAIN} --backend compiled",
    "default settings, `--backend compiled`, 32 seeds": f"{MAIN} --seeds 32 --backend compiled",
    f"notebook preset, `{BOTH}`, 5 seeds": f"{NOTEBOOK} --seeds 5 {BOTH}",
    f"default settings, `{BOTH}`, 1 seed": f"{MAIN} {BOTH}",
    f"default settings, `{BOTH}`, 32 seeds": f"{MAIN} --seeds 32 {BOTH}",
}


def measure(rounds: int) -> dict[str, list[Outcome]]:
    results: dict[str, list[Outcome]] = {name: [] for name in ROWS}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as libraries:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = libraries
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            for command in ROWS.values():  # compile what a whole run needs: shapes of batches depend on the episodes
                if "--compile on" in command:
                    run(command, Path(place))
        for index in range(rounds):
            measure_once(index, rounds, results)
    return results


def measure_once(index: int, rounds: int, results: dict[str, list[Outcome]]) -> None:
    """Measure every row in a new folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        # creates the store and compiles the environment, so that this isn't measured
        run(shortened(f"{MAIN} --backend compiled", 1000), folder)
        run(shortened(f"{NOTEBOOK} --backend compiled", 1000), folder)
        for name, command in ROWS.items():
            print(f"round {index + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
            results[name].append(run(command, folder))


def rows(results: dict[str, list[Outcome]]) -> list[list[str]]:
    speeds = {name: [outcome.env_steps / outcome.training for outcome in found] for name, found in results.items()}
    loop, *others = ROWS
    lines = [[loop, "1", f"{results[loop][0].env_steps:,}", f"{statistics.median(speeds[loop]):,.0f}", "1", ""]]
    for name in others:
        found = results[name]
        tracking = statistics.median([o.told["timing"]["track"] / o.training for o in found])
        lines.append(
            [
                name,
                str(len(found[0].told["seeds"])),
                f"{found[0].env_steps:,}",
                f"{statistics.median(speeds[name]):,.0f}",
                spread(ratios(speeds[name], speeds[loop])),
                f"{tracking:.1%}",
            ]
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    head = [
        "",
        "seeds",
        "environment steps",
        "steps/s",
        "speedup over the notebook's loop (minimum to maximum)",
        "tracking",
    ]
    made = table(head, rows(measure(options.rounds)))
    commands = "\n".join(ROWS.values())
    text = f"""## REINFORCE compared with a notebook's training loop

Training speed, in environment steps per second of the training loop: collecting, estimating, updating and
tracking, without imports, compiling, evaluation and the wait at exit; compiled code comes from the cache. The loop is
`benchmarks/notebook.py`, the training loop of a teaching notebook (one environment, one step at a time, torch
throughout), which does the same work as the `notebook` preset. Seeds of one command train together, as one batched
computation, and their steps are summed. *Tracking* is the fraction of the loop's time spent on tracking. Median of
{options.rounds} rounds.

{made}

The commands, in the order of the rows:

```sh
{commands}
```

{stamp("make bench", load)}"""
    put(options.out, "notebook", text)
    print(text)


if __name__ == "__main__":
    main()
