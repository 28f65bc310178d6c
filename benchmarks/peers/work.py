"""What the peers' scripts share: their options, the work, the episodes they have seen, and their last line."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections import deque
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

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


class Returns:
    """The last hundred training episodes of a seed, and when their mean reached `stop_at`."""

    def __init__(self, stop_at: float | None) -> None:
        self.stop_at, self.last = stop_at, deque[float](maxlen=100)
        self.solved_steps: int | None = None

    def add(self, returns: Iterable[float], env_steps: int) -> bool:
        """Note episodes that ended at `env_steps`; return whether training may end."""
        for value in returns:
            self.last.append(float(value))
            if self.stop_at is not None and self.solved_steps is None and len(self.last) == 100:
                self.solved_steps = env_steps if self.mean >= self.stop_at else None
        return self.solved_steps is not None

    @property
    def mean(self) -> float:
        return sum(self.last) / len(self.last) if self.last else float("nan")


Train = Callable[[argparse.Namespace, int, Returns], tuple[int, float]]
"""Train one seed; return its environment steps and the seconds of the loop, imports and set-up left out."""


def measure(train: Train, options: argparse.Namespace, packages: tuple[str, ...]) -> None:
    """Train the seeds in turn, and print the last line."""
    steps, seconds, watched = 0, 0.0, []
    for seed in range(options.seed, options.seed + options.seeds):
        watched.append(Returns(options.stop_at))
        taken, took = train(options, seed, watched[-1])
        steps, seconds = steps + taken, seconds + took
    means, solved = [returns.mean for returns in watched], [returns.solved_steps for returns in watched]
    report(env_steps=steps, wall_seconds=seconds, return_means=means, solved_steps=solved, packages=packages)


def report(
    *,
    env_steps: int,
    wall_seconds: float,
    return_means: list[float],
    solved_steps: list[int | None],
    packages: tuple[str, ...],
    compile_seconds: float = 0.0,
) -> None:
    """Print the last line: what all seeds took together, how well each plays, and with what."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    line: dict[str, Any] = {
        "env_steps": env_steps,
        "wall_seconds": wall_seconds,
        "compile_seconds": compile_seconds,
        "return_mean": sum(return_means) / len(return_means),
        "return_means": return_means,
        "solved_steps": solved_steps,
        "peak_rss_mib": peak,
        "versions": {package: version(package) for package in packages},
    }
    print(json.dumps(line), flush=True)
