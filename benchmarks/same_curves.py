"""Do the backends and compiled updates learn alike? Writes a table of learning curves into docs/performance.md.

    python benchmarks/same_curves.py

PPO with its default settings on CartPole-v1, 10 seeds, in four ways. The table has the mean return of the training
episodes that ended in each fifth of the run, with its standard error over the seeds. It measures no time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from page import PAGE, put, stamp, table

SEEDS, STEPS, PARTS = 10, 50_000, 5
WAYS = {
    "native, eager": {"backend": "native", "compile": "off"},
    "sync, eager": {"backend": "sync", "compile": "off"},
    "compiled, eager": {"backend": "compiled", "compile": "off"},
    "compiled, compiled": {"backend": "compiled", "compile": "on"},
}


def curve(settings: dict[str, str]) -> NDArray[np.float64]:
    """Return the mean training return of each seed in each part of the run, `[S, PARTS]`."""
    import pgzoo
    from pgzoo.training.events import EpisodesFinished

    plan = pgzoo.plan(
        "ppo", env="CartPole-v1", preset="none", seeds=SEEDS, total_steps=STEPS, eval_episodes=1, **settings
    )
    returns: list[list[list[float]]] = [[[] for _ in range(PARTS)] for _ in range(SEEDS)]
    for event in pgzoo.train(plan):
        if isinstance(event, EpisodesFinished):
            for seed, (steps, ended) in enumerate(zip(event.env_steps, event.returns, strict=True)):
                returns[seed][min(int(steps) * PARTS // STEPS, PARTS - 1)] += [float(x) for x in ended]
    return np.array([[np.mean(part) for part in seed] for seed in returns])


def section() -> str:
    curves = {way: curve(settings) for way, settings in WAYS.items()}
    first = next(iter(curves.values()))
    lines = []
    for way, found in curves.items():
        error = found.std(0, ddof=1) / np.sqrt(SEEDS)
        cells = [f"{mean:.1f} ± {e:.1f}" for mean, e in zip(found.mean(0), error, strict=True)]
        both = np.sqrt(found.var(0, ddof=1) / SEEDS + first.var(0, ddof=1) / SEEDS)
        apart = np.abs(found.mean(0) - first.mean(0))[both > 0] / both[both > 0]
        lines.append([way, *cells, "" if found is first else f"{apart.max():.1f}"])
    head = ["backend, update", *(f"to {STEPS * (k + 1) // PARTS:,} steps" for k in range(PARTS)), "largest difference"]
    return (
        f"## Do all ways learn alike?\n\nPPO with default settings on CartPole-v1, {SEEDS} seeds: mean return of the "
        "training episodes in each fifth of the run, with its standard error over seeds. The rows use different random "
        "numbers or round differently, so that their curves differ as those of other seeds do. *Largest difference*: "
        "from the first row, in standard errors of the difference.\n\n" + table(head, lines)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)
        text = section()
    print(text, flush=True)
    put(options.out, "same-curves", f"{text}\n\n{stamp('python benchmarks/same_curves.py')}")


if __name__ == "__main__":
    main()
