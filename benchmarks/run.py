"""Speed of pgzoo beside the notebook's loop, measured in turn in one session; writes docs/benchmarks.md.

    make bench                      (or: python benchmarks/run.py --rounds 3)

Every row is the median of some rounds; in each round the loop and every pgzoo command run once, one after the other,
each as a process of its own, so that a machine whose speed drifts slows both. Quote ratios, not digits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOOP = "python benchmarks/notebook.py --episodes 1000"
MAIN = "pgzoo run reinforce --env CartPole-v1 --total-steps 100000 --eval-episodes 1 --json"
ROWS = {
    "notebook preset, 1 seed": "pgzoo run reinforce --env CartPole-v1 --preset notebook --eval-episodes 1 --json",
    "notebook preset, 5 seeds": (
        "pgzoo run reinforce --env CartPole-v1 --preset notebook --seeds 5 --eval-episodes 1 --json"
    ),
    "main job, 1 seed": MAIN,
    "main job, 8 seeds": f"{MAIN} --seeds 8",
    "main job, 32 seeds": f"{MAIN} --seeds 32",
}


def run(command: str, folder: str) -> dict[str, Any]:
    """Run one command in `folder`; return the JSON of its last line."""
    words = shlex.split(command)
    words[:1] = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "pgzoo"]
    words = [str(ROOT / word) if word.startswith("benchmarks/") else word for word in words]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr}")
    last = done.stdout.strip().splitlines()[-1]
    return json.loads(last) if last.startswith('{"') else {}


def measure(rounds: int) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {"loop": []} | {name: [] for name in ROWS}
    for index in range(rounds):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            run(f"{MAIN} --total-steps 1000", folder)  # makes the store, so that this isn't done beside a measurement
            for name in results:
                print(f"round {index + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
                results[name].append(run(ROWS.get(name, LOOP), folder))
                if name in ROWS:  # the uploader must not run beside the next measurement
                    run("pgzoo sync --wait 300 --json", folder)
    return results


def middle(values: list[float]) -> float:
    return statistics.median(values)


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    loop = [r["steps_per_second"] for r in results["loop"]]
    lines = [
        "| | seeds | environment steps | steps/s | times the loop (min to max) | tracking, share of the loop |",
        "|---|---:|---:|---:|---:|---:|",
        f"| the notebook's loop | 1 | {results['loop'][0]['env_steps']:,} | {middle(loop):,.0f} | 1 | |",
    ]
    for name in ROWS:
        rows = results[name]
        ratios = [r["steps_per_second"] / base for r, base in zip(rows, loop, strict=True)]
        share = middle([r["timing"]["track"] / r["wall_seconds"] for r in rows])
        lines.append(
            f"| {name} | {len(rows[0]['seeds'])} | {rows[0]['env_steps']:,} "
            f"| {middle([r['steps_per_second'] for r in rows]):,.0f} "
            f"| **{middle(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f}) | {share:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    results = measure(options.rounds)
    commands = "\n".join([LOOP, *ROWS.values()])
    versions = ", ".join(f"{name} {version(name)}" for name in ("pgzoo", "torch", "numpy", "gymnasium"))
    options.out.write_text(
        f"""# Benchmarks

Made by `make bench` on {time.strftime("%Y-%m-%d")}: {os.cpu_count()} CPU cores ({platform.machine()}), Python
{platform.python_version()}, {versions}; one torch thread; load {load:.1f} at the start; median of
{options.rounds} rounds. Machines differ and are noisy: the ratios are what to look at.

Training speed, in environment steps per second of the training loop: collecting, estimating, updating and
tracking, without imports, evaluation and the wait at exit. The loop is `benchmarks/notebook.py`, the training loop of
a teaching notebook (one environment, one step at a time, torch throughout), which does the same work as the
`notebook` preset. Seeds of one command train together, as one batched computation, and their steps are added up.

{table(results)}

The commands, in the order of the rows:

```sh
{commands}
```
""",
        encoding="utf-8",
    )
    print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
