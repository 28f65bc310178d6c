"""What the peers' scripts share: their options, the work, the episodes they have seen, and their last line."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version

MACOS = sys.platform == "darwin"  # there the peak is in bytes
LEARNING_RATE, GAMMA, LAMBDA, CLIP_RANGE, ENTROPY, VALUE, MAX_GRAD_NORM = 2.5e-4, 0.99, 0.95, 0.2, 0.01, 0.5, 0.5
NUM_ENVS, ROLLOUT_STEPS, EPOCHS, MINIBATCH, HIDDEN = 8, 128, 4, 256, 64
"""The PPO work that everybody does; `benchmarks/performance.py` says the same to pgzoo. The step size falls to 0 at the
last step where the library lets it; networks for policy and value are separate, with two layers of tanh."""


def parse(description: str | None, algorithms: tuple[str, ...] = ("ppo",)) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=algorithms, default=algorithms[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--total-steps", type=int, default=200_000, help="environment steps of each seed")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from the first on")
    parser.add_argument("--stop-at", type=float, help="end when the last 100 training episodes have this mean return")
    parser.add_argument("--settings", choices=("work", "tuned"), default="work", help="tuned: RL Zoo's (SB3, SBX)")
    return parser.parse_args()


class Solved(Exception):
    """The last hundred training episodes have the mean that was asked for."""


class Returns:
    """The last hundred training episodes of a seed, the steps so far, and when the mean reached `stop_at`."""

    def __init__(self, stop_at: float | None) -> None:
        self.stop_at, self.last, self.env_steps = stop_at, deque[float](maxlen=100), 0
        self.solved_steps: int | None = None

    @property
    def mean(self) -> float:
        return sum(self.last) / len(self.last) if self.last else float("nan")

    def add(self, episode_return: float) -> None:
        """Note an episode that has ended; raise Solved when that was enough."""
        self.last.append(float(episode_return))
        if self.stop_at is not None and len(self.last) == 100 and self.mean >= self.stop_at:
            self.solved_steps = self.env_steps
            raise Solved


Prepare = Callable[[argparse.Namespace, int, Returns], Callable[[], object]]
"""From options, seed and where episodes are noted to what trains: the seconds of that are measured."""


def measure(prepare: Prepare, options: argparse.Namespace, packages: tuple[str, ...]) -> None:
    """Train the seeds in turn, and print the last line."""
    seconds, watched = 0.0, []
    for seed in range(options.seed, options.seed + options.seeds):
        watched.append(Returns(options.stop_at))
        train = prepare(options, seed, watched[-1])
        started = time.perf_counter()
        with suppress(Solved):
            train()
        seconds += time.perf_counter() - started
    report(watched, seconds, packages)


def report(seeds: list[Returns], seconds: float, packages: tuple[str, ...], compile_seconds: float = 0.0) -> None:
    """Print the last line: what all seeds took together, how well each plays, and with what."""
    line = {
        "env_steps": sum(seed.env_steps for seed in seeds),
        "wall_seconds": seconds,
        "compile_seconds": compile_seconds,
        "return_mean": sum(seed.mean for seed in seeds) / len(seeds),
        "return_means": [seed.mean for seed in seeds],
        "solved_steps": [seed.solved_steps for seed in seeds],
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if MACOS else 1024),
        "versions": {package: version(package) for package in packages},
    }
    print(json.dumps(line), flush=True)
