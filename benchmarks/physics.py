"""PPO on LunarLander-v3 and HalfCheetah-v5: speed compared with an upper bound and with Stable-Baselines3.

    make bench-physics              (or: python benchmarks/physics.py --rounds 3 --out docs/performance/physics.md)

Needs pgzoo with the extras box2d and mujoco, and plugins/pgzoo-envpool (`make bench-physics` installs them).
Stable-Baselines3 is installed into a separate environment, build/peers/sb3-physics, if that doesn't exist.

In each round and for each environment, one after the other, each as a separate process with one torch thread:

1. the environments alone, stepped by random actions on the backend that pgzoo uses;
2. pgzoo's training, compiled;
3. Stable-Baselines3's training, with the same settings: its defaults, on eight environments.

Then both train with more seeds for the returns: pgzoo all of them as one run, Stable-Baselines3 one after the other.

`--parts speed` or `--parts returns` measures only one of the two, and keeps the page's table of the other.
`--keep FILE` stores the measurements, and a later call with the same number of steps adds to them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEER, COMPILED = ROOT / "build" / "peers" / "sb3-physics", ROOT / "build" / "compiled"
ENVS, STEPS, ROWS = ("LunarLander-v3", "HalfCheetah-v5"), 100_000, 8
PARTS = ("speed", "returns")
RETURNS = "### Returns\n"
"""The heading that begins the page's second part."""

PPO = (
    "--num-envs 8 --rollout-steps 256 --minibatches 32 --epochs 10 --learning-rate 3e-4 "
    "--learning-rate-schedule constant --gamma 0.99 --estimator.lam 0.95 --clip-range 0.2 "
    "--entropy-coef 0 --value-coef 1 --max-grad-norm 0.5"
)
"""Stable-Baselines3's defaults: 2048 steps per update, minibatches of 64, 10 epochs."""
NORMALIZED = {"HalfCheetah-v5"}
"""Environments whose observations and rewards are normalized on both sides, as is usual with MuJoCo."""


def command(env: str, steps: int) -> str:
    normal = " --normalize-obs --normalize-reward" if env in NORMALIZED else ""
    return (
        f"pgzoo run ppo --env {env} --preset none {PPO}{normal} --total-steps {steps} --compile on --eval-episodes 20"
    )


def process(words: list[str], folder: str) -> Any:
    """Run one process; return the JSON of its last line."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    environment |= {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl", "TORCHINDUCTOR_CACHE_DIR": str(COMPILED)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(env: str, steps: int, folder: str) -> dict[str, Any]:
    """One round on one environment."""
    said = train(env, steps, folder)
    raw = process([sys.executable, __file__, "--raw", env], folder)
    peer = train_peer(env, steps, folder)
    timing, done = said["timing"], said["env_steps"]
    return {
        "env": env,
        "backend": raw["backend"],
        "raw": raw["steps_per_second"],
        "asked": steps,
        "pgzoo": said["steps_per_second"],
        **{phase: done / timing[phase] for phase in ("collect", "estimate", "update")},
        "sb3": peer["steps_per_second"],
    }


def train(env: str, steps: int, folder: str, *more: str) -> Any:
    """Train with pgzoo; return what it says."""
    pgzoo = [sys.executable, "-m", "pgzoo"]
    said = process([*pgzoo, *command(env, steps).split()[1:], *more, "--json", "--no-progress"], folder)
    subprocess.run([*pgzoo, "sync", "--wait", "120", "--json"], cwd=folder, capture_output=True, check=False)
    return said


def train_peer(env: str, steps: int, folder: str, *more: str) -> Any:
    """Train with Stable-Baselines3; return what `physics_sb3.py` says."""
    sb3 = [str(PEER / "bin" / "python"), str(ROOT / "benchmarks" / "physics_sb3.py")]
    normal = ["--normalize"] if env in NORMALIZED else []
    return process([*sb3, "--env", env, "--steps", str(steps), *normal, *more], folder)


def measure_returns(env: str, steps: int, seeds: int, peer_seeds: int, folder: str) -> tuple[list[float], list[float]]:
    """Return the return of every seed, with pgzoo and with Stable-Baselines3."""
    said = train(env, steps, folder, "--seeds", str(seeds))
    peer = [train_peer(env, steps, folder, "--seed", str(seed))["return_mean"] for seed in range(peer_seeds)]
    return [seed["return_mean"] for seed in said["seeds"]], peer


def raw(env: str, backend: str = "auto", rows: int = ROWS, seconds: float = 3.0) -> dict[str, Any]:
    """Step environments with random actions; return the backend and the valid steps per second."""
    import numpy as np

    from pgzoo.envs.choice import choose_backend
    from pgzoo.registry import discover
    from pgzoo.types import EnvRequest

    request = EnvRequest(env, {}, None, rows)
    name, chosen = choose_backend(backend, discover(inline=False), request)
    envs = chosen.open(request)
    space: Any = envs.action_space
    space.seed(0)
    block = [np.array([space.sample() for _ in range(rows)]) for _ in range(32)]
    live = np.ones(rows, np.bool_)
    envs.reset(np.arange(rows))
    done, ended, start = 0, np.zeros(rows, np.bool_), time.perf_counter()
    while time.perf_counter() - start < seconds:
        for actions in block:
            step = envs.step(actions, live)
            done += rows - int(ended.sum())  # the step after an end only resets
            ended = (step.terminated | step.truncated) & ~ended
    rate = done / (time.perf_counter() - start)
    envs.close()
    return {"backend": name, "steps_per_second": rate}


def best(row: dict[str, Any]) -> float:
    """Return the upper bound of the speed: environments at their raw speed plus updates, and nothing else."""
    return float(1 / (1 / row["raw"] + 1 / row["update"]))


def middle(rows: list[dict[str, Any]], value: Any) -> str:
    """Return the median of `value` over rounds."""
    return f"{statistics.median(map(value, rows)):,.0f}"


def spread(rows: list[dict[str, Any]], value: Any, form: str) -> str:
    """Return median, minimum and maximum of `value` over rounds."""
    values = [value(row) for row in rows]
    shown = (format(x, form) for x in (statistics.median(values), min(values), max(values)))
    return "**{}** ({} to {})".format(*shown)


def table(rounds: list[dict[str, Any]]) -> str:
    lines = [
        "| | backend | environments alone | updates alone | upper bound | pgzoo | pgzoo ÷ upper bound | SB3 | "
        "pgzoo ÷ SB3 |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for env in dict.fromkeys(row["env"] for row in rounds):
        rows = [row for row in rounds if row["env"] == env]
        cells = [
            *(env, rows[0]["backend"], middle(rows, lambda r: r["raw"]), middle(rows, lambda r: r["update"])),
            *(middle(rows, best), middle(rows, lambda r: r["pgzoo"])),
            spread(rows, lambda r: r["pgzoo"] / best(r), ".0%"),
            middle(rows, lambda r: r["sb3"]),
            spread(rows, lambda r: r["pgzoo"] / r["sb3"], ".1f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_error(values: list[float]) -> str:
    """Return the mean of `values`, its standard error and their number."""
    return f"{statistics.mean(values):,.0f} ± {statistics.stdev(values) / len(values) ** 0.5:,.0f} ({len(values)})"


def returns_part(found: dict[str, tuple[list[float], list[float]]], steps: int) -> str:
    """Return the page's part about returns after `steps`; `found` has those of `measure_returns` by environment."""
    rows = [f"| {env} | {with_error(ours)} | {with_error(theirs)} |" for env, (ours, theirs) in found.items()]
    table = "\n".join(["| | pgzoo | SB3 |", "|---|---:|---:|", *rows])
    seeds, peer_seeds = map(len, next(iter(found.values())))
    made_by = f"--parts returns --steps {steps} --envs {' '.join(found)} --seeds {seeds} --peer-seeds {peer_seeds}"
    return f"""{RETURNS}
Measured by `python benchmarks/physics.py {made_by}` on {time.strftime("%Y-%m-%d")}, with the settings above: the mean
over seeds ± its standard error, and in parentheses the number of seeds, which are 0, 1, 2 ... The return of a seed is
the mean over 20 episodes of its final policy with sampled actions.

{table}
"""


def speed_part(rounds: list[dict[str, Any]]) -> str:
    shown = list(dict.fromkeys(row["env"] for row in rounds))
    steps = rounds[-1]["asked"]
    commands = "\n".join(command(env, steps) for env in shown)
    versions = ", ".join(f"{name} {version(name)}" for name in ("pgzoo", "envpool", "torch", "gymnasium", "mujoco"))
    count = len(rounds) // len(shown)
    how = f"median of {count} rounds, alternating" if count > 1 else "one round"
    return f"""## Physics

Made by `make bench-physics` on {time.strftime("%Y-%m-%d")}: {os.cpu_count()} CPU cores ({platform.machine()}), Python
{platform.python_version()}, {versions}, Stable-Baselines3
{peer_version()}; one torch thread, one envpool thread; {how}.

PPO for {steps:,} steps with Stable-Baselines3's defaults on both sides: eight environments, 2048 steps per update,
minibatches of 64, 10 epochs, two separate 64x64 tanh networks; on MuJoCo, observations and rewards are normalized. The
table shows environment steps per second of training; for pgzoo, tracking is included and compiling, which happens once,
is not. The upper bound is 1 / (1 / environments alone + 1 / updates alone): the speed if acting, storing, estimating
and tracking took no time.

{table(rounds)}

```sh
{commands}
```
"""


def peer_version() -> str:
    said = "import json, stable_baselines3; print(json.dumps(stable_baselines3.__version__))"
    return str(process([str(PEER / "bin" / "python"), "-c", said], str(ROOT)))


def make_peer() -> None:
    """Install Stable-Baselines3 into a separate environment, once."""
    if (PEER / "bin" / "python").exists():
        return
    alone = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
    wanted = ["stable-baselines3>=2.7", "gymnasium[box2d,mujoco]", "torch"]
    pip = [str(PEER / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *wanted], check=True, env=alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=40, help="pgzoo's seeds for the returns")
    parser.add_argument("--peer-seeds", type=int, default=10, help="Stable-Baselines3's seeds for the returns")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--envs", nargs="+", default=list(ENVS))
    parser.add_argument("--keep", type=Path, help="add to the measurements in this file")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance" / "physics.md")
    parser.add_argument("--raw", metavar="ID", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.raw:
        print(json.dumps(raw(options.raw)))
        return
    make_peer()
    rounds: list[dict[str, Any]] = []
    if options.keep and options.keep.exists():
        rounds = [r for r in json.loads(options.keep.read_text(encoding="utf-8")) if r["asked"] == options.steps]
    for index in range(options.rounds if "speed" in options.parts else 0):
        for env in options.envs:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                rounds.append(measure(env, options.steps, folder))
            print(f"round {index + 1}/{options.rounds}: {json.dumps(rounds[-1])}", file=sys.stderr, flush=True)
            if options.keep:
                options.keep.parent.mkdir(parents=True, exist_ok=True)
                options.keep.write_text(json.dumps(rounds, indent=1), encoding="utf-8")
            write(options.out, speed=speed_part(rounds))  # after each round, so that an interrupted run leaves a page
    found: dict[str, tuple[list[float], list[float]]] = {}
    for env in options.envs if "returns" in options.parts else ():
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            found[env] = measure_returns(env, options.steps, options.seeds, options.peer_seeds, folder)
        print(f"returns: {env}: {json.dumps(found[env])}", file=sys.stderr, flush=True)
        write(options.out, returns=returns_part(found, options.steps))
    print(options.out.read_text(encoding="utf-8"))


def write(out: Path, *, speed: str = "", returns: str = "") -> None:
    """Write the page; a part that is not given stays as it is."""
    old = out.read_text(encoding="utf-8") if out.exists() else ""
    before, heading, after = old.partition(RETURNS)
    out.parent.mkdir(parents=True, exist_ok=True)
    speed, returns = speed or before.rstrip() + "\n", returns or heading + after
    out.write_text(f"{speed}\n{returns}" if returns else speed, encoding="utf-8")


if __name__ == "__main__":
    main()
