"""Rollout workers: processes that each own a share of the environments of a run, and act in them."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pgzoo.errors import ConfigError, EnvError, UnfitError
from pgzoo.launchers.children import block_terminal_signals, describe_exit
from pgzoo.launchers.messages import read_message, write_message
from pgzoo.training.activity import Cancelled, Monitor
from pgzoo.training.behavior import Behavior, sendable_noise
from pgzoo.training.rollout_parts import Part, merge_parts, part_of, rows_of_parts
from pgzoo.training.tape import FinishedEpisodes
from pgzoo.types import Array, Collector, EnvRequest, StepResult, Trajectory

__all__ = ["Connection", "ProcessConnection", "RolloutBackend", "RolloutEnvs", "start_process"]

CANCEL_SECONDS = 0.5
"""Interval at which a collection of whole episodes asks whether it is cancelled."""

CLOSE_SECONDS = 5.0
"""Longest time, in seconds, that a worker has to close its environments."""


class Connection(Protocol):
    """A connection to a worker. Answers arrive in the order of the requests."""

    def send(self, name: str, *arguments: Any) -> None:
        """Request a method of `RolloutServer`."""
        ...

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next answer, or raise the exception that the worker raised. Raises queue.Empty after `timeout`."""
        ...

    def close(self) -> None:
        """End the worker."""
        ...


class ProcessConnection:
    """A worker in a process of this machine. A thread reads its answers, so that waiting for one can time out."""

    def __init__(self, index: int, command: Sequence[str], setup: Mapping[str, Any]) -> None:
        self._index = index
        with block_terminal_signals():
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._answers: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._ended: str | None = None
        self._reader = threading.Thread(target=self._read, name="pgzoo-rollouts", daemon=True)
        self._reader.start()
        self._write(dict(setup))

    def send(self, name: str, *arguments: Any) -> None:
        """Request a method of `RolloutServer`. Raises UnfitError for arguments that can't be sent."""
        self._write((name, arguments))

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next answer; see `Connection`. Raises EnvError if the worker has died."""
        if self._ended is not None and self._answers.empty():
            raise EnvError(self._ended)
        kind, value = self._answers.get(timeout=timeout)
        if kind == "raised":
            raise value
        return value

    def close(self) -> None:
        """End the worker: first let it close its environments."""
        with suppress(EnvError, OSError):
            self.send("close")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _write(self, value: object) -> None:
        assert self._process.stdin is not None
        try:
            write_message(self._process.stdin, value)
            self._process.stdin.flush()
        except OSError:
            pass  # it has died, which the next answer says
        except (ConfigError, TypeError) as error:
            raise UnfitError(f"--rollout-workers: a worker can't be sent {error}. Use 0 workers.") from error

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                self._answers.put(read_message(self._process.stdout))
        except (EOFError, OSError):
            what = describe_exit(self._process.wait())
        except Exception as error:  # a damaged message: whatever else the worker writes can't be read
            self._process.kill()
            what = f"sent an unreadable message: {type(error).__name__}: {error}"
        text = f"rollout worker {self._index} (process {self._process.pid}) {what}"
        self._ended = text
        self._answers.put(("raised", EnvError(text)))


def start_process(index: int, setup: Mapping[str, Any]) -> ProcessConnection:
    """Start a worker with this process's import path."""
    boot = f"import sys; sys.path[:] = {sys.path!r}; from pgzoo.launchers.rollout_worker import main; main()"
    return ProcessConnection(index, (sys.executable, "-P", "-c", boot), setup)


@dataclass
class RolloutBackend:
    """An `EnvBackend` whose environments are shared out among worker processes.

    Attributes:
        connect: `(index, setup)` starts a worker with this setup; see `RolloutServer`.
        backend: the name of the environment backend that the workers use.
        workers: their number, at most `num_envs`.
        num_envs: the number of environments per member.
        setup: the other parts of the setup, and "threads", the number of CPU threads of each worker.
    """

    connect: Callable[[int, Mapping[str, Any]], Connection]
    backend: str
    workers: int
    num_envs: int
    setup: Mapping[str, Any]
    width: int = 1

    def fits(self, request: EnvRequest) -> str:
        """Return an empty string: the backend of the workers has been checked."""
        return ""

    def open(self, request: EnvRequest) -> RolloutEnvs:
        """Start the workers."""
        rows = rows_of_parts(request.rows // self.num_envs, self.num_envs, self.workers)
        saves, request = bool(request.states), request._replace(states=())  # a worker has its own objects that save
        setup = {**self.setup, "backend": self.backend, "request": request, "saves": saves}
        connections: list[Connection] = []
        try:
            for index, own in enumerate(rows):
                connections.append(self.connect(index, {**setup, "own": own}))
            return RolloutEnvs(connections, rows)
        except BaseException:
            for connection in connections:
                connection.close()
            raise


class RolloutEnvs:
    """The environments of all workers, as one `VectorEnv` in which the workers act for whole windows."""

    def __init__(self, connections: Sequence[Connection], rows: Sequence[NDArray[np.int64]]) -> None:
        """`rows` are the rows of each worker."""
        self._connections, self._rows = connections, rows
        self._total = sum(map(len, rows))
        self._broken = False
        """Whether answers are missing, so that no other request can be made."""
        self.action_mask: NDArray[np.bool_] | None = None
        self.observation_space, self.action_space = [c.receive() for c in connections][0]  # noqa: RUF015  wait for all of them

    def reset(self, seeds: NDArray[np.int64]) -> Array:
        """Start a new episode in every row from its seed."""
        answers = self._ask("reset", seeds)
        self._show_masks([mask for _, mask in answers])
        return self._merged([obs for obs, _ in answers])

    def step(self, actions: Array, live: NDArray[np.bool_]) -> StepResult:
        """Take one step in every row."""
        answers = self._ask("step", actions, live)
        self._show_masks([mask for _, mask in answers])
        steps = [step for step, _ in answers]
        infos = [step.info for step in steps]
        info = None if infos[0] is None else {key: self._merged([one[key] for one in infos]) for key in infos[0]}
        obs, rewards, terminated, truncated = (self._merged([step[k] for step in steps]) for k in range(4))
        return StepResult(obs, rewards, terminated, truncated, info)

    def rollout(
        self, behavior: Behavior, start: Collector, quota: NDArray[np.int64], window: int | None, monitor: Monitor
    ) -> tuple[Trajectory, FinishedEpisodes, Collector]:
        """Let the workers act; return what `rollout.collect` returns.

        Raises:
            Cancelled: whole episodes are collected, and `monitor.cancelled()` returned True.
        """
        return self.begin_rollout(behavior, start, quota, window)(monitor)

    def begin_rollout(
        self, behavior: Behavior, start: Collector, quota: NDArray[np.int64], window: int | None
    ) -> Callable[[Monitor], tuple[Trajectory, FinishedEpisodes, Collector]]:
        """Let the workers start to act; return a function that waits for them and returns what `rollout` returns."""
        params = {name: leaf.numpy() for name, leaf in behavior.params.items()}
        flat, noise = quota.reshape(-1), sendable_noise(behavior.noise)
        for connection, own in zip(self._connections, self._rows, strict=True):
            part = part_of(start, own), flat[own]
            connection.send("rollout", params, noise, *part, window, start.ended.shape)
        self._broken = True  # until all answers have been read

        def finish(monitor: Monitor) -> tuple[Trajectory, FinishedEpisodes, Collector]:
            parts = [self._receive(connection, monitor, window) for connection in self._connections]
            self._broken = False
            return self._merge(parts, start, monitor)

        return finish

    def _merge(
        self, parts: Sequence[Part], start: Collector, monitor: Monitor
    ) -> tuple[Trajectory, FinishedEpisodes, Collector]:
        monitor.steps += sum(part.steps for part in parts)
        monitor.episodes += sum(len(part.episodes[0]) for part in parts)
        for name, seconds in max((part.seconds for part in parts), key=lambda each: sum(each.values())).items():
            monitor.seconds[name] = monitor.seconds.get(name, 0.0) + seconds
        return merge_parts(parts, self._rows, start)

    def select(self, rows: NDArray[np.int64]) -> None:
        """Return None: all rows are always stepped together."""

    def save(self) -> list[Any] | None:
        """Return the state of each row; None if it can't be saved."""
        if self._broken:
            return None
        answers = self._ask("save")
        if any(states is None for states in answers):
            return None
        whole: list[Any] = [None] * self._total
        for own, states in zip(self._rows, answers, strict=True):
            for row, state in zip(own.tolist(), states, strict=True):
                whole[row] = state
        return whole

    def restore(self, states: Sequence[Any]) -> None:
        """Restore the state of each row; None leaves that row unchanged."""
        self._ask("restore", list(states))

    def close(self) -> None:
        """End the workers."""
        for connection in self._connections:
            connection.close()

    def _ask(self, name: str, *arguments: Any) -> list[Any]:
        """Request the same of every worker; return the answers in their order."""
        for connection in self._connections:
            connection.send(name, *arguments)
        try:
            return [connection.receive() for connection in self._connections]
        except BaseException:
            self._broken = True
            raise

    def _receive(self, connection: Connection, monitor: Monitor, window: int | None) -> Any:
        while True:
            try:
                return connection.receive(CANCEL_SECONDS)
            except queue.Empty:
                if window is None and monitor.cancelled():
                    raise Cancelled from None

    def _show_masks(self, masks: Sequence[Any]) -> None:
        self.action_mask = None if masks[0] is None else self._merged(masks)

    def _merged(self, leaves: Sequence[Array]) -> Array:
        whole = np.zeros((self._total, *leaves[0].shape[1:]), leaves[0].dtype)
        for leaf, own in zip(leaves, self._rows, strict=True):
            whole[own] = leaf
        return whole
