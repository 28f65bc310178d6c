"""PPO with many seeds on CartPole-v1: one process compared with several, and the startup time of workers.

python benchmarks/launchers.py [--seeds 32] [--workers 2] [--steps 20000] [--rounds 2] [--compile off]

Prints a table and, last, one line of JSON. `loop` is the speed of the training loop, `whole` the total speed including
imports, the start of the workers and evaluation, but not the wait for MLflow.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from typing import Any

SCRIPT = """
import json, sys, time
begun = time.perf_counter()
from pgzoo.config import Layer
from pgzoo.registry import discover
from pgzoo.runs.resolve import compose
from pgzoo.runs.runner import run_config
from pgzoo.tracking import Home
from pgzoo.tracking.locks import lock
home = Home.find(); home.root.mkdir(exist_ok=True)
quiet = lock(home.uploader_lock, timeout=1)  # no uploader runs meanwhile
catalog = discover(inline=False)
result = run_config(compose(Layer(json.loads(sys.argv[1]), ".".join), catalog, preset="none"), catalog)
whole = time.perf_counter() - begun
told = result.to_dict()
mean = sum(seed["return_mean"] for seed in told["seeds"]) / len(told["seeds"])
print(json.dumps({"loop": told["steps_per_second"], "seconds": told["wall_seconds"], "whole": whole,
                  "steps": told["env_steps"], "return_mean": mean, "status": told["status"]}))
"""


def measure(**settings: Any) -> dict[str, Any]:
    """Train in a separate process and home; return its results."""
    given = {"algorithm": "ppo", "env": "CartPole-v1", "eval_episodes": 10, "threads": 1} | settings
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "PGZOO_HOME": home}
        command = [sys.executable, "-c", SCRIPT, json.dumps(given)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["status"] == "finished", told
    return told


def main() -> None:
    """Measure alternately, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--compile", choices=("on", "off"), default="off", help="as of pgzoo run; on: with a cold cache"
    )
    options = parser.parse_args()
    ways: dict[str, dict[str, Any]] = {
        "local": {},
        f"processes, {options.workers} workers": {"launcher": "processes", "workers": options.workers},
    }
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, how in ways.items():
            found[way].append(measure(seeds=options.seeds, total_steps=options.steps, compile=options.compile, **how))
    tiny = {
        way: measure(seeds=options.workers, total_steps=1, eval_episodes=1, compile="off", **how)
        for way, how in ways.items()
    }
    rows = {
        way: {
            "loop": statistics.median(one["loop"] for one in told),
            "whole": statistics.median(one["steps"] / one["whole"] for one in told),
            "start_seconds": tiny[way]["whole"] - tiny[way]["seconds"],
            "return_mean": statistics.mean(one["return_mean"] for one in told),
        }
        for way, told in found.items()
    }
    what = f"PPO, {options.seeds} seeds of {options.steps:,} steps, compile {options.compile}"
    print(f"{what}, median of {options.rounds}; {platform.machine()}\n")
    print(
        "| launcher | training loop, steps/s | total, steps/s | startup, s | mean return |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for way, row in rows.items():
        cells = (
            f"{row['loop']:,.0f}",
            f"{row['whole']:,.0f}",
            f"{row['start_seconds']:.1f}",
            f"{row['return_mean']:.0f}",
        )
        print(f"| {way} | {' | '.join(cells)} |")
    local, spread = rows.values()
    ratios = {"loop": spread["loop"] / local["loop"], "whole": spread["whole"] / local["whole"]}
    print(f"\nprocesses / local: loop {ratios['loop']:.2f}, whole {ratios['whole']:.2f}")
    print(json.dumps({"rows": rows, "ratios": ratios, "measured": found}))


if __name__ == "__main__":
    main()
