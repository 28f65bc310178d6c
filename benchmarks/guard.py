"""Checks for performance regressions: the speed of pgzoo relative to frozen reference loops, in the same process.

    make bench                      (or: python benchmarks/guard.py)

The ratio hardly depends on the machine, since both run on the same one. The loops are benchmarks/notebook.py for
REINFORCE and benchmarks/peers/cleanrl.py for PPO: if they change, the floors below must be measured again. Fails
if a ratio is below its floor.
"""

from __future__ import annotations

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "peers"))

import cleanrl
import notebook
import torch
import work
from page import ratios, spread, table

from pgzoo.config import Layer
from pgzoo.registry import discover
from pgzoo.runs.planning import make_plan
from pgzoo.runs.resolve import compose
from pgzoo.training.events import RunStarted, UpdateDone
from pgzoo.training.loop import train

ROUNDS = 5
FLOORS = {"reinforce": 12.0, "ppo": 1.4}
"""Minimum ratios: two thirds of the value measured when they were last raised, to allow for noise."""


def pgzoo(algorithm: str, **settings: Any) -> float:
    """Return steps per second of the training loop, without tracking, evaluation and the first update."""
    catalog = discover()
    given = {"algorithm": algorithm, "env": "CartPole-v1", "eval_episodes": 1, **settings}
    plan = make_plan(compose(Layer(given, ".".join), catalog, preset="none"), catalog)
    updates = []
    for event in train(plan):
        if isinstance(event, RunStarted | UpdateDone):
            updates.append((time.perf_counter(), 0 if isinstance(event, RunStarted) else int(event.env_steps.sum())))
    (started, before), (ended, after) = updates[1], updates[-1]
    return (after - before) / (ended - started)


def reinforce() -> float:
    return pgzoo("reinforce", total_steps=30_000)


def ppo() -> float:
    settings = {"learning_rate": 2.5e-4, "epochs": work.EPOCHS, "entropy_coef": work.ENTROPY, "clip_value": 0.2}
    return pgzoo("ppo", total_steps=20_480, gamma=work.GAMMA, **settings)


def notebook_loop() -> float:
    steps, seconds = notebook.reinforce(60, seed=0)
    return steps / seconds


def cleanrl_loop() -> float:
    returns = work.Returns(None)
    loop = cleanrl.prepare(Namespace(env="CartPole-v1", total_steps=6_144), 0, returns)
    started = time.perf_counter()
    loop()
    return float(returns.env_steps / (time.perf_counter() - started))


PAIRS: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
    "reinforce": (reinforce, notebook_loop),
    "ppo": (ppo, cleanrl_loop),
}


def main() -> None:
    torch.set_num_threads(1)
    lines, slow = [], []
    for name, (ours, loop) in PAIRS.items():
        pairs = [(ours(), loop()) for _ in range(ROUNDS)]  # alternately: the speed of a machine drifts
        found = ratios(*zip(*pairs, strict=True))
        lines.append([name, spread(found), f"{FLOORS[name]:g}"])
        if statistics.median(found) < FLOORS[name]:
            slow.append(name)
    print(table(["", "speedup over the frozen loop (minimum to maximum)", "floor"], lines))
    if slow:
        sys.exit(f"slower than before: {', '.join(slow)}")


if __name__ == "__main__":
    main()
