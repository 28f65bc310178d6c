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
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pgzoo.errors import UsageError
from pgzoo.types import LaunchRequest, WorkerMessage
from pgzoo_ray import host
from pgzoo_ray.head import Head

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

FIT_SECONDS = 120.0
"""Seconds after which a shard that no node is large enough for fails, after a node was lost."""

SILENCE_SECONDS = 45.0
"""Seconds after which an actor that doesn't answer is lost. Its worker has ended by then (`host.LEASE_SECONDS`)."""

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
    if reason := _unfit(request):
        raise UsageError(f"Launcher ray: {reason}. Change --cpus-per-shard, --gpus-per-shard, --threads or --device")
    cpus = int(ray.cluster_resources().get("CPU", 1))
    count = min(config.workers or max(1, cpus // _cpus(request)), len(config.seeds))
    return _run_shards(request, count)


def _cpus(request: LaunchRequest) -> int:
    return request.config.cpus_per_shard or request.config.threads


def _gpus(request: LaunchRequest) -> float:
    config = request.config
    return config.gpus_per_shard if config.gpus_per_shard is not None else float(config.device == "cuda")


def _large_nodes(request: LaunchRequest) -> list[dict[str, Any]]:
    """Return the nodes that have, in use or not, as many CPUs and GPUs as a shard needs."""
    cpus, gpus = _cpus(request), _gpus(request)
    sizes = [(node, node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [node for node, size in sizes if size.get("CPU", 0) >= cpus and size.get("GPU", 0) >= gpus]


def _unfit(request: LaunchRequest) -> str:
    """Return why no node can train a shard; "" if one can."""
    if _large_nodes(request):
        return ""
    sizes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has = "; ".join(f"{size.get('CPU', 0):g} CPUs and {size.get('GPU', 0):g} GPUs" for size in sizes) or "none"
    return (
        f"no node of the Ray cluster has the {_cpus(request)} CPUs and {_gpus(request):g} GPUs that a shard needs "
        f"(nodes: {has})"
    )


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
        advice = ". Its nodes and this process need the same Ray version and the same token (RAY_AUTH_TOKEN_PATH)"
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UsageError(f"{where} {what}: {reason}{advice if address else ''}") from error


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
    """The actor of a shard, and the answer that the launcher waits for."""

    index: int
    actor: Any
    answer: Any
    asked: float
    """When the answer was requested, by `time.monotonic()`."""
    to_send: list[str] = field(default_factory=list)
    restarts: int = 0
    node: str = ""
    """The id of its node, when it is known."""
    heard: bool = False
    noted: bool = False


def _run_shards(request: LaunchRequest, count: int) -> Generator[WorkerMessage]:
    places: dict[int, _Place] = {}
    past: list[str] = []
    """Commands so far, which a worker that continues a shard is sent, too."""
    shards = request.split(count)
    root = Path(json.loads(shards[0].spec)["home"][0])
    root.mkdir(parents=True, exist_ok=True)
    head = Head(ray.get_runtime_context().gcs_address)
    nodes: dict[int, str] = {}
    """The node on which each shard was trained last."""
    dead: dict[int, _Place] = {}
    """The shards whose workers were lost, until they are started again."""
    with tempfile.NamedTemporaryFile(prefix="ray-", dir=root) as probe:
        try:
            for index, shard in enumerate(shards):
                if shard.verifies is None:
                    places[index] = _place(request, index, [shard.spec], probe.name)
            waiting = {index: shard for index, shard in enumerate(shards) if shard.verifies is not None}
            while places or waiting or dead:
                if problem := head.problem():
                    for place in places.values():  # not ray.kill, which needs the head
                        place.actor.end.remote()
                    unfinished, places = [*places, *waiting, *dead], {}
                    for index in unfinished:
                        yield WorkerMessage(index, "exited", problem)
                    return
                if lines := list(request.commands()):
                    past += lines
                    for place in places.values():
                        place.to_send += lines
                for index, shard in list(waiting.items()):  # these start when it is known where not to start them
                    if shard.verifies in nodes or shard.verifies not in places:
                        avoided = nodes.get(shard.verifies or 0, "")
                        places[index] = _place(request, index, [shard.spec, *past], probe.name, avoided)
                        del waiting[index]
                answers = {place.answer: place for place in places.values()}
                if not answers:
                    time.sleep(POLL_INTERVAL)
                ready = ray.wait(list(answers), num_returns=1, timeout=POLL_INTERVAL)[0] if answers else []
                silent = [place for place in places.values() if place.answer not in ready and _is_silent(place)]
                for place in [*(answers[answer] for answer in ready), *silent]:
                    messages, ended, lost = _receive(place)
                    yield from (WorkerMessage(place.index, *message) for message in messages)
                    if place.node:
                        nodes[place.index] = place.node
                    if not lost and not ended:
                        place.answer, place.asked = place.actor.exchange.remote(place.to_send), time.monotonic()
                        place.to_send = []
                    elif not lost or place.restarts >= MAX_RESTARTS or _all_stopped(past):
                        yield WorkerMessage(place.index, "exited", lost or ended)
                        del places[place.index]
                    else:
                        note = f"{lost}; its seeds continue from their last checkpoints"
                        yield WorkerMessage(place.index, "stderr", f"Warning: shard {place.index}: {note}.")
                        dead[place.index] = places.pop(place.index)
                if dead and head.is_well():
                    for index, place in dead.items():
                        ray.kill(place.actor)
                        lines = [request.restart(index).spec, *past]
                        places[index] = _place(request, index, lines, probe.name, place.node)
                        places[index].restarts = place.restarts + 1
                    dead.clear()
                for place in list(places.values()):
                    if place.heard or (waited := time.monotonic() - place.asked) <= PATIENCE:
                        continue
                    if waited > FIT_SECONDS and head.is_well() and (reason := _unfit(request)):
                        yield WorkerMessage(place.index, "exited", reason)
                        ray.kill(place.actor)
                        del places[place.index]
                    elif not place.noted:
                        place.noted = True
                        text = f"Shard {place.index} waits for free CPUs or GPUs of the Ray cluster."
                        yield WorkerMessage(place.index, "stderr", text)
        finally:
            for place in places.values():
                place.actor.end.remote()
                if head.is_well():
                    ray.kill(place.actor)
            head.close()


def _place(request: LaunchRequest, index: int, lines: list[str], probe: str, avoided: str = "") -> _Place:
    """Start a shard on the node that Ray chooses, but not on the node `avoided` if another one is large enough."""
    options: dict[str, Any] = {"num_cpus": _cpus(request), "num_gpus": _gpus(request)}
    others = [node["NodeID"] for node in _large_nodes(request) if node["NodeID"] != avoided] if avoided else []
    if others:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(others[index % len(others)], soft=True)
    sent = {key: value for key, value in os.environ.items() if key.startswith(SENT)}
    environment = {"OMP_NUM_THREADS": None, **sent}  # Ray sets it to the number of CPUs of the actor
    actor_class = ray.remote(**options)(host.ShardHost)
    actor = actor_class.remote(request.command, os.getcwd(), environment, probe, lines)
    return _Place(index, actor, actor.exchange.remote([]), time.monotonic())


def _receive(place: _Place) -> tuple[list[tuple[str, str]], str, str]:
    """Return the messages of a shard's worker, how it ended, and why it was lost; "" if it has not ended or wasn't."""
    if not ray.wait([place.answer], timeout=0)[0]:
        return [], "", f"its node has not answered for {SILENCE_SECONDS:.0f} seconds"
    try:
        messages, code, text, place.node = ray.get(place.answer)
    except RayError as error:
        return [], "", _reason(error)
    place.heard = True
    return messages, text if code is not None and code >= 0 else "", text if code is not None and code < 0 else ""


def _is_silent(place: _Place) -> bool:
    late = place.heard and time.monotonic() - place.asked > SILENCE_SECONDS
    return late and not ray.wait([place.answer], timeout=0)[0]


def _all_stopped(commands: list[str]) -> bool:
    """Return whether the commands stop all members, so that a worker that died isn't replaced."""
    return any(stop["rows"] is None for line in commands if (stop := json.loads(line).get("stop")))


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = getattr(error, "cause", None)
    return f"its actor was lost ({type(error).__name__}): {cause or (lines[-1] if lines else '')}".rstrip(": .")
