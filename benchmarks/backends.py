"""Measures the speed of environments without learning, by backend and number of environments; writes docs/backends.md.

    make bench-backends             (or: python benchmarks/backends.py)

Needs pgzoo with the extras box2d and mujoco, and plugins/pgzoo-envpool.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

from physics import raw

PAGE = Path(__file__).resolve().parent.parent / "docs" / "backends.md"
BEGIN, END = "<!-- benchmarks/backends.py -->\n", "<!-- end -->\n"
ENVS = (
    *("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "FrozenLake-v1"),
    *("LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3", "BipedalWalkerHardcore-v3", "CarRacing-v3"),
    *("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"),
)
ROWS = (1, 8, 64)


def rate(env: str, backend: str, rows: int, threads: int, seconds: float, rounds: int) -> float:
    os.environ["PGZOO_ENVPOOL_THREADS"] = str(threads)
    return float(statistics.median(raw(env, backend, rows, seconds)["steps_per_second"] for _ in range(rounds)))


def short(steps: float) -> str:
    return f"{steps / 1000:.3g}k"


def line(env: str, seconds: float, rounds: int) -> str:
    """Return a table row: steps per second of each backend, and the ratio envpool / sync."""
    print(env, file=sys.stderr, flush=True)
    many = (1,) if env == "CarRacing-v3" else ROWS  # one of its steps takes some milliseconds
    plain = {rows: rate(env, "sync", rows, 1, seconds, rounds) for rows in many}
    pool = {rows: rate(env, "envpool", rows, 1, seconds, rounds) for rows in many}
    two = [short(rate(env, "envpool", rows, 2, seconds, rounds)) if rows in many else "" for rows in (8, 64)]
    rates = [short(each[rows]) if rows in each else "" for each in (plain, pool) for rows in ROWS]
    ratios = [f"**{pool[rows] / plain[rows]:.1f}**" if rows in plain else "" for rows in ROWS]
    return f"| {' | '.join([env, *rates, *two, *ratios])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--envs", nargs="+", default=list(ENVS))
    options = parser.parse_args()
    versions = ", ".join(f"{name} {version(name)}" for name in ("envpool", "gymnasium", "mujoco", "numpy"))
    rows = [line(env, options.seconds, options.rounds) for env in options.envs]
    table = "\n".join(
        [
            "| | sync: 1 env | 8 envs | 64 envs | envpool: 1 env | 8 envs | 64 envs "
            "| envpool, two threads: 8 envs | 64 envs | envpool ÷ sync: 1 env | 8 envs | 64 envs |",
            f"|---|{'---:|' * 11}",
            *rows,
        ]
    )
    made = f"""{table}

Made by `make bench-backends` on {time.strftime("%Y-%m-%d")}: {os.cpu_count()} CPU cores ({platform.machine()}),
{versions}. Steps per second with random actions for 1, 8 and 64 environments,
in one thread unless the column says two.
"""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    foot = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}{made}{END}{foot}", encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
