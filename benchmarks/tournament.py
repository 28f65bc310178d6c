"""All on-policy algorithms on six environments, each tuned with the same number of trials; writes docs/tournament.md.

make tournament                            every piece that is missing
make tournament PIECE='ppo/* */CartPole-v1'    some pieces: algorithm/environment, with wildcards
make tournament ARGS_TOURNAMENT='--list'       what is done and what is missing
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from page import ROOT, table
from tournament_page import render


class Failed(Exception):
    """A command failed."""


Command = Callable[[str], dict[str, Any]]
"""Runs a `pgzoo run` command and returns the last line of its output."""

PAGE = ROOT / "docs" / "tournament.md"
PIECES = ROOT / "docs" / "tournament" / "pieces.jsonl"
TUNING_SEEDS, SEEDS = "100,101,102", 10
FACTORS, GAMMAS = (0.3, 1.0, 3.0), (0.95, 0.98, 0.995)
"""The trials: every combination of a factor of the default step size and a discount."""

STEP_SIZES = {"trpo": "max_kl", "npg": "step_kl"}
"""The setting that is the step size of the policy, where it isn't `learning_rate`."""

NOT_ON_POLICY = ("pqn",)
"""Algorithms that take gradient steps but have no policy gradient."""


@dataclass(frozen=True)
class Environment:
    """An environment: steps per seed, returns of a random policy and of a nearly perfect one, and a backend."""

    steps: int
    random: float
    best: float
    backend: str = "auto"


ENVIRONMENTS = {
    "FrozenLake-v1": Environment(50_000, 0.014, 0.74),
    "CartPole-v1": Environment(50_000, 22.0, 500.0),
    "MountainCarContinuous-v0": Environment(50_000, -33.0, 95.0, "compiled"),
    "Acrobot-v1": Environment(100_000, -499.0, -70.0, "compiled"),
    "Pendulum-v1": Environment(100_000, -1240.0, -150.0, "compiled"),
    "LunarLander-v3": Environment(300_000, -180.0, 280.0),
}
"""The cheapest first: pieces are run in this order."""

BOXES = ("MountainCarContinuous-v0", "Pendulum-v1")
"""The environments with Box actions; those of the others are Discrete."""


@dataclass(frozen=True)
class Contestant:
    """An algorithm, its setting for the step size with the default, and the environments that it can be trained in."""

    name: str
    step_size: str
    default: float
    envs: tuple[str, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The step sizes that are tried."""
        return tuple(float(f"{factor * self.default:.3g}") for factor in FACTORS)


@dataclass(frozen=True)
class Piece:
    """One algorithm in one environment: all trials, then the chosen setting with fresh seeds."""

    contestant: Contestant
    env: str
    fraction: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.contestant.name}/{self.env}"

    @property
    def tuning(self) -> str:
        """The command that runs all trials as one sweep."""
        c = self.contestant
        axes = f"--sweep-axis {option(c.step_size)}={joined(c.values)} --sweep-axis gamma={joined(GAMMAS)}"
        return f"{self._front} --seeds {TUNING_SEEDS} {axes} --json"

    def final(self, setting: Mapping[str, float]) -> str:
        """The command that trains the chosen setting with fresh seeds."""
        chosen = " ".join(f"--{option(key)} {value:g}" for key, value in setting.items())
        return f"{self._front} --seeds {SEEDS} {chosen} --json"

    @property
    def _front(self) -> str:
        env = ENVIRONMENTS[self.env]
        backend = "" if env.backend == "auto" else f" --backend {env.backend}"
        steps = int(env.steps * self.fraction)
        return f"pgzoo run {self.contestant.name} --env {self.env}{backend} --preset none --total-steps {steps}"


def option(key: str) -> str:
    return key.replace("_", "-")


def joined(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def contestants() -> list[Contestant]:
    """Return the built-in algorithms that take gradient steps, with the environments that they fit."""
    from pgzoo.config import AlgorithmConfig, Layer
    from pgzoo.errors import PgzooError
    from pgzoo.registry import discover
    from pgzoo.runs.planning import make_plan
    from pgzoo.runs.resolve import resolve

    catalog, found = discover(inline=False), []

    def configure(name: str, env: str) -> Any:
        return resolve([Layer({"algorithm": name, "env": env}, ".".join)], catalog)

    def fits(name: str, env: str) -> bool:
        try:
            make_plan(configure(name, env), catalog)
        except PgzooError:
            return False
        return True

    listed = json.loads(pgzoo(["algorithms", "--json"]).stdout)
    for name in [entry["name"] for entry in listed if entry["source"] == "built-in"]:
        settings = configure(name, "Pendulum-v1").settings
        if name in NOT_ON_POLICY or not isinstance(settings, AlgorithmConfig):
            continue
        boxes, others = fits(name, "Pendulum-v1"), fits(name, "CartPole-v1")
        envs = tuple(env for env in ENVIRONMENTS if (boxes if env in BOXES else others))
        key = STEP_SIZES.get(name, "learning_rate")
        found.append(Contestant(name, key, getattr(settings, key), envs))
    return found


def pieces(among: Sequence[Contestant], patterns: Sequence[str] = ("*",), fraction: float = 1.0) -> Iterator[Piece]:
    """Yield the pieces that match one of the patterns, environment by environment."""
    for env in ENVIRONMENTS:
        for contestant in among:
            piece = Piece(contestant, env, fraction)
            if env in contestant.envs and any(fnmatch(piece.name, pattern) for pattern in patterns):
                yield piece


class Finished:
    """The finished pieces, one a line of a file; a line that was cut off while it was written is ignored."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[str, dict[str, Any]] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            try:
                one = json.loads(line)
            except json.JSONDecodeError:
                continue
            self.found[one["piece"]] = one

    def has(self, piece: Piece) -> bool:
        """Whether the piece was finished with the commands that would run it now."""
        return self.found.get(piece.name, {}).get("tuning") == piece.tuning

    def add(self, result: dict[str, Any]) -> None:
        """Append a piece to the file."""
        self.found[result["piece"]] = result
        self.file.parent.mkdir(parents=True, exist_ok=True)
        kept = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(("" if kept.endswith("\n") or not kept else "\n") + json.dumps(result) + "\n")


def play(piece: Piece, run: Command) -> dict[str, Any]:
    """Run the trials and the final seeds of a piece, and return what is kept of them."""
    begin = time.time()
    tuned = run(piece.tuning)
    keys = (piece.contestant.step_size, "gamma")
    trials: dict[tuple[float, ...], list[float | None]] = {}
    for seed in tuned["seeds"]:
        trials.setdefault(tuple(seed["settings"][key] for key in keys), []).append(seed["return_mean"])
    # a trial with a seed that failed is not chosen
    best = max(trials, key=lambda values: mean(trials[values]))
    chosen = dict(zip(keys, best, strict=True))
    command = piece.final(chosen)
    final = run(command)
    return {
        "piece": piece.name,
        "tuning": piece.tuning,
        "final": command,
        "step_size": piece.contestant.step_size,
        "trials": [{"values": values, "returns": of} for values, of in trials.items()],
        "chosen": chosen,
        "returns": [seed["return_mean"] for seed in final["seeds"]],
        "env_steps": tuned["env_steps"] + final["env_steps"],
        "seconds": round(time.time() - begin),
        "date": time.strftime("%Y-%m-%d"),
    }


def mean(returns: Sequence[float | None]) -> float:
    """Return the mean, minus infinity if a seed has no return because it failed."""
    known = [x for x in returns if x is not None]
    return float(np.mean(known)) if len(known) == len(returns) else -float("inf")


def pgzoo(words: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run pgzoo in a process of its own, without a tracking store."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    environment = kept | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": "none"}
    command = [sys.executable, "-m", "pgzoo", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run(command: str) -> dict[str, Any]:
    """Run a command in an empty folder and return the last line of its output."""
    print(f"{time.strftime('%H:%M:%S')} {command}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        done = pgzoo(shlex.split(command)[1:], Path(folder))
    lines = done.stdout.strip().splitlines()
    if not lines or done.returncode not in (0, 1):  # 1: some seeds failed
        raise Failed(f"{command} failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def write(page: Path, finished: Finished, among: Sequence[Contestant], made_by: str = "make tournament") -> None:
    """Write the page from the finished pieces."""
    names = [piece.name for piece in pieces(among)]
    known = {name: finished.found[name] for name in names if name in finished.found}
    scales = {env: (e.steps, e.random, e.best) for env, e in ENVIRONMENTS.items()}
    missing = [name for name in names if name not in known]
    page.write_text(render([c.name for c in among], scales, known, missing, made_by), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", nargs="*", default=["*"], help="algorithm/environment, with wildcards; default: all")
    parser.add_argument("--list", action="store_true", help="list the pieces, and run none")
    parser.add_argument("--page", action="store_true", help="write the page from the finished pieces, and run none")
    parser.add_argument("--minutes", type=float, metavar="M", help="start no further piece after M minutes")
    parser.add_argument("--fraction", type=float, default=1.0, help="fraction of the steps, to try the program")
    parser.add_argument("--keep", type=Path, default=PIECES, metavar="FILE", help="file of the finished pieces")
    parser.add_argument("--out", type=Path, default=PAGE, metavar="FILE", help="the page")
    options = parser.parse_args()
    among, finished, begin = contestants(), Finished(options.keep), time.monotonic()
    wanted, failed = list(pieces(among, options.pieces, options.fraction)), list[str]()
    if not wanted:
        parser.error(f"no piece matches {' '.join(options.pieces)}; see --list")
    if options.list:
        rows = [[piece.name, "finished" if finished.has(piece) else "missing"] for piece in wanted]
        print(table(["piece", "state"], rows))
        return
    write(options.out, finished, among)
    for piece in [] if options.page else wanted:
        late = options.minutes is not None and time.monotonic() - begin > 60 * options.minutes
        if finished.has(piece) or late:
            continue
        try:
            finished.add(play(piece, run))
        except Failed as error:
            print(error, file=sys.stderr, flush=True)
            failed.append(piece.name)
        except KeyboardInterrupt:
            raise SystemExit(f"\n{piece.name} was interrupted; earlier pieces are kept in {options.keep}") from None
        write(options.out, finished, among)
    if failed:
        raise SystemExit(f"These pieces failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
