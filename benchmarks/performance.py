"""Compares speed, memory and time to learn with other libraries; writes sections of docs/performance.md.

    make bench-peers ARGS_PEERS="--only sb3,cleanrl --sections one-seed --rounds 3"
    (or: python benchmarks/performance.py ...)

Every library is installed from PyPI into a separate environment, build/peers/NAME; the page names those that can't be
installed, with the reason. In each round all run once, one after the other, each as a separate process with one thread,
so that a machine whose speed drifts slows all. Ratios are taken within a round. `--keep FILE` stores the measurements,
and a later call with the same file adds to them, so that rounds can be run one at a time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from libraries import LIBRARIES, install, script
from page import PAGE, put, spread, stamp, table
from processes import Measurements, Outcome, option, run, shortened
from rows import Row, commands_of, comparison, compiled, eager, measure, middle, variants

CORE = (os.cpu_count() or 1) - 1
ONE_CORE = f"taskset -c {CORE} " if sys.platform == "linux" else ""


WORK = (
    "--preset none --num-envs 8 --rollout-steps 128 --epochs 4 --minibatches 4 --learning-rate 2.5e-4 "
    "--learning-rate-schedule linear --gamma 0.99 --estimator.lam 0.95 --clip-range 0.2 --clip-value 0.2 "
    "--entropy-coef 0.01 --value-coef 0.5 --max-grad-norm 0.5 --eval-episodes 10"
)
"""The PPO workload of benchmarks/peers/work.py, as options of pgzoo."""
A2C = "--preset none --num-envs 8 --rollout-steps 5 --eval-episodes 10"
"""Stable-Baselines3's defaults, on eight environments."""
PPO_RUN, A2C_RUN = f"pgzoo run ppo --env CartPole-v1 {WORK}", f"pgzoo run a2c --env CartPole-v1 {A2C}"


@dataclass(frozen=True)
class Choice:
    """The options: installed peers, steps, rounds, seeds, and earlier measurements."""

    peers: tuple[str, ...]
    steps: int
    rounds: int
    seeds: int
    kept: Measurements


def one_seed(choice: Choice) -> str:
    """PPO and A2C, one seed."""
    steps = f"--total-steps {choice.steps} --seed {{seed}}"
    ppo = [Row("pgzoo", (eager(f"{PPO_RUN} {steps}"),)), *compiled("pgzoo, compiled", f"{PPO_RUN} {steps}")]
    ppo += compiled("pgzoo, compiled, `--backend compiled`", f"{PPO_RUN} {steps} --backend compiled")
    ppo += [Row(peer.title, (script(name, f"--algorithm ppo {steps}"),), name) for name, peer in LIBRARIES.items()]
    a2c = [Row("pgzoo a2c", (eager(f"{A2C_RUN} {steps}"),))]
    a2c += compiled("pgzoo a2c, compiled", f"{A2C_RUN} {steps}")
    a2c += compiled("pgzoo a2c, compiled, `--backend compiled`", f"{A2C_RUN} {steps} --backend compiled")
    a2c.append(Row("Stable-Baselines3 A2C", (script("sb3", f"--algorithm a2c {steps}"),), "sb3"))
    parts = [measure("one-seed", rows, choice.rounds, choice.peers, choice.kept) for rows in (ppo, a2c)]
    tables = [f"{comparison(rows, found)}\n\n{commands_of(rows)}" for rows, found in parts]
    return (
        f"## One seed\n\nPPO on CartPole-v1, {choice.steps:,} steps: 8 environments x 128 steps, 4 epochs, "
        "minibatches of 256, two separate networks of 64x64 tanh units, Adam with a learning rate annealed from 2.5e-4 "
        "to 0. *Training* excludes imports, compiling, evaluation and the wait at exit; *total* is the whole process, "
        "from the command to its exit, including pgzoo's tracking and final evaluation. The compiled rows load the "
        "compiled step from the cache of an earlier run; with `--backend compiled`, the environment and the choice of "
        "actions are compiled too. *Return* is the mean of the last 100 training episodes; for "
        "pgzoo, of a final evaluation with sampled actions. *pgzoo / this* is the speed of pgzoo divided by that of "
        "the row, measured in the same round: median "
        f"(minimum to maximum).\n\n{tables[0]}\n\nA2C with Stable-Baselines3's defaults on 8 environments, "
        f"{choice.steps:,} steps:\n\n{tables[1]}"
    )


def many_seeds(choice: Choice) -> str:
    """PPO, many seeds, on one core and on two."""
    seeds, steps = choice.seeds, f"--total-steps {choice.steps // 4}"
    rows = [Row("pgzoo", (ONE_CORE + eager(f"{PPO_RUN} {steps} --seeds {seeds}"),))]
    for title, cold in (("pgzoo, compiled", False), ("pgzoo, compiled, cold", True)):
        for row in compiled(title, f"{PPO_RUN} {steps} --seeds {seeds} --backend compiled", cold):
            rows.append(Row(title, (f"{ONE_CORE}{row.commands[0]}",), cold=cold))
    if option("ppo", "--launcher"):
        launched = f"{PPO_RUN} {steps} --seeds {seeds} --launcher processes"
        rows += compiled("pgzoo, two processes, compiled", f"{launched} --backend compiled")
    jax = ONE_CORE + script("purejax", f"{steps} --seeds {seeds}")
    rows += [Row(f"{LIBRARIES['purejax'].title}{', cold' * cold}", (jax,), "purejax", cold) for cold in (False, True)]
    halves = ((0, seeds // 2), (seeds // 2, seeds - seeds // 2))
    both = tuple(script("sb3", f"{steps} --seed {first} --seeds {count}") for first, count in halves)
    rows.append(Row("Stable-Baselines3, two processes", both, "sb3"))
    rows, found = measure("many-seeds", rows, choice.rounds, choice.peers, choice.kept)
    return (
        f"## {seeds} seeds\n\nThe same PPO, {choice.steps // 4:,} steps for each of {seeds} seeds; the steps of all "
        "seeds are summed. One core unless stated. The compiled rows use `--backend compiled`. *Cold*: with an empty "
        "compilation cache.\n\n"
        f"{comparison(rows, found)}\n\n{commands_of(rows)}"
    )


OUR_SEEDS = 10
"""Seeds of pgzoo in time-to-solve; the others have one per round."""
TUNED = ("sb3", "sbx")
"""Peers that use RL Zoo's settings in time-to-solve."""


def time_to_solve(choice: Choice) -> str:
    """Measure the time until CartPole-v1 is solved, with one process per seed."""
    ours = "pgzoo run ppo --env CartPole-v1 --stop-at 475 --seed {seed} --eval-episodes 10"
    rows = [Row("pgzoo", (eager(ours),)), *compiled("pgzoo, compiled", ours)]
    rows += compiled("pgzoo, compiled, `--backend compiled`", f"{ours} --backend compiled")
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
    head = ["", "seeds that reach it", "seconds of training", "seconds compiling", "environment steps", "total seconds"]
    zoo = " and ".join(row.title for row in rows if row.peer in TUNED)
    settings = "pgzoo uses its preset for CartPole-v1 (`pgzoo presets show ppo CartPole-v1`)"
    settings += f", {zoo} {'use' if ' and ' in zoo else 'uses'} RL Zoo's settings (100,000 steps)" if zoo else ""
    if any(row.peer and row.peer not in TUNED for row in rows):
        settings += ", all others use the workload above with a learning rate annealed to 0 over 500,000 steps"
    return (
        "## Time to a mean return of 475\n\nPPO on CartPole-v1 until the last 100 training episodes, with sampled "
        f"actions, have a mean of 475; medians over the seeds in the table, with one process per seed. {settings}. "
        f"A seed that doesn't reach 475 counts with its full run time.\n\n{table(head, lines)}\n\n{commands_of(rows)}"
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
        run(shortened(command, 1024), folder)  # creates the store
        (folder / "first-update").unlink()
        started = time.monotonic()
        run(shortened(command, 1024), folder)
        return float((folder / "first-update").read_text(encoding="utf-8")) - started


def start_and_memory(choice: Choice) -> str:
    """Measure startup time and peak memory."""
    lines = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        helps = [run("pgzoo --help", Path(place)).whole for _ in range(5)]
    lines.append(["`pgzoo --help`, seconds", spread(helps, 2)])
    firsts = [first_update(eager(PPO_RUN)) for _ in range(choice.rounds)]
    lines.append(["command to the end of the first update of PPO, not compiled, seconds", spread(firsts)])
    weighed = []
    for count in (1, choice.seeds):
        command, name = f"{PPO_RUN} --total-steps 20000 --seeds {count}", f"{count} seed{'s' * (count > 1)}"
        weighed += [Row(f"{title}, {name}", (row,)) for title, row in variants(command)]
        weighed += compiled(f"pgzoo, compiled, `--backend compiled`, {name}", f"{command} --backend compiled")
    weighed.append(Row("Stable-Baselines3, 1 seed", (script("sb3", "--total-steps 20000"),), "sb3"))
    weighed, found = measure("memory", weighed, choice.rounds, choice.peers, choice.kept)
    lines += [[f"peak memory of the PPO workload, MiB: {n}", spread([x.peak for x in found[n]], 0)] for n in found]
    return f"## Start and memory\n\n{table(['', 'median (minimum to maximum)'], lines)}\n\n{commands_of(weighed)}"


SECTIONS: dict[str, Callable[[Choice], str]] = {
    "one-seed": one_seed,
    "many-seeds": many_seeds,
    "time-to-solve": time_to_solve,
    "start-and-memory": start_and_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="PEER,...", default=",".join(LIBRARIES), help="compare with these, or none; default: all"
    )
    parser.add_argument(
        "--sections", metavar="SECTION,...", default=",".join(SECTIONS), help="sections to write; default: all"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help=f"rounds; in time-to-solve: seeds, for pgzoo at least {OUR_SEEDS}"
    )
    parser.add_argument(
        "--steps", type=int, default=200_000, help="environment steps with one seed; a quarter of it per seed with many"
    )
    parser.add_argument("--seeds", type=int, default=32, help="seeds in the section with many seeds")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="add to the measurements in this file")
    options = parser.parse_args()
    only = [] if options.only == "none" else options.only.split(",")
    sections = options.sections.split(",")
    for given, known in ((only, LIBRARIES), (sections, SECTIONS)):
        if unknown := set(given) - set(known):
            parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    missing = {name: reason for name in only if (reason := install(name))}
    for name, reason in missing.items():
        print(f"{name} can't be installed: {reason}", file=sys.stderr, flush=True)
    peers = tuple(name for name in only if name not in missing)
    choice = Choice(peers, options.steps, options.rounds, options.seeds, Measurements(options.keep))
    absent = "".join(f"\n\n{LIBRARIES[name].title} could not be installed: `{why}`" for name, why in missing.items())
    for section in sections:
        load = os.getloadavg()[0]
        text = SECTIONS[section](choice)
        made_by = f"python benchmarks/performance.py {' '.join(shown(section, options))}"
        put(options.out, section, f"{text}\n\n{stamp(made_by, None if options.keep else load)}{absent}")
        print(text, flush=True)


def shown(section: str, options: argparse.Namespace) -> list[str]:
    """Return the options that reproduce this section."""
    words = ["--sections", section, "--rounds", str(options.rounds)]
    if set(options.only.split(",")) != set(LIBRARIES):
        words += ["--only", options.only]
    if options.keep:
        words += ["--keep", options.keep.name]
    return words


if __name__ == "__main__":
    main()
