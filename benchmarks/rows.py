"""Rows of a table: commands that are measured alternately, and the speed of pgzoo divided by that of the others."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from page import ratios, spread, table
from processes import Measurements, Outcome, option, run, shortened


@dataclass(frozen=True)
class Row:
    """Commands that run in parallel; `{seed}` in them is replaced by the number of the round.

    Rows without a `peer` are pgzoo's, with which all others are compared. A cold row starts with an empty compilation
    cache; for the others, a run before the first round fills the cache. `at_least` is the minimum number of rounds.
    """

    title: str
    commands: tuple[str, ...]
    peer: str = ""
    cold: bool = False
    at_least: int = 0

    @property
    def ours(self) -> bool:
        return not self.peer


def compiled(title: str, command: str, cold: bool = False) -> list[Row]:
    """Return the row with the compiled step, if this version of pgzoo has the option."""
    if not option(command.split()[2], "--compile"):
        return []
    return [Row(title, (f"{command} --compile on --json",), cold=cold)]


def eager(command: str) -> str:
    return f"{command} --compile off --json" if option(command.split()[2], "--compile") else f"{command} --json"


def measure(
    section: str, rows: Sequence[Row], rounds: int, peers: Sequence[str], kept: Measurements
) -> tuple[list[Row], dict[str, list[Outcome]]]:
    """Measure pgzoo's rows and those of `peers` in every round that is missing; return all rows with outcomes."""
    found = kept.rows.setdefault(section, {})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder, warm = Path(place), set[str]()
        for index in range(max(rounds, *(row.at_least for row in rows))):
            for row in rows:
                wanted = max(rounds, row.at_least) if row.ours or row.peer in peers else 0
                if len(found.get(row.title, [])) > index or index >= wanted:
                    continue
                if not row.cold and row.title not in warm:
                    prepare(row, folder)
                    warm.add(row.title)
                print(f"{section}, round {index + 1}/{wanted}: {row.title}", file=sys.stderr, flush=True)
                kept.add(section, row.title, once(row, index, folder))
                print(told(found[row.title][-1]), file=sys.stderr, flush=True)
    there = [row for row in rows if row.title in found]
    return there, {row.title: found[row.title] for row in there}


def once(row: Row, index: int, folder: Path) -> Outcome:
    """Run a row, with an empty folder if it is cold."""
    commands = tuple(command.replace("{seed}", str(index)) for command in row.commands)
    if row.cold:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
            return run(commands, Path(place))
    return run(commands, folder)


def prepare(row: Row, folder: Path) -> None:
    """Create the store and the caches before a row is measured."""
    command = row.commands[0].replace("{seed}", "0")
    if "pgzoo run" in command and ("--compile on" in command or not (folder / ".pgzoo").exists()):
        run(shortened(command, 2048), folder)
    elif "/purejax.py" in command:
        run(command, folder)  # another number of steps would be another program


def told(outcome: Outcome) -> str:
    speed = outcome.env_steps / outcome.training if outcome.training else 0
    returned = "" if outcome.returned is None else f", return {outcome.returned:.0f}"
    return f"  {speed:,.0f} steps/s, compiling {outcome.compiling:.1f} s, process {outcome.whole:.1f} s{returned}"


def speeds(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.env_steps / outcome.training for outcome in outcomes]


def whole_speeds(outcomes: Sequence[Outcome]) -> list[float]:
    return [outcome.env_steps / outcome.whole for outcome in outcomes]


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def comparison(rows: Sequence[Row], found: dict[str, list[Outcome]]) -> str:
    """Return the table of speeds, with the speed of each pgzoo row divided by that of each other row."""
    ours = [row.title for row in rows if row.ours]
    head = ["", "steps/s in training", "seconds compiling", "total seconds", "peak MiB", "return"]
    head += [f"{title} / this, {part}" for title in ours for part in ("training", "total")]
    lines = []
    for row in rows:
        outcomes = found[row.title]
        returns = [outcome.returned for outcome in outcomes if outcome.returned is not None]
        line = [
            row.title,
            f"{middle(speeds(outcomes)):,.0f}",
            f"{middle([outcome.compiling for outcome in outcomes]):.1f}",
            f"{middle([outcome.whole for outcome in outcomes]):.1f}",
            f"{middle([outcome.peak for outcome in outcomes]):.0f}",
            f"{middle(returns):.0f}" if returns else "",
        ]
        for title in ours:
            for speed in (speeds, whole_speeds):
                common = min(len(found[title]), len(outcomes))
                both = ratios(speed(found[title])[:common], speed(outcomes)[:common])
                line.append("" if row.ours else spread(both))
        lines.append(line)
    return table(head, lines)


def commands_of(rows: Sequence[Row]) -> str:
    lines = "\n".join(dict.fromkeys(command for row in rows for command in row.commands))
    return f"```sh\n{lines}\n```"


def variants(command: str) -> list[tuple[str, str]]:
    """Return a command not compiled and, if this version of pgzoo has the option, compiled."""
    return [("pgzoo", eager(command)), *((row.title, row.commands[0]) for row in compiled("pgzoo, compiled", command))]
