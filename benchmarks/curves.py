"""Learning curves of the built-in algorithms with their default settings, for docs/algorithms.md.

python benchmarks/curves.py [ALGORITHM ...]     draws the named ones anew, or those that are missing
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pgzoo
from pgzoo.registry import discover

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results" / "curves"
SEEDS = 5
CONTINUOUS = {"rpo", "reppo"}
"""Algorithms that need Box actions."""


def draw(algorithm: str) -> None:
    """Train five seeds, and write the plot of the mean over seeds."""
    env = "Pendulum-v1" if algorithm in CONTINUOUS else "CartPole-v1"
    result = pgzoo.run(algorithm, env=env, seeds=SEEDS, preset="none", tracking_uri="none", eval_episodes=1)
    if result.status != "finished":
        sys.exit(f"{algorithm}: {result.status}")
    result.plot().savefig(FOLDER / f"{algorithm}.png", dpi=70)


def main() -> None:
    names = [e.name for e in discover(inline=False).entries("algorithm") if e.plugin.source == "built-in"]
    chosen = sys.argv[1:] or [name for name in names if not (FOLDER / f"{name}.png").exists()]
    FOLDER.mkdir(exist_ok=True)
    for name in chosen:
        print(name, flush=True)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            os.chdir(folder)
            draw(name)
            os.chdir(FOLDER)


if __name__ == "__main__":
    main()
