"""The messages between the coordinator of a run and its workers: lines of JSON, one object each.

To a worker, on its standard input:
    {"config", "rows", "group", "home", "command", "imports", "blocked", "resume"}    the shard; the first line
    {"stop": {"rows", "reason", "status"}}    stop these members of the run; null for all of them
    {"evaluate": true}, {"save": true}        evaluate all active members; write checkpoints of all members

From a worker, on its standard output:
    {"type": "EpisodesFinished", ...}            an event (one of `SHARED_EVENTS`) of its own seeds
    {"type": "activity", "phase", "collecting", "evaluating", "due"}    what it is doing; pairs are steps and episodes
    {"type": "log", "level", "text"}             a warning
    {"type": "refused", "text"}                  the shard can't be trained; nothing was created
    {"type": "ended", "statuses", "reasons", "env_steps", "timing", "lost", "dropped", "failure"}    the last line
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgzoo.config import Member, RunConfig
from pgzoo.ops.members import one_member
from pgzoo.training import checkpoint
from pgzoo.training.activity import Activity
from pgzoo.training.events import CheckpointSaved, EpisodesFinished, Evaluated, Event, UpdateDone
from pgzoo.training.loop import Progress

__all__ = [
    "SHARED_EVENTS",
    "ResumePoint",
    "activity_of",
    "decode",
    "encode",
    "load_resume_point",
    "merge_activities",
    "save_resume_point",
    "split",
]

SHARED_EVENTS = (EpisodesFinished, UpdateDone, Evaluated, CheckpointSaved)
"""The events that workers send; the coordinator makes RunStarted and RunEnded itself."""


@dataclass(frozen=True)
class ResumePoint:
    """The state from which a run is resumed: members, their progress, and the listeners' snapshots per member."""

    group: str
    members: tuple[Member, ...]
    progress: Progress
    listeners: tuple[Mapping[str, Any], ...]


def split(members: int, count: int) -> list[list[int]]:
    """Split the indices 0 ... members-1 into at most `count` parts, in order, as equal as possible and none empty."""
    return [rows.tolist() for rows in np.array_split(np.arange(members), min(count, members))]


def encode(event: Event) -> str:
    """Return a worker's event as a line of JSON."""
    content = {name: value for name, value in vars(event).items() if name != "state"}  # tensors stay with the worker
    return json.dumps({"type": type(event).__name__, **content}, default=_plain)


def decode(content: Mapping[str, Any], rows: Sequence[int], env_steps: NDArray[np.int64]) -> Event:
    """Return a worker's event as an event of the whole run.

    `rows` are the members that the worker trains. `env_steps [S]` holds the steps of all members, and is updated.

    Raises:
        ValueError: it is none of `SHARED_EVENTS`.
    """
    env_steps[rows] = content["env_steps"]
    members, at = len(env_steps), env_steps.copy()

    def some(name: str) -> NDArray[np.bool_]:
        return _spread(content[name], rows, np.zeros(members, bool))

    def ragged(name: str, dtype: type) -> tuple[NDArray[Any], ...]:
        of = dict(zip(rows, content[name], strict=True))
        return tuple(np.array(of.get(row, ()), dtype) for row in range(members))

    match content["type"]:
        case "EpisodesFinished":
            return EpisodesFinished(content["update"], at, ragged("returns", np.float64), ragged("lengths", np.int64))
        case "UpdateDone":
            metrics = {k: _spread(v, rows, np.full(members, np.nan)) for k, v in content["metrics"].items()}
            return UpdateDone(content["update"], at, some("active"), some("ended"), metrics)
        case "Evaluated":
            played = ragged("returns", np.float64), ragged("lengths", np.int64)
            cut = content["cut"] and _spread(content["cut"], rows, np.zeros(members, np.int64))
            return Evaluated(at, some("active"), content["mode"], content["final"], *played, cut)
        case "CheckpointSaved":
            return CheckpointSaved(at, tuple(rows[member] for member in content["members"]), content["exact"])
    raise ValueError(f"not an event: {content['type']}")


def activity_of(activity: Activity) -> dict[str, Any]:
    """Return the content of the message "activity"."""
    collecting, evaluating = activity.collecting, activity.evaluating
    return {
        "phase": activity.phase,
        "collecting": (collecting.steps, collecting.episodes),
        "evaluating": (evaluating.steps, evaluating.episodes),
        "due": activity.episodes_due,
    }


def merge_activities(
    whole: Activity, parts: Collection[Mapping[str, Any]], reported: Collection[Sequence[int]]
) -> None:
    """Write into `whole` what the workers are doing, from their last messages "activity".

    `reported` are the steps and episodes that the events of each worker contain. The phase is that of all workers; if
    they differ, it is "collect". It is "" for a worker that has not begun, or has ended.
    """
    phases = {part["phase"] for part in parts} - {""}
    whole.phase = phases.pop() if len(phases) == 1 else "collect"
    for name, monitor in (("collecting", whole.collecting), ("evaluating", whole.evaluating)):
        monitor.steps, monitor.episodes = (sum(part[name][place] for part in parts) for place in (0, 1))
    whole.episodes_due = sum(part["due"] for part in parts)
    whole.reported = sum(steps for steps, _ in reported), sum(episodes for _, episodes in reported)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value.tolist()


def _spread(values: Sequence[Any], rows: Sequence[int], out: NDArray[Any]) -> NDArray[Any]:
    out[list(rows)] = values
    return out


def save_resume_point(folder: Path, resume_point: ResumePoint, row: int) -> str:
    """Write the checkpoint from which a worker resumes a member; return its path."""
    progress = resume_point.progress
    about = {
        "status": progress.statuses[row],
        "reason": progress.reasons[row],
        "listeners": dict(resume_point.listeners[row]),
        "seed": resume_point.members[row].seed,
        "overrides": dict(resume_point.members[row].overrides),
    }
    return str(checkpoint.save(folder / str(row), one_member(progress.state, row), about))


def load_resume_point(group: str, config: RunConfig, paths: Sequence[str]) -> ResumePoint:
    """Return the point from which a worker resumes members that `save_resume_point` wrote."""
    checkpoints = [checkpoint.load(Path(path)) for path in paths]
    progress = Progress(
        checkpoint.assemble([one.state for one in checkpoints]),
        tuple(one.about["status"] for one in checkpoints),
        tuple(one.about["reason"] for one in checkpoints),
    )
    members = tuple(
        Member(
            config.at(one.about["overrides"]).model_copy(update={"seeds": (one.about["seed"],)}), one.about["overrides"]
        )
        for one in checkpoints
    )
    return ResumePoint(group, members, progress, tuple(one.about["listeners"] for one in checkpoints))
