"""Learning results of the built-in algorithms; writes docs/results.md.

make results                    (or: python benchmarks/results.py)
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SOLVED = 475.0
MAIN = "pgzoo run reinforce --env CartPole-v1 --seeds 10 --json"
NOTEBOOK = "pgzoo run reinforce --env CartPole-v1 --preset notebook --seeds 5 --json"
MANY = "pgzoo run reinforce --env CartPole-v1 --seeds 60 --json"
VARIANTS = {
    "the defaults": "",
    "8 environments, 100,000 steps, step size 0.03": " --num-envs 8 --total-steps 100000 --learning-rate 0.03",
    "16 environments, 120,000 steps, step size 0.04": " --num-envs 16 --total-steps 120000 --learning-rate 0.04",
    "gamma 0.99": " --gamma 0.99",
    "gamma 1": " --gamma 1",
    "constant step size": " --learning-rate-schedule constant",
    "two hidden layers": " --policy.hidden 64,64",
    "tanh": " --policy.activation tanh",
    "no baseline": " --baseline none",
    "returns not normalised": " --no-normalize-returns",
}


def run(command: str) -> dict[str, Any]:
    print(command, file=sys.stderr, flush=True)
    words = [sys.executable, "-m", "pgzoo", *shlex.split(command)[1:]]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{command} failed:\n{done.stderr}")
        subprocess.run(
            [*words[:3], "sync", "--wait", "120"], cwd=folder, env=environment, capture_output=True, check=False
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


def per_seed(result: dict[str, Any]) -> str:
    lines = [
        "| seed | steps | sampled: mean | std | min | max | greedy: mean |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for s in result["seeds"]:
        numbers = (s["return_mean"], s["return_std"], s["return_min"], s["return_max"], s["greedy_return_mean"])
        lines.append(f"| {s['seed']} | {s['env_steps']:,} | " + " | ".join(f"{x:.1f}" for x in numbers) + " |")
    means = [s["return_mean"] for s in result["seeds"]]
    lines.append(f"| **mean** | | **{np.mean(means):.1f}** | | | | |")
    return "\n".join(lines)


def variants() -> str:
    lines = ["| | seeds at 475 or more | mean | worst seed |", "|---|---:|---:|---:|"]
    for name, options in VARIANTS.items():
        means = np.array([s["return_mean"] for s in run(MANY + options)["seeds"]])
        lines.append(f"| {name} | {(means >= SOLVED).sum()} of {len(means)} | {means.mean():.1f} | {means.min():.1f} |")
    return "\n".join(lines)


def main() -> None:
    job, notebook = run(MAIN), run(NOTEBOOK)
    solved = sum(s["return_mean"] >= SOLVED for s in job["seeds"])
    versions = ", ".join(f"{name} {version(name)}" for name in ("pgzoo", "torch", "numpy", "gymnasium"))
    tried = "\n".join(MANY + options for options in VARIANTS.values())
    page = f"""# Learning results

Made by `make results` on {time.strftime("%Y-%m-%d")}: Python {platform.python_version()}, {versions}. Every number
is of the **last** parameters, never of the best; returns are means over the evaluation episodes, on environments of
their own. Other processors and versions give other bits, and so other numbers of this kind.

## The main job: REINFORCE on CartPole-v1

```sh
{MAIN}
```

{solved} of {len(job["seeds"])} seeds end at {SOLVED:g} or more with sampled actions.

{per_seed(job)}

## The notebook's setting

One episode per update, 1000 episodes, 1000 evaluation episodes, as in the notebook that `--preset notebook` repeats.

```sh
{NOTEBOOK}
```

{per_seed(notebook)}

## What the defaults rest on

Sixty seeds each, everything else at its default.

{variants()}

```sh
{tried}
```
"""
    (ROOT / "docs" / "results.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
