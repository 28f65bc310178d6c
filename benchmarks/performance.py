"""Speed, memory and time to learn beside other libraries; writes its sections of docs/performance.md.

    make bench-peers ARGS_PEERS="--only sb3,cleanrl --sections one-seed --rounds 3"
    (or: python benchmarks/performance.py ...)

Every peer is installed from PyPI into an environment of its own, build/peers/NAME; one that doesn't install is named
with the reason. In each round everybody runs once, one after the other, each as a process of its own with one thread,
so that a machine whose speed drifts slows all. Ratios are taken within a round. With `--keep FILE` what was measured is
kept there and a later call adds to it, so that a round can be run at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from libraries import LIBRARIES, install, script
from page import PAGE, put, spread, stamp, table
from processes import AlgorithmState, Outcome, option, run
from rows import Row, commands_of, comparison, compiled, eager, measure, middle, speeds, variants

CORE = (os.cpu_count() or 1) - 1
ONE_CORE = f"taskset -c {CORE} " if sys.platform == "linux" else ""


WORK = (
    "--preset none --num-envs 8 --rollout-steps 128 --epochs 4 --minibatches 4 --learning-rate 2.5e-4 "
    "--learning-rate-schedule linear --gamma 0.99 --estimator.lam 0.95 --clip-range 0.2 --clip-value 0.2 "
    "--entropy-coef 0.01 --value-coef 0.5 --max-grad-norm 0.5 --eval-episodes 10"
)
"""The PPO work of benchmarks/peers/work.py, in pgzoo's words."""
A2C = "--preset none --num-envs 8 --rollout-steps 5 --eval-episodes 10"
"""Stable-Baselines3's defaults, on eight environments."""
PPO_RUN, A2C_RUN = f"pgzoo run ppo --env CartPole-v1 {WORK}", f"pgzoo run a2c --env CartPole-v1 {A2C}"


@dataclass(frozen=True)
class Choice:
    """What was asked for: which peers that are there, how long, how often, and what was measured before."""

    peers: tuple[str, ...]
    steps: int
    rounds: int
    seeds: int
    sizes: tuple[str, ...]
    kept: AlgorithmState


def one_seed(choice: Choice) -> str:
    """PPO and A2C, one seed."""
    steps = f"--total-steps {choice.steps} --seed {{seed}}"
    ppo = [Row("pgzoo", (eager(f"{PPO_RUN} {steps}"),)), *compiled("pgzoo, compiled", f"{PPO_RUN} {steps}")]
    ppo += [Row(peer.title, (script(name, f"--algorithm ppo {steps}"),), name) for name, peer in LIBRARIES.items()]
    a2c = [Row("pgzoo a2c", (eager(f"{A2C_RUN} {steps}"),))]
    a2c += compiled("pgzoo a2c, compiled", f"{A2C_RUN} {steps}")
    a2c.append(Row("Stable-Baselines3 A2C", (script("sb3", f"--algorithm a2c {steps}"),), "sb3"))
    parts = [measure("one-seed", rows, choice.rounds, choice.peers, choice.kept) for rows in (ppo, a2c)]
    tables = [f"{comparison(rows, found)}\n\n{commands_of(rows)}" for rows, found in parts]
    return (
        f"## One seed\n\nPPO on CartPole-v1, {choice.steps:,} steps: 8 environments x 128 steps, 4 epochs, "
        "minibatches of 256, two separate networks of 64x64 tanh units, Adam with 2.5e-4 that falls to 0. *Training* "
        "leaves out imports, compiling, evaluation and the wait at exit; *process* is everything, from the command to "
        "its exit, tracking and the final evaluation of pgzoo included. The compiled rows find their step in the cache "
        "of an earlier run. *Return* is the mean of the last 100 training episodes, for pgzoo that of a final "
        "evaluation with sampled actions. *Ours / this* is how many times as fast ours was in the same round: median "
        f"(least to most).\n\n{tables[0]}\n\nA2C with Stable-Baselines3's defaults on 8 environments, "
        f"{choice.steps:,} steps:\n\n{tables[1]}"
    )


def many_seeds(choice: Choice) -> str:
    """PPO, many seeds, on one core and on two."""
    seeds, steps = choice.seeds, f"--total-steps {choice.steps // 4}"
    rows = [Row("pgzoo", (ONE_CORE + eager(f"{PPO_RUN} {steps} --seeds {seeds}"),))]
    for title, cold in (("pgzoo, compiled", False), ("pgzoo, compiled, cold", True)):
        for row in compiled(title, f"{PPO_RUN} {steps} --seeds {seeds}", cold):
            rows.append(Row(title, (f"{ONE_CORE}{row.commands[0]}",), cold=cold))
    if option("ppo", "--launcher"):
        launched = f"{PPO_RUN} {steps} --seeds {seeds} --launcher processes"
        rows.append(Row("pgzoo, two processes", (eager(launched),)))
        rows += compiled("pgzoo, two processes, compiled", launched)
    jax = ONE_CORE + script("purejax", f"{steps} --seeds {seeds}")
    rows += [Row(f"{LIBRARIES['purejax'].title}{', cold' * cold}", (jax,), "purejax", cold) for cold in (False, True)]
    halves = ((0, seeds // 2), (seeds // 2, seeds - seeds // 2))
    both = tuple(script("sb3", f"{steps} --seed {first} --seeds {count}") for first, count in halves)
    rows.append(Row("Stable-Baselines3, two processes", both, "sb3"))
    rows, found = measure("many-seeds", rows, choice.rounds, choice.peers, choice.kept)
    return (
        f"## {seeds} seeds\n\nThe same PPO, {choice.steps // 4:,} steps for each of {seeds} seeds; steps of all seeds "
        "are added up. One core where nothing else is said. *Cold* rows have no cache of what was compiled.\n\n"
        f"{comparison(rows, found)}\n\n{commands_of(rows)}"
    )


OUR_SEEDS = 10
"""Of pgzoo, in time-to-solve; of the others so many as rounds are asked for."""
TUNED = ("sb3", "sbx")
"""Peers that have RL Zoo's settings there."""


def time_to_solve(choice: Choice) -> str:
    """How long until CartPole-v1 is solved, one process per seed."""
    ours = "pgzoo run ppo --env CartPole-v1 --stop-at 475 --seed {seed} --eval-episodes 10"
    rows = [Row("pgzoo", (eager(ours),)), *compiled("pgzoo, compiled", ours)]
    rows = [replace(row, at_least=OUR_SEEDS) for row in rows]
    for name, peer in LIBRARIES.items():
        horizon, tuned = ("100000", " --settings tuned") if name in TUNED else ("500000", "")
        command = script(name, f"--total-steps {horizon} --stop-at 475 --seed {{seed}}{tuned}")
        rows.append(Row(peer.title, (command,), name))
    rows, found = measure("time-to-solve", rows, choice.rounds, choice.peers, choice.kept)
    lines = []
    for row in rows:
        outcomes = found[row.title]
        solved = sum(reached(outcome) for outcome in outcomes)
        lines.append(
            [
                row.title,
                f"{solved} of {len(outcomes)}",
                spread([outcome.training for outcome in outcomes]),
                f"{middle([outcome.compiling for outcome in outcomes]):.1f}",
                f"{middle([outcome.env_steps for outcome in outcomes]):,.0f}",
                f"{middle([outcome.whole for outcome in outcomes]):.1f}",
            ]
        )
    head = ["", "seeds that reach it", "seconds of training", "of compiling", "environment steps", "of the process"]
    zoo = " and ".join(row.title for row in rows if row.peer in TUNED)
    settings = "pgzoo has the settings that it ships for CartPole-v1 (`pgzoo presets show ppo CartPole-v1`)"
    settings += f", {zoo} RL Zoo's (100,000 steps)" if zoo else ""
    if any(row.peer and row.peer not in TUNED for row in rows):
        settings += ", all others the work above with a step size that falls to 0 in 500,000 steps"
    return (
        "## Time to a mean return of 475\n\nPPO on CartPole-v1 until the last 100 training episodes, with sampled "
        f"actions, have a mean of 475; medians over the seeds that the table counts, a process each. {settings}. "
        f"A seed that doesn't get there counts with its whole run.\n\n{table(head, lines)}\n\n{commands_of(rows)}"
    )


def reached(outcome: Outcome) -> bool:
    seeds = outcome.told.get("seeds")
    if seeds is not None:
        return all(seed["status"] == "stopped" for seed in seeds)
    return None not in outcome.told["solved_steps"]


FIRST_UPDATE = '''"""Writes the time of the first update, on the clock that all processes share."""
import time
from pathlib import Path

from pgzoo import hookimpl


@hookimpl
def pgzoo_update_done(event):
    place = Path("first-update")
    if not place.exists():
        place.write_text(repr(time.monotonic()))
'''


def first_update(command: str) -> float:
    """Seconds from the command to the end of its first update."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        (folder / "pgzoo_plugin.py").write_text(FIRST_UPDATE, encoding="utf-8")
        run(f"{command} --total-steps 1024", folder)  # makes the store
        (folder / "first-update").unlink()
        started = time.monotonic()
        run(f"{command} --total-steps 1024", folder)
        return float((folder / "first-update").read_text(encoding="utf-8")) - started


def start_and_memory(choice: Choice) -> str:
    """How soon a command is there, and what it weighs."""
    lines = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        helps = [run("pgzoo --help", Path(place)).whole for _ in range(5)]
    lines.append(["`pgzoo --help`, seconds", spread(helps, 2)])
    firsts = [first_update(eager(f"{PPO_RUN} --eval-episodes 1")) for _ in range(choice.rounds)]
    lines.append(["command to the end of the first update of PPO, not compiled, seconds", spread(firsts)])
    weighed = [
        Row(f"{title}, {count} seed{'s' * (count > 1)}", (command,))
        for count in (1, choice.seeds)
        for title, command in variants(f"{PPO_RUN} --total-steps 20000 --seeds {count}")
    ]
    weighed.append(Row("Stable-Baselines3, 1 seed", (script("sb3", "--total-steps 20000"),), "sb3"))
    weighed, found = measure("memory", weighed, choice.rounds, choice.peers, choice.kept)
    lines += [[f"peak memory of the PPO work, MiB: {n}", spread([x.peak for x in found[n]], 0)] for n in found]
    return f"## Start and memory\n\n{table(['', 'median (least to most)'], lines)}\n\n{commands_of(weighed)}"


SIZES = {"algorithm": "ppo", "env": "CartPole-v1", "num_envs": 8, "rollout_steps": 128, "epochs": 4, "minibatches": 4}
GROWTH: dict[str, Sequence[Any]] = {
    "seeds": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "num_envs": (1, 4, 8, 32, 128),
    "rollout_steps": (32, 128, 512, 2048),
    "hidden": ((32, 32), (64, 64), (128, 128), (256, 256), (512, 512)),
}


def growth(choice: Choice) -> str:
    """How cost grows with everything that can grow, from the PPO work on."""
    parts = []
    for name in choice.sizes:
        rows = [Row(title, (command,)) for value in GROWTH[name] for title, command in untracked(name, value)]
        rows, found = measure("growth", rows, 1, choice.peers, choice.kept)
        lines = [
            [
                row.title,
                f"{speeds(found[row.title])[0]:,.0f}",
                *(f"{1e6 * share(found[row.title][0], phase):.1f}" for phase in ("collect", "update")),
                f"{found[row.title][0].compiling:.1f}",
                f"{found[row.title][0].peak:.0f}",
            ]
            for row in rows
        ]
        head = [name, "steps/s, all seeds", "us a step: collect", "us a step: update", "seconds of compiling", "MiB"]
        parts.append(f"{table(head, lines)}\n\n{commands_of(rows[:1])}")
    return (
        "## How cost grows\n\nThe PPO work, about ten updates, with one of its sizes changed; measured once, with "
        "one thread and without tracking. `minibatches` is 4 throughout: they grow with what is collected.\n\n"
        + "\n\n".join(parts)
    )


def untracked(name: str, value: Any) -> list[tuple[str, str]]:
    """About ten updates with this size, without tracking: not compiled, and compiled where this pgzoo can."""
    changed: dict[str, Any] = {"policy": {"name": "mlp", "hidden": value}} if name == "hidden" else {name: value}
    settings: dict[str, Any] = SIZES | changed
    settings |= {"total_steps": 10 * settings["num_envs"] * settings["rollout_steps"], "eval_episodes": 1}
    ways = {"": "off", ", compiled": "on"} if option("ppo", "--compile") else {"": None}
    shown = f"{value[0]}x{value[1]}" if name == "hidden" else str(value)
    return [
        (f"{name} {shown}{way}", f"python benchmarks/untracked.py {quote(json.dumps(settings | compiling))}")
        for way, compiling in ((way, {"compile": word} if word else {}) for way, word in ways.items())
    ]


def share(outcome: Outcome, phase: str) -> float:
    return float(outcome.told["timing"][phase]) / outcome.env_steps


SECTIONS: dict[str, Callable[[Choice], str]] = {
    "one-seed": one_seed,
    "many-seeds": many_seeds,
    "time-to-solve": time_to_solve,
    "start-and-memory": start_and_memory,
    "growth": growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="PEER,...", default=",".join(LIBRARIES), help="run these, or none; default: all"
    )
    parser.add_argument("--sections", metavar="SECTION,...", default=",".join(SECTIONS), help="default: all of them")
    parser.add_argument("--rounds", type=int, default=3, help=f"in time-to-solve: seeds, of ours {OUR_SEEDS} or more")
    parser.add_argument("--steps", type=int, default=200_000, help="of one seed; a quarter for each of many")
    parser.add_argument("--seeds", type=int, default=32, help="where there are many")
    parser.add_argument("--sizes", metavar="SIZE,...", default=",".join(GROWTH), help="those that grow; default: all")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="add to what was measured before")
    options = parser.parse_args()
    only = [] if options.only == "none" else options.only.split(",")
    sections, sizes = options.sections.split(","), options.sizes.split(",")
    for given, known in ((only, LIBRARIES), (sections, SECTIONS), (sizes, GROWTH)):
        if unknown := set(given) - set(known):
            parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    missing = {name: reason for name in only if (reason := install(name))}
    for name, reason in missing.items():
        print(f"{name} doesn't install: {reason}", file=sys.stderr, flush=True)
    peers = tuple(name for name in only if name not in missing)
    choice = Choice(peers, options.steps, options.rounds, options.seeds, tuple(sizes), AlgorithmState(options.keep))
    absent = "".join(f"\n\n{LIBRARIES[name].title} could not be installed: `{why}`" for name, why in missing.items())
    for section in sections:
        load = os.getloadavg()[0]
        text = SECTIONS[section](choice)
        made_by = f"python benchmarks/performance.py {' '.join(shown(section, options))}"
        put(options.out, section, f"{text}\n\n{stamp(made_by, None if options.keep else load)}{absent}")
        print(text, flush=True)


def shown(section: str, options: argparse.Namespace) -> list[str]:
    """The options that make this section again."""
    words = ["--sections", section, "--rounds", str(options.rounds)]
    if set(options.only.split(",")) != set(LIBRARIES):
        words += ["--only", options.only]
    if section == "growth" and set(options.sizes.split(",")) != set(GROWTH):
        words += ["--sizes", options.sizes]
    if options.keep:
        words += ["--keep", options.keep.name]
    return words


if __name__ == "__main__":
    main()
