"""`--launcher ray`: each shard of the seeds is trained by a worker process on a node of a Ray cluster.

A process of its own talks to Ray (`driver`), because Ray may end a process that has lost the head of its cluster. If
that happens, another one is started, and the shards continue from their last checkpoints.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from pgzoo.errors import UsageError
from pgzoo.types import LaunchRequest, Shard, WorkerMessage
from pgzoo_ray.host import LEASE_SECONDS

__all__ = ["MAX_RESTARTS", "Job", "all_stopped", "launch"]

DRIVER = "from pgzoo_ray.driver import main; main()"
"""The program of the process that talks to Ray."""

CONNECT_SECONDS = 10.0
"""Longest time, in seconds, in which the cluster must accept a connection."""

READY_SECONDS = 120.0
"""Longest time, in seconds, in which the first driver must be ready: connected, or Ray started, and nodes compared."""

MAX_RESTARTS = 3
"""How often a shard is continued after its worker has died, and how often all are after the cluster was lost."""

SILENCE_SECONDS = 60.0
"""Seconds after which a driver that asks for nothing is lost. It asks for commands twice a second."""

POLL_INTERVAL = 0.5
"""Longest time, in seconds, between two calls of `LaunchRequest.commands`."""

RETURN_SECONDS = 90.0
"""Seconds after the loss of a driver in which another one may be started."""

RETRY_SECONDS = 2.0
"""Seconds between two attempts."""

START_SECONDS = 60.0
"""Longest time, in seconds, in which that driver must be ready."""

ENDED_SECONDS = LEASE_SECONDS + 5.0
"""Seconds after the loss of a driver after which all of its workers have ended."""

CLOSE_SECONDS = 10.0
"""Longest time, in seconds, in which a driver must end."""


@dataclass(frozen=True)
class Job:
    """What a driver has to know. The sizes are those of one shard.

    Attributes:
        address: of the cluster; "" to start one on this machine.
        command: starts a worker.
        cpus: to reserve.
        gpus: to reserve; may be a fraction.
        again: shards are continued on a cluster that was lost, whose nodes may still be missing.
    """

    address: str
    command: Sequence[str]
    cpus: int
    gpus: float
    again: bool = False


def launch(request: LaunchRequest) -> Generator[WorkerMessage]:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine; return a generator of messages.

    Raises:
        UsageError: the cluster can't be reached, or a node has other versions installed.
    """
    config = request.config
    gpus = config.gpus_per_shard if config.gpus_per_shard is not None else float(config.device == "cuda")
    job = Job(_address(), request.command, config.cpus_per_shard or config.threads, gpus)
    if problem := _unreachable(job.address):
        advice = "Correct RAY_ADDRESS, or run ray start --head"
        raise UsageError(f"The Ray cluster at {job.address} can't be reached: {problem}. {advice}")
    driver = _Driver(job)
    try:
        name, found = driver.receive(READY_SECONDS)
        if name != "split":
            raise UsageError(found)
    except queue.Empty:  # such as if the head hangs: Ray would wait for it without a limit
        driver.close()
        where = f"The Ray cluster at {job.address}" if job.address else "A Ray cluster on this machine"
        raise UsageError(f"{where} wasn't ready within {READY_SECONDS:.0f} seconds") from None
    except BaseException:
        driver.close()
        raise
    return _run_shards(request, job, driver, min(config.workers or found, len(config.seeds)))


def all_stopped(commands: Sequence[str]) -> bool:
    """Return whether the commands stop all members, so that workers that died aren't replaced."""
    return any(stop["rows"] is None for line in commands if (stop := json.loads(line).get("stop")))


def _address() -> str:
    """Return the address of the cluster that this process is connected to, or that RAY_ADDRESS names; "" if none is."""
    ray: Any = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return str(ray.get_runtime_context().gcs_address)
    return os.environ.get("RAY_ADDRESS", "")


def _unreachable(address: str) -> str:
    """Return why HOST:PORT accepts no connection; "" if it does. Ray itself would try for minutes."""
    name, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):  # such as "auto"
        return ""
    try:
        socket.create_connection((name, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return str(error)
    return ""


class _Driver:
    """A process that talks to Ray (`driver.main`), and a thread that reads what it asks for."""

    def __init__(self, job: Job) -> None:
        boot = f"import sys; sys.path[:] = {sys.path!r}; {DRIVER}"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  `close` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", boot],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # Ctrl-C is for this process only
        )
        self._messages: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="pgzoo-ray", daemon=True)
        self._reader.start()
        self.answer(asdict(job))

    def receive(self, timeout: float | None = None) -> list[Any]:
        """Return its next message, see `driver`; the last one is ["lost", reason]. Raises queue.Empty."""
        return self._messages.get(timeout=timeout)

    def answer(self, value: Any) -> None:
        """Answer its last message."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended, which the next message says
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """End it: first let it end the workers."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_SECONDS)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with suppress(ValueError):  # a part of a line, if it was killed
                self._messages.put(json.loads(line))
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        self._messages.put(["lost", f"the process that talks to Ray {how}: {last}".rstrip(": ")])


def _run_shards(request: LaunchRequest, job: Job, driver: _Driver, count: int) -> Generator[WorkerMessage]:
    shards = dict(enumerate(request.split(count)))
    past: list[str] = []
    """Commands so far, which workers that continue a shard are sent, too."""
    lines = [[index, shard.spec, shard.verifies] for index, shard in shards.items()]
    losses = 0
    try:
        while shards:
            driver.answer([lines, past])
            lost = yield from _serve(request, driver, shards, past)
            if not lost:
                return
            driver.close()
            since, losses = time.monotonic(), losses + 1
            if losses <= MAX_RESTARTS and not all_stopped(past):
                note = (
                    f"If it is back within {RETURN_SECONDS:.0f} seconds, the seeds continue from their last checkpoints"
                )
                yield WorkerMessage(min(shards), "stderr", f"Warning: {lost}. {note}.")
                connected = _reconnect(request, replace(job, again=True), past, since)
                if isinstance(connected, _Driver):
                    driver = connected
                    lines = [[index, request.restart(index).spec, shard.verifies] for index, shard in shards.items()]
                    continue
                lost += f", and isn't back {RETURN_SECONDS:.0f} seconds later: {connected}" if connected else ""
            for index in shards:
                yield WorkerMessage(index, "exited", lost)
            return
    finally:
        driver.close()


def _serve(
    request: LaunchRequest, driver: _Driver, shards: dict[int, Shard], past: list[str]
) -> Generator[WorkerMessage, None, str]:
    """Answer a driver until all shards have ended; return why it was lost before, or ""."""
    while shards:
        try:
            message = driver.receive(SILENCE_SECONDS)
        except queue.Empty:
            return f"the process that talks to Ray hasn't answered for {SILENCE_SECONDS:.0f} seconds"
        match message:
            case ["commands"]:
                new = list(request.commands())
                past += new
                driver.answer(new)
            case ["restart", index]:
                driver.answer(request.restart(index).spec)
            case ["message", index, kind, text]:
                yield WorkerMessage(index, kind, text)
                if kind == "exited":
                    del shards[index]
            case [_, text]:
                return str(text)
    return ""


def _reconnect(request: LaunchRequest, job: Job, past: list[str], since: float) -> _Driver | str:
    """Return a driver that is ready, when the workers of the former one have ended; or why there is none.

    Commands are added to `past`. If they stop the run, it isn't connected again.
    """
    problem = ""

    def stopped() -> bool:
        past.extend(request.commands())
        return all_stopped(past)

    while time.monotonic() - since < RETURN_SECONDS and not stopped():
        if not (problem := _unreachable(job.address)):
            driver = _Driver(job)
            if not (problem := _not_ready(driver, stopped)):
                while time.monotonic() - since < ENDED_SECONDS and not stopped():
                    time.sleep(POLL_INTERVAL)
                return driver
            driver.close()
        time.sleep(RETRY_SECONDS)
    return problem


def _not_ready(driver: _Driver, stopped: Callable[[], bool]) -> str:
    """Wait for a driver; return "" when it is ready, or why it isn't."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and not stopped():
        with suppress(queue.Empty):
            name, found = driver.receive(POLL_INTERVAL)
            return "" if name == "split" else str(found)
    return f"it wasn't ready within {START_SECONDS:.0f} seconds"
