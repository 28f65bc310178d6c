"""Measures what a rollout costs with rollout workers, by their number and by the CPU time of an environment step.

    python benchmarks/rollouts.py [--windows 4] [--rounds 1]

Prints a Markdown table: environment steps per second of collecting alone, without learning, that a machine reaches on
which every process has a core of its own. It is computed from CPU times: those of the process that trains, and of the
worker that took most. So other work on the machine hardly changes the table, and there may be more workers than cores.
The last column is the rate that was seen on this machine with 2 workers, divided by the one without workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pgzoo
from pgzoo.training.engine import Engine
from pgzoo.training.threads import limit_threads

COSTS = (0.0, 2e-5, 1e-4, 1e-3)
WORKERS = (0, 1, 2, 4)


class Rates(NamedTuple):
    """Environment steps per second: computed from CPU times, and seen."""

    computed: float
    seen: float


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(cost: float, workers: int, windows: int, steps: int) -> Rates:
    """Collect some windows, after a first one that isn't measured."""
    kwargs = {"cost": cost} if cost else {}
    settings: dict[str, Any] = {"num_envs": 8, "rollout_steps": steps, "backend": "sync", "preset": "none"}
    engine = Engine(pgzoo.plan("ppo", env="busy:Busy-v0", env_kwargs=kwargs, rollout_workers=workers, **settings))
    with limit_threads(1):
        state, _ = engine.collect(engine.state)
        envs: Any = engine.interaction.environments.training()
        pids = [connection._process.pid for connection in envs._connections] if workers else []
        first, begun, own = int(state.env_steps.sum()), time.perf_counter(), time.process_time()
        before = [cpu_seconds(pid) for pid in pids]
        for _ in range(windows):
            state, _ = engine.collect(state)
    busiest = max((cpu_seconds(pid) - used for pid, used in zip(pids, before, strict=True)), default=0.0)
    own, passed = time.process_time() - own, time.perf_counter() - begun
    engine.close()
    done = int(state.env_steps.sum()) - first
    return Rates(done / (own + busiest), done / passed)


def table(costs: Sequence[float], windows: int, rounds: int) -> str:
    """Return the table."""
    found: dict[tuple[float, int], list[Rates]] = {}
    cases = [(cost, workers) for cost in costs for workers in WORKERS]
    for turn in range(rounds):
        for cost, workers in cases if turn % 2 == 0 else reversed(cases):
            steps, count = (1024, 2 * windows) if cost < 1e-4 else (128, windows) if cost < 1e-3 else (32, windows)
            found.setdefault((cost, workers), []).append(measure(cost, workers, count, steps))
            print(cost, workers, found[cost, workers], file=sys.stderr, flush=True)
    computed = {case: statistics.median(one.computed for one in rates) for case, rates in found.items()}
    seen = {case: statistics.median(one.seen for one in rates) for case, rates in found.items()}
    head = "| CPU time of a step | " + " | ".join(f"{n} workers" for n in WORKERS)
    head += " | 2 workers ÷ 0 | 4 workers ÷ 0 | seen: 2 workers ÷ 0 |"
    lines = [head, "|---|" + "---:|" * (len(WORKERS) + 3)]
    for cost in costs:
        rates = " | ".join(f"{computed[cost, n]:,.0f}" for n in WORKERS)
        name = f"{cost * 1e6:,.0f} µs" if cost else "CartPole's own"
        ratios = [computed[cost, n] / computed[cost, 0] for n in (2, 4)] + [seen[cost, 2] / seen[cost, 0]]
        lines.append(f"| {name} | {rates} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table and where it was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--costs", type=float, nargs="+", default=list(COSTS), help="CPU seconds of a step")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    print(table(options.costs, options.windows, options.rounds))
    print(f"\n{os.cpu_count()} CPU cores; load average {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
