"""How the speed of compiled PPO grows with each size, and what limits it; writes a section of docs/performance.md.

    python benchmarks/growth.py         (about ten minutes on one core, of which compiling takes half)

One size is varied at a time. Each row is a process with one thread, which trains with `--backend compiled --compile on`
for some seconds, without tracking, after a run of one update that compiles. Beside it stands the speed of
torch's float32 matrix product (sgemm) for the network's largest layer and the rows that are differentiated together,
measured in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from page import PAGE, put, stamp, table

EPOCHS, MINIBATCHES = 4, 4
BASE = {"seeds": 1, "num_envs": 8, "rollout_steps": 128, "width": 64}
SIZES: dict[str, tuple[int, ...]] = {
    "seeds": (1, 4, 16, 64, 256),
    "num_envs": (8, 32, 128, 512, 1024),
    "rollout_steps": (32, 128, 512, 2048),
    "width": (64, 128, 256, 512, 1024),
}
SECONDS, LEAST = 5.0, 2
"""A row trains for this long, but at least so many updates after the first."""
NAMES = {
    "collect/environment": "environment",
    "collect/acting": "acting",
    "collect/compiled": "acting and environment, in one compiled loop",
    "collect/storing": "storing",
    "estimate": "values, log-probabilities, advantages",
    "update": "gradient steps",
    "track": "metrics and events",
}


def weights(width: int) -> int:
    """Numbers in the weight matrices of the policy and the critic on CartPole-v1: 4 inputs, 2 actions, 1 value."""
    return 2 * (4 * width + width * width) + 2 * width + width


def flops(width: int) -> float:
    """Floating-point operations of matrix products per environment step.

    Two per weight and forward pass. Acting needs the policy, half of the weights; values and log-probabilities one pass
    through both networks; a gradient about three passes.
    """
    return 2 * weights(width) * (0.5 + 1 + 3 * EPOCHS)


def sgemm(rows: int, width: int) -> float:
    """Operations per second of `[rows, width] @ [width, width]`: the best of several tries."""
    import torch

    left, right, out = torch.randn(rows, width), torch.randn(width, width), torch.empty(rows, width)
    calls = max(1, int(2e8 / (2 * rows * width * width)))
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(calls):
            torch.mm(left, right, out=out)
        best = max(best, 2 * rows * width * width * calls / (time.perf_counter() - start))
    return best


def measure(sizes: dict[str, int]) -> dict[str, Any]:
    """Train with these sizes in this process."""
    import torch

    import pgzoo
    from pgzoo.training.events import RunEnded, UpdateDone

    torch.set_num_threads(1)
    width, rollout = sizes["width"], sizes["num_envs"] * sizes["rollout_steps"]
    settings: dict[str, Any] = {
        "env": "CartPole-v1",
        "preset": "none",
        "seeds": sizes["seeds"],
        "num_envs": sizes["num_envs"],
        "rollout_steps": sizes["rollout_steps"],
        "epochs": EPOCHS,
        "minibatches": MINIBATCHES,
        "policy": {"name": "mlp", "hidden": (width, width)},
        "backend": "compiled",
        "compile": "on",
        "eval_episodes": 1,
    }
    for _ in pgzoo.train(pgzoo.plan("ppo", **settings, total_steps=rollout)):
        pass  # compiles, so that the profile of the measured run doesn't contain it
    plan = pgzoo.plan("ppo", **settings, total_steps=1_000_000_000)
    control, first, done = pgzoo.Control(), (0.0, 0), (0.0, 0)
    updates = 0
    for event in pgzoo.train(plan, control):
        if isinstance(event, UpdateDone):
            done, updates = (time.perf_counter(), int(event.env_steps.sum())), updates + 1
            first = first if updates > 1 else done
            if updates > LEAST and done[0] - first[0] > SECONDS:
                control.stop()
        elif isinstance(event, RunEnded):
            parts = {name: seconds for name, seconds in event.profile().items() if name in NAMES}
    speed = (done[1] - first[1]) / (done[0] - first[0])
    peak = sgemm(rollout // MINIBATCHES, width)
    return {"speed": speed, "peak": peak, "share": flops(width) * speed / peak, "parts": parts}


def row(sizes: dict[str, int]) -> dict[str, Any]:
    """Train with these sizes in a new process."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
        environment |= {"OMP_NUM_THREADS": "1"}
        environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(PAGE.parents[1] / "build" / "compiled"))
        words = [sys.executable, str(Path(__file__).resolve()), "--row", json.dumps(sizes)]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def line(size: str, value: int, found: dict[str, Any]) -> list[str]:
    total = sum(found["parts"].values())
    parts = sorted(((seconds / total, NAMES[name]) for name, seconds in found["parts"].items()), reverse=True)
    limits = "; ".join(f"{name} {share:.0%}" for share, name in parts[:2])
    named = f"{size} {value}" + (", as above" if value == BASE[size] and size != "seeds" else "")
    return [named, f"{found['speed']:,.0f}", f"{found['peak'] / 1e9:.1f}", f"{found['share']:.0%}", limits]


def section() -> str:
    lines, known = [], dict[str, dict[str, Any]]()
    for size, values in SIZES.items():
        for value in values:
            sizes = BASE | {size: value}
            key = json.dumps(sizes)
            known[key] = known.get(key) or row(sizes)
            lines.append(line(size, value, known[key]))
            print("  ".join(lines[-1]), flush=True)
    head = ["", "steps/s, all seeds", "sgemm, GFLOP/s", "share of sgemm", "most of the time goes to"]
    return (
        "## What limits compiled PPO\n\nPPO on CartPole-v1 with `--backend compiled --compile on`, one thread, without "
        f"tracking; {EPOCHS} epochs of {MINIBATCHES} minibatches. Unless varied: 1 seed, 8 environments, 128 steps per "
        "rollout, two networks with two hidden layers of 64 units. *sgemm* is the speed of torch's matrix product for "
        "the rows of one seed's minibatch and a hidden layer, measured in the same process. *Share of sgemm*: the "
        "operations that the matrix products of training need, divided by the time that all of training took, as a "
        "share of that speed. The last column has the two largest parts of `--profile`.\n\n" + table(head, lines)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", type=json.loads, metavar="SIZES", help="measure one row in this process")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(options.row)))
        return
    load = os.getloadavg()[0]
    put(options.out, "limits", f"{section()}\n\n{stamp('python benchmarks/growth.py', load)}")


if __name__ == "__main__":
    main()
