"""Events of a run, named in the past tense.

`training.loop.train` yields them, and the runner passes each to the listeners. Arrays are numpy and have one entry per
member (`[S]`); ragged per-member data is a tuple of S arrays. A later version may add fields, never remove them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pgzoo.config import RunConfig
    from pgzoo.types import TrainState

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

__all__ = [
    "CheckpointSaved",
    "EpisodesFinished",
    "Evaluated",
    "EvaluationMode",
    "Event",
    "MemberStatus",
    "RunEnded",
    "RunStarted",
    "UpdateDone",
]

EvaluationMode = Literal["sampled", "greedy"]
MemberStatus = Literal["finished", "stopped", "failed", "interrupted"]


@dataclass(frozen=True, eq=False)
class RunStarted:
    """All checks have passed, and nothing has been collected yet.

    `seeds` and `run_keys` have one entry per member; `group` identifies the runs that one command started.
    """

    config: RunConfig
    group: str
    seeds: tuple[int, ...]
    run_keys: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class EpisodesFinished:
    """An update has been completed; these episodes ended during its collection.

    `env_steps [S]` counts valid steps so far; `returns` (undiscounted, raw rewards) and `lengths` hold one
    array per member, empty if no episode ended.
    """

    update: int
    env_steps: Ints
    returns: tuple[Floats, ...]
    lengths: tuple[Ints, ...]


@dataclass(frozen=True, eq=False)
class UpdateDone:
    """The parameters of the members in `active [S]` have been updated.

    `metrics` maps slash-grouped names to `[S]` values; values of members that are not active have no meaning.
    `ended [S]` marks members for which this was the last update.
    """

    update: int
    env_steps: Ints
    active: Bools
    ended: Bools
    metrics: Mapping[str, Floats]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The members in `active [S]` were evaluated, in separate environments with fixed seeds.

    `mode` is "sampled" if actions were sampled, "greedy" if they were the mode of the policy's distribution. `final` is
    True for the evaluation of the last parameters. `cut [S]` counts the episodes that had not ended after
    `eval_max_steps` steps, whose returns and lengths count up to there; None if no episode was cut. `state` holds the
    parameters that were evaluated; it changes after the event, so copy what you keep. It is None in a process that only
    displays what its workers train.
    """

    env_steps: Ints
    active: Bools
    mode: EvaluationMode
    final: bool
    returns: tuple[Floats, ...]
    lengths: tuple[Ints, ...]
    cut: Ints | None = None
    state: TrainState | None = None


@dataclass(frozen=True, eq=False)
class CheckpointSaved:
    """Checkpoints of `members` (indices) were written.

    `exact` is True if a run resumed from them equals an uninterrupted one, bit for bit. It is False if the environments
    can't be saved: then unfinished episodes are lost.
    """

    env_steps: Ints
    members: tuple[int, ...]
    exact: bool


@dataclass(frozen=True, eq=False)
class RunEnded:
    """The run has ended, with a status and a reason per member.

    `timing` holds seconds by phase; "loop" is the training loop without evaluations. `state` holds the last parameters.
    `laps` are the seconds of collecting spent on stepping environments ("environment"), on choosing actions ("acting"),
    and in loops that do both in compiled code ("compiled"); the rest was spent on storing.
    """

    env_steps: Ints
    statuses: tuple[MemberStatus, ...]
    reasons: tuple[str, ...]
    timing: Mapping[str, float]
    state: TrainState
    laps: Mapping[str, float] = field(default_factory=dict)

    def profile(self) -> dict[str, float]:
        """Return the seconds spent on each phase, with collecting split into its parts."""
        parts = dict(self.laps)
        parts["storing"] = max(self.timing["collect"] - sum(parts.values()), 0.0)
        others = {phase: seconds for phase, seconds in self.timing.items() if phase not in ("collect", "loop")}
        return {f"collect/{part}": seconds for part, seconds in parts.items()} | others


Event = RunStarted | EpisodesFinished | UpdateDone | Evaluated | CheckpointSaved | RunEnded
