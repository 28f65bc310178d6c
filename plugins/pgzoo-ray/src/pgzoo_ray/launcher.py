"""`--launcher ray`: each shard of the seeds is trained by a worker process on a node of a Ray cluster."""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pgzoo.errors import UsageError
from pgzoo.types import LaunchRequest, WorkerMessage
from pgzoo_ray import host

__all__ = ["compare_installations", "launch"]

_log = logging.getLogger("pgzoo")

PACKAGES = ("gymnasium", "numpy", "torch", "ray")
"""Packages, beside pgzoo and its plugins, of which every node must have the same version."""

POLL_INTERVAL = 0.5
"""Longest time, in seconds, between two calls of `LaunchRequest.commands`."""

CONNECT_SECONDS = 10.0
"""Longest time, in seconds, in which the cluster must accept a connection."""

CHECK_SECONDS = 60.0
"""Longest time, in seconds, in which a node must tell what it has installed."""

MAX_RESTARTS = 3
"""How often a shard is continued after its worker has died."""

PATIENCE = 30.0
"""Seconds after which a note says that a shard is still waiting for free resources."""

SENT = ("MLFLOW_", "PGZOO_", "PYTHONPATH", "OMP_NUM_THREADS")
"""Beginnings of the environment variables that workers get from the calling process."""


def launch(request: LaunchRequest) -> Generator[WorkerMessage]:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine; return a generator of messages.

    Raises:
        UsageError: the cluster can't be reached, or a node has other versions installed.
    """
    _connect()
    _check_nodes()
    config = request.config
    cpus = int(ray.cluster_resources().get("CPU", 1))
    count = min(config.workers or max(1, cpus // config.threads), len(config.seeds))
    return _run_shards(request, count)


def _connect() -> None:
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _check_reachable(address)
    own = {} if address else {"num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None, **own)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        where = f"The Ray cluster at {address}" if address else "A Ray cluster on this machine"
        what = "can't be reached" if address else "can't be started"
        raise UsageError(f"{where} {what}: {str(error).strip().splitlines()[0]}") from error


def _check_reachable(address: str) -> None:
    """Raise UsageError if nothing listens at HOST:PORT, because Ray itself would try for minutes."""
    name, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and port.isdigit()):  # such as "auto"
        return
    try:
        socket.create_connection((name, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"The Ray cluster at {address} can't be reached: {error}. Correct RAY_ADDRESS, or run ray start --head"
        ) from error


def _check_nodes() -> None:
    """Raise UsageError unless every node has the same code and versions as this process."""
    ray.cloudpickle.register_pickle_by_value(host)  # the nodes need pgzoo, but not this package
    describe = ray.remote(num_cpus=0, max_retries=0)(host.describe_installation)
    answers = {}
    for node in ray.nodes():
        if node["Alive"]:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers[node["NodeManagerAddress"]] = describe.options(scheduling_strategy=place).remote(PACKAGES)
    here = host.describe_installation(PACKAGES)
    for name, answer in answers.items():
        try:
            there = ray.get(answer, timeout=CHECK_SECONDS)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"Node {name} of the Ray cluster can't run a task: {reason}") from error
        if different := compare_installations(here, there):
            raise UsageError(
                f"Node {name} of the Ray cluster has another installation, which could change results: {different}. "
                "Install the same versions on every machine."
            )


def compare_installations(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Return in which versions two installations differ, as text; empty if they are equal."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    return "; ".join(f"{name}: {there.get(name, 'none')}, here {here.get(name, 'none')}" for name in names)


@dataclass
class _Place:
    """The actor of a shard, and the answer that it owes."""

    index: int
    actor: Any
    answer: Any
    started: float
    to_send: list[str] = field(default_factory=list)
    restarts: int = 0
    heard: bool = False
    noted: bool = False


def _run_shards(request: LaunchRequest, count: int) -> Generator[WorkerMessage]:
    places: dict[int, _Place] = {}
    past: list[str] = []
    """Commands so far, which a worker that continues a shard is sent, too."""
    shards = request.split(count)
    root = Path(json.loads(shards[0].spec)["home"][0])
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix="ray-", dir=root) as probe:
        try:
            for index, shard in enumerate(shards):
                places[index] = _place(request, index, [shard.spec], probe.name)
            while places:
                if lines := list(request.commands()):
                    past += lines
                    for place in places.values():
                        place.to_send += lines
                answers = {place.answer: place for place in places.values()}
                ready, _ = ray.wait(list(answers), num_returns=1, timeout=POLL_INTERVAL)
                for answer in ready:
                    place = answers[answer]
                    lost = ""
                    try:
                        messages, code = ray.get(answer)
                    except (RayActorError, RayError) as error:
                        messages, code, lost = [], None, _reason(error)
                    place.heard = True
                    yield from (WorkerMessage(place.index, *message) for message in messages)
                    if code is not None:
                        how = ray.get(place.actor.describe_exit.remote())
                        if code >= 0:
                            yield WorkerMessage(place.index, "exited", how)
                            del places[place.index]
                            continue
                        lost = how
                    if not lost:
                        place.answer = place.actor.exchange.remote(place.to_send)
                        place.to_send = []
                    elif place.restarts >= MAX_RESTARTS or _all_stopped(past):
                        yield WorkerMessage(place.index, "exited", lost)
                        del places[place.index]
                    else:
                        note = f"{lost}; its seeds continue from their last checkpoints"
                        yield WorkerMessage(place.index, "stderr", f"Warning: shard {place.index}: {note}.")
                        ray.kill(place.actor)
                        again = request.restart(place.index)
                        places[place.index] = _place(request, place.index, [again.spec, *past], probe.name)
                        places[place.index].restarts = place.restarts + 1
                for place in places.values():
                    if not (place.heard or place.noted) and time.monotonic() - place.started > PATIENCE:
                        place.noted = True
                        text = f"Shard {place.index} waits for free CPUs or GPUs of the Ray cluster."
                        yield WorkerMessage(place.index, "stderr", text)
        finally:
            for place in places.values():
                ray.kill(place.actor)


def _place(request: LaunchRequest, index: int, lines: list[str], probe: str) -> _Place:
    """Start a shard on the node that Ray chooses."""
    config = request.config
    actor_class = ray.remote(num_cpus=config.threads, num_gpus=1 if config.device == "cuda" else 0)(host.ShardHost)
    sent = {key: value for key, value in os.environ.items() if key.startswith(SENT)}
    environment = {"OMP_NUM_THREADS": None, **sent}  # Ray sets it to the number of CPUs of the actor
    actor = actor_class.remote(request.command, os.getcwd(), environment, probe, lines)
    return _Place(index, actor, actor.exchange.remote([]), time.monotonic())


def _all_stopped(commands: list[str]) -> bool:
    """Return whether the commands stop all members, so that a worker that died isn't replaced."""
    return any(stop["rows"] is None for line in commands if (stop := json.loads(line).get("stop")))


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = getattr(error, "cause", None)
    return f"its actor was lost ({type(error).__name__}): {cause or (lines[-1] if lines else '')}".rstrip(": .")
