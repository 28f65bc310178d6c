"""A run in parts: each is trained by a worker process, and what the workers tell becomes the events of one run.

Worker and launcher exchange lines of JSON and nothing else:

    to a worker       {"config", "rows", "group", "command", "imports", "blocked", "standing"}   its order, first
                      {"stop": {"rows", "reason", "status"}}       a wish, at any time; rows are members of the run
    from a worker     {"t": "EpisodesFinished", ...} and so on                           an event, rows of its own seeds
                      {"t": "log", "level", "text"}                                      a warning
                      {"t": "refused", "text"}     the order can't be carried out; nothing was created
                      {"t": "ended", "statuses", "reasons", "env_steps", "timing", "lost", "dropped", "failure"}
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgzoo import checkpoint, events, tracking
from pgzoo.config import RunConfig
from pgzoo.engine import Engine
from pgzoo.errors import CheckpointError, RunFailed, UsageError
from pgzoo.events import CheckpointSaved, EpisodesFinished, Evaluated, Event, MemberStatus, RunEnded, UpdateDone
from pgzoo.ops.members import select
from pgzoo.plan import Plan
from pgzoo.protocols import Job, Launcher, Part, Word
from pgzoo.sweep import Member
from pgzoo.training import Control, Standing
from pgzoo.types import TrainState

__all__ = ["TOLD", "Relay", "Resumption", "decode", "encode", "load", "split"]

TOLD = (EpisodesFinished, UpdateDone, Evaluated, CheckpointSaved)
"""What workers tell of; how a run begins and ends is put together."""

_log = logging.getLogger("pgzoo")
_BOOT = "import sys; sys.path[:] = {path!r}; from pgzoo.worker import main; main()"


@dataclass(frozen=True)
class Resumption:
    """What a run that goes on takes up: its members, where they stand, and what its listeners knew of each."""

    group: str
    members: tuple[Member, ...]
    standing: Standing
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


def save(folder: Path, resumption: Resumption, row: int) -> str:
    """Write where a member stands, for the worker that goes on with it; return where."""
    standing = resumption.standing
    about = {
        "status": standing.statuses[row],
        "reason": standing.reasons[row],
        "listeners": dict(resumption.listeners[row]),
        "seed": resumption.members[row].seed,
        "overrides": dict(resumption.members[row].overrides),
    }
    return str(checkpoint.save(folder / str(row), select(standing.state, [row]), about))


def load(group: str, config: RunConfig, paths: Sequence[str]) -> Resumption:
    """Take up members of a run with this config where `save` has left them."""
    kept = [checkpoint.load(Path(path)) for path in paths]
    standing = Standing(
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
    return Resumption(group, members, standing, tuple(one.about["listeners"] for one in kept))


class Relay:
    """Hands out the parts of a run, and puts together what their workers tell.

    A worker that dies costs its own seeds alone: these have failed. `session` is where their runs are closed.
    """

    def __init__(
        self,
        plan: Plan,
        control: Control,
        home: tracking.Home,
        *,
        order: Mapping[str, Any],
        resumption: Resumption | None = None,
    ) -> None:
        """Prepare; `order` is what every worker must know beside its seeds."""
        self.session: tracking.Session | None = None
        self.plan, self.control, self.home = plan, control, home
        self.unkept: frozenset[int] = frozenset()
        """Members whose last parameters are lost."""
        self._order, self._resumption, self._stack = order, resumption, ExitStack()
        members = len(plan.members)
        self._env_steps = np.zeros(members, np.int64)
        if resumption:
            self._env_steps = resumption.standing.state.env_steps.copy()
        self._parts: list[list[int]] = []
        self._ends: dict[int, dict[str, Any]] = {}
        self._refusals: dict[int, str] = {}
        self._statuses: list[MemberStatus] = ["finished"] * members
        self._reasons = [""] * members
        self._said: dict[str, int] = {}
        self._words: Generator[Word] | None = None

    def launch(self, launcher: Launcher) -> bool:
        """Ask a launcher to carry out the run; False if it leaves that to this process. Nothing is started yet."""
        command = (sys.executable, "-P", "-c", _BOOT.format(path=sys.path))
        self._words = launcher(Job(self.plan.config, command, self._split, self._wishes))
        return self._words is not None

    def _split(self, count: int) -> tuple[Part, ...]:
        config, taken_up = self.plan.config, self._resumption
        shares = [{config.seeds[k] for k in part} for part in split(len(config.seeds), count)]
        rows_of = [[row for row, seed in enumerate(self.plan.seeds) if seed in share] for share in shares]
        self._parts = [rows for rows in rows_of if rows]  # of a sweep that goes on some members may be missing
        folder = Path()
        if taken_up:
            self.home.root.mkdir(parents=True, exist_ok=True)
            folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="parts-", dir=self.home.root)))
        parts = []
        for rows in self._parts:
            seeds = tuple(dict.fromkeys(self.plan.seeds[row] for row in rows))
            order = {**self._order, "group": self.plan.group, "config": config.nested() | {"seeds": seeds}}
            order["rows"] = rows
            order["standing"] = [save(folder, taken_up, row) for row in rows] if taken_up else None
            parts.append(Part(seeds, json.dumps(order)))
        return tuple(parts)

    def _wishes(self) -> list[str]:
        return [
            json.dumps({"stop": {"rows": stop.members, "reason": stop.reason, "status": stop.status}})
            for stop in self.control.take_stops()
        ]

    def events(self) -> Generator[Event]:
        """Carry out the run; yield and raise as `training.train` does.

        Raises:
            UsageError: every worker has refused its order; nothing was created.
            RunFailed: a component raised in every worker. RunEnded is yielded first.
        """
        plan = self.plan
        Engine(plan).close()  # the last check that everything fits, which costs little: the workers' would come late
        yield events.RunStarted(plan.config, plan.group, plan.seeds, plan.run_keys)
        assert self._words is not None, "a launcher that leaves all to this process yields nothing"
        with self._stack, closing(self._words):
            for word in self._words:
                if word.kind == "gone":
                    self._take_leave(word)
                elif word.kind == "aside":
                    self._once(word, lambda text: print(text, file=sys.stderr, flush=True))
                elif (event := self._hear(word, json.loads(word.text))) is not None:
                    yield event
        yield self._ended()
        if len(self._refusals) == len(self._parts):
            raise UsageError(self._refusals[0])
        failures = [end["failure"] for end in self._ends.values() if end["failure"]]
        if len(failures) == len(self._parts):
            raise RunFailed(failures[0])

    def _hear(self, word: Word, told: dict[str, Any]) -> Event | None:
        rows = self._parts[word.part]
        match told["t"]:
            case "log":
                self._once(word._replace(text=told["text"]), lambda text: _log.log(told["level"], "%s", text))
            case "refused":
                self._refusals[word.part] = told["text"]
            case "ended":
                self._ends[word.part] = told
                self._env_steps[rows] = told["env_steps"]
                for row, status, reason in zip(rows, told["statuses"], told["reasons"], strict=True):
                    self._statuses[row], self._reasons[row] = status, reason
                    if self.session:
                        first = row == rows[0]
                        counts = {name: told[name] if first else 0 for name in ("lost", "dropped")}
                        self.session.watch(self.plan.run_keys[row], **counts)
            case _:
                return decode(told, rows, self._env_steps)
        return None

    def _take_leave(self, word: Word) -> None:
        """Note that a worker has gone. Of one that had not come to an end, the seeds have failed."""
        if word.part in self._ends:
            return
        interrupted = self.control.interrupted
        reason = self._refusals.get(word.part, word.text)
        for row in self._parts[word.part]:
            self._statuses[row], self._reasons[row] = "interrupted" if interrupted else "failed", reason
            if self.session and word.part not in self._refusals:
                key = self.plan.run_keys[row]
                self.session.bury(
                    key, "KILLED" if interrupted else "FAILED", reason, {"pgzoo.status": self._statuses[row]}
                )
                self.session.watch(key)

    def _once(self, word: Word, say: Callable[[str], None]) -> None:
        """Pass on what a worker says, unless another has said the same."""
        if word.text.strip() and self._said.setdefault(word.text, word.part) == word.part:
            say(word.text)

    def _ended(self) -> RunEnded:
        timings = [end["timing"] for end in self._ends.values()]
        timing = max(timings, key=lambda one: one["loop"], default={"loop": 0.0})
        return RunEnded(self._env_steps, tuple(self._statuses), tuple(self._reasons), timing, self._last_state())

    def _last_state(self) -> TrainState:
        """Where the members stand, from their checkpoints; of members without one, where they began."""
        found: list[TrainState | None] = []
        for key in self.plan.run_keys:
            try:
                found.append(checkpoint.latest(self.home.runs / key / checkpoint.FOLDER_NAME).state)
            except CheckpointError:
                found.append(None)
        self.unkept = frozenset(row for row, state in enumerate(found) if state is None)
        if self.unkept:
            engine = Engine(self.plan)
            engine.close()
            state = engine.snapshot(environments=False)
            found = [s or select(state, [row]) for row, s in enumerate(found)]
        return checkpoint.assemble([state for state in found if state is not None])
