"""Learning results of the built-in algorithms; writes docs/results.md.

make results                          runs the rows with a published result that were not run, and missing sections
make results ROW=ppo/Pendulum-v1      runs the rows whose name contains this, also if they are finished
python benchmarks/results.py --render                   writes the page from the rows that are kept
python benchmarks/results.py --only "all algorithms"    runs the sections whose title contains this
"""

from __future__ import annotations

import argparse
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
from result_rows import render, run_rows

ROOT = Path(__file__).resolve().parent.parent
SOLVED = 475.0
MAIN = "pgzoo run reinforce --env CartPole-v1 --seeds 10 --json"
NOTEBOOK = "pgzoo run reinforce --env CartPole-v1 --preset notebook --seeds 5 --json"
MANY = "pgzoo run reinforce --env CartPole-v1 --seeds 60 --json"
VARIANTS = {
    "the defaults": "",
    "8 environments, 100,000 steps, learning rate 0.03": " --num-envs 8 --total-steps 100000 --learning-rate 0.03",
    "16 environments, 120,000 steps, learning rate 0.04": " --num-envs 16 --total-steps 120000 --learning-rate 0.04",
    "gamma 0.99": " --gamma 0.99",
    "gamma 1": " --gamma 1",
    "constant learning rate": " --learning-rate-schedule constant",
    "two hidden layers": " --policy.hidden 64,64",
    "tanh": " --policy.activation tanh",
    "no baseline": " --baseline none",
    "returns not normalized": " --no-normalize-returns",
}


class RunError(Exception):
    """A run failed. The message is the command, and what it printed."""


def run_if_possible(command: str) -> dict[str, Any] | None:
    """Run a command; return None, after printing why, if it fails, as in an environment that isn't installed."""
    try:
        return run(f"{command} --tracking-uri none")
    except RunError as error:
        print(error, file=sys.stderr)
        return None


def run(command: str) -> dict[str, Any]:
    print(command, file=sys.stderr, flush=True)
    words = [sys.executable, "-m", "pgzoo", *shlex.split(command)[1:]]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"{command} failed:\n{done.stderr}")
        subprocess.run(
            [*words[:3], "sync", "--wait", "120"], cwd=folder, env=environment, capture_output=True, check=False
        )
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


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


def ladder() -> str:
    """Every algorithm with its defaults in one environment, and the best-known ones in two more."""
    listed = json.loads(subprocess.run(
        [sys.executable, "-m", "pgzoo", "algorithms", "--json"], capture_output=True, text=True, check=True
    ).stdout)  # fmt: skip
    names = [entry["name"] for entry in listed if entry["source"] == "built-in" and entry["name"] not in CONTINUOUS]
    # the defaults of each, but for ppo, whose defaults are meant for harder environments
    preset = {name: "" if name == "ppo" else " --preset none" for name in names}
    commands = [f"pgzoo run {name} --env CartPole-v1 --seeds 5{preset[name]} --json" for name in names]
    lines = [f"### CartPole-v1\n\n{HEAD.format(bar=f'{SOLVED:g}')}"]
    for name, command in zip(names, commands, strict=True):
        lines.append(row(name, run(command), SOLVED))
    for env, (bar, published, tried) in OTHERS.items():
        lines.append(f"\n### {env}\n\n{published}\n\n{HEAD.format(bar=bar)}")
        for name in tried:
            commands.append(f"pgzoo run {name} --env {env} --seeds 5 --json")
            lines.append(row(name, run(commands[-1]), bar))
    told = "\n".join(commands)
    return "\n".join(lines) + f"\n\n```sh\n{told}\n```"


def row(name: str, result: dict[str, Any], bar: float) -> str:
    means = np.array([s["return_mean"] for s in result["seeds"]])
    greedy = np.mean([s["greedy_return_mean"] for s in result["seeds"]])
    steps = result["env_steps"] / len(means)
    enough = f"{(means >= bar).sum()} of {len(means)}"
    return (
        f"| `{name}` | {steps:,.0f} | {enough} | {means.mean():.1f} | {means.min():.1f} | {greedy:.1f} "
        f"| {result['wall_seconds']:.0f} |"
    )


HEAD = (
    "| algorithm | steps per seed | seeds at {bar} or more | sampled: mean | worst seed | greedy: mean "
    "| seconds, all seeds |\n|---|---:|---:|---:|---:|---:|---:|"
)
CONTINUOUS = ("rpo", "reppo")
"""Algorithms that need Box actions."""

OTHERS = {
    "Acrobot-v1": (-91.7, "RL Zoo's PPO: -73.5, standard deviation 18.2, after 1,000,000 steps.", ("ppo", "random")),
    "Pendulum-v1": (
        -276.4,
        "RL Zoo's PPO: -172.2, standard deviation 104.2, after 100,000 steps with state-dependent exploration.",
        ("ppo", "rpo", "random"),
    ),
}
"""Further environments: a published mean minus its standard deviation, the published result, and the algorithms."""


def main_job() -> str:
    job = run(MAIN)
    solved = sum(s["return_mean"] >= SOLVED for s in job["seeds"])
    count = f"{solved} of {len(job['seeds'])} seeds end at {SOLVED:g} or more with sampled actions."
    return f"```sh\n{MAIN}\n```\n\n{count}\n\n{per_seed(job)}"


def notebook() -> str:
    about = "One episode per update, 1000 episodes, 1000 evaluation episodes, as in the teaching notebook that "
    about += "`--preset notebook` reproduces."
    return f"{about}\n\n```sh\n{NOTEBOOK}\n```\n\n{per_seed(run(NOTEBOOK))}"


def defaults() -> str:
    tried = "\n".join(MANY + options for options in VARIANTS.values())
    return f"60 seeds per row; all other settings at their defaults.\n\n{variants()}\n\n```sh\n{tried}\n```"


PUBLISHED = "Beside published results"
SECTIONS = {
    PUBLISHED: render,
    "REINFORCE on CartPole-v1 with default settings": main_job,
    "The setup of a teaching notebook": notebook,
    "All algorithms": ladder,
    "Ablation of REINFORCE's defaults": defaults,
}


def stamp() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("pgzoo", "torch", "numpy", "gymnasium"))
    return f"*{time.strftime('%Y-%m-%d')}, Python {platform.python_version()}, {versions}.*"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="WORD", default="", help="run only the sections whose title contains this")
    parser.add_argument("--row", metavar="NAME", default="", help="run only the rows whose name contains this")
    parser.add_argument("--render", action="store_true", help="run nothing: write the page from the rows that are kept")
    options = parser.parse_args()
    path = ROOT / "docs" / "results.md"
    known = dict(part.split("\n", 1) for part in path.read_text(encoding="utf-8").split("\n## ")[1:])
    if not options.render and not options.only:
        run_rows(options.row, run_if_possible, stamp)
    for title, make in SECTIONS.items():
        wanted = bool(options.only) and options.only.lower() in title.lower()
        missing = title not in known and not options.render and not options.row
        if title == PUBLISHED:
            known[title] = f"\n{make()}\n"
        elif wanted or missing:
            known[title] = f"\n{stamp()}\n\n{make()}\n"
        page = [HEADER, *(f"## {t}\n{known[t].rstrip()}\n" for t in SECTIONS if t in known)]
        path.write_text("\n".join(page), encoding="utf-8")  # after each: they take long


HEADER = """# Learning results

Made by `make results`. Every number is of the **final** parameters, not of the best ones. Returns are means over the
evaluation episodes, in separate environments. On other processors or with other versions, results differ in rounding
and thus in the numbers below. Seconds were measured on a shared machine; [speed](performance.md) is measured
separately.
"""

if __name__ == "__main__":
    main()
