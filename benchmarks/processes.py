"""Runs the commands of benchmarks as separate processes, and measures time and memory."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from page import ROOT

from pgzoo.tracking.home import Home
from pgzoo.tracking.locks import is_locked


@dataclass(frozen=True)
class Outcome:
    """The result of a command, or the combined result of several that ran in parallel.

    `training` and `compiling` are seconds as reported by the program, `whole` the seconds of the process from start to
    exit, `peak` its maximum resident set size in MiB, `returned` a mean return, `told` its last line of output, parsed.
    """

    env_steps: int
    training: float
    compiling: float
    whole: float
    peak: float
    returned: float | None
    told: dict[str, Any]


def words_of(command: str) -> list[str]:
    """Split a command; use absolute paths for programs and files of this repository, this interpreter for pgzoo."""
    words = shlex.split(command)
    pinned = 3 if words[0] == "taskset" else 0
    front, words = words[:pinned], words[pinned:]
    own = {"pgzoo": [sys.executable, "-m", "pgzoo"], "python": [sys.executable]}
    words = [*own.get(words[0], [words[0]]), *words[1:]]
    return front + [str(ROOT / word) if word.startswith(("benchmarks/", "build/")) else word for word in words]


def run(commands: str | tuple[str, ...], folder: Path) -> Outcome:
    """Run a command, or several in parallel, in `folder`, and wait until nothing that it began is left to do."""
    commands = (commands,) if isinstance(commands, str) else commands
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / str(index) for index in range(len(commands))]
        children = [start(command, folder, file) for command, file in zip(commands, files, strict=True)]
        outcomes = [
            await_(child, file, command, started)
            for child, file, command in zip(children, files, commands, strict=True)
        ]
    wait_for_uploader(folder)
    returns = [outcome.returned for outcome in outcomes if outcome.returned is not None]
    return Outcome(
        env_steps=sum(outcome.env_steps for outcome in outcomes),
        training=max(outcome.training for outcome in outcomes),
        compiling=max(outcome.compiling for outcome in outcomes),
        whole=max(outcome.whole for outcome in outcomes),
        peak=sum(outcome.peak for outcome in outcomes),
        returned=sum(returns) / len(returns) if returns else None,
        told=outcomes[0].told,
    )


def wait_for_uploader(folder: Path) -> None:
    """Wait until the process that uploads runs and draws their plots has ended; it would slow the next command down."""
    uploader, deadline = Home.find({}, folder).uploader_lock, time.monotonic() + 300
    while is_locked(uploader):
        if time.monotonic() > deadline:
            sys.exit(f"the uploader in {folder} has not ended after 300 seconds")
        time.sleep(0.05)


def start(command: str, folder: Path, file: Path) -> subprocess.Popen[bytes]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "jax"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with file.open("wb") as out, file.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(words_of(command), cwd=folder, env=kept | cache, stdout=out, stderr=err)


def await_(child: subprocess.Popen[bytes], file: Path, command: str, started: float) -> Outcome:
    _, status, usage = os.wait4(child.pid, 0)
    whole = time.perf_counter() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    said = file.read_text(encoding="utf-8").strip()
    if child.returncode:
        sys.exit(f"{command} failed:\n{file.with_suffix('.err').read_text(encoding='utf-8')}")
    last = said.splitlines()[-1] if said else ""
    told = json.loads(last) if last.startswith("{") else {}
    peak = usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return outcome_of(told, whole, peak)


def outcome_of(told: dict[str, Any], whole: float, peak: float) -> Outcome:
    """Read the last line of pgzoo, of a peer's script or of the notebook's loop."""
    seeds = told.get("seeds", [])
    means = [seed["return_mean"] for seed in seeds if seed["return_mean"] is not None]
    return Outcome(
        env_steps=told.get("env_steps", 0),
        training=told.get("wall_seconds", 0.0),
        compiling=told.get("compile_seconds", told.get("timing", {}).get("compile", 0.0)),
        whole=whole,
        peak=peak,
        returned=sum(means) / len(means) if means else told.get("return_mean"),
        told=told,
    )


class Measurements:
    """Outcomes by section and row, stored in a file if one is given, so that rounds can be run one at a time."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        known = json.loads(file.read_text(encoding="utf-8")) if file and file.exists() else {}
        self.rows: dict[str, dict[str, list[Outcome]]] = {
            section: {name: [Outcome(**one) for one in outcomes] for name, outcomes in rows.items()}
            for section, rows in known.items()
        }

    def add(self, section: str, name: str, outcome: Outcome) -> None:
        self.rows.setdefault(section, {}).setdefault(name, []).append(outcome)
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            plain = {s: {n: [asdict(o) for o in found] for n, found in rows.items()} for s, rows in self.rows.items()}
            self.file.write_text(json.dumps(plain), encoding="utf-8")


def shortened(command: str, steps: int) -> str:
    """Return a `pgzoo run` command with other steps and with one evaluation episode, each given once."""
    for name, value in (("--total-steps", steps), ("--eval-episodes", 1)):
        command, found = re.subn(rf"{name} \S+", f"{name} {value}", command)
        command += "" if found else f" {name} {value}"
    return command


def option(algorithm: str, name: str) -> bool:
    """Return whether `pgzoo run ALGORITHM` has an option of that name."""
    words = [sys.executable, "-m", "pgzoo", "run", algorithm, "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    return re.search(rf"^  {re.escape(name)}\b", said, re.MULTILINE) is not None
