"""PPO on LunarLander-v3 and HalfCheetah-v5: speed compared with an upper bound and with Stable-Baselines3.

    make bench-physics              (or: python benchmarks/physics.py --rounds 3 --out docs/performance/physics.md)

Needs pgzoo with the extras box2d and mujoco, and plugins/pgzoo-envpool (`make bench-physics` installs them).
Stable-Baselines3 is installed into a separate environment, build/peers/sb3-physics, if that doesn't exist.

In each round and for each environment, one after the other, each as a separate process with one torch thread:

1. the environments alone, stepped by random actions on the backend that pgzoo uses;
2. pgzoo's training, compiled;
3. Stable-Baselines3's training, with the same settings: its defaults, on eight environments.

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
    pgzoo = [sys.executable, "-m", "pgzoo"]
    said = process([*pgzoo, *command(env, steps).split()[1:], "--json", "--no-progress"], folder)
    subprocess.run([*pgzoo, "sync", "--wait", "120", "--json"], cwd=folder, capture_output=True, check=False)
    raw = process([sys.executable, __file__, "--raw", env], folder)
    sb3 = [str(PEER / "bin" / "python"), str(ROOT / "benchmarks" / "physics_sb3.py")]
    normal = ["--normalize"] if env in NORMALIZED else []
    peer = process([*sb3, "--env", env, "--steps", str(steps), *normal], folder)
    timing, done = said["timing"], said["env_steps"]
    return {
        "env": env,
        "backend": raw["backend"],
        "raw": raw["steps_per_second"],
        "asked": steps,
        "pgzoo": said["steps_per_second"],
        "return": said["seeds"][0]["return_mean"],
        **{phase: done / timing[phase] for phase in ("collect", "estimate", "update")},
        "sb3": peer["steps_per_second"],
        "sb3_return": peer["return_mean"],
    }


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
        "pgzoo ÷ SB3 | return, pgzoo | return, SB3 |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for env in dict.fromkeys(row["env"] for row in rounds):
        rows = [row for row in rounds if row["env"] == env]
        cells = [
            *(env, rows[0]["backend"], middle(rows, lambda r: r["raw"]), middle(rows, lambda r: r["update"])),
            *(middle(rows, best), middle(rows, lambda r: r["pgzoo"])),
            spread(rows, lambda r: r["pgzoo"] / best(r), ".0%"),
            middle(rows, lambda r: r["sb3"]),
            spread(rows, lambda r: r["pgzoo"] / r["sb3"], ".1f"),
            *(middle(rows, lambda r: r["return"]), middle(rows, lambda r: r["sb3_return"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(rounds: list[dict[str, Any]]) -> str:
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
and tracking took no time. Returns are means over 20 episodes of the final policy with sampled actions.

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
    for index in range(options.rounds):
        for env in options.envs:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                rounds.append(measure(env, options.steps, folder))
            print(f"round {index + 1}/{options.rounds}: {json.dumps(rounds[-1])}", file=sys.stderr, flush=True)
            if options.keep:
                options.keep.parent.mkdir(parents=True, exist_ok=True)
                options.keep.write_text(json.dumps(rounds, indent=1), encoding="utf-8")
            options.out.parent.mkdir(
                parents=True, exist_ok=True
            )  # after each round, so that an interrupted run leaves a page
            options.out.write_text(page(rounds), encoding="utf-8")
    print(table(rounds))


if __name__ == "__main__":
    main()
