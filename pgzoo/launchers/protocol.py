"""What the process that coordinates a run and its workers exchange: lines of JSON, one object each.

to a worker       {"config", "rows", "group", "command", "imports", "blocked", "resume"}   the shard, first line
{"stop": {"rows", "reason", "status"}}       a command, at any time; rows are members of the run
from a worker     {"t": "EpisodesFinished", ...} and so on                           an event; rows of its own seeds
{"t": "log", "level", "text"}                                      a warning
{"t": "refused", "text"}     the shard can't be trained; nothing was created
{"t": "ended", "statuses", "reasons", "env_steps", "timing", "lost", "dropped", "failure"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgzoo.config import Member, RunConfig
from pgzoo.ops.members import select
from pgzoo.training import checkpoint
from pgzoo.training.events import CheckpointSaved, EpisodesFinished, Evaluated, Event, UpdateDone
from pgzoo.training.loop import Progress

__all__ = ["SHARED_EVENTS", "ResumePoint", "decode", "encode", "load_resume_point", "save_resume_point", "split"]

SHARED_EVENTS = (EpisodesFinished, UpdateDone, Evaluated, CheckpointSaved)
"""The events that workers send; the coordinator makes RunStarted and RunEnded itself."""


@dataclass(frozen=True)
class ResumePoint:
    """What a run that goes on takes up: its members, where they stand, and what its listeners knew of each."""

    group: str
    members: tuple[Member, ...]
    standing: Progress
    listeners: tuple[Mapping[str, Any], ...]


def split(members: int, count: int) -> list[list[int]]:
    """Share out the rows 0 ... members-1 as evenly as may be: at most `count` parts, in order, none empty."""
    return [rows.tolist() for rows in np.array_split(np.arange(members), min(count, members))]


def encode(event: Event) -> str:
    """An event of a worker as a line of JSON."""
    return json.dumps({"t": type(event).__name__, **vars(event)}, default=_plain)


def decode(told: Mapping[str, Any], rows: Sequence[int], env_steps: NDArray[np.int64]) -> Event:
    """Return a worker's event as one of the whole run: `rows` are its members among all.

    `env_steps [S]` is where the others stand, and is brought up to date.
    """
    env_steps[rows] = told["env_steps"]
    members, at = len(env_steps), env_steps.copy()

    def some(name: str) -> NDArray[np.bool_]:
        return _spread(told[name], rows, np.zeros(members, bool))

    def ragged(name: str, dtype: type) -> tuple[NDArray[Any], ...]:
        of = dict(zip(rows, told[name], strict=True))
        return tuple(np.array(of.get(row, ()), dtype) for row in range(members))

    match told["t"]:
        case "EpisodesFinished":
            return EpisodesFinished(told["update"], at, ragged("returns", np.float64), ragged("lengths", np.int64))
        case "UpdateDone":
            metrics = {k: _spread(v, rows, np.full(members, np.nan)) for k, v in told["metrics"].items()}
            return UpdateDone(told["update"], at, some("active"), some("ended"), metrics)
        case "Evaluated":
            played = ragged("returns", np.float64), ragged("lengths", np.int64)
            return Evaluated(at, some("active"), told["mode"], told["final"], *played)
        case "CheckpointSaved":
            return CheckpointSaved(at, tuple(rows[member] for member in told["members"]), told["exact"])
    raise ValueError(f"no event: {told['t']}")


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value.tolist()


def _spread(values: Sequence[Any], rows: Sequence[int], out: NDArray[Any]) -> NDArray[Any]:
    out[list(rows)] = values
    return out


def save_resume_point(folder: Path, resume_point: ResumePoint, row: int) -> str:
    """Write where a member stands, for the worker that goes on with it; return where."""
    standing = resume_point.standing
    about = {
        "status": standing.statuses[row],
        "reason": standing.reasons[row],
        "listeners": dict(resume_point.listeners[row]),
        "seed": resume_point.members[row].seed,
        "overrides": dict(resume_point.members[row].overrides),
    }
    return str(checkpoint.save(folder / str(row), select(standing.state, [row]), about))


def load_resume_point(group: str, config: RunConfig, paths: Sequence[str]) -> ResumePoint:
    """Take up members of a run with this config where `save` has left them."""
    kept = [checkpoint.load(Path(path)) for path in paths]
    standing = Progress(
        checkpoint.assemble([one.state for one in kept]),
        tuple(one.about["status"] for one in kept),
        tuple(one.about["reason"] for one in kept),
    )
    members = tuple(
        Member(
            config.at(one.about["overrides"]).model_copy(update={"seeds": (one.about["seed"],)}), one.about["overrides"]
        )
        for one in kept
    )
    return ResumePoint(group, members, standing, tuple(one.about["listeners"] for one in kept))
