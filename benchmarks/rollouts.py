"""Measures how fast rollout workers collect, by their number and by the CPU time of an environment step.

    python benchmarks/rollouts.py [--seconds 3] [--rounds 2]

Prints a Markdown table: environment steps per second of collecting alone, without learning. The order of the runs
changes from round to round, so that other work on the machine affects all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import pgzoo
from pgzoo.training.engine import Engine
from pgzoo.training.threads import limit_threads

COSTS = (0.0, 1e-4, 1e-3, 1e-2)
WORKERS = (0, 1, 2, 4)


def rate(cost: float, workers: int, seconds: float, steps: int) -> float:
    """Return environment steps per second, after a first window that isn't measured."""
    kwargs = {"cost": cost} if cost else {}
    settings: dict[str, Any] = {"num_envs": 8, "rollout_steps": steps, "backend": "sync", "preset": "none"}
    engine = Engine(pgzoo.plan("ppo", env="busy:Busy-v0", env_kwargs=kwargs, rollout_workers=workers, **settings))
    with limit_threads(1):
        state, _ = engine.collect(engine.state)
        first, begun = int(state.env_steps.sum()), time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds:
            state, _ = engine.collect(state)
    engine.close()
    return (int(state.env_steps.sum()) - first) / passed


def table(costs: Sequence[float], seconds: float, rounds: int) -> str:
    """Return the table."""
    found: dict[tuple[float, int], list[float]] = {}
    cases = [(cost, workers) for cost in costs for workers in WORKERS]
    for turn in range(rounds):
        for cost, workers in cases if turn % 2 == 0 else reversed(cases):
            found.setdefault((cost, workers), []).append(rate(cost, workers, seconds, 128 if cost < 1e-3 else 32))
            print(cost, workers, found[cost, workers], file=sys.stderr, flush=True)
    medians = {case: statistics.median(rates) for case, rates in found.items()}
    head = "| CPU time of a step | " + " | ".join(f"{n} workers" for n in WORKERS) + " | 2 workers ÷ 0 |"
    lines = [head, "|---|" + "---:|" * (len(WORKERS) + 1)]
    for cost in costs:
        rates = [medians[cost, n] for n in WORKERS]
        name = f"{cost * 1e6:,.0f} µs" if cost else "CartPole's own"
        ratio = f"{medians[cost, 2] / medians[cost, 0]:.2f}"
        lines.append(f"| {name} | " + " | ".join(f"{value:,.0f}" for value in rates) + f" | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table and where it was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--costs", type=float, nargs="+", default=list(COSTS), help="CPU seconds of a step")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    print(table(options.costs, options.seconds, options.rounds))
    print(f"\n{os.cpu_count()} CPU cores; load average {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
