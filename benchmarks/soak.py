"""Measures memory, open files and journals over long runs; writes rows of docs/reliability.md.


make soak                                    as below, with the defaults
python benchmarks/soak.py --seeds 256 --steps 2000000 --hours 24
python benchmarks/soak.py --journals         writes and reads journals of long runs, without training
python benchmarks/soak.py --seeds 4 --steps 2000000 --hours 0 --num-envs 16    settings of `pgzoo run a2c` may follow

Two parts: `pgzoo run` with many seeds, of which each takes `--steps` steps, observed from outside every half second;
and a journal and the uploader in a simulated world without faults, for `--hours` simulated hours with an update every
4 s; with 0, the second part is left out. Memory is given as the lowest and the highest between 10% and 50% of the
time, and between 50% and 90%. The slope is that of a line through the highest of each twentieth of the time.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from simulation.server import Network, Server, StoredRun  # noqa: E402
from simulation.simulate import NETWORK, Run, Schedule  # noqa: E402
from simulation.world import simulated  # noqa: E402

from pgzoo.files import DISK  # noqa: E402
from pgzoo.tracking.journal import Journal, read_tail  # noqa: E402
from pgzoo.tracking.report import read_history  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
HEADING = "| date | command | what | memory, 10-50% and 50-90% of the time | slope | open files | journals |"
JOURNALS = "| date | steps | per update | per episode | `--log-every` | size | limit | resume reads | uploader reads |"
LENGTHS = (
    (2_000_000, 40, 500, 1000),
    (2_000_000, 40, 20, 1000),
    (2_000_000, 40, 1, 1),
    (2_000_000, 2048, 500, 1000),
    (100_000_000, 2048, 500, 1000),
)
"""Runs whose journals are measured: steps, steps of an update and of an episode, and steps between two points."""
METRICS = 12
MIB = 2**20


@dataclass
class Observations:
    """What was seen of a process: memory in MiB and open files, over `at` (million steps, or hours)."""

    at: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def look(self, at: float, process: int | str = "self") -> bool:
        """Observe a process; return False if it has ended."""
        try:
            status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
            files = len(os.listdir(f"/proc/{process}/fd"))
            [resident] = [line for line in status.splitlines() if line.startswith("VmRSS")]
        except (OSError, ValueError):
            return False
        self.at.append(at)
        self.memory.append(int(resident.split()[1]) / 1024)
        self.files.append(files)
        return True

    def cells(self, unit: str, scale: float = 1.0) -> list[str]:
        """Return the columns of memory, slope and open files. `scale` converts `at` to the unit."""
        count = len(self.at)
        parts = [slice(count * low // 100, count * high // 100) for low, high in ((10, 50), (50, 90))]
        ranges = ", ".join(as_range(self.memory[part]) for part in parts)
        whole = slice(parts[0].start, parts[1].stop)
        windows = zip(np.array_split(self.at[whole], 16), np.array_split(self.memory[whole], 16), strict=True)
        peaks = np.array([(at.mean() * scale, memory.max()) for at, memory in windows])
        slope = np.polyfit(peaks[:, 0], peaks[:, 1], 1)[0]
        return [f"{ranges} MiB", f"{slope:+.2f} MiB per {unit}", as_range(self.files[whole])]


def as_range(values: Sequence[float]) -> str:
    """Return the lowest and highest value, once if they round to the same integer."""
    return "-".join(dict.fromkeys((f"{min(values):.0f}", f"{max(values):.0f}")))


def train(seeds: int, steps: int, settings: Sequence[str]) -> list[str]:
    """Train with these settings, and return the row without date and command."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["a2c", "--env", "CartPole-v1", "--seeds", str(seeds), "--total-steps", str(steps)]
        arguments += ["--tracking-uri", "none", "--eval-episodes", "2"]
        arguments += ["--checkpoint-every", str(max(1000, steps // 10)), *settings]
        command = [sys.executable, "-m", "pgzoo", "run", *arguments, "--json"]
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.DEVNULL, env={**os.environ, "PGZOO_HOME": folder}
        )
        seen, begin, journals = Observations(), time.monotonic(), Path(folder, "runs")
        while process.poll() is None:
            started = any(journals.glob("*/journal.jsonl")) if not seen.at else True
            if started:
                seen.look(time.monotonic() - begin, process.pid)
            time.sleep(0.5)
        if process.returncode:
            sys.exit(f"the run ended with exit code {process.returncode}")
        size, largest = max((file.stat().st_size, file) for file in journals.glob("*/journal.jsonl"))
        read = reading_time(largest.parent)
    span = seen.at[-1] - seen.at[0]
    what = f"{seeds} seeds, {steps:,} steps each ({seeds * steps / 1e6:,.0f} million)"
    journals_cell = f"at most {size / 1024:,.0f} KiB per seed, read in {read:.2f} s"
    return [what, *seen.cells("million steps", seeds * steps / 1e6 / span), journals_cell]


def reading_time(folder: Path) -> float:
    """Return the CPU seconds that it takes to read a journal, as when its run is resumed."""
    before = time.process_time()
    read_tail(folder)
    return time.process_time() - before


class ForgetfulServer(Server):
    """A server that keeps no points, so that its own memory doesn't grow."""

    def do_runs_log_batch(self, asked: Any) -> Any:
        """As the server's, without keeping the points."""
        answer = super().do_runs_log_batch(asked)
        run: StoredRun = self._find(asked)
        run.rows.clear()
        return answer


def upload(hours: float) -> list[str]:
    """Keep and upload a journal for simulated hours; return the row without date and command."""
    with tempfile.TemporaryDirectory() as folder, simulated(0, Path(folder) / "machine") as world:
        world.calm, world.system = True, replace(world.system, disk=DISK)
        network: Network = NETWORK
        network.world, network.server, network.down = world, ForgetfulServer(), False
        schedule = Schedule(world)
        run = Run("run-0", int(hours * 900), 4.0)
        schedule.runs = [run]
        world.start(run.key, lambda: schedule.train(run))
        seen = Observations()
        gc.freeze()
        for part in range(1, 49):
            world.run(hours * 3600 * part / 48)
            gc.collect()
            seen.look(world.now / 3600)
        journals = schedule.home.runs / run.key
        size, read = (journals / "journal.jsonl").stat().st_size, reading_time(journals)
    what = f"{hours:g} simulated hours of a journal and the uploader"
    return [what, *seen.cells("hour"), f"{size / 1024:,.0f} KiB, read in {read:.2f} s"]


def journal(steps: int, update: int, episode: int, log_every: int) -> list[str]:
    """Write the journal of a run of this length, read it, and return the row without date."""
    draw, names = np.random.default_rng(0), [f"group/metric_name_{k}" for k in range(METRICS)]
    logged = points = episodes = 0
    with tempfile.TemporaryDirectory() as folder:
        start = {"t": "start", "ts": 0, "key": "s0", "name": "s0", "params": {}, "tags": {}}
        written = Journal(Path(folder, "s0"), start, sys.exit)
        for end in range(update, steps + 1, update):
            grid = range(((end - update) // log_every + 1) * log_every, end + 1, log_every)
            ends = range(((end - update) // episode + 1) * episode, end + 1, episode)
            metrics = dict(zip(names, draw.standard_normal(METRICS).tolist(), strict=True)) if grid else {}
            written.record(grid, metrics, (ends, [float(episode)] * len(ends), [episode] * len(ends)))
            logged, points, episodes = logged + bool(grid or ends), points + len(grid), episodes + len(ends)
        written.release()
        size = (written.path / "journal.jsonl").stat().st_size
        limit = logged * 64 + min(logged, points) * 48 * METRICS + 12 * points + 30 * episodes  # as on the page
        assert size < limit + 1000
        resume = reading_time(written.path)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # otherwise the history takes memory that the process has kept
        seen, before = Observations(), time.process_time()
        seen.look(0.0)
        kept = read_history(written.path)
        seen.look(1.0)
        seconds = time.process_time() - before
        assert len(kept.returns) == episodes
    sizes = [f"{number / MIB:,.1f} MiB" for number in (size, limit, (seen.memory[1] - seen.memory[0]) * MIB)]
    row = [f"{steps:,}", f"{update:,}", f"{episode:,}", f"{log_every:,}", sizes[0], sizes[1]]
    return [*row, f"{resume:.1f} s", f"{seconds:.1f} s, {sizes[2]} in memory"]


def add_rows(rows: Sequence[Sequence[str]], heading: str = HEADING) -> None:
    """Write rows into a table of the page, in place of those that measured the same, by the second column."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    top = lines.index(heading) + 2
    end = next((k for k in range(top, len(lines)) if not lines[k].startswith("|")), len(lines))
    replaced = {row[1] for row in rows}
    kept = [line for line in lines[top:end] if line.split(" | ")[1] not in replaced]
    lines[top:end] = [*kept, *(f"| {' | '.join(row)} |" for row in rows)]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=256)
    parser.add_argument("--steps", type=int, default=2_000_000, help="steps of each seed")
    parser.add_argument("--hours", type=float, default=24.0, help="simulated hours")
    parser.add_argument("--journals", action="store_true", help="write and read journals instead")
    given, settings = parser.parse_known_args()
    if given.journals:
        rows = [[time.strftime("%Y-%m-%d"), *journal(*lengths)] for lengths in LENGTHS]
        add_rows(rows, JOURNALS)
        return
    arguments = ["--seeds", str(given.seeds), "--steps", str(given.steps), "--hours", f"{given.hours:g}", *settings]
    parts = [train(given.seeds, given.steps, settings)] + ([upload(given.hours)] if given.hours else [])
    command = f"`python benchmarks/soak.py {' '.join(arguments)}`"
    rows = [[time.strftime("%Y-%m-%d"), command, *cells] for cells in parts]
    add_rows(rows)
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
