"""Compares CPU and GPU, by number of seeds and size of the networks; writes a section of docs/performance.md.

    make bench-device               (or: python benchmarks/device.py)

Without a GPU that torch can use, it exits with a message and doesn't change the page.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from page import PAGE, put, stamp, table
from processes import Outcome, run

STEPS = {1: 65_536, 32: 16_384, 256: 4_096}
"""Environment steps per seed, by number of seeds: enough updates that the first ones matter little."""

HIDDEN = ("64,64", "512,512")
WAYS = [f"--device {device} --compile {compiled}" for device in ("cpu", "cuda") for compiled in ("off", "on")]
COMMAND = (
    "pgzoo run ppo --env CartPole-v1 --preset none --num-envs 8 --rollout-steps 128 --epochs 4 --minibatches 4"
    " --policy.hidden {hidden} --seeds {seeds} --total-steps {steps} --eval-episodes 1 {way} --json"
)


def command(seeds: int, hidden: str, way: str) -> str:
    return COMMAND.format(hidden=hidden, seeds=seeds, steps=STEPS[seeds], way=way)


def rates(outcomes: list[Outcome]) -> list[float]:
    return [outcome.env_steps / outcome.training for outcome in outcomes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", choices=STEPS, default=list(STEPS))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"There is no GPU that torch {torch.__version__} can use: nothing was measured.")
    rows = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        for hidden in HIDDEN:
            for seeds in options.seeds:
                print(f"{seeds} seeds, {hidden}", file=sys.stderr, flush=True)
                found = rates([run(command(seeds, hidden, way), Path(place)) for way in WAYS])
                ratio = max(found[2:]) / max(found[:2])
                rows.append(
                    [hidden.replace(",", "x"), str(seeds), *(f"{rate:,.0f}" for rate in found), f"**{ratio:.2f}**"]
                )
    head = ["network", "seeds", "cpu", "cpu, compiled", "cuda", "cuda, compiled", "best cuda / best cpu"]
    text = f"""PPO on CartPole-v1, environment steps per second of training, summed over seeds; compile time excluded.

{table(head, rows)}

```sh
{COMMAND}
```

{stamp("make bench-device")} GPU: {torch.cuda.get_device_name()}.
"""
    put(PAGE, "device", text)
    print(text)


if __name__ == "__main__":
    main()
