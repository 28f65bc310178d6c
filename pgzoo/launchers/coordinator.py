"""Train one run in several worker processes: split its seeds, and merge the events of the workers."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pgzoo import tracking
from pgzoo.errors import CheckpointError, PgzooError, PluginError, RunFailed, UsageError, raised_at
from pgzoo.launchers.protocol import ResumePoint, decode, merge_activities, save_resume_point, split
from pgzoo.launchers.verification import Verification, choose_shards, compare_runs
from pgzoo.ops.members import select
from pgzoo.protocols import Launcher
from pgzoo.training import checkpoint, events
from pgzoo.training.engine import Engine
from pgzoo.training.events import Event, MemberStatus, RunEnded
from pgzoo.training.loop import Control, Progress
from pgzoo.training.plan import Plan
from pgzoo.types import LaunchRequest, Shard, TrainState, WorkerMessage

__all__ = ["Coordinator"]

_log = logging.getLogger("pgzoo")


class Coordinator:
    """Splits a run into shards, and merges the messages of their workers.

    If a worker dies, the seeds of its shard fail and the others continue. Set `session` before the first message is
    received; it is used to close the runs of dead workers.
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
        """`worker` is the command that starts a worker; `spec` is added to the spec of every shard."""
        self.session: tracking.Session | None = None
        self.plan, self.control, self.home = plan, control, home
        self.lost_members: frozenset[int] = frozenset()
        """Members whose worker died before it wrote a checkpoint."""
        self.verifications: list[Verification] = []
        """The comparisons of the seeds that were trained twice, when all workers have exited."""
        self._worker, self._spec, self._resume_point, self._stack = worker, spec, resume_point, ExitStack()
        members = len(plan.members)
        self._env_steps = np.zeros(members, np.int64)
        if resume_point:
            self._env_steps = resume_point.progress.state.env_steps.copy()
        self._rows_of_shard: list[list[int]] = []
        self._ends: dict[int, dict[str, Any]] = {}
        self._refusals: dict[int, str] = {}
        self._statuses: list[MemberStatus] = ["finished"] * members
        self._reasons = [""] * members
        self._first_sender: dict[str, int] = {}
        self._activities: dict[int, dict[str, Any]] = {}
        self._reported: dict[int, Sequence[int]] = {}
        self._messages: Generator[WorkerMessage] | None = None
        self._who = "the launcher"
        self._fault: PluginError | None = None
        """The error that ended the launcher before its workers had exited."""
        self._exited: set[int] = set()
        self._repeated: dict[int, tuple[Shard, tracking.Home]] = {}
        """By the index of a shard that verifies another one: that shard, and the home of the repetition."""
        self._problems: dict[int, str] = {}
        """Why such a shard did not finish."""

    def launch(self, launcher: Launcher, who: str = "the launcher") -> bool:
        """Call the launcher. Return False if it trains all seeds in this process. It doesn't start workers yet.

        Raises:
            PluginError: it raised, or returned something else than None or a generator. The message starts with `who`.
        """
        self._who = who
        request = LaunchRequest(self.plan.config, self._worker, self._split, self._commands, self._restart)
        try:
            messages: Any = launcher(request)
        except PgzooError:
            raise
        except Exception as error:
            raise self._raised(error) from error
        if messages is not None and not isinstance(messages, Generator):
            raise PluginError(
                f"{who} returned {messages!r:.60}. It must return None, to train all seeds in this process, or a "
                "generator of WorkerMessage. See docs/launchers.md."
            )
        self._messages = messages
        return messages is not None

    def _raised(self, error: Exception) -> PluginError:
        """Return the error to raise for an exception of the launcher's code."""
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        return PluginError(f"{self._who} raised {text}{raised_at(error)}")

    def _split(self, count: int) -> tuple[Shard, ...]:
        """Split the seeds into at most `count` shards."""
        config, resume_point = self.plan.config, self._resume_point
        shares = [{config.seeds[k] for k in share} for share in split(len(config.seeds), count)]
        rows_of_shard = [[row for row, seed in enumerate(self.plan.seeds) if seed in share] for share in shares]
        self._rows_of_shard = [rows for rows in rows_of_shard if rows]  # a resumed sweep may lack some members
        shards = [self._shard(rows, resume_point, rows) for rows in self._rows_of_shard]
        for index in choose_shards(len(shards), config.verify, self.plan.group):
            shard, home = self._repeat(shards[index], index)
            self._repeated[len(shards)] = shard, home
            shards.append(shard)
        return tuple(shards)

    def _repeat(self, shard: Shard, index: int) -> tuple[Shard, tracking.Home]:
        """Return a shard that trains the seeds of another one again, in a temporary home."""
        self.home.root.mkdir(parents=True, exist_ok=True)
        folder = self._stack.enter_context(
            TemporaryDirectory(prefix="verify-", dir=self.home.root, ignore_cleanup_errors=True)
        )
        home = tracking.Home.find({"PGZOO_HOME": folder})
        spec = json.loads(shard.spec)
        spec["home"] = home.paths
        spec["config"] |= {"tracking_uri": "none", "video": False, "checkpoint_every": 0}
        return Shard(shard.seeds, json.dumps(spec), index), home

    def _shard(self, rows: Sequence[int], resume_point: ResumePoint | None, places: Sequence[int]) -> Shard:
        """Return the shard of some members. `places` are their indices in `resume_point`, if it is given."""
        seeds = tuple(dict.fromkeys(self.plan.seeds[row] for row in rows))
        config = self.plan.config.nested() | {"seeds": seeds}
        spec = {**self._spec, "group": self.plan.group, "config": config, "rows": list(rows), "resume": None}
        spec["home"] = self.home.paths
        if resume_point:
            self.home.root.mkdir(parents=True, exist_ok=True)
            folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="parts-", dir=self.home.root)))
            spec["resume"] = [save_resume_point(folder, resume_point, place) for place in places]
        return Shard(seeds, json.dumps(spec))

    def _restart(self, index: int) -> Shard:
        """Return a shard whose worker has died, from the last checkpoints of its members.

        A shard that verifies another one starts again in a new home.
        """
        if index in self._repeated:
            verified = self._repeated[index][0].verifies
            assert verified is not None
            rows = self._rows_of_shard[verified]
            self._repeated[index] = self._repeat(self._shard(rows, self._resume_point, rows), verified)
            return self._repeated[index][0]
        rows = self._rows_of_shard[index]
        self._activities.pop(index, None)
        if point := self._last_checkpoints(rows):
            return self._shard(rows, point, range(len(rows)))
        return self._shard(rows, self._resume_point, rows)

    def _last_checkpoints(self, rows: Sequence[int]) -> ResumePoint | None:
        """Return the last checkpoints of some members; None unless each of them has one."""
        try:
            saved = [
                checkpoint.latest(self.home.runs / self.plan.run_keys[row] / checkpoint.FOLDER_NAME) for row in rows
            ]
        except CheckpointError:
            return None
        ended = [one.about["status"] in ("finished", "stopped") for one in saved]
        progress = Progress(
            checkpoint.assemble([one.state for one in saved])._replace(active=~np.array(ended)),
            tuple(one.about["status"] if over else "running" for one, over in zip(saved, ended, strict=True)),
            tuple(one.about["reason"] if over else "" for one, over in zip(saved, ended, strict=True)),
        )
        members = tuple(self.plan.members[row] for row in rows)
        return ResumePoint(self.plan.group, members, progress, tuple(one.about["listeners"] for one in saved))

    def _commands(self) -> list[str]:
        """Return the requests to the control since the last call, as lines for every worker."""
        stops = self.control.take_stops()
        lines = [json.dumps({"stop": {"rows": s.members, "reason": s.reason, "status": s.status}}) for s in stops]
        if self.control.evaluation_due:
            self.control.evaluation_due = False
            lines.append(json.dumps({"evaluate": True}))
        if self.control.checkpoint_due:
            self.control.checkpoint_due = False
            lines.append(json.dumps({"save": True}))
        return lines

    def events(self) -> Generator[Event]:
        """Train the run in the workers; yield the same events as `training.train`.

        Raises:
            UsageError: every worker has rejected its shard; nothing was created.
            PluginError: the launcher raised, or ended, before it passed on a message of a worker.
            RunFailed: a component raised in every worker, or the launcher raised. RunEnded is yielded first.
        """
        plan, heard = self.plan, False
        Engine(plan).close()  # check here what every worker would check
        yield events.RunStarted(plan.config, plan.group, plan.seeds, plan.run_keys)
        assert self._messages is not None, "call `launch` first, and `events` only if it returned True"
        with self._stack, closing(self._messages):
            for message in self._received(self._messages):
                heard = True
                if message.shard in self._repeated:
                    self._receive_repetition(message)
                elif message.kind == "exited":
                    self._worker_exited(message)
                elif message.kind == "stderr":
                    self._show_once(message, print_on_stderr)
                elif (content := parse(message.text)) and (event := self._receive(message, content)) is not None:
                    yield event
            self._check_ended(heard)
            self._verify()
        yield self._run_ended()
        if len(self._refusals) == len(self._rows_of_shard):
            raise UsageError(self._refusals[0])
        if self._fault:
            raise RunFailed(str(self._fault)) from self._fault.__cause__
        failures = [end["failure"] for end in self._ends.values() if end["failure"]]
        if len(failures) == len(self._rows_of_shard):
            raise RunFailed(failures[0])

    def _received(self, messages: Iterator[WorkerMessage]) -> Iterator[WorkerMessage]:
        """Yield the launcher's messages until it ends. A mistake of the launcher ends them, too, as `_fault`."""
        while self._fault is None:
            try:
                message = next(messages)
            except StopIteration:
                return
            except RunFailed as error:
                self._fault = PluginError(str(error))
                self._fault.__cause__ = error
            except PgzooError:
                raise
            except Exception as error:
                self._fault = self._raised(error)
                self._fault.__cause__ = error
            else:
                if problem := self._problem_of(message):
                    self._fault = PluginError(f"{self._who} {problem}. See docs/launchers.md.")
                else:
                    yield message

    def _problem_of(self, message: Any) -> str:
        """Return what is wrong with what the launcher yielded, or an empty string."""
        if not isinstance(message, WorkerMessage):
            return f"yielded {message!r:.60}, which must be a pgzoo.types.WorkerMessage"
        if message.kind not in ("stdout", "stderr", "exited") or not isinstance(message.text, str):
            return f'yielded {message!r:.120}, but the kind must be "stdout", "stderr" or "exited", and the text a str'
        shards = len(self._rows_of_shard) + len(self._repeated)
        if message.shard not in range(shards):
            return f"yielded a message of shard {message.shard!r:.60}, but split has returned {shards} shards"
        return ""

    def _check_ended(self, heard: bool) -> None:
        """Mark seeds as failed whose worker is not reported to have ended. `heard`: whether there was any message.

        Raises PluginError if there was none.
        """
        if not heard:
            raise self._fault or PluginError(
                f"{self._who} ended without starting a worker, or without yielding its messages. It must call "
                "request.split, start a worker for each shard, and yield what they write. See docs/launchers.md."
            )
        reason = str(self._fault or f"{self._who} ended without reporting that the worker has exited")
        for shard in range(len(self._rows_of_shard)):
            if shard not in self._exited:
                self._worker_exited(WorkerMessage(shard, "exited", reason))

    def _receive(self, message: WorkerMessage, content: dict[str, Any]) -> Event | None:
        """Handle a line of a worker's standard output. Return the event that it holds, if any."""
        rows = self._rows_of_shard[message.shard]
        match content["type"]:
            case "log":
                warning = message._replace(text=content["text"])
                self._show_once(warning, lambda text: _log.log(content["level"], "%s", text))
            case "activity":
                self._activities[message.shard] = content
                self._show_activity()
            case "refused":
                self._refusals[message.shard] = content["text"]
            case "ended":
                self._ends[message.shard] = content
                if message.shard in self._activities:
                    self._activities[message.shard]["phase"] = ""
                    self._show_activity()
                self._env_steps[rows] = content["env_steps"]
                for row, status, reason in zip(rows, content["statuses"], content["reasons"], strict=True):
                    self._statuses[row], self._reasons[row] = status, reason
                    if self.session:
                        first = row == rows[0]
                        counts = {name: content[name] if first else 0 for name in ("lost", "dropped")}
                        self.session.watch(self.plan.run_keys[row], **counts)
            case _:
                if content["type"] == "EpisodesFinished" and message.shard in self._activities:
                    self._reported[message.shard] = self._activities[message.shard]["collecting"]
                    self._show_activity()
                return decode(content, rows, self._env_steps)
        return None

    def _receive_repetition(self, message: WorkerMessage) -> None:
        """Handle a message of a worker that trains the seeds of another one again: its events are not reported."""
        if message.kind == "exited":
            self._problems.setdefault(message.shard, message.text)
        elif message.kind == "stderr":
            self._show_once(message, print_on_stderr)
        elif content := parse(message.text):
            if content["type"] == "refused":
                self._problems[message.shard] = content["text"]
            elif content["type"] == "ended":
                bad = [status for status in content["statuses"] if status in ("failed", "interrupted")]
                self._problems[message.shard] = f"the second training was {bad[0]}" if bad else ""

    def _verify(self) -> None:
        """Compare the seeds that were trained twice, warn of differences, and tag the runs with the outcome."""
        for index, (shard, again) in self._repeated.items():
            assert shard.verifies is not None
            for row in self._rows_of_shard[shard.verifies]:
                key, seed = self.plan.run_keys[row], self.plan.seeds[row]
                problem = self._problems.get(index, "the second training did not start")
                if self._statuses[row] in ("failed", "interrupted"):
                    problem = f"the first training was {self._statuses[row]}"
                if problem:
                    found = Verification(key, seed, "incomplete", 0, problem)
                else:
                    found = compare_runs(self.home, again, key, seed)
                self.verifications.append(found)
                if found.outcome == "different":
                    _log.error("Verification failed: two workers computed different results %s.", found.detail)
                elif found.outcome == "incomplete":
                    _log.warning("Seed %s was not verified: %s.", seed, found.detail)
                if self.session:
                    self.session.tag_closed_run(
                        key, {"pgzoo.verified": ": ".join(filter(None, (found.outcome, found.detail)))}
                    )

    def _show_activity(self) -> None:
        merge_activities(self.control.activity, self._activities.values(), self._reported.values())

    def _worker_exited(self, message: WorkerMessage) -> None:
        """Mark the seeds of a worker that exited before its run had ended as failed or interrupted."""
        self._exited.add(message.shard)
        if message.shard in self._ends:
            return
        interrupted = self.control.interrupted
        reason = self._refusals.get(message.shard, message.text)
        for row in self._rows_of_shard[message.shard]:
            self._statuses[row], self._reasons[row] = "interrupted" if interrupted else "failed", reason
            if self.session and message.shard not in self._refusals:
                key = self.plan.run_keys[row]
                self.session.close_dead_run(
                    key, "KILLED" if interrupted else "FAILED", reason, {"pgzoo.status": self._statuses[row]}
                )
                self.session.watch(key)

    def _show_once(self, message: WorkerMessage, show: Callable[[str], None]) -> None:
        """Show a text unless another worker has already sent it."""
        if message.text.strip() and self._first_sender.setdefault(message.text, message.shard) == message.shard:
            show(message.text)

    def _run_ended(self) -> RunEnded:
        timings = [end["timing"] for end in self._ends.values()]
        timing = max(timings, key=lambda one: one["loop"], default={"loop": 0.0})
        return RunEnded(self._env_steps, tuple(self._statuses), tuple(self._reasons), timing, self._last_state())

    def _last_state(self) -> TrainState:
        """Return the state of the members' last checkpoints; the initial state for members without one."""
        states: list[TrainState | None] = []
        for key in self.plan.run_keys:
            try:
                states.append(checkpoint.latest(self.home.runs / key / checkpoint.FOLDER_NAME).state)
            except CheckpointError:
                states.append(None)
        self.lost_members = frozenset(row for row, state in enumerate(states) if state is None)
        if self.lost_members:
            engine = Engine(self.plan)
            engine.close()
            initial = engine.snapshot(environments=False)
            states = [state or select(initial, [row]) for row, state in enumerate(states)]
        return checkpoint.assemble([state for state in states if state is not None])


def print_on_stderr(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


def parse(line: str) -> dict[str, Any] | None:
    """Return the object in a line; None for a part of a line, which a worker leaves that is killed while it writes."""
    try:
        content: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return content
