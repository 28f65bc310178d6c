"""The process that talks to Ray, which `launcher` starts: it trains each shard in an actor.

It writes lines of JSON to standard output, and reads the answers to some of them:

    ["split", count]                answer: the shards as [[index, spec, verifies], ...], and the commands so far
    ["commands"]                    answer: new lines for all workers
    ["restart", index]              answer: the spec of a shard whose worker has died
    ["message", index, kind, text]  a `WorkerMessage`
    ["refused", text]               the cluster can't train this run; this process ends
    ["lost", text]                  the cluster was lost; this process ends
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pgzoo.errors import UsageError
from pgzoo_ray import host
from pgzoo_ray.head import Head
from pgzoo_ray.launcher import MAX_RESTARTS, Job, all_stopped

__all__ = ["main"]

PACKAGES = ("gymnasium", "numpy", "torch", "ray")
"""Packages, beside pgzoo and its plugins, of which every node must have the same version."""

POLL_INTERVAL = 0.5
"""Longest time, in seconds, between two calls of `LaunchRequest.commands`."""

CHECK_SECONDS = 60.0
"""Longest time, in seconds, in which all nodes must tell what they have installed."""

END_SECONDS = 3.0
"""Longest time, in seconds, to wait for actors to end their workers when the head is lost."""

PATIENCE = 30.0
"""Seconds after which a note says that a shard is still waiting for free resources."""

FIT_SECONDS = 120.0
"""Seconds after which a shard that no node is large enough for fails, after a node was lost."""

SILENCE_SECONDS = 45.0
"""Seconds after which an actor that doesn't answer is lost. Its worker has ended by then (`host.LEASE_SECONDS`)."""

SENT = ("MLFLOW_", "PGZOO_", "PYTHONPATH", "OMP_NUM_THREADS")
"""Beginnings of the environment variables that workers get from the calling process."""


class Launcher:
    """The launcher, at the other end of two pipes."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests, self._answers = requests, answers

    def tell(self, *message: Any) -> None:
        """Write a message."""
        self._requests.write(json.dumps(message) + "\n")
        self._requests.flush()

    def ask(self, *message: Any) -> Any:
        """Write a message, and return the answer. Raises EOFError if the launcher has ended."""
        self.tell(*message)
        if not (line := self._answers.readline()):
            raise EOFError
        return json.loads(line)


def main() -> None:
    """Train the shards of the job on standard input."""
    requests, answers = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
    os.dup2(2, 1)  # what Ray prints
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    job = Job(**json.loads(answers.readline()))
    launcher = Launcher(requests, answers)
    try:
        _connect(job.address)
        if not job.again:
            _check_nodes()
            if reason := _unfit(job):
                options = "--cpus-per-shard, --gpus-per-shard, --threads or --device"
                raise UsageError(f"Launcher ray: {reason}. Change {options}")
        cpus = int(ray.cluster_resources().get("CPU", 1))
        well = True
        with suppress(EOFError, BrokenPipeError):  # the launcher ends this process by closing its pipes
            well = _run_shards(job, launcher, max(1, cpus // job.cpus))
        if well:  # without the head, Ray would wait for minutes
            ray.shutdown()
    except UsageError as error:
        launcher.tell("refused", str(error))
    except Exception as error:  # Ray's calls raise many kinds of errors when the head dies
        launcher.tell("lost", " ".join(f"{type(error).__name__}: {error}".split()))
    os._exit(0)


def _large_nodes(job: Job) -> list[dict[str, Any]]:
    """Return the nodes that have, in use or not, as many CPUs and GPUs as a shard needs."""
    sizes = [(node, node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [node for node, size in sizes if size.get("CPU", 0) >= job.cpus and size.get("GPU", 0) >= job.gpus]


def _unfit(job: Job) -> str:
    """Return why no node can train a shard; "" if one can."""
    if _large_nodes(job):
        return ""
    sizes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has = "; ".join(f"{size.get('CPU', 0):g} CPUs and {size.get('GPU', 0):g} GPUs" for size in sizes) or "none"
    return f"no node of the Ray cluster has the {job.cpus} CPUs and {job.gpus:g} GPUs that a shard needs (nodes: {has})"


def _connect(address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.cloudpickle.register_pickle_by_value(host)  # the nodes need pgzoo, but not this package
    own = {} if address else {"num_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None, **own)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        where = f"The Ray cluster at {address}" if address else "A Ray cluster on this machine"
        what = "can't be reached" if address else "can't be started"
        advice = ". Its nodes and this process need the same Ray version and the same token (RAY_AUTH_TOKEN_PATH)"
        reason = ": ".join([str(error).strip().splitlines()[0].rstrip("."), *_last_logged()])
        raise UsageError(f"{where} {what}: {reason}{advice if address else ''}") from error


def _last_logged() -> list[str]:
    """Return the last line of Ray's log, if any: why a connection failed is only there. `launcher` makes it a file."""
    try:
        log = os.pread(2, 1 << 20, 0).decode(errors="replace")
    except OSError:
        return []
    return [re.sub(r"^\[.*?\] \S+: ", "", line) for line in log.strip().splitlines()[-1:]]


def _check_nodes() -> None:
    """Raise UsageError unless every node has the same code and versions as this process."""
    describe = ray.remote(num_cpus=0, max_retries=0)(host.describe_installation)
    answers = {}
    for node in ray.nodes():
        if node["Alive"]:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers[node["NodeManagerAddress"]] = describe.options(scheduling_strategy=place).remote(PACKAGES)
    end = time.monotonic() + CHECK_SECONDS
    here = host.describe_installation(PACKAGES)
    for name, answer in answers.items():
        try:
            there = ray.get(answer, timeout=max(0.0, end - time.monotonic()))
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"Node {name} of the Ray cluster can't run a task: {reason}") from error
        if different := host.compare_installations(here, there):
            raise UsageError(
                f"Node {name} of the Ray cluster has another installation, which could change results: {different}. "
                "Install the same versions on every machine."
            )


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


def _run_shards(job: Job, launcher: Launcher, count: int) -> bool:
    """Train the shards until all have ended. Return whether the head is still there.

    If it isn't, the workers have ended, or end within `host.LEASE_SECONDS`.

    Raises:
        EOFError, BrokenPipeError: the launcher has ended the run. The workers are killed.
    """
    shards, past = launcher.ask("split", count)
    places: dict[int, _Place] = {}
    here = host.describe_installation(PACKAGES)
    root = Path(json.loads(shards[0][1])["home"][0])
    root.mkdir(parents=True, exist_ok=True)
    head = Head(ray.get_runtime_context().gcs_address)
    nodes: dict[int, str] = {}
    """The node on which each shard was trained last."""
    dead: dict[int, _Place] = {}
    """The shards whose workers were lost, until they are started again."""
    with tempfile.NamedTemporaryFile(prefix="ray-", dir=root) as probe:
        try:
            for index, spec, verifies in shards:
                if verifies is None:
                    places[index] = _place(job, index, [spec, *past], probe.name, here)
            waiting = {index: (spec, verifies) for index, spec, verifies in shards if verifies is not None}
            while places or waiting or dead:
                if problem := head.problem():
                    launcher.tell("lost", problem)  # now, because Ray may end this process
                    return False
                if lines := launcher.ask("commands"):
                    past += lines
                    for place in places.values():
                        place.to_send += lines
                for index, (spec, verifies) in list(waiting.items()):  # these start when it is known where not to
                    if verifies in nodes or verifies not in places:
                        avoided = nodes.get(verifies, "")
                        places[index] = _place(job, index, [spec, *past], probe.name, here, avoided)
                        del waiting[index]
                answers = {place.answer: place for place in places.values()}
                if not answers:
                    time.sleep(POLL_INTERVAL)
                ready = ray.wait(list(answers), num_returns=1, timeout=POLL_INTERVAL)[0] if answers else []
                silent = [place for place in places.values() if place.answer not in ready and _is_silent(place)]
                for place in [*(answers[answer] for answer in ready), *silent]:
                    messages, ended, lost = _receive(place)
                    for message in messages:
                        launcher.tell("message", place.index, *message)
                    if place.node:
                        nodes[place.index] = place.node
                    if not lost and not ended:
                        place.answer, place.asked = place.actor.exchange.remote(place.to_send), time.monotonic()
                        place.to_send = []
                    elif not lost or place.restarts >= MAX_RESTARTS or all_stopped(past):
                        launcher.tell("message", place.index, "exited", lost or ended)
                        del places[place.index]
                    else:
                        note = f"{lost}; its seeds continue from their last checkpoints"
                        launcher.tell("message", place.index, "stderr", f"Warning: shard {place.index}: {note}.")
                        dead[place.index] = places.pop(place.index)
                if dead and head.is_well():
                    for index, place in dead.items():
                        ray.kill(place.actor)
                        lines = [launcher.ask("restart", index), *past]
                        places[index] = _place(job, index, lines, probe.name, here, place.node)
                        places[index].restarts = place.restarts + 1
                    dead.clear()
                for place in list(places.values()):
                    if place.heard or (waited := time.monotonic() - place.asked) <= PATIENCE:
                        continue
                    if waited > FIT_SECONDS and head.is_well() and (reason := _unfit(job)):
                        launcher.tell("message", place.index, "exited", reason)
                        ray.kill(place.actor)
                        del places[place.index]
                    elif not place.noted:
                        place.noted = True
                        text = f"Shard {place.index} waits for free CPUs or GPUs of the Ray cluster."
                        launcher.tell("message", place.index, "stderr", text)
        finally:
            ends = [place.actor.end.remote() for place in places.values()]
            if ends:
                ray.wait(ends, num_returns=len(ends), timeout=END_SECONDS)
            for place in places.values():
                if head.is_well():
                    ray.kill(place.actor)
            head.close()
    return True


def _place(
    job: Job, index: int, lines: Sequence[str], probe: str, here: Mapping[str, str], avoided: str = ""
) -> _Place:
    """Start a shard on the node that Ray chooses, but not on the node `avoided` if another one is large enough."""
    options: dict[str, Any] = {"num_cpus": job.cpus, "num_gpus": job.gpus}
    others = [node["NodeID"] for node in _large_nodes(job) if node["NodeID"] != avoided] if avoided else []
    if others:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(others[index % len(others)], soft=True)
    sent = {key: value for key, value in os.environ.items() if key.startswith(SENT)}
    environment = {"OMP_NUM_THREADS": None, **sent}  # Ray sets it to the number of CPUs of the actor
    actor_class = ray.remote(**options)(host.ShardHost)
    actor = actor_class.remote(job.command, os.getcwd(), environment, probe, lines, here, PACKAGES)
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


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = getattr(error, "cause", None)
    return f"its actor was lost ({type(error).__name__}): {cause or (lines[-1] if lines else '')}".rstrip(": .")
