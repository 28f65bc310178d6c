"""One run in shards: each is trained by a worker process, and their messages become the events of one run."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pgzoo import tracking
from pgzoo.errors import CheckpointError, RunFailed, UsageError
from pgzoo.launchers.protocol import ResumePoint, decode, save_resume_point, split
from pgzoo.ops.members import select
from pgzoo.protocols import Launcher
from pgzoo.training import checkpoint, events
from pgzoo.training.engine import Engine
from pgzoo.training.events import Event, MemberStatus, RunEnded
from pgzoo.training.loop import Control
from pgzoo.training.plan import Plan
from pgzoo.types import LaunchRequest, Shard, TrainState, WorkerMessage

__all__ = ["Coordinator"]

_log = logging.getLogger("pgzoo")


class Coordinator:
    """Hands out the parts of a run, and puts together what their workers tell.

    A worker that dies costs its own seeds alone: these have failed. `session` is where their runs are closed.
    """

    def __init__(
        self,
        plan: Plan,
        control: Control,
        home: tracking.Home,
        *,
        worker: tuple[str, ...],
        spec: Mapping[str, Any],
        resume_point: ResumePoint | None = None,
    ) -> None:
        """Prepare. `worker` is the command that starts one; `spec` is what each must know besides its seeds."""
        self.session: tracking.Session | None = None
        self.plan, self.control, self.home = plan, control, home
        self.unkept: frozenset[int] = frozenset()
        """Members whose last parameters are lost."""
        self._worker, self._spec, self._resume_point, self._stack = worker, spec, resume_point, ExitStack()
        members = len(plan.members)
        self._env_steps = np.zeros(members, np.int64)
        if resume_point:
            self._env_steps = resume_point.standing.state.env_steps.copy()
        self._parts: list[list[int]] = []
        self._ends: dict[int, dict[str, Any]] = {}
        self._refusals: dict[int, str] = {}
        self._statuses: list[MemberStatus] = ["finished"] * members
        self._reasons = [""] * members
        self._said: dict[str, int] = {}
        self._messages: Generator[WorkerMessage] | None = None

    def launch(self, launcher: Launcher) -> bool:
        """Ask a launcher to carry out the run; False if it leaves that to this process. Nothing is started yet."""
        self._messages = launcher(LaunchRequest(self.plan.config, self._worker, self._split, self._commands))
        return self._messages is not None

    def _split(self, count: int) -> tuple[Shard, ...]:
        config, taken_up = self.plan.config, self._resume_point
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
            spec = {**self._spec, "group": self.plan.group, "config": config.nested() | {"seeds": seeds}}
            spec["rows"] = rows
            spec["resume"] = [save_resume_point(folder, taken_up, row) for row in rows] if taken_up else None
            parts.append(Shard(seeds, json.dumps(spec)))
        return tuple(parts)

    def _commands(self) -> list[str]:
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
        assert self._messages is not None, "a launcher that leaves all to this process yields nothing"
        with self._stack, closing(self._messages):
            for message in self._messages:
                if message.kind == "gone":
                    self._take_leave(message)
                elif message.kind == "aside":
                    self._once(message, lambda text: print(text, file=sys.stderr, flush=True))
                elif (event := self._hear(message, json.loads(message.text))) is not None:
                    yield event
        yield self._ended()
        if len(self._refusals) == len(self._parts):
            raise UsageError(self._refusals[0])
        failures = [end["failure"] for end in self._ends.values() if end["failure"]]
        if len(failures) == len(self._parts):
            raise RunFailed(failures[0])

    def _hear(self, message: WorkerMessage, told: dict[str, Any]) -> Event | None:
        rows = self._parts[message.shard]
        match told["t"]:
            case "log":
                self._once(message._replace(text=told["text"]), lambda text: _log.log(told["level"], "%s", text))
            case "refused":
                self._refusals[message.shard] = told["text"]
            case "ended":
                self._ends[message.shard] = told
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

    def _take_leave(self, message: WorkerMessage) -> None:
        """Note that a worker has gone. Of one that had not come to an end, the seeds have failed."""
        if message.shard in self._ends:
            return
        interrupted = self.control.interrupted
        reason = self._refusals.get(message.shard, message.text)
        for row in self._parts[message.shard]:
            self._statuses[row], self._reasons[row] = "interrupted" if interrupted else "failed", reason
            if self.session and message.shard not in self._refusals:
                key = self.plan.run_keys[row]
                self.session.bury(
                    key, "KILLED" if interrupted else "FAILED", reason, {"pgzoo.status": self._statuses[row]}
                )
                self.session.watch(key)

    def _once(self, message: WorkerMessage, say: Callable[[str], None]) -> None:
        """Pass on what a worker says, unless another has said the same."""
        if message.text.strip() and self._said.setdefault(message.text, message.shard) == message.shard:
            say(message.text)

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
