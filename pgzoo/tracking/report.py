"""The tables and plots of a run, made from its journal alone, so that a killed run gets them too."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgzoo.files import DISK, Disk, write_file
from pgzoo.tracking.journal import Record, artifact_path, records

__all__ = ["LEARNING_CURVE", "History", "describe_run", "read_history", "write_plots", "write_tables"]

LEARNING_CURVE = "plots/learning_curve.png"
"""Artifact path of a run's learning curve."""

BARS = "▁▂▃▄▅▆▇█"
BAR_COUNT = 40


@dataclass
class History:
    """The content of a run's journal. Episode columns are `[episodes]`, in the order in which the episodes ended."""

    start: Record = field(default_factory=dict)
    steps: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    metrics: dict[int, Mapping[str, float]] = field(default_factory=dict)
    """Values of the metrics by environment step, without those of the run as a whole (`summary/`, `profile/`)."""
    evaluations: list[Record] = field(default_factory=list)
    end: Record | None = None
    env_steps: int | None = None
    """Environment steps at the end of training. (Evaluations are recorded at their scheduled step.)"""

    @property
    def threshold(self) -> float | None:
        """The environment's reward threshold, if it has one."""
        try:
            return float(self.start["tags"]["pgzoo.reward_threshold"])
        except (KeyError, ValueError):
            return None

    def final_returns(self, mode: str) -> list[float]:
        """Return the finite returns of the final evaluation in this mode, else of the last one."""
        of_mode = [e for e in self.evaluations if e["mode"] == mode]
        chosen = [e for e in of_mode if e["final"]] or of_mode
        return [r for r in chosen[-1]["returns"] if r is not None] if chosen else []


def read_history(folder: Path) -> History:
    """Read the journal in a run's folder; lines that are not valid records are skipped."""
    history = History()
    for record, _ in records(folder):
        if record is None:
            continue
        if record["t"] in ("update", "evaluation"):
            found = {k: v for k, v in record.get("m", {}).items() if not k.startswith(("summary/", "profile/"))}
            for step in record.get("steps", ()) if record["t"] == "update" else (record["step"],):
                if found:  # the steps of a record share one dict: there may be many
                    history.metrics[step] = {**history.metrics[step], **found} if step in history.metrics else found
        if record["t"] == "start":
            history.start, history.end = history.start or record, None
        elif record["t"] == "update" and "e" in record:
            steps, returns, lengths = record["e"]
            history.steps += steps
            history.returns += returns
            history.lengths += lengths
        elif record["t"] == "evaluation":
            history.evaluations.append(record)
        elif record["t"] == "tags" and record["tags"].get("pgzoo.env_steps", "").isdigit():
            history.env_steps = int(record["tags"]["pgzoo.env_steps"])
        elif record["t"] == "end":
            history.end = record
    return history


def write_tables(folder: Path, disk: Disk = DISK) -> list[str]:
    """Write the tables of a run as artifacts and return their artifact paths."""
    run = read_history(folder)
    made: dict[str, bytes] = {}
    if run.returns:
        rows = zip(range(1, len(run.steps) + 1), run.steps, run.returns, run.lengths, strict=True)
        made["episodes.csv"] = table(("episode", "env_step", "return", "length"), rows)
    if run.evaluations:
        made["evaluation.csv"] = table(
            ("env_step", "mode", "final", "episode", "return", "length"),
            (
                (e["step"], e["mode"], int(e["final"]), i + 1, "" if r is None else r, n)
                for e in run.evaluations
                for i, (r, n) in enumerate(zip(e["returns"], e["lengths"], strict=True))
            ),
        )
    return write_artifacts(folder, made, disk)


def write_plots(folder: Path, disk: Disk = DISK) -> list[str]:
    """Draw the plots of a run as artifacts and return their artifact paths.

    A run without training episodes gets no learning curve, a run without evaluations no histogram.
    """
    from pgzoo.tracking import plots

    run = read_history(folder)
    title = f"{run.start.get('algorithm', '?')} on {run.start.get('env', '?')}"
    seed = f"seed {run.start.get('seed', '?')}"
    made: dict[str, bytes] = {}
    if run.returns:
        figure = plots.learning_curve(
            run.steps,
            run.returns,
            title=title,
            subtitle=f"{seed} · {len(run.steps):,} training episodes",
            threshold=run.threshold,
        )
        made[LEARNING_CURVE] = plots.png_bytes(figure)
    if run.evaluations:
        sampled, greedy = run.final_returns("sampled"), run.final_returns("greedy")
        step = run.env_steps or run.evaluations[-1]["step"]
        figure = plots.evaluation_histogram(
            sampled, greedy, title=title, subtitle=f"{seed} · evaluation after {step:,} environment steps"
        )
        made["plots/evaluation_histogram.png"] = plots.png_bytes(figure)
    return write_artifacts(folder, made, disk)


def write_artifacts(folder: Path, files: Mapping[str, bytes], disk: Disk) -> list[str]:
    # not synced to disk: they can be made again from the journal
    for path, data in files.items():
        write_file(artifact_path(folder, path), data, durable=False, disk=disk)
    return list(files)


def describe_run(history: History, description: str, page: str, notes: Sequence[str] = ()) -> str:
    """Return the description of a run, in Markdown: its learning curve as a line of bars, `description`, and `notes`.

    `page` is the address of the run in MLflow's interface. A picture wouldn't fit: the page of a run shows only the
    first lines of a description, and a wide picture displaces what is beside it.
    """
    means = mean_returns(history.steps, history.returns, BAR_COUNT)
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    bars = "".join(BARS[round(scale * (mean - low))] for mean in means)
    legend = f"mean return of training episodes: {means[0]:,.4g} → {means[-1]:,.4g}"
    curve = f"`{bars}` {legend} ([plot]({page}/artifacts/{LEARNING_CURVE}))"
    return "\n\n".join([curve, description, *(f"**Note:** {note}" for note in notes)])


def mean_returns(steps: Sequence[int], returns: Sequence[float], count: int) -> list[float]:
    """Return the mean return of the episodes that ended in each of at most `count` equal intervals of steps.

    `steps` and `returns` are `[episodes]`, at least one. Intervals in which no episode ended are left out.
    """
    intervals: dict[int, list[float]] = {}
    for step, value in zip(steps, returns, strict=True):
        intervals.setdefault(min(count - 1, count * step // max(1, steps[-1])), []).append(value)
    return [sum(values) / len(values) for _, values in sorted(intervals.items())]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode(errors="replace")
