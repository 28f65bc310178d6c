"""Simulates faults while runs are trained and uploaded (tests/simulation); writes a row of docs/reliability.md.

make simulate HOURS=24                       plays seeds until they have 24 simulated hours, and writes the row
python benchmarks/simulate.py --seed 17    plays one seed and prints everything that happens
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from simulation.defects import DEFECTS, built_in  # noqa: E402
from simulation.simulate import Outcome, play  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
HEADING = "| date | command | seeds | simulated hours | faults | points | lost points | seeds that break a law |"
REPLAY = "python benchmarks/simulate.py --seed {seed}"


def until(hours: float, first: int) -> Iterator[Outcome]:
    """Play seeds until they have so many simulated hours together."""
    total = 0.0
    for seed in itertools.count(first):
        if total >= hours:
            return
        outcome = play(seed)
        total += outcome.hours
        yield outcome


def add_row(row: str) -> None:
    """Write a row into the table of the page, in place of one with the same command."""
    lines, command = PAGE.read_text(encoding="utf-8").splitlines(), row.split(" | ")[1]
    top = lines.index(HEADING) + 2
    end = next((k for k in range(top, len(lines)) if not lines[k].startswith("|")), len(lines))
    lines[top:end] = [line for line in lines[top:end] if line.split(" | ")[1] != command] + [row]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def replay(seed: int) -> bool:
    """Play one seed and print everything; return whether a law is broken."""
    outcome = play(seed, trace=True)
    print("\n".join(outcome.trace))
    print(f"seed {seed}: {outcome.hours:.2f} simulated hours, {outcome.points} points")
    print("faults:", ", ".join(f"{count} x {name}" for name, count in outcome.faults.most_common()))
    print("\n".join(outcome.broken) or "all laws hold")
    return bool(outcome.broken)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, help="play seeds until they have so many simulated hours; write a row")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="play one seed and print everything that happens")
    parser.add_argument("--seeds", metavar="A-B", help="play these seeds, and write nothing")
    parser.add_argument(
        "--defect", choices=DEFECTS, help="build a defect into pgzoo; stop at the first seed that finds it"
    )
    given = parser.parse_args()
    with built_in(given.defect):
        if given.seed is not None:
            sys.exit(replay(given.seed))
        outcomes: Iterable[Outcome]
        if given.seeds:
            low, high = map(int, re.fullmatch(r"(\d+)-(\d+)", given.seeds).groups())  # type: ignore[union-attr]
            outcomes = (play(seed) for seed in range(low, high + 1))
        else:
            outcomes = until(given.hours or 1.0, given.first)
        total, faults, failed = Outcome(0), Counter[str](), list[int]()
        seeds = []
        for outcome in outcomes:
            seeds.append(outcome.seed)
            total.hours, total.points, total.lost = (
                total.hours + outcome.hours,
                total.points + outcome.points,
                total.lost + outcome.lost,
            )
            faults += outcome.faults
            if outcome.broken:
                failed.append(outcome.seed)
                print(f"seed {outcome.seed} breaks a law: {'; '.join(outcome.broken)[:500]}")
                replay_it = REPLAY.format(seed=outcome.seed) + (f" --defect {given.defect}" if given.defect else "")
                print(f"    {replay_it}", flush=True)
                if given.defect:
                    break
    for name, count in faults.most_common():
        print(f"{count:8,} {name}")
    simple = given.hours and not given.first
    command = f"`make simulate HOURS={given.hours:g}`" if simple else f"`python {' '.join(sys.argv)}`"
    row = [time.strftime("%Y-%m-%d"), command, f"{seeds[0]}-{seeds[-1]}", f"{total.hours:.1f}", f"{faults.total():,}"]
    row += [f"{total.points:,}", f"{total.lost:,}", ", ".join(map(str, failed)) or "none"]
    print(f"| {' | '.join(row)} |")
    if given.hours and not given.defect:
        add_row(f"| {' | '.join(row)} |")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
